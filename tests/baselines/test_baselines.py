"""The baselines that a tuned model must beat, on a real corpus."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Command, make_experiment, prepare_run
from workflows.baselines.baselines import (
    NGRAMS,
    character_ngrams,
    run_baselines,
    single_label_baselines,
)
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.experiment.job import Job
from workflows.scoring.score import score


@pytest.mark.slow
def test_tfidf_reaches_the_published_level_on_hotel_reviews(shared_data: Path, tmp_path: Path) -> None:
    options = ["--dataset", "chnsenticorp", "--data-file", str(shared_data / "ChnSentiCorp_htl_all.csv")]
    job = Job(prepare_run(tmp_path, *options), make_experiment(*options))
    run_baselines(job)
    systems = score(job)["systems"]
    assert systems["tfidf"]["accuracy"] >= 0.90
    assert systems["majority"]["accuracy"] == 533 / 777
    rows = read_jsonl(job.run.predictions("tfidf"))
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-9 for row in rows)
    assert all(max(row["probabilities"], key=row["probabilities"].get) == row["prediction"] for row in rows)


def test_few_uneven_labels_do_not_make_tfidf_a_constant(shared_data: Path) -> None:
    """Validation cannot choose between strengths of which each gets 3 of 4 rows right."""
    with open(shared_data / "waimai_10k.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_label = {label: [row for row in rows if row["label"] == label] for label in "01"}
    train, val, test = (
        [row for label, count in counts.items() for row in by_label[label][start : start + count]]
        for start, counts in (
            (200, {"1": 10, "0": 22}),
            (260, {"1": 1, "0": 3}),
            (1000, {"1": 100, "0": 100}),
        )
    )
    vectorizer = character_ngrams(NGRAMS, len(train))
    features = vectorizer.fit_transform(row["review"] for row in train)
    of_val, of_test = (vectorizer.transform(row["review"] for row in rows) for rows in (val, test))
    gold, val_gold, test_gold = ([int(row["label"]) for row in rows] for rows in (train, val, test))
    said = single_label_baselines(features, of_val, gold, val_gold, 2)["tfidf"](of_test)
    found = Counter((label, answer) for label, (answer, _) in zip(test_gold, said, strict=True))
    assert found[1, 1] >= 20


def test_a_label_that_training_lacks_is_never_predicted(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    rows = [f"很差{i},差\n很好{i},好\n" for i in range(30)]
    file.write_text("text,label\n" + "".join(rows), encoding="utf-8")
    test = tmp_path / "test.csv"
    test.write_text("text,label\n一般般,中\n很差吧,差\n", encoding="utf-8")
    options = [
        "--data-file",
        str(file),
        "--test-file",
        str(test),
        "--text-column",
        "text",
        "--label-column",
        "label",
        "--labels",
        "差,中,好",
    ]
    run = prepare_run(tmp_path / "run", *options)
    run_baselines(Job(run, make_experiment(*options)))
    predictions = read_jsonl(run.predictions("tfidf"))
    assert [row["prediction"] for row in predictions][1] == "差"
    assert all(row["probabilities"]["中"] == 0.0 for row in predictions)


def test_baselines_of_several_labels_and_of_numbers(
    command: Command, shared_data: Path, tmp_path: Path
) -> None:
    """No model is loaded; the constant answers are checked by hand."""
    several, stars = RunFolder(tmp_path / "several"), RunFolder(tmp_path / "stars")
    for run, dataset in ((several, ["demo-aspects"]), (stars, ["dianping-stars", "--data-dir", shared_data])):
        options = ["--dataset", *dataset, "--method", "head", "--run-folder", run.path]
        assert command("prepare", *options).returncode == 0
        done = command("score", run.path)
        assert done.returncode == 0, done.stderr
    train, test = (read_jsonl(several.split(name)) for name in ("train", "test"))
    ((common, _),) = Counter(tuple(row["label"]) for row in train).most_common(1)
    systems = read_json(several.scores)["systems"]
    assert systems["majority"]["accuracy"] == sum(tuple(row["label"]) == common for row in test) / len(test)
    assert systems["tfidf"]["micro_f1"] > 0.7 > systems["majority"]["micro_f1"]
    assert "micro F1" in command("score", several.path).stdout
    train, test = (read_jsonl(stars.split(name)) for name in ("train", "test"))
    mean = sum(row["label"] for row in train) / len(train)
    systems = read_json(stars.scores)["systems"]
    off = [abs(row["label"] - mean) for row in test]
    assert systems["mean"]["mae"] == pytest.approx(sum(off) / len(off))
    assert systems["tfidf"]["mae"] < systems["mean"]["mae"]
    assert systems["tfidf"]["spearman"] > 0.3
