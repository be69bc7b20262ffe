"""Runs that differ in their training alone read the data once, those that differ in their test rows alone
train once, and never is another's taken for theirs.
"""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY, make_experiment
from workflows.commands.export.model_card import write_model_card
from workflows.core.costs import costs_of
from workflows.core.files import fingerprint, read_json, read_jsonl, sha256, write_json
from workflows.core.run_folder import RunFolder, checkpoint_of, finished_stages
from workflows.core.screen import Screen
from workflows.pipeline.run import are_done, do_stages
from workflows.pipeline.taken_over import take_over_training
from workflows.scoring.table import render_scores

INPUTS = {"data/train.jsonl": "a", "data/val.jsonl": "b", "data/tokens.json": "c", "lora_rank": "d"}
ANSWERED = ("prepare", "tokens", "train", "tuned", "score", "report")


@pytest.fixture
def trained(tmp_path: Path) -> RunFolder:
    """A run whose training is done, as far as files say it."""
    run = RunFolder(tmp_path / "trained")
    for name in ("checkpoint-4/adapter_model.safetensors", "logging.jsonl"):
        path = run.sft / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    run.trained_on.write_text(fingerprint(INPUTS), encoding="utf-8")
    write_json(run.training, {"checkpoint": "checkpoint-4", "steps": 4})
    systems = {"tuned": {"tuning": 180.0, "resumed": False}}
    record = {"inputs": INPUTS, "seconds": 189.0, "peak_memory_bytes": {"ram": 9}, "systems": systems}
    write_json(run.stages, {"train": {**record, "at": "2026-01-01 00:00:00"}})
    return run


def test_what_a_training_took_stays_known_from_run_to_run(trained: RunFolder, tmp_path: Path) -> None:
    before = trained
    for name in ("second", "third"):
        run = RunFolder(tmp_path / name)
        inputs = {**INPUTS, "data/tokens.json": name}
        (run.sft / "checkpoint-2").mkdir(parents=True)  # what a stop has left
        taken = take_over_training(run, inputs, [RunFolder(tmp_path / "none"), run, before])
        assert taken is not None
        assert taken["inputs"] == inputs
        assert taken["taken_over"] == {"run": str(trained.path), "seconds": 189.0}
        assert taken["seconds"] < 60
        assert taken["systems"] == {"tuned": {"tuning": 180.0, "resumed": False}}
        assert run.training.read_bytes() == trained.training.read_bytes()
        assert (checkpoint_of(run) / "adapter_model.safetensors").is_file()
        assert not (run.sft / "checkpoint-2").exists()
        write_json(run.stages, {"train": taken})
        before = run
    # Each may go without the others.
    shutil.rmtree(trained.path)
    assert (checkpoint_of(run) / "adapter_model.safetensors").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: run.training.unlink(),
        lambda run: shutil.rmtree(run.sft / "checkpoint-4"),
        lambda run: run.stages.unlink(),
        # Another training has begun there, and was stopped.
        lambda run: run.trained_on.write_text("another", encoding="utf-8"),
        lambda run: run.trained_on.unlink(),
        lambda run: write_json(run.stages, {"train": {"inputs": {**INPUTS, "lora_rank": "e"}}}),
    ],
    ids=["no training.json", "no checkpoint", "not done", "another since", "half copied", "other inputs"],
)
def test_no_other_training_is_taken(
    trained: RunFolder, tmp_path: Path, spoil: Callable[[RunFolder], object]
) -> None:
    spoil(trained)
    run = RunFolder(tmp_path / "run")
    assert take_over_training(run, INPUTS, [trained]) is None
    assert not run.path.exists()


def test_runs_that_differ_in_their_training_alone_read_the_data_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (RunFolder(tmp_path / name) for name in ("first", "second"))
    plain, ranked, other = (
        make_experiment("--train-samples", "64", *flags)
        for flags in ([], ["--set", "lora_rank=4"], ["--data-seed", "7"])
    )
    do_stages(first, plain, ("prepare",), Screen())
    first.tokens.write_text("{}", encoding="utf-8")
    do_stages(second, ranked, ("prepare",), Screen(), others=[second, first])
    assert f"[1/1] prepare: taken over from {first.path}" in capfd.readouterr().out
    assert are_done(second, ranked, ("prepare",))
    assert not second.tokens.exists()  # that depends on the model
    read = first.split("train").read_bytes()
    assert second.split("train").read_bytes() == read
    assert finished_stages(second)["prepare"]["taken_over"]["run"] == str(first.path)
    # Other rows are read anew, and not into the files of the first.
    do_stages(second, other, ("prepare",), Screen(), others=[first])
    assert "[1/1] prepare: again, --data-seed changed" in capfd.readouterr().out
    assert second.split("train").read_bytes() != read == first.split("train").read_bytes()


@pytest.mark.slow
def test_a_run_on_other_test_rows_answers_as_if_it_had_trained_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open(tmp_path / "waimai_10k.csv", "w", encoding="utf-8", newline="") as file:
        rows = [(str(i % 2), f"第{i}单外卖{'差好'[i % 2]}，{i * i}号骑手送来的") for i in range(300)]
        csv.writer(file).writerows([("label", "review"), *rows])
    asked = ["--train-samples", "64", "--set", "max_steps=4", "--data-dir", str(tmp_path)]
    plain, other = (make_experiment(*asked, *more) for more in ([], ["--test-dataset", "waimai"]))
    first, alone, run = (RunFolder(tmp_path / name) for name in ("first", "alone", "run"))
    do_stages(first, plain, ("prepare", "tokens", "train"), Screen())
    do_stages(alone, other, ANSWERED, Screen())
    do_stages(run, other, ANSWERED, Screen(), others=[first, run])
    said = capfd.readouterr().out
    assert f"[3/6] train: taken over from {first.path}" in said
    assert "Trained on demo, tested on 30 test rows of waimai" in said
    assert not run.log("train").exists()
    weights = [sha256(checkpoint_of(each) / "adapter_model.safetensors") for each in (first, alone, run)]
    assert len(set(weights)) == 1
    assert read_jsonl(run.predictions("tuned")) == read_jsonl(alone.predictions("tuned"))
    assert are_done(run, other, ANSWERED)
    record, before = finished_stages(run)["train"], finished_stages(first)["train"]
    assert record["taken_over"]["seconds"] == before["seconds"] > record["seconds"]
    page = run.report_page.read_text(encoding="utf-8")
    assert f"{before['seconds']:,.1f} s, in first, from which it was taken over" in page
    assert "Trained on demo, tested on 30 test rows of waimai" in page
    shown = render_scores(read_json(run.scores), costs_of(run))
    assert "demo, tested on waimai: 30 test rows" in shown
    assert "在 demo 上训练，在 waimai 的 30 条测试数据上测试" in shown
    assert costs_of(run)["tuned"]["tuning"] == costs_of(first)["tuned"]["tuning"]
    (tmp_path / "card").mkdir()
    check = {"dtype": "float32", "outputs_differing": [], "test_rows": 30}
    write_model_card(tmp_path / "card", run, other, TINY, check)
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert "Trained on demo, tested on 30 test rows of waimai" in card
    assert "在 demo 上训练，在 waimai 的 30 条测试数据上测试" in card
    # A stop between the files and the record of them: it is taken over again.
    write_json(run.stages, {name: each for name, each in finished_stages(run).items() if name != "train"})
    run.training.unlink()
    do_stages(run, other, ANSWERED, Screen(), others=[first])
    assert capfd.readouterr().out.count("done before") == 5
    assert are_done(run, other, ANSWERED)
