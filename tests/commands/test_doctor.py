"""The doctor runs commands as a person would, says which are not well, and leaves one file."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from run_swift import app
from tests.conftest import Command
from tests.pretended import A10
from workflows.commands.doctor import STEPS, Step, check_training, compare_answers, examine, summary_of
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
    report = examine(tmp_path, Screen(), steps)
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


def test_without_a_gpu_the_option_says_so_in_one_line(command: Command) -> None:
    done = command("doctor", "--gpu", env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert done.stderr.startswith("error: doctor --gpu: there is no GPU here; without --gpu")
    assert done.stderr.count("\n") == 1


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
