"""Files of every format and encoding come out as the same rows; damaged ones are refused with the place."""

import json
from pathlib import Path

import pandas as pd
import pytest

from workflows.data.tables import read_table
from workflows.errors import UserError

TEXTS = ['房间"很大"，\n早餐不错', "NA", "味道好😋，值！", "没有"]
LABELS = ["1", "0", "1", "0"]


def _frame() -> pd.DataFrame:
    return pd.DataFrame({"label": LABELS, "review": TEXTS})


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".xlsx"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"reviews{suffix}"
    if suffix in (".csv", ".tsv"):
        _frame().to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
    elif suffix == ".jsonl":
        lines = (
            json.dumps({"label": int(label), "review": text})
            for label, text in zip(LABELS, TEXTS, strict=True)
        )
        path.write_text("\n".join(lines), encoding="utf-8")
    elif suffix == ".parquet":
        _frame().astype({"label": int}).to_parquet(path)
    else:
        _frame().astype({"label": int}).to_excel(path, index=False)
    table = read_table(path)
    assert table.frame["review"].tolist() == TEXTS
    assert table.frame["label"].tolist() == LABELS


@pytest.mark.parametrize(
    ("encoding", "found"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("gb18030", "gb18030"), ("utf-16", "utf_16")],
)
def test_encoding_is_found_out_and_said(
    tmp_path: Path, demo_rows: list[dict[str, str]], encoding: str, found: str
) -> None:
    path = tmp_path / "reviews.csv"
    frame = pd.DataFrame(demo_rows[:200])
    path.write_bytes(frame.to_csv(index=False).encode(encoding))
    table = read_table(path)
    assert table.encoding == found
    assert table.frame["text"].tolist() == frame["text"].tolist()


def test_gb18030_of_a_real_corpus_is_read_whole(tmp_path: Path, shared_data: Path) -> None:
    text = (shared_data / "ChnSentiCorp_htl_all.csv").read_text(encoding="utf-8")
    path = tmp_path / "gb.csv"
    path.write_bytes(text.encode("gb18030"))
    table = read_table(path)
    assert table.encoding == "gb18030"
    assert table.frame.equals(read_table(shared_data / "ChnSentiCorp_htl_all.csv").frame)


def test_short_gb18030_files_of_real_reviews_are_read(tmp_path: Path, shared_data: Path) -> None:
    frame = read_table(shared_data / "waimai_10k.csv").frame
    for start in range(0, 2400, 8):
        path = tmp_path / "few.csv"
        path.write_bytes(frame[start : start + 8].to_csv(index=False).encode("gb18030"))
        assert read_table(path).frame["review"].tolist() == frame["review"][start : start + 8].tolist()


def test_damaged_utf8_is_refused_with_its_line_and_not_taken_for_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    good = "1,房间很大\n".encode()
    path.write_bytes(b"label,review\n" + good * 40 + b"0,\xe5\xe5\xff\n" + good * 40)
    with pytest.raises(UserError, match=r"reviews\.csv, line 42: byte 0xe5 is not UTF-8"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "label,review\n1,好\n0,差,很差\n", "line 3"),
        ("a.csv", "label,review\n1,好,但是早餐很差\n0,差\n", "not a regular table"),
        ("a.csv", 'label,review\n1,"没有结尾的引号\n0,差\n', "EOF inside string"),
        ("a.csv", "", "empty"),
        ("a.jsonl", '{"label": 1}\n{"label": \n', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: holds list"),
        ("a.parquet", "no parquet", "not readable as parquet"),
        ("a.doc", "label,review", "format .doc is not read"),
    ],
)
def test_what_is_no_table_is_refused_with_the_place(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_table(path)


def test_csv_separated_by_semicolons_is_read(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_text("label;review\n1;不错，很好\n", encoding="utf-8")
    assert read_table(path).frame.to_dict("records") == [{"label": "1", "review": "不错，很好"}]


def test_jsonl_with_missing_keys_and_half_a_surrogate_pair_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(
        '{"label": 1, "review": "\\ud83d好"}\n\n{"label": null, "review": 3.5}\n{"label": 0}\n',
        encoding="utf-8",
    )
    rows = read_table(path).frame.to_dict("records")
    assert rows == [
        {"label": "1", "review": "\ud83d好"},
        {"label": "", "review": "3.5"},
        {"label": "0", "review": ""},
    ]
