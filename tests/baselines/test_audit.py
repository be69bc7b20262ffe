"""The audit finds labels that were flipped on purpose, in a real corpus."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cleanlab.rank import get_label_quality_scores

from tests.conftest import make_experiment, prepare_run
from workflows.baselines.audit import audit, out_of_fold, rank
from workflows.core.files import read_json, read_jsonl, write_json, write_jsonl
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.pipeline.run import do_stages

FLIPPED_SHARE = 0.05
FLOOR = 0.62  # measured: 0.67 of the first 388 of the ranking are flipped ones; chance would be 0.05


@pytest.mark.slow
def test_flipped_labels_come_first_on_hotel_reviews(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "ChnSentiCorp_htl_all.csv").dropna().drop_duplicates("review")
    labels = frame["label"].to_numpy().copy()
    count = int(FLIPPED_SHARE * len(labels))
    flipped = np.random.default_rng(42).choice(len(labels), count, replace=False)
    labels[flipped] ^= 1
    rows = [{"review": text} for text in frame["review"]]
    shares = out_of_fold(rows, labels, 2)
    assert shares is not None
    first = np.argsort(get_label_quality_scores(labels, shares), kind="stable")[:count]
    hits = len(set(first) & set(flipped)) / count  # as many are taken as were flipped: precision = recall
    assert hits >= FLOOR
    suspects = rank(labels, shares)
    assert len(set(suspects) & set(flipped)) / count >= 0.75
    assert len(suspects) < 3 * count


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Experiment]:
    flags = ("--train-samples", "600")
    return prepare_run(tmp_path_factory.mktemp("audit"), *flags), make_experiment(*flags)


def test_the_table_can_be_corrected_and_is_not_overwritten(prepared: tuple[RunFolder, Experiment]) -> None:
    run, experiment = prepared
    summary = audit(Job(run, experiment))
    assert run.audit.read_bytes().startswith("\ufeff".encode())
    with open(run.audit, encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == summary["likely_wrong"] > 0
    assert [float(row["quality"]) for row in table] == sorted(float(row["quality"]) for row in table)
    assert all(row["label"] != row["suggested"] and row["correction"] == "" for row in table)
    train = {row["id"]: row["review"] for row in read_jsonl(run.split("train"))}
    assert all(train[row["id"]] == row["text"] for row in table if row["split"] == "train")
    assert audit(Job(run, experiment)) == summary  # the same again
    # As a kill between the two files leaves them.
    write_json(run.audit_summary, {**summary, "sha256": "of an older table"})
    assert audit(Job(run, experiment)) == summary
    edited = run.audit.read_text(encoding="utf-8").replace("positive,negative,", "positive,negative,drop", 1)
    run.audit.write_text(edited, encoding="utf-8")
    for _ in range(2):
        assert audit(Job(run, experiment)) == {**summary, "edited": True}
        assert run.audit.read_text(encoding="utf-8") == edited
    run.audit.rename(run.audit.with_name("mine.csv"))
    assert audit(Job(run, experiment)) == summary
    assert "drop" not in run.audit.read_text(encoding="utf-8")


def test_what_the_probe_says_is_looked_at_and_an_edited_table_stops_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment("--train-samples", "300", "--test-samples", "60")
    run, names = RunFolder(tmp_path), [label.name for label in experiment.labels]

    def say(*stages: str) -> str:
        do_stages(run, experiment, stages, Screen())
        return capfd.readouterr().out

    def answer(share: float) -> None:
        """As a probe that gives this probability to each label as it is."""
        for path, splits in ((run.out_of_fold, ("train", "val")), (run.predictions("probe"), ("test",))):
            rows = [row for split in splits for row in read_jsonl(run.split(split))]
            shares = [dict.fromkeys(names, 1 - share) | {names[row["label"]]: share} for row in rows]
            said = zip(rows, shares, strict=True)
            write_jsonl(
                path, [{"id": row["id"], "text": row["review"], "probabilities": each} for row, each in said]
            )

    say("prepare", "audit")
    assert read_json(run.audit_summary)["judged_by"] == "tfidf"
    answer(0.9)
    assert "audit: again, what the probe says changed" in say("audit")
    assert read_json(run.audit_summary)["judged_by"] == "probe"
    run.audit.write_text("mine", encoding="utf-8")
    answer(0.8)
    for stages in (("audit",), ("prepare", "audit")):  # the second has nothing to do
        assert f"{run.audit} was edited, and is kept as it is; give it another name" in say(*stages)
    assert run.audit.read_text(encoding="utf-8") == "mine"


def test_rows_that_apply_would_refuse_are_not_in_the_table(
    shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open(shared_data / "waimai_10k.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    with open(tmp_path / "waimai_10k.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([*rows[:151], *rows[-150:]])
    asked = ["--data-dir", tmp_path, "--mix", "waimai=0.5", "--train-samples", "300", "--test-samples", "60"]
    run, experiment = RunFolder(tmp_path / "run"), make_experiment(*asked)
    do_stages(run, experiment, ("prepare", "audit"), Screen())
    mixed = sum("/" in row["id"] for row in read_jsonl(run.split("train")))
    summary = read_json(run.audit_summary)
    assert summary["others"]["rows"] == mixed > 0
    assert summary["rows"] == sum(len(read_jsonl(run.split(name))) for name in SPLITS) - mixed
    assert summary["others"]["likely_wrong"] > 0
    said = capfd.readouterr().out
    assert (
        f"of the {mixed} rows of other data sets, {summary['others']['likely_wrong']} are likely wrong"
        in said
    )
    with open(run.audit, encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == summary["likely_wrong"] > 0
    with open(tmp_path / "all.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows({**row, "correction": "drop"} for row in table)
    corrected = RunFolder(tmp_path / "corrected")
    asked += ["--apply", tmp_path / "all.csv"]
    do_stages(corrected, make_experiment(*asked), ("prepare",), Screen())
    assert len(read_jsonl(corrected.corrections)) == len(table)


def test_too_few_rows_of_a_label_give_an_empty_table(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    experiment = make_experiment()
    for split, rows in {"train": 8, "val": 1, "test": 1}.items():
        write_jsonl(
            run.split(split), ({"id": f"{split}:{i}", "review": "好", "label": i % 2} for i in range(rows))
        )
    assert audit(Job(run, experiment))["likely_wrong"] is None
    assert read_json(run.audit_summary)["out_of_fold_accuracy"] == {}
