"""The doctor says of each part of a machine how it stands and what to do; on a GPU it runs commands as a
person would, says which are not well, and leaves one file.
"""

import json
import os
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from run_swift import app, main
from tests.conftest import Command
from tests.fake_hub import FakeHub
from tests.pretended import A10, write_nvidia_smi
from workflows.commands.doctor.checks import check_machine, render_check
from workflows.commands.doctor.commands import (
    STEPS,
    Step,
    check_training,
    compare_answers,
    examine,
    refuse_examined,
    summary_of,
)
from workflows.commands.doctor.doctor import see_doctor
from workflows.core.errors import UserError
from workflows.core.files import read_json, write_json, write_jsonl
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.cards import ROOT

DOCS = (ROOT / "docs" / "en" / "gpu.md").read_text(encoding="utf-8")


def test_the_docs_have_the_doctors_commands_and_all_of_theirs_can_be_parsed() -> None:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", DOCS, re.S) for line in block.splitlines()]
    for step in STEPS:
        assert step.line("outputs/gpu") in lines
        assert f"**{step.shows}**" in DOCS
    ours = [line for line in lines if "run_swift.py" in line]
    assert len(ours) > len(STEPS)
    for line in ours:
        words = [word for word in shlex.split(line) if not word.startswith("CUDA_VISIBLE_DEVICES=")]
        assert words[:2] == ["python", "run_swift.py"]
        app.parse_args(words[2:], exit_on_error=False, print_error=False)


@pytest.mark.slow
def test_each_command_is_run_and_what_went_wrong_is_in_the_file(tmp_path: Path) -> None:
    steps = (
        Step("data", "prepare --train-samples 20 --test-samples 10 --run-folder {folder}/run"),
        Step("a mistake", "run --model qwen99 --run-folder {folder}/other"),
    )
    report = examine(tmp_path, Screen(), [], steps)
    assert read_json(tmp_path / "doctor.json") == report
    assert report["well"] is False
    good, bad = report["commands"]
    assert (good["exit_code"], good["problems"]) == (0, [])
    assert any("3,000 rows read" in line for line in good["printed"])
    assert bad["exit_code"] == 2
    assert bad["problems"][0].startswith("error: model 'qwen99' is neither")
    assert report["packages"]["torch"]
    assert report["installed"]["cyclopts"]
    assert min(report["products_per_second"].values()) > 0


