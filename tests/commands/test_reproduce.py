"""A run repeated from its own file is equal, bit by bit, and what is not equal is named."""

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from workflows.commands.reproduce import COMPARED, can_be_equal
from workflows.core.files import read_json, read_jsonl, write_json, write_jsonl
from workflows.core.run_folder import RunFolder
from workflows.core.texts import texts
from workflows.pipeline.stages import STAGES


@pytest.mark.slow
def test_a_run_comes_out_equal_and_differences_are_named(command: Command, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    options = ["--train-samples", "160", "--test-samples", "30", "--best-by", "macro_f1"]
    early = ["--set", "early_stop_interval=1", "--set", "learning_rate=1e-9", "--set", "eval_steps=2"]
    done = command("run", *options, *early, "--set", "save_steps=2", "--run-folder", run.path)
    assert done.returncode == 0, done.stderr
    training = read_json(run.training)
    # At such a learning rate nothing gets better: the second evaluation ends the training.
    assert training["steps"] == 4
    assert training["best_by"]["metric"] == "macro_f1"
    evaluations = {
        entry["step"]: entry["eval_macro_f1"] for entry in training["log_history"] if "eval_macro_f1" in entry
    }
    assert training["best_by"]["value"] == pytest.approx(max(evaluations.values()), abs=1e-7)
    again = command("reproduce", run.path)
    assert again.returncode == 0, again.stdout + again.stderr
    for stage in ("prepare", "tokens", "baselines", "audit", "zero_shot", "train", "tuned", "score"):
        assert f"  {stage:10} equal\n" in again.stdout
    assert "everything can be equal, to the last bit" in again.stdout
    rows = read_jsonl(run.predictions("tuned"))
    rows[0]["prediction"] = None
    write_jsonl(run.predictions("tuned"), rows)
    environment = read_json(run.environment)
    environment["packages"]["peft"] = "0.1"
    write_json(run.environment, environment)
    scores = json.loads(run.scores.read_text(encoding="utf-8"))
    scores["systems"]["tuned"]["accuracy"] = 0.5
    write_json(run.scores, scores)
    (tmp_path / "run-again-1" / "reproduction.json").unlink()  # the finished repetition is looked at again
    other = command("reproduce", run.path)
    assert other.returncode == 3, other.stderr
    assert "tuned      tuned: 1 of 30 predictions differ; probabilities by 0.0e+00 at most" in other.stdout
    assert "score      tuned: accuracy 0.5000, now " in other.stdout
    assert "not the same here: peft: 0.1, now " in other.stdout
    assert "train      equal" in other.stdout
    assert (
        "what is computed is only close on other hardware, in another dtype, or with other versions"
        in other.stdout
    )
    manifest = read_json(run.manifest)
    manifest["files"]["train"]["sha256"] = "of another"
    write_json(run.manifest, manifest)
    (tmp_path / "run-again-1" / "reproduction.json").unlink()
    other = command("reproduce", run.path)
    assert "prepare    train rows: are of another file now" in other.stdout
    assert "nothing is sure to be equal: a file that was read is another now" in other.stdout


def test_numbers_that_differ_say_by_how_much(tmp_path: Path) -> None:
    runs = [RunFolder(tmp_path / name) for name in ("one", "other")]
    for run, stars in zip(runs, (4.0, 4.25), strict=True):
        write_jsonl(run.predictions("mean"), [{"id": "test:1", "prediction": stars, "probabilities": None}])
    assert COMPARED["baselines"](*runs) == ["mean: 1 of 1 predictions differ; numbers by 2.5e-01 at most"]


@pytest.mark.parametrize(
    ("changed", "device", "expected"),
    [
        (set(), "cpu", "everything can be equal"),
        ({"git_commit"}, "cuda", "data, splits, token counts and baselines can be equal"),
        ({"torch_dtype"}, "cuda", "data, splits and token counts can be equal"),
        ({"name", "memory"}, "cpu", "data, splits and token counts can be equal"),
    ],
)
def test_what_can_be_equal_depends_on_the_machine(changed: set[str], device: str, expected: str) -> None:
    assert can_be_equal(changed, device).startswith(expected)


def test_an_unfinished_run_is_not_reproduced(command: Command, tmp_path: Path) -> None:
    assert command("prepare", "--run-folder", tmp_path / "run").returncode == 0
    done = command("reproduce", tmp_path / "run")
    assert done.returncode == 2
    assert "is not finished" in done.stderr


def test_no_stage_is_forgotten_by_a_repetition_or_by_a_reports_table() -> None:
    works = [stage.name for stage in STAGES if stage.name != "report"]
    assert list(COMPARED) == works
    assert list(texts("stages")) == works


def test_other_training_rows_made_of_a_model_are_a_difference(tmp_path: Path) -> None:
    runs = [RunFolder(tmp_path / name) for name in ("one", "other")]
    for run in runs:
        write_jsonl(run.derived, [{"id": "train:1", "review": "房间很干净"}])
        write_jsonl(run.derived_rejected, [])
    assert COMPARED["derive"](*runs) == []
    write_jsonl(runs[1].derived_rejected, [{"id": "train:2", "reason": "no reasoning"}])
    write_jsonl(runs[1].derived_val, [])
    assert COMPARED["derive"](*runs) == [
        f"{runs[0].derived_val.name} differs",
        f"{runs[0].derived_rejected.name} differs",
    ]
