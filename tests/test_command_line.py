"""What a person meets on the command line: help without torch, errors of one line, nothing left behind."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command
from workflows.core.files import read_json, read_jsonl, write_json
from workflows.core.run_folder import LOCK, RunFolder, locked
from workflows.experiment.cards import ROOT

# Stops with an error where a module is imported that a light command may not load.
NO_HEAVY_IMPORTS = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'swift', 'transformers'):
            raise SystemExit(f'imported {name}')
sys.meta_path.insert(0, Refuse())
sys.argv = ['run_swift.py', *sys.argv[1:]]
import runpy
runpy.run_path('run_swift.py', run_name='__main__')
"""


def test_a_command_without_standard_streams_or_a_folder_does_what_it_can(tmp_path: Path) -> None:
    def run(shell: str) -> "subprocess.CompletedProcess[str]":
        program = [sys.executable, ROOT / "run_swift.py", "prepare", "--run-folder", tmp_path / "run"]
        line = shell.format(command=shlex.join(map(str, program)))
        return subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("{command} <&- >&- 2>&-").returncode == 0
    assert len(read_jsonl(RunFolder(tmp_path / "run").split("test"))) == 300
    gone = run("mkdir gone && cd gone && rmdir ../gone && {command}")
    assert gone.returncode == 2
    assert gone.stderr == "error: the folder that this was started in is gone; start it in another one\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        *(["list", kind] for kind in ("datasets", "models", "methods", "prompts", "studies")),
        ["study", "--help"],
        ["prepare", "--run-folder", "{new}"],
        ["prepare", "--run-folder", "{new}", "--method", "qlora"],
        ["prepare", "--run-folder", "{new}", "--set", "learning_rate=1e-3"],
        ["plan", "--help"],
        pytest.param(["score", "{run}"], marks=pytest.mark.slow),
        pytest.param(["report", "{run}"], marks=pytest.mark.slow),
        pytest.param(["compare", "{run}", "{other}", "--output", "{new}"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_light_commands_load_neither_torch_nor_swift(
    arguments: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folders = {"new": tmp_path / "new", "run": tmp_path / "run"}
    if "{run}" in arguments:
        folders["other"] = request.getfixturevalue("demo_run")[0].path
        shutil.copytree(folders["other"], folders["run"])
    arguments = [argument.format(**folders) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", NO_HEAVY_IMPORTS, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [["list", "datasets"], ["prepare", "--run-folder", "{new}"], ["--help"]]
)
def test_a_closed_pipe_ends_a_command_quietly(arguments: list[str], tmp_path: Path) -> None:
    """In development mode: files that cannot be closed are told of, as from Python 3.13 on always."""
    words = [word.format(new=tmp_path / "new") for word in arguments]
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "ignore", "run_swift.py", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 1


def test_list_datasets_tells_names_titles_labels_and_sources(command: Command) -> None:
    listed = command("list", "datasets").stdout
    for part in (
        "chnsenticorp",
        "jd",
        "dianping",
        "waimai",
        "demo",
        "JD product reviews",
        "负面",
        "DAMO_NLP/jd",
        "embedded",
    ):
        assert part in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--dataset", "chnsenticorq"], "Did you mean chnsenticorp?"),
        (["run", "--model", "qwen99"], "neither a known name, nor a folder, nor a hub id"),
        (["run", "--method", "lorra"], "Did you mean lora"),
        (["run", "--prompt", "zh"], "prompt 'zh' is not known"),
        (["run", "--set", "learning_rate"], "write NAME=VALUE"),
        (["run", "--set", "learning_rat=1"], "Nearest: learning_rate"),
        (["run", "--train-sample", "9"], "Did you mean --train-samples?"),
        (["trian", "outputs/first"], 'Did you mean "train"?'),
        (["run", "--set", "lora_rank=eight"], "--set lora_rank=eight: SWIFT takes a whole number for it."),
        (["run", "--data-file", "no.csv"], "no such file"),
        (
            ["run", "--data-file", "README.md", "README_zh.md"],
            "README_zh.md: is a file, not a run; --data-file",
        ),
        (["run", "--test-file", "test.csv"], "--test-file goes with --data-file"),
        (["run", "--model", "qwen-1.8b"], "transformers<4.50"),
        (["run", "--neutral", "negative"], "names no neutral label value"),
        (
            ["run", "--dataset", "jd", "--prompt", "en-category", "--labels", "0=差评,1=好评"],
            "has words for negative, positive",
        ),
        (["run", "--train-samples", "0"], 'Invalid value "0" for --train-samples. Must be >= 1.'),
        (["run", "--set", "split_dataset_ratio=nan"], "above 0, below 1"),
        (["run", "--set", "lora_rank=0"], "--set lora_rank=0: must be a finite number, 1 or more."),
        (["plan", "--set", "warmup_ratio=5"], "from 0 to below 1"),
        (["plan", "--model", "qwen99"], "neither a known name, nor a folder, nor a hub id"),
        (["train", "outputs/none"], "not a run folder"),
        (["score", "."], "not a run folder"),
        (["explain", "outputs/none", "--text", "好"], "not a run folder"),
        (["serve", "outputs/none"], "not a run folder"),
        (["serve", "outputs/none", "--port", "99999"], 'Invalid value "99999" for --port. Must be <= 65535.'),
        (
            ["predict", "outputs/none", "--text", "好", "--output", "a.csv"],
            "others are printed: leave it out",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(
    command: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    folder = ["--run-folder", str(tmp_path / "run")] if arguments[0] == "run" else []
    done = command(*arguments, *folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert not (ROOT / "outputs" / "none").exists()


def test_a_file_of_ones_own_is_led_to_the_right_flags(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "我的评论.csv"
    file.write_text(
        "评论,星级\n" + "".join(f"很好吃{i},5\n太难吃{i},1\n一般{i},3\n" for i in range(20)), encoding="utf-8"
    )
    flags: list[object] = ["prepare", "--data-file", file, "--run-folder", tmp_path / "run"]
    first = command(*flags)
    assert "The file has '评论', '星级'. Where the names shown are a review already, put" in first.stderr
    flags += ["--text-column", "评论", "--label-column", "星级"]
    second = command(*flags)
    assert "--labels 1=…,3=…,5=…" in second.stderr
    third = command(*flags, "--labels", "1=差评,5=好评")
    assert "我的评论.csv, row 3 below the header: label '3' is none of 差评, 好评" in third.stderr
    assert "--labels 1=差评,5=好评,3=" in third.stderr
    rejected = RunFolder(tmp_path / "run").rejected
    assert len(rejected.read_text(encoding="utf-8").splitlines()) == 20
    without_rows = command(*flags, "--labels", "1=差评,5=好评,3=,4=中评")
    assert without_rows.returncode == 2
    assert "--labels: no usable row has the label 中评; leave it out." in without_rows.stderr
    fourth = command(*flags, "--labels", "1=差评,5=好评,3=")  # the folder of the refused start is taken over
    assert fourth.returncode == 0, fourth.stderr
    assert "60 rows read, 40 kept, 20 rejected (20 unlabelled)" in fourth.stdout


def test_a_run_folder_of_another_experiment_is_not_touched(command: Command, tmp_path: Path) -> None:
    assert command("prepare", "--run-folder", tmp_path / "run").returncode == 0
    done = command("prepare", "--data-seed", 7, "--run-folder", tmp_path / "run")
    assert done.returncode == 2
    assert "holds another experiment" in done.stderr
    run = RunFolder(tmp_path / "run")
    before = run.experiment.read_bytes()
    run.stages.unlink()  # as an exported model has none
    done = command("prepare", "--data-seed", 7, "--run-folder", run.path)
    assert done.returncode == 2
    assert "holds another experiment" in done.stderr
    assert run.experiment.read_bytes() == before
    write_json(run.exported, {})
    (run.path / LOCK).unlink()
    done = command("prepare", "--data-seed", 7, "--run-folder", run.path)
    assert f"--run-folder {run.path}: was written by `export`; name a new one" in done.stderr
    assert not (run.path / LOCK).exists()
    for words in (("score", run.path), ("reproduce", run.path), ("compare", run.path, tmp_path)):
        done = command(*words)
        assert done.returncode == 2
        assert f"{run.path}: was written by `export`; name the run itself" in done.stderr


def test_a_preset_has_no_model_and_no_data_of_its_own(command: Command, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("tuner_type: lora\nmodel: someone/model\n", encoding="utf-8")
    done = command("run", "--method", preset, "--run-folder", tmp_path / "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "mine.yaml: model: the run sets this itself; use --model; take it out." in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_not_touched(command: Command, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("不要删除", encoding="utf-8")
    done = command("run", "--dataset", "jd", "--run-folder", tmp_path)
    assert done.returncode == 2
    assert "is no run folder and not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_options_beside_a_run_folder_are_refused(command: Command, tmp_path: Path) -> None:
    assert command("prepare", "--run-folder", tmp_path / "run").returncode == 0
    done = command("run", tmp_path / "run", "--seed", 7, "--balance")
    assert done.returncode == 2
    assert "--balance, --seed would be ignored" in done.stderr
    done = command("run", tmp_path / "run", "--seed", 42, "--method", "lora")  # defaults, and named
    assert done.returncode == 2
    assert "--method, --seed would be ignored" in done.stderr
    done = command("run", tmp_path / "other", "--seed", 7)
    assert done.returncode == 2
    assert (
        f"there is no such run; the folder of a new one is named by --run-folder {tmp_path}/other"
        in done.stderr
    )
    assert not (tmp_path / "other").exists()


def test_val_and_test_files_are_used_as_they_are(command: Command, tmp_path: Path) -> None:
    flags: list[object] = ["--text-column", "text", "--label-column", "label", "--labels", "差评,好评"]
    for split, count in (("data", 30), ("val", 4), ("test", 6)):
        lines = [f"{split}好{i},好评\n{split}差{i},差评\n" for i in range(count // 2)]
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")
        flags += [f"--{split}-file", tmp_path / f"{split}.csv"]
    done = command("prepare", *flags, "--run-folder", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    splits = read_json(RunFolder(tmp_path / "run").manifest)["splits"]
    assert {name: split["rows"] for name, split in splits.items()} == {"train": 30, "val": 4, "test": 6}


def test_named_columns_keep_the_meaning_that_the_card_gives_them(
    command: Command, shared_data: Path, tmp_path: Path
) -> None:
    flags = ["--dataset", "dianping", "--data-file", shared_data / "dianping_ratings.csv"]
    columns = ["--text-column", "comment", "--label-column", "rating", "--keep-near-copies"]
    done = command("prepare", *flags, *columns, "--run-folder", tmp_path / "run")
    assert "2,698 kept" in done.stdout, done.stderr


@pytest.mark.parametrize("values", ["0.0,1.0", "-1,1"])
def test_the_flag_that_an_error_advises_works(command: Command, tmp_path: Path, values: str) -> None:
    bad, good = values.split(",")
    file = tmp_path / "own.csv"
    lines = [f"很差{i},{bad}\n很好{i},{good}\n" for i in range(20)]
    file.write_text("text,label\n" + "".join(lines), encoding="utf-8")
    flags = ["prepare", "--data-file", file, "--text-column", "text", "--label-column", "label"]
    advised = re.search(r"(--labels[ =]\S+…)\. ", command(*flags).stderr)
    assert advised
    words = iter(("差评", "好评"))
    flag = re.sub("…", lambda _: next(words), advised.group(1))
    done = command(*flags, *flag.split(" "), "--run-folder", tmp_path / "run")
    assert "40 kept" in done.stdout, done.stderr


def test_who_tunes_tiny_on_rows_of_their_own_is_told(command: Command, tmp_path: Path) -> None:
    """Whatever the file is called.  Both runs end where the rows are prepared."""
    (tmp_path / "demo.csv").write_text("text,label\n很好,1\n很差,0\n", encoding="utf-8")
    own = ["--text-column", "text", "--label-column", "label", "--labels", "0=差评,1=好评"]
    for flags, refused, told in (
        (["--data-file", tmp_path / "demo.csv", *own], "2 usable rows, 1 of the rarest label", True),
        (["--train-samples", 999_999], "--train-samples 999999: there are only", False),
    ):
        done = command("run", *flags, "--run-folder", tmp_path / str(told))
        assert refused in done.stderr
        assert ("no --model: the embedded tiny is tuned" in done.stdout) is told


def test_a_changed_data_file_is_read_again(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    flags: list[object] = ["prepare", "--data-file", file, "--text-column", "text", "--label-column", "label"]
    flags += ["--labels", "差评,好评", "--run-folder", tmp_path / "run"]
    for rows in (20, 30):
        lines = [f"很差{i},差评\n很好{i},好评\n" for i in range(rows // 2)]
        file.write_text("text,label\n" + "".join(lines), encoding="utf-8")
        assert f"{rows} rows read" in command(*flags).stdout
    again = command(*flags).stdout
    assert "done before" in again
    assert "30 rows read" in again
    file.unlink()
    assert "done before" in command("prepare", tmp_path / "run").stdout


def test_two_commands_do_not_work_on_one_run(command: Command, tmp_path: Path) -> None:
    assert command("prepare", "--run-folder", tmp_path / "run").returncode == 0
    with locked(RunFolder(tmp_path / "run")):
        done = command("train", tmp_path / "run")
    assert done.returncode == 2
    holder = f"process {os.getpid()} on {socket.gethostname()} since 2"
    assert f"another command is working on this run ({holder}" in done.stderr


def test_stages_out_of_order_say_what_comes_first(command: Command, tmp_path: Path) -> None:
    done = command("prepare", "--run-folder", tmp_path / "run")
    assert done.returncode == 0
    for split in ("train", "val", "test"):
        RunFolder(tmp_path / "run").split(split).unlink()
    done = command("train", tmp_path / "run")
    assert done.returncode == 2
    assert f"data/train.jsonl is missing; run `prepare {tmp_path / 'run'}` first" in done.stderr
