"""What counts as an input of a stage: what changes its result makes it be done again."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Command, make_experiment, read_options
from workflows.commands.plan.plan import covers
from workflows.core.errors import UserError
from workflows.core.files import write_json
from workflows.core.run_folder import RunFolder, holder_of, locked
from workflows.core.screen import Screen
from workflows.experiment.experiment import save_experiment
from workflows.experiment.resolve import resolve
from workflows.pipeline.run import start_run
from workflows.pipeline.stages import STAGES

(TRAIN,) = (stage for stage in STAGES if stage.name == "train")


def _finished(folder: Path, *flags: object) -> RunFolder:
    """A run that looks finished to who starts from it."""
    run = RunFolder(folder)
    folder.mkdir()
    run.experiment.write_text(save_experiment(make_experiment(*flags)), encoding="utf-8")
    write_json(run.stages, {"tuned": {}})
    write_json(run.training, {"of": folder.name, "checkpoint": "checkpoint-1"})
    (run.sft / "checkpoint-1").mkdir(parents=True)
    return run


def test_training_on_from_another_run_is_done_again_where_that_is_another(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        source = _finished(tmp_path / name)
        experiment = make_experiment("--method", "dpo", "--from-run", source.path)
        found.append(TRAIN.depends(RunFolder(tmp_path / "run"), experiment))
    changed = {name for name in found[0] if found[0][name] != found[1][name]}
    assert changed == {"what it begins from"}


def test_evaluations_by_windows_are_another_training() -> None:
    run = RunFolder(Path("none"))
    whole, windows = (
        TRAIN.depends(run, make_experiment("--method", "encoder", "--model", "bert-base-chinese", *more))
        for more in ((), ("--window", 256))
    )
    assert windows == {**whole, "--window": 256}


@pytest.mark.parametrize(
    ("source", "method", "message"),
    [
        (("--method", "head"), "dpo", "its head writes no words"),
        (("--prompt", "zh-few-shot"), "distill", "its prompt zh-few-shot shows solved rows, which method"),
    ],
)
def test_a_run_that_a_method_cannot_start_from_is_refused(
    tmp_path: Path, source: tuple[str, ...], method: str, message: str
) -> None:
    run = _finished(tmp_path / "run", *source)
    with pytest.raises(UserError, match=f"--from-run {re.escape(str(run.path))}: {message}"):
        resolve(read_options("--method", method, "--from-run", run.path))


def test_a_run_without_its_checkpoint_or_its_training_is_refused_at_once(tmp_path: Path) -> None:
    run = _finished(tmp_path / "run")
    asked = read_options("--method", "dpo", "--from-run", run.path)
    (run.sft / "checkpoint-1").rmdir()
    with pytest.raises(UserError, match=r"checkpoint-1: is gone; to train again remove .*training\.json"):
        resolve(asked)
    run.training.unlink()
    with pytest.raises(UserError, match="is not finished; finish it first"):
        resolve(asked)


def test_what_a_stopped_stage_left_is_not_gone_on_with(command: Command, tmp_path: Path) -> None:
    """As where the data set that is mixed in cannot be had: the rows that are there are half of them."""
    run = RunFolder(tmp_path / "run")
    start_run(make_experiment("--mix", "waimai=0.5", "--train-samples", "40"), run.path, Screen())
    away = {"REVIEW_DATA_DIR": str(tmp_path), "HF_HOME": str(tmp_path)}
    stopped = command("prepare", "--offline", run.path, env=away)
    assert (stopped.returncode, run.split("train").exists()) == (2, True), stopped.stderr
    for stage in ("train", "score"):
        done = command(stage, run.path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "is of a stage that was not finished (prepare); run `prepare" in done.stderr


def test_who_holds_a_run_folder_is_found_without_holding_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert holder_of(run) is None
    with locked(run):
        assert holder_of(run) == os.getpid()
    assert holder_of(run) is None  # its words are still in the file


def test_plan_does_not_cover_what_swift_does_not_train() -> None:
    assert covers(make_experiment())
    assert not covers(make_experiment("--method", "plain-peft"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--set", "eval_steps=0.1"), "eval_steps 0.1 and save_steps 0.2: must be the same"),
        (("--method", "adalora", "--set", "eval_steps=0.1"), "eval_steps 0.1 and save_steps 0.2: must be"),
        (
            ("--method", "swift-defaults", "--set", "eval_steps=100"),
            "eval_steps 100 and save_steps 500: must",
        ),
        (("--method", "swift-defaults", "--set", "save_strategy=no"), "save_strategy no: the training would"),
        (
            ("--set", "save_strategy=best", "--set", "early_stop_interval=2"),
            "so early_stop_interval never counts",
        ),
        (("--set", "metric_for_best_model=f1"), "f1: evaluations do not measure it; take loss, accuracy,"),
        (("--set", "truncation_strategy=right"), "right would cut the answer off long rows"),
        (("--method", "head", "--set", "label_smoothing_factor=0.1"), "method head: has no label smoothing"),
        (("--dataset", "dianping-stars", "--method", "head", "--labels", "差,好"), "--labels: means nothing"),
    ],
)
def test_what_would_train_or_keep_something_else_is_refused(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_experiment(*flags)


def test_what_keeps_the_best_and_draws_rows_to_mix_in_is_allowed() -> None:
    kept = make_experiment("--set", "save_strategy=best", "--mix", "waimai=0.5", "--sample-seed", "3")
    assert (kept.arguments["save_strategy"], kept.data.sample_seed) == ("best", 3)


def test_answers_of_other_inputs_are_neither_scored_nor_shown_nor_compared(
    command: Command, tmp_path: Path
) -> None:
    """Labels are corrected in the training file, and the answers that are there were learned from the old."""
    rows = [(f"第{i}条评论，{'味道不错' if i % 2 else '味道很差'}", i % 2) for i in range(60)]

    def write(labels: Callable[[int], int]) -> None:
        lines = [f"{text},{labels(label)}\n" for text, label in rows[:40]]
        (tmp_path / "train.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")

    lines = [f"{text},{label}\n" for text, label in rows[40:]]
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")
    write(lambda label: label)
    run, other = RunFolder(tmp_path / "run"), tmp_path / "other"
    flags = [
        "--data-file",
        tmp_path / "train.csv",
        "--test-file",
        tmp_path / "test.csv",
        "--keep-near-copies",
    ]
    flags += ["--text-column", "text", "--label-column", "label", "--labels", "0=差评,1=好评"]
    for done in (command("prepare", *flags, "--run-folder", run.path), command("score", run.path)):
        assert done.returncode == 0, done.stderr
    shutil.copytree(run.path, other)
    write(lambda label: 1 - label)
    assert command("prepare", run.path).returncode == 0
    for words, stale in (
        (("report", run.path), r"scores\.json is of other inputs than there are now \(data/manifest\.json"),
        (("compare", run.path, other), r"predictions/\w+\.jsonl is of other inputs .* \(data/train\.jsonl"),
    ):
        done = command(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert re.search(rf"{stale} changed\); run `score {re.escape(str(run.path))}` first", done.stderr)
    third = shutil.copytree(other, tmp_path / "third")
    for copied in (other, third):  # as where rows are not given away
        RunFolder(copied).split("train").unlink()
    assert command("compare", other, third, "--output", tmp_path / "out").returncode == 0
    shutil.rmtree(third / "data")
    (third / "stages.json").unlink()
    shutil.rmtree(other / "data")
    assert command("compare", other, third, "--output", tmp_path / "out").returncode == 0
    for words in (("score", run.path), ("report", run.path)):
        assert command(*words).returncode == 0


@pytest.mark.parametrize(
    ("flags", "greater"),
    [
        ((), False),
        (("--set", "metric_for_best_model=accuracy"), True),
        (("--method", "cot", "--set", "metric_for_best_model=loss"), False),
    ],
)
def test_the_best_checkpoint_is_the_best(flags: tuple[str, ...], greater: bool) -> None:
    assert make_experiment(*flags).arguments["greater_is_better"] is greater
