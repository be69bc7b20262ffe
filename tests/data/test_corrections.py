"""Labels corrected by hand reach the data, and corrections of other data are refused."""

import csv
from pathlib import Path

import pytest

from tests.conftest import make_experiment
from workflows.baselines.audit import audit
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.data.prepare import prepare
from workflows.experiment.job import Job

TEXTS = [f"第{i}条评论，{'味道不错' if i % 2 else '味道很差'}，第{i * 7}次来" for i in range(60)]


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.csv"
    lines = [f"{text},{'好' if i % 2 else '差'}" for i, text in enumerate(TEXTS)]
    file.write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    return file


def _flags(reviews: Path, corrections: Path) -> list[str]:
    flags = ["--data-file", str(reviews), "--text-column", "text", "--label-column", "label"]
    return [*flags, "--labels", "差=差评,好=好评", "--apply", str(corrections)]


def _prepare(reviews: Path, corrections: Path, run: RunFolder) -> None:
    prepare(Job(run, make_experiment(*_flags(reviews, corrections))))


def test_corrected_labels_and_dropped_rows_are_used_and_recorded(tmp_path: Path, reviews: Path) -> None:
    table = tmp_path / "mine.csv"
    lines = [
        f"train:3,{TEXTS[2]} ,好评",
        f"train:5,{TEXTS[4]},drop",
        f"train:7,{TEXTS[6]},",
        f"train:8,{TEXTS[7]},好评",
    ]
    table.write_text(
        "id,text,correction\n" + "\n".join(lines), encoding="gb18030"
    )  # as a spreadsheet saves it
    run = RunFolder(tmp_path / "run")
    _prepare(reviews, table, run)
    labels = {row["id"]: row["label"] for split in SPLITS for row in read_jsonl(run.split(split))}
    assert labels["train:3"] == 1
    assert "train:5" not in labels
    assert (labels["train:7"], labels["train:8"]) == (0, 1)
    manifest = read_json(run.manifest)
    assert (manifest["corrections"]["relabelled"], manifest["corrections"]["dropped"]) == (1, 1)
    assert manifest["rows"] == {"read": 60, "kept": 59, "rejected": 1}
    assert read_jsonl(run.corrections) == [
        {"id": "train:3", "text": TEXTS[2], "before": "差评", "after": "好评"},
        {"id": "train:5", "text": TEXTS[4], "before": "差评", "after": None},
    ]
    assert [row["reason"] for row in read_jsonl(run.rejected)] == ["dropped by hand"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id,text,correction\ntrain:3,别的评论,好评",
            "row 1 below the header: no review train:3 with this text",
        ),
        ("id,text,correction\ntrain:999,x,好评", "row 1 below the header: no review train:999"),
        (
            f"id,text,correction\ntrain:3,{TEXTS[2]},很好",
            "row 1 below the header: correction '很好' is none of 差评, 好评, drop",
        ),
        ("id,text\n1,2", "has no column correction"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(
    tmp_path: Path, reviews: Path, content: str, message: str
) -> None:
    table = tmp_path / "mine.csv"
    table.write_text(content, encoding="utf-8")
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        _prepare(reviews, table, run)
    assert not run.manifest.exists()


def test_a_text_that_a_spreadsheet_would_run_is_made_harmless_and_still_found(
    tmp_path: Path, reviews: Path
) -> None:
    """It has the wrong label, so the audit lists it."""
    with open(reviews, "a", encoding="utf-8") as file:
        file.write("\n=1+1 味道很差，很差，味道很差，很差,好")
    table, first = tmp_path / "none.csv", RunFolder(tmp_path / "first")
    table.write_text("id,text,correction\n", encoding="utf-8")
    _prepare(reviews, table, first)
    audit(Job(first, make_experiment(*_flags(reviews, table))))
    with open(first.audit, encoding="utf-8-sig", newline="") as file:
        listed = {row["id"]: row["text"] for row in csv.DictReader(file)}
    assert listed["train:61"].startswith("'=1+1")
    table.write_text(f"id,text,correction\ntrain:61,{listed['train:61']},差评\n", encoding="utf-8")
    second = RunFolder(tmp_path / "second")
    _prepare(reviews, table, second)
    assert read_json(second.manifest)["corrections"]["relabelled"] == 1


def test_corrections_draw_no_other_rows(tmp_path: Path, reviews: Path) -> None:
    table, sampled = tmp_path / "mine.csv", ("--train-samples", "20", "--test-samples", "4")
    table.write_text("id,text,correction\n", encoding="utf-8")
    first, second = (RunFolder(tmp_path / name) for name in ("first", "second"))
    prepare(Job(first, make_experiment(*_flags(reviews, table), *sampled)))
    before = {split: read_jsonl(first.split(split)) for split in SPLITS}
    wrong, dropped, tested = *before["train"][:2], before["test"][0]
    other = ["好评", "差评"]
    lines = [
        f"{wrong['id']},{wrong['review']},{other[wrong['label']]}",
        f"{dropped['id']},{dropped['review']},drop",
        f"{tested['id']},{tested['review']},{other[tested['label']]}",
    ]
    table.write_text("id,text,correction\n" + "\n".join(lines), encoding="utf-8")
    prepare(Job(second, make_experiment(*_flags(reviews, table), *sampled)))
    after = {split: read_jsonl(second.split(split)) for split in SPLITS}
    changed = {wrong["id"]: 1 - wrong["label"], tested["id"]: 1 - tested["label"]}
    for split in SPLITS:
        kept = [row for row in before[split] if row["id"] != dropped["id"]]
        wanted = [(row["id"], changed.get(row["id"], row["label"])) for row in kept]
        assert [(row["id"], row["label"]) for row in after[split]] == wanted


def test_the_next_table_begins_with_what_was_corrected(tmp_path: Path, reviews: Path) -> None:
    table, run = tmp_path / "mine.csv", RunFolder(tmp_path / "run")
    lines = [f"train:3,{TEXTS[2]},好评", f"train:5,{TEXTS[4]},drop"]
    table.write_text("id,text,correction\n" + "\n".join(lines), encoding="utf-8")
    marked = reviews.read_text(encoding="utf-8").replace(TEXTS[4], f"{TEXTS[4]}\u200b")
    reviews.write_text(marked, encoding="utf-8")  # a mark that nobody sees, at the end of the dropped one
    _prepare(reviews, table, run)
    audit(Job(run, make_experiment(*_flags(reviews, table))))
    with open(run.audit, encoding="utf-8-sig", newline="") as file:
        first = [(row["id"], row["text"], row["correction"]) for row in csv.DictReader(file)][:2]
    assert first == [("train:3", TEXTS[2], "好评"), ("train:5", TEXTS[4], "drop")]
    again, few = RunFolder(tmp_path / "again"), RunFolder(tmp_path / "few")
    _prepare(reviews, run.audit, again)  # nothing of the first round is lost
    assert read_jsonl(again.corrections) == read_jsonl(run.corrections)
    sampled = make_experiment(*_flags(reviews, run.audit), "--train-samples", "20", "--test-samples", "4")
    prepare(Job(few, sampled))
    used = {row["id"] for split in SPLITS for row in read_jsonl(few.split(split))}
    corrected = {row["id"] for row in read_jsonl(run.corrections)}
    assert not corrected <= used  # the sample leaves some out
    audit(Job(few, sampled))
    with open(few.audit, encoding="utf-8-sig", newline="") as file:
        assert {row["id"] for row in csv.DictReader(file) if row["correction"]} == corrected
