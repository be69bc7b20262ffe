"""Files as people have them: what can be read is read right, the rest is refused in a line that says where.

Each case goes through `prepare` and `predict`, which share their reader; rows read = kept + rejected.
"""

import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from run_swift import main
from tests.data.bad_files import (
    BAD,
    GOOD,
    MADE,
    REFUSED,
    ROWS,
    TEXT,
    TRADITIONAL,
    assert_refused,
    typed,
)
from tests.data.strange_files import NOT_WANTED, READ
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.core.tables import read_table
from workflows.serving.predict import Wanted, find_inputs, lines_of_input, predict_table

if TYPE_CHECKING:  # SWIFT takes seconds to import
    from workflows.serving.systems import System


def _run_prepare(path: Path, folder: Path, *more: str) -> int:
    return main(
        ["prepare", "--dataset", "waimai", "--data-file", str(path), "--run-folder", str(folder), *more]
    )


@pytest.mark.parametrize("case", [*REFUSED, *NOT_WANTED])
def test_prepare_refuses_a_bad_file_in_one_line_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    name, make, message = (REFUSED | NOT_WANTED)[case]
    make(tmp_path / name)
    assert_refused(_run_prepare(tmp_path / name, tmp_path / "run"), capfd, message)
    left = [path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*.json*")]
    assert left in ([], [Path("data/rejected.jsonl")])


@pytest.fixture(scope="module")
def tfidf(demo_run: tuple[RunFolder, str]) -> "System":
    from workflows.serving.systems import open_system

    return open_system(demo_run[0].path, "tfidf")


@pytest.mark.parametrize("case", REFUSED)
def test_predict_refuses_the_same_files(tmp_path: Path, tfidf: "System", case: str) -> None:
    name, make, message = REFUSED[case]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message):
        predict_table(
            tfidf, find_inputs((str(tmp_path / name),)), Wanted("review"), tmp_path / "out.csv", Screen()
        )
    assert {path.name for path in tmp_path.iterdir()} <= {name}


@pytest.mark.parametrize("case", READ)
def test_prepare_reads_a_strange_file_right_and_counts_every_row(tmp_path: Path, case: str) -> None:
    name, make, more, reasons = READ[case]
    make(tmp_path / name)
    others = []
    for split in ("val", "test"):
        (tmp_path / f"{split}.csv").write_text(MADE.replace("评论", split), encoding="utf-8")
        others += [f"--{split}-file", str(tmp_path / f"{split}.csv")]
    run = RunFolder(tmp_path / "run")
    assert _run_prepare(tmp_path / name, run.path, *others) == 0
    rows = read_jsonl(run.split("train"))
    lost = {"merged cells": GOOD[1], "lists in Parquet": BAD[-1]}.get(case)
    wanted = [text for _, text in ROWS if text != lost] + more
    assert sorted(row["review"] for row in rows) == sorted(wanted)
    golds = {text: label for label, text in ROWS}
    assert all(row["label"] == golds.get(row["review"], row["label"]) for row in rows)
    rejected = Counter(row["reason"] for row in read_jsonl(run.rejected) if row["source"] == "train")
    assert rejected == Counter(reasons)
    manifest = read_json(run.manifest)
    assert manifest["files"]["train"]["rows"] == len(rows) + rejected.total()
    counts = manifest["rows"]
    assert counts["read"] == counts["kept"] + counts["rejected"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all files")
def test_a_file_that_may_not_be_read_is_said_to_be_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text(TEXT, encoding="utf-8")
    (tmp_path / "a.csv").chmod(0)
    assert_refused(
        _run_prepare(tmp_path / "a.csv", tmp_path / "run"), capfd, "a.csv: cannot be read: Permission denied"
    )


@pytest.mark.parametrize("encoding", ["cp950", "big5hkscs"])
def test_big5_is_told_from_gb18030(tmp_path: Path, encoding: str) -> None:
    texts = [*TRADITIONAL, *(["呢間餐廳嘅嘢食好好味"] if encoding == "big5hkscs" else [])]
    path = tmp_path / "a.csv"
    for start in (0, 2):
        rows = texts[start:]
        if encoding == "big5hkscs":
            rows = [text.replace("～", "，") for text in rows]
        path.write_bytes(b"label,review\n" + "".join(f"1,{text}\n" for text in rows).encode(encoding))
        assert read_table(path)["review"].tolist() == rows
        path.write_bytes(b"label,review\n" + "".join(f"1,{text}\n" for text in rows).encode("gb18030"))
        assert read_table(path)["review"].tolist() == rows


@pytest.mark.parametrize("name", ["waimai_10k.csv", "ChnSentiCorp_htl_all.csv", "jd_dev.csv"])
def test_few_real_reviews_in_big5_and_in_gb18030_are_told_apart(
    tmp_path: Path, shared_data: Path, name: str
) -> None:
    """Of reviews in simplified script, those characters that Big5 has."""
    frame = read_table(shared_data / name)
    column = "review" if "review" in frame else "sentence"
    texts = [re.sub(r"\s+", "", text) for text in frame[column][::20] if len(text) > 9]
    path = tmp_path / "a.tsv"
    for start in range(0, 240, 8):
        rows = texts[start : start + 8]
        for encoding in ("cp950", "gb18030"):
            known = [text.encode(encoding, "ignore").decode(encoding).replace('"', "") for text in rows]
            path.write_bytes("\n".join(["review", *known, ""]).encode(encoding))
            assert read_table(path)["review"].tolist() == [text for text in known if text]


def test_lines_of_standard_input_are_utf8_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\ufeff房间很大\r\n送餐很快\n".encode())))
    assert [*lines_of_input()] == ["房间很大", "送餐很快"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good\n" + "送餐".encode("gb18030"))))
    with pytest.raises(UserError, match="--input -: line 2 is not UTF-8; convert the lines"):
        [*lines_of_input()]


def test_what_predict_reads_it_keeps(tmp_path: Path, tfidf: "System") -> None:
    """All rows of strange files, each with an answer or the reason why it has none."""
    for name, make, reasons in [
        ("a.csv", READ["GBK"][1], {}),
        ("b.jsonl", READ["what is no text"][1], {"not a text": 5, "empty text": 2}),
        ("c.xlsx", READ["formulas and errors"][1], {"empty text": 2}),
        ("d.jsonl", READ["half a surrogate pair"][1], {"not valid Unicode": 1}),
        ("e.jsonl", READ["other keys in each row"][1], {}),
        ("f.csv", typed("label,review\n" + "".join(f"1,{text}\n" for text in TRADITIONAL), "cp950"), {}),
    ]:
        make(tmp_path / name)
        tables = find_inputs((str(tmp_path / name),))
        counts = predict_table(tfidf, tables, Wanted("review"), tmp_path / "out" / "a.jsonl", Screen())
        given = read_table(tmp_path / name)["review"]
        answered = read_jsonl(tmp_path / "out" / "a.jsonl")
        assert [row["review"] for row in answered] == given.tolist()
        assert (
            counts["rows"]
            == len(given)
            == sum(counts["labels"].values()) + sum(counts["without_label"].values())
        )
        assert counts["without_label"] == reasons
        assert all((row["prediction"] == "") == (row["reason"] != "") for row in answered)
