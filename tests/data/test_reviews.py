"""Every row that is read is kept or rejected with a reason, on real corpora and on hostile rows."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from workflows.data.reviews import UnknownLabels, clean
from workflows.data.tables import Table, read_table
from workflows.errors import UserError
from workflows.experiment import load_dataset_card


def _table(rows: list[tuple[str, str]], columns: tuple[str, str] = ("label", "review")) -> Table:
    return Table(Path("reviews.csv"), "csv", "utf-8", pd.DataFrame(rows, columns=list(columns), dtype=object))


@pytest.mark.parametrize(
    ("dataset", "files", "kept", "reasons"),
    [
        ("chnsenticorp", {"train": "ChnSentiCorp_htl_all.csv"}, 7765, {"empty text": 1}),
        ("waimai", {"train": "waimai_10k.csv"}, 11973, {"conflicting labels": 14}),
        (
            "jd",
            {"train": "jd_train.csv", "test": "jd_dev.csv"},
            9972,
            {"empty label": 13, "empty text": 10, "conflicting labels": 4, "duplicate": 1},
        ),
        (
            "dianping",
            {"train": "dianping_train.csv", "test": "dianping_dev.csv"},
            5998,
            {"conflicting labels": 2},
        ),
        (
            "dianping",
            {"train": "dianping_ratings.csv"},
            2698,
            {"neutral label": 240, "empty label": 45, "empty text": 15, "conflicting labels": 2},
        ),
    ],
)
def test_real_corpora_are_counted_row_by_row(
    shared_data: Path, dataset: str, files: dict[str, str], kept: int, reasons: dict[str, int]
) -> None:
    tables = {split: read_table(shared_data / name) for split, name in files.items()}
    reviews, rejected = clean(tables, load_dataset_card(dataset))
    assert sum(map(len, reviews.values())) == kept
    assert Counter(row.reason for row in rejected) == reasons
    assert kept + len(rejected) == sum(len(table.frame) for table in tables.values())
    texts = [review.text for split in reviews.values() for review in split]
    assert len(texts) == len(set(texts))
    assert all(text and text == text.strip() for text in texts)


def test_neutral_ratings_can_be_counted_as_negative(shared_data: Path) -> None:
    tables = {"train": read_table(shared_data / "dianping_ratings.csv")}
    card = load_dataset_card("dianping")
    without, _ = clean(tables, card)
    with_neutral, rejected = clean(tables, card, neutral="negative")
    assert len(with_neutral["train"]) - len(without["train"]) == 240
    assert "neutral label" not in {row.reason for row in rejected}


def test_the_hub_cut_of_chnsenticorp_is_read_by_its_own_columns() -> None:
    reviews, _ = clean(
        {"train": _table([("1", "很好"), ("0", "很差")], ("label", "text"))},
        load_dataset_card("chnsenticorp"),
    )
    assert [(review.text, review.label) for review in reviews["train"]] == [("很好", 1), ("很差", 0)]


def test_label_values_of_the_binary_layout_are_not_stars() -> None:
    """In dianping a 1 in column label is good, a 1 in column rating is bad."""
    card = load_dataset_card("dianping")
    binary, _ = clean({"train": _table([("1.0", "好")], ("label", "sentence"))}, card)
    stars, _ = clean({"train": _table([("1.0", "差")], ("rating", "comment"))}, card)
    assert binary["train"][0].label == 1
    assert stars["train"][0].label == 0


def test_of_copies_the_test_set_keeps_its_own_and_conflicts_keep_none() -> None:
    train = _table([("1", "很好"), ("1", " 很好 "), ("0", "一般"), ("1", "一般"), ("0", "差"), ("1", "好")])
    test = _table([("1", "很好"), ("0", "好")])
    reviews, rejected = clean({"train": train, "test": test}, load_dataset_card("waimai"))
    assert [review.id for review in reviews["test"]] == ["test:1"]
    assert [review.id for review in reviews["train"]] == ["train:5"]
    assert [(row.source, row.row, row.reason) for row in rejected] == [
        ("test", 2, "conflicting labels"),
        ("train", 1, "duplicate"),
        ("train", 2, "duplicate"),
        ("train", 3, "conflicting labels"),
        ("train", 4, "conflicting labels"),
        ("train", 6, "conflicting labels"),
    ]


def test_texts_of_blanks_and_marks_that_nobody_sees_are_empty() -> None:
    rows = [("1", "\u3000 \ufeff"), ("1", "\u200b"), ("\u3000", "好"), ("1", "\ud83d")]
    reviews, rejected = clean({"train": _table(rows)}, load_dataset_card("waimai"))
    assert reviews["train"] == []
    assert [row.reason for row in rejected] == [
        "empty text",
        "empty text",
        "empty label",
        "not valid Unicode",
    ]


def test_an_unknown_label_stops_with_its_row_and_the_flag_that_mends_it() -> None:
    rows = [("1", "好"), ("3", "一般"), ("3", "还行"), ("0", "差")]
    with pytest.raises(UnknownLabels) as caught:
        clean({"train": _table(rows)}, load_dataset_card("waimai"))
    message = str(caught.value)
    assert "reviews.csv, row 2: label '3' is none of negative, positive" in message
    assert "'3' in 2 row(s)" in message
    assert "--labels 0=negative,1=positive,3=" in message
    assert [row.row for row in caught.value.rejected] == [2, 3]


def test_missing_columns_are_named_with_those_that_are_there() -> None:
    table = _table([("1", "好")], ("标签", "评论"))
    with pytest.raises(UserError, match=r"'标签', '评论'.*--text-column"):
        clean({"train": table}, load_dataset_card("waimai"))
