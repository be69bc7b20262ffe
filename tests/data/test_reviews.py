"""Every row that is read is kept or rejected with a reason, on real corpora and on hostile rows."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tqdm import tqdm

from workflows.core.errors import UserError
from workflows.core.tables import open_table
from workflows.data.reviews import Review, UnknownLabels, classify_rows, read_texts, rejected_rows
from workflows.experiment.cards import load_dataset_card

Cells = list[tuple[str, str]]


def _clean(
    files: dict[str, Path], dataset: str, neutral: str | None = None
) -> tuple[dict[str, list[Review]], list[dict[str, Any]]]:
    """The reviews that are kept, and the rejected rows."""
    tables = {split: open_table(path) for split, path in files.items()}
    bar = tqdm(disable=True)
    rows = classify_rows(tables, load_dataset_card(dataset), neutral, bar)
    assert sum(map(len, rows.places.values())) == len(rows.reasons)
    kept = {split: rows.kept(split).tolist() for split in tables}
    texts = read_texts(rows, np.sort(np.concatenate([rows.kept(split) for split in tables])), bar)
    reviews = {
        split: [Review(rows.id(place), texts[place], int(rows.labels[place])) for place in places]
        for split, places in kept.items()
    }
    return reviews, list(rejected_rows(rows, rows.read()))


def _file(
    folder: Path, rows: Cells, columns: tuple[str, str] = ("label", "review"), name: str = "train"
) -> Path:
    path = folder / f"{name}.jsonl"
    lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


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
    paths = {split: shared_data / name for split, name in files.items()}
    reviews, rejected = _clean(paths, dataset)
    assert sum(map(len, reviews.values())) == kept
    assert Counter(row["reason"] for row in rejected) == reasons
    assert kept + len(rejected) == sum(len(pd.read_csv(path, dtype=str)) for path in paths.values())
    texts = [review.text for split in reviews.values() for review in split]
    assert len(texts) == len(set(texts))
    assert all(text and text == text.strip() for text in texts)


def test_neutral_ratings_can_be_counted_as_negative(shared_data: Path) -> None:
    files = {"train": shared_data / "dianping_ratings.csv"}
    without, _ = _clean(files, "dianping")
    with_neutral, rejected = _clean(files, "dianping", neutral="negative")
    assert len(with_neutral["train"]) - len(without["train"]) == 240
    assert "neutral label" not in {row["reason"] for row in rejected}


def test_the_hub_cut_of_chnsenticorp_is_read_by_its_own_columns(tmp_path: Path) -> None:
    file = _file(tmp_path, [("1", "很好"), ("0", "很差")], ("label", "text"))
    reviews, _ = _clean({"train": file}, "chnsenticorp")
    assert [(review.text, review.label) for review in reviews["train"]] == [("很好", 1), ("很差", 0)]


def test_label_values_of_the_binary_layout_are_not_stars(tmp_path: Path) -> None:
    """In dianping a 1 in column label is good, a 1 in column rating is bad."""
    binary, _ = _clean({"train": _file(tmp_path, [("1.0", "好")], ("label", "sentence"))}, "dianping")
    stars, _ = _clean({"train": _file(tmp_path, [("1.0", "差")], ("rating", "comment"))}, "dianping")
    assert binary["train"][0].label == 1
    assert stars["train"][0].label == 0


@pytest.mark.parametrize("chunk", [1, 2, 20_000])
def test_of_copies_the_test_set_keeps_its_own_and_conflicts_keep_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("workflows.core.tables.CHUNK_ROWS", chunk)
    train: Cells = [("1", "很好"), ("1", " 很好 "), ("0", "一般"), ("1", "一般"), ("0", "差"), ("1", "好")]
    test: Cells = [("1", "很好"), ("0", "好")]
    files = {"train": _file(tmp_path, train), "test": _file(tmp_path, test, name="test")}
    reviews, rejected = _clean(files, "waimai")
    assert [review.id for review in reviews["test"]] == ["test:1"]
    assert [review.id for review in reviews["train"]] == ["train:5"]
    keys = ("source", "row", "reason", "detail", "text")
    assert [tuple(row[key] for key in keys) for row in rejected] == [
        ("test", 2, "conflicting labels", "negative in test:2, positive in train:6", "好"),
        ("train", 1, "duplicate", "same text and label as test:1", "很好"),
        ("train", 2, "duplicate", "same text and label as test:1", " 很好 "),
        ("train", 3, "conflicting labels", "negative in train:3, positive in train:4", "一般"),
        ("train", 4, "conflicting labels", "negative in train:3, positive in train:4", "一般"),
        ("train", 6, "conflicting labels", "negative in test:2, positive in train:6", "好"),
    ]


def test_texts_of_blanks_and_marks_that_nobody_sees_are_empty(tmp_path: Path) -> None:
    rows = [("1", "\u3000 \ufeff"), ("1", "\u200b"), ("\u3000", "好"), ("1", "\ud83d")]
    reviews, rejected = _clean({"train": _file(tmp_path, rows)}, "waimai")
    assert reviews["train"] == []
    assert [row["reason"] for row in rejected] == [
        "empty text",
        "empty text",
        "empty label",
        "not valid Unicode",
    ]
    assert rejected[3]["text"] == "?"


def test_an_unknown_label_stops_with_its_row_and_the_flag_that_mends_it(tmp_path: Path) -> None:
    rows = [("1", "好"), ("3", "一般"), ("3", "还行"), ("0", "差"), ("2", "凑合")]
    with pytest.raises(UnknownLabels) as caught:
        _clean({"train": _file(tmp_path, rows)}, "waimai")
    message = str(caught.value)
    assert "train.jsonl, row 2: label '3' is none of negative, positive" in message
    assert "'3' in 2 row(s)" in message
    assert message.endswith("--labels 0=negative,1=positive,3=,2=")  # all of them, the most frequent first
    assert [row["row"] for row in rejected_rows(caught.value.rows, caught.value.rows.read())] == [2, 3, 5]


def test_missing_columns_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    file = _file(tmp_path, [("1", "好")], ("标签", "评论"))
    with pytest.raises(UserError, match=r"'标签', '评论'.*--text-column"):
        _clean({"train": file}, "waimai")
