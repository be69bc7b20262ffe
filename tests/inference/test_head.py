"""A tuned head: the same scores however rows are padded, and from what was saved alone."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY, Command, run_command
from tests.served import assert_served_as_answered, load_for_answers
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder, checkpoint_of, finished_stages
from workflows.experiment.experiment import load_experiment
from workflows.experiment.options import TuningOptions, flags_of
from workflows.inference.head import head_scores, score_rows
from workflows.inference.infer import merge_adapter
from workflows.inference.scorer import prompt_tokens

pytestmark = pytest.mark.slow

SHORT: tuple[object, ...] = ("--train-samples", 48, "--test-samples", 24, "--set", "max_steps=3")
SHORT += ("--set", "eval_steps=3", "--set", "save_steps=3")  # else each step is evaluated and saved
# Neither SWIFT nor this project: what anyone would load the files with.
LOAD = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
base, adapter, merged, rows = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
def scores(model):
    model.eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0].tolist() for row in rows]
load = AutoModelForSequenceClassification.from_pretrained
of_adapter = PeftModel.from_pretrained(load(base, num_labels=2).float(), adapter)
print(json.dumps([scores(of_adapter), scores(load(merged).float())]))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, demo_rows: list[dict[str, str]]) -> dict[str, RunFolder]:
    """A run whose rows have one label, several (answered by SWIFT's own engine), or a number."""
    folder = tmp_path_factory.mktemp("head")
    stars = folder / "ratings.csv"
    with open(stars, "w", encoding="utf-8", newline="") as file:
        rows = [(row["text"], 1 + 3 * int(row["label"]) + i % 2) for i, row in enumerate(demo_rows)]
        csv.writer(file).writerows([("comment", "rating"), *rows])
    options = {
        "one": ("--dataset", "demo"),
        "several": ("--dataset", "demo-aspects", "--engine", "swift"),
        "number": ("--dataset", "dianping-stars", "--data-file", stars),
    }
    runs = {name: RunFolder(folder / name) for name in options}
    lines = [
        ["run", "--method", "head", *map(str, [*options[name], *SHORT]), "--run-folder", str(run.path)]
        for name, run in runs.items()
    ]
    for line in lines:
        done = run_command(*line)
        assert done.returncode == 0, done.stderr
        assert "before tuning" not in done.stdout
        assert "stand-in" in done.stdout
    return runs


@pytest.fixture(scope="module")
def run(runs: dict[str, RunFolder]) -> RunFolder:
    return runs["one"]


@pytest.fixture(scope="module")
def loaded(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The model with the adapter on it, and its template, as inference loads them."""
    folder = tmp_path_factory.mktemp("loaded")
    return load_for_answers(load_experiment(run.experiment), folder, checkpoint_of(run))


def _one_by_one(model: Any, rows: list[list[int]]) -> list[list[float]]:
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0].tolist() for row in rows]


def test_a_run_with_a_head_has_no_answers_before_tuning(run: RunFolder) -> None:
    assert list(read_json(run.scores)["systems"]) == ["majority", "tfidf", "probe", "tuned"]
    assert "zero_shot" not in finished_stages(run)
    assert {turn["role"] for row in read_jsonl(run.split("train")) for turn in row["messages"]} == {"user"}
    for row in read_jsonl(run.predictions("tuned")):
        assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].__getitem__)
        assert (row["output"], row["label_mass"]) == (
            {"negative": "负面", "positive": "正面"}[row["prediction"]],
            None,
        )
        odds = torch.tensor(row["scores"][0]).softmax(0).tolist()
        assert list(row["probabilities"].values()) == pytest.approx(odds, abs=1e-6)
    logged = {name for entry in read_json(run.training)["log_history"] for name in entry}
    assert {"eval_loss", "eval_accuracy", "eval_macro_f1"} <= logged
    page = run.report_page.read_text(encoding="utf-8")
    assert "softmax" in page
    assert "greedy answer ≠ likeliest label" not in page


def test_padding_on_either_side_changes_nothing(run: RunFolder, loaded: tuple[Any, Any]) -> None:
    model, template = loaded
    rows = read_jsonl(run.split("test"))
    tokens = [prompt_tokens(template, row) for row in rows]
    assert len({len(each) for each in tokens}) > 5
    alone = torch.tensor(_one_by_one(model, tokens))
    found = {row["id"]: row["scores"][0] for batch in score_rows(model, template, rows) for row in batch}
    assert torch.allclose(torch.tensor([found[row["id"]] for row in rows]), alone, atol=1e-5)
    # As SWIFT's collator pads them in training, and its encoding of a training row is that of a test row.
    template.set_mode("train")
    for side in ("left", "right"):
        template.padding_side = side
        encoded = [template.encode({"messages": row["messages"], "label": row["label"]}) for row in rows]
        assert [each["input_ids"] for each in encoded] == tokens
        batch = template.data_collator(encoded)
        labels = batch.pop("labels")
        assert labels.tolist() == [row["label"] for row in rows]
        with torch.no_grad():
            assert torch.allclose(model(**batch).logits, alone, atol=1e-5), side
    template.set_mode("transformers")


def test_what_was_saved_gives_the_same_scores_in_a_new_process(
    run: RunFolder, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    _, template = loaded
    adapter = checkpoint_of(run)
    model, _ = load_for_answers(load_experiment(run.experiment), tmp_path, adapter)  # a copy, to be merged
    rows = read_jsonl(run.split("test"))
    tokens = [prompt_tokens(template, row) for row in rows]
    tuned = _one_by_one(model, tokens)
    merged = merge_adapter(model)
    merged.save_pretrained(tmp_path / "merged")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, TINY, adapter, tmp_path / "merged", json.dumps(tokens)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [tuned, _one_by_one(merged, tokens)]
    assert torch.allclose(torch.tensor(tuned), torch.tensor(_one_by_one(merged, tokens)), atol=1e-4)
    by_run = [row["scores"][0] for row in read_jsonl(run.predictions("tuned"))]
    assert torch.allclose(torch.tensor(by_run), torch.tensor(tuned), atol=1e-4)


def test_a_batch_is_scored_as_its_rows_are(loaded: tuple[Any, Any]) -> None:
    model, _ = loaded
    rows = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    batch = head_scores(model, rows, pad=0)
    assert torch.allclose(torch.tensor(batch), torch.tensor(_one_by_one(model, rows)), atol=1e-5)


def test_rows_with_several_labels(runs: dict[str, RunFolder]) -> None:
    several = runs["several"]
    names = ["taste", "service", "delivery", "price", "ambience"]
    for row in read_jsonl(several.predictions("tuned")):
        likely = [name for name in names if row["probabilities"][name] >= 0.5]
        assert row["prediction"] == likely  # SWIFT's answer is that of our own forward pass
        odds = torch.tensor(row["scores"][0]).sigmoid().tolist()
        assert list(row["probabilities"].values()) == pytest.approx(odds, abs=1e-6)
    scores = read_json(several.scores)
    assert list(scores["systems"]) == ["majority", "tfidf", "probe", "tuned"]
    assert set(scores["systems"]["tuned"]["per_class"]) == set(names)
    assert "micro F1" in several.report_page.read_text(encoding="utf-8")


def test_rows_with_a_number(runs: dict[str, RunFolder]) -> None:
    number = runs["number"]
    rows = read_jsonl(number.predictions("tuned"))
    assert [row["prediction"] for row in rows] == [pytest.approx(row["scores"][0][0]) for row in rows]
    assert {row["gold"] for row in rows} == {1.0, 2.0, 4.0, 5.0}
    scores = read_json(number.scores)
    assert list(scores["systems"]) == ["mean", "tfidf", "probe", "tuned"]
    assert scores["systems"]["mean"]["spearman"] is None
    assert "gold numbers" in scores["verdict"]["en"] or "cannot tell the errors" in scores["verdict"]["en"]
    logged = {name for entry in read_json(number.training)["log_history"] for name in entry}
    assert {"eval_mae", "eval_rmse"} <= logged
    assert {path.name.split(".")[0] for path in number.figures.iterdir()} == {"curves", "lengths"}
    page = number.report_page.read_text(encoding="utf-8")
    assert "The largest errors" in page


@pytest.mark.parametrize("system", ["tuned", "probe", "tfidf"])
@pytest.mark.parametrize("name", ["one", "several", "number"])
def test_every_task_is_served_as_it_answered(runs: dict[str, RunFolder], name: str, system: str) -> None:
    assert_served_as_answered(runs[name], system)


@pytest.mark.parametrize("name", ["several", "number"])
def test_a_probe_alone_answers_what_label_words_could_not_say(
    runs: dict[str, RunFolder], command: Command, tmp_path: Path, name: str
) -> None:
    beside = load_experiment(runs[name].experiment).options
    options = replace(beside, tuning=TuningOptions(method="probe"))
    done = command("run", *flags_of(options), "--run-folder", tmp_path / "probe")
    assert done.returncode == 0, done.stderr
    probe = RunFolder(tmp_path / "probe")
    assert not probe.training.exists()
    assert read_jsonl(probe.predictions("probe")) == read_jsonl(runs[name].predictions("probe"))


def test_runs_of_the_same_task_are_compared(
    runs: dict[str, RunFolder], command: Command, tmp_path: Path
) -> None:
    several, number = runs["several"], runs["number"]
    refused = command("compare", several.path, number.path)
    assert refused.returncode == 2
    assert "number has the labels none (regression), several taste" in refused.stderr
    other = RunFolder(shutil.copytree(number.path, tmp_path / "other"))
    done = command("compare", number.path, other.path, "--output", tmp_path / "compared")
    assert done.returncode == 0, done.stderr
    assert "cannot tell the errors of other from those of number" in done.stdout