@pytest.mark.slow
def test_where_all_is_well_each_check_says_what_it_found(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = command("doctor", "--json", "--lang", "zh")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["well"] is True
    checks = {each["name"]: each for each in found["checks"]}
    assert list(checks) == [
        *("python", "packages", "memory", "disk", "hubs", "fonts", "device", "self_test"),
    ]
    assert all(each["found"] for each in found["checks"])
    assert torch.__version__ in checks["device"]["found"]
    assert re.search(
        r"SWIFT 已载入；自带模型训练 \d 步，损失 2\.\d\d 降至 0\.\d\d", checks["self_test"]["found"]
    )


def test_a_library_that_cannot_be_loaded_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setitem(sys.modules, "swift", None)
    assert main(["doctor"]) == 3
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith(f"ok    Python: {sys.version.split()[0]}")
    assert "note  hubs: not asked, because HF_HUB_OFFLINE is set" in lines
    (broken,) = (number for number, line in enumerate(lines) if line.startswith("WRONG"))
    assert lines[broken].startswith("WRONG self-test: ModuleNotFoundError: ")
    assert lines[broken + 1].startswith("      → install the requirements in a new environment")
    assert lines[-1] == "these stop a run: self-test"


def _status_of(name: str) -> tuple[str, str]:
    check = next(each for each in check_machine() if each.name == name)
    return check.status, render_check(check, "en")


def test_a_hub_that_does_not_answer_at_once_is_a_note(
    hub_here: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert _status_of("modelscope")[0] == "well"
    status, said = _status_of("huggingface")
    assert (status, "--data-file FILE" in said) == ("note", True)
    hub_here.fail("/", "silent")
    monkeypatch.setattr("workflows.commands.doctor.checks.REACH_SECONDS", 0.2)
    assert _status_of("modelscope")[0] == "note"


@pytest.mark.parametrize(
    ("package", "version", "status", "said"),
    [
        ("torch", "2.99.0", "note", "torch 2.99.0 (> 2.15)"),
        ("transformers", "5.25.0", "wrong", "pip install -r"),
        ("peft", None, "wrong", "peft<0.21,>=0.15 (–)"),
    ],
)
def test_packages_are_held_against_those_that_were_tried(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str | None, status: str, said: str
) -> None:
    installed = metadata.version

    def pretend(name: str) -> str:
        if name == package and version is None:
            raise metadata.PackageNotFoundError
        return version if name == package and version is not None else installed(name)

    monkeypatch.setattr(metadata, "version", pretend)
    found, line = _status_of("packages")
    assert (found, said in line) == (status, True), line


@pytest.mark.parametrize(("gigabytes", "status"), [(20, "well"), (4, "note"), (0.2, "wrong")])
def test_memory_and_disk_are_held_against_what_a_run_takes(
    monkeypatch: pytest.MonkeyPatch, gigabytes: float, status: str
) -> None:
    free = int(gigabytes * 1e9)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr("workflows.model.machine.CONTAINER_FILES", ())
    for name in ("memory", "disk"):
        assert _status_of(name)[0] == status


def test_a_gpu_that_torch_cannot_use_comes_with_the_line_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.version.cuda is not None:
        pytest.skip("this torch is built for CUDA")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    write_nvidia_smi(tmp_path, [A10])
    status, line = _status_of("device")
    assert (status, "pip uninstall -y torch && pip install torch --index-url" in line) == ("wrong", True)


def test_without_a_gpu_the_option_says_so_in_one_line(command: Command) -> None:
    done = command("doctor", "--gpu", env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert done.stderr.startswith("error: doctor --gpu: there is no GPU here; without --gpu")
    assert done.stderr.count("\n") == 1


def test_what_an_earlier_doctor_found_is_not_looked_at_again(tmp_path: Path) -> None:
    write_json(tmp_path / "doctor.json", {"commands": [{}] * 9})
    refuse_examined(tmp_path)  # one that was stopped goes on
    write_json(tmp_path / "doctor.json", {"commands": [{}] * 10})
    with pytest.raises(UserError, match="holds what an earlier one found; name a new folder"):
        refuse_examined(tmp_path)
    with pytest.raises(UserError, match="doctor --output: is for the files of --gpu"):
        see_doctor(False, False, "en", tmp_path / "new", Screen())


@pytest.mark.parametrize(
    ("losses", "accuracy", "problems"),
    [
        ([0.7, 0.2], 0.95, []),
        ([0.7, float("nan")], 0.95, ["1 of 2 logged losses are no numbers"]),
        ([0.7, 0.7], 0.5, ["accuracy after tuning is 0.500, below 0.85"]),
    ],
)
def test_a_training_that_came_to_nothing_is_noticed(
    tmp_path: Path, losses: list[float], accuracy: float, problems: list[str]
) -> None:
    run = RunFolder(tmp_path)
    write_json(run.training, {"log_history": [{"loss": loss} for loss in losses]})
    write_json(run.scores, {"systems": {"tuned": {"accuracy": accuracy}}})
    assert check_training(run, learns=True) == problems


@pytest.mark.parametrize(("there", "well"), [(0.5004, True), (0.52, False), (float("nan"), False)])
def test_answers_that_are_not_the_cpus_are_noticed(tmp_path: Path, there: float, well: bool) -> None:
    runs = [RunFolder(tmp_path / name) for name in ("here", "there")]
    for run, share in zip(runs, (0.5, there), strict=True):
        shares = {"a": {"positive": 0.9, "negative": 0.1}, "b": {"positive": share, "negative": 1 - share}}
        rows = [{"id": id, "probabilities": each} for id, each in shares.items()]
        write_jsonl(run.predictions("zero_shot"), rows)
    assert (compare_answers(*runs) == []) is well


def test_of_a_gpu_the_first_lines_say_driver_memory_and_speed() -> None:
    report: dict[str, Any] = {
        "machine": {
            **{"device": "cuda", "name": A10.name, "torch_dtype": "bfloat16", "memory": A10.memory},
            "reason": "compute capability 8.6 has bf16",
        },
        "memory_free": 22e9,
        "products_per_second": {"bfloat16": 70e12, "float32": 15e12},
        "bytes_copied_per_second": 480e9,
        "gpu": {"driver_cuda": (12, 4), "torch_cuda": "12.6"},
    }
    assert summary_of(report) == [
        "device: cuda (NVIDIA A10); dtype: bfloat16 (compute capability 8.6 has bf16)",
        "driver: runs CUDA up to 12.4; torch is built for 12.6",
        "memory: 22.0 GB free of 24.0; copied at 480 GB/s",
        "matrix products: bfloat16 70.00, float32 15.00 TFLOP/s",
    ]
