"""Files of every format and encoding come out as the same rows; damaged ones are refused with the place."""

import json
import re
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest

from workflows.core import encodings, tables
from workflows.core.errors import UserError
from workflows.core.tables import open_table, read_chunks, read_table
from workflows.core.told import listening

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
    frame = read_table(path)
    assert frame["review"].tolist() == TEXTS
    assert frame["label"].tolist() == LABELS


def test_parquet_keeps_whole_numbers_the_index_and_lists(tmp_path: Path) -> None:
    order, path = 123456789012345678, tmp_path / "a.parquet"
    frame = pd.DataFrame({"text": ["好", "差"], "order": pd.array([order, None], dtype="Int64")})
    frame["vector"] = [list(range(2000)), [1]]
    frame.index = pd.Index(["a", "b"], name="key")
    frame.to_parquet(path)
    (rows,) = read_chunks(open_table(path))
    assert rows["order"].tolist() == [str(order), ""]
    assert rows["key"].tolist() == ["a", "b"]
    assert json.loads(rows["vector"][0]) == list(range(2000))


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
    assert open_table(path).encoding == found
    assert read_table(path)["text"].tolist() == frame["text"].tolist()


def test_gb18030_of_a_real_corpus_is_read_whole(tmp_path: Path, shared_data: Path) -> None:
    text = (shared_data / "ChnSentiCorp_htl_all.csv").read_text(encoding="utf-8")
    path = tmp_path / "gb.csv"
    path.write_bytes(text.encode("gb18030"))
    assert open_table(path).encoding == "gb18030"
    assert read_table(path).equals(read_table(shared_data / "ChnSentiCorp_htl_all.csv"))


def test_short_gb18030_files_of_real_reviews_are_read(tmp_path: Path, shared_data: Path) -> None:
    frame = read_table(shared_data / "waimai_10k.csv")
    for start in range(0, 2400, 8):
        path = tmp_path / "few.csv"
        path.write_bytes(frame[start : start + 8].to_csv(index=False).encode("gb18030"))
        assert read_table(path)["review"].tolist() == frame["review"][start : start + 8].tolist()


def test_damaged_utf8_is_refused_with_its_line_and_not_taken_for_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    good = "1,房间很大\n".encode()
    path.write_bytes(b"label,review\n" + good * 40 + b"0,\xe5\xe5\xff\n" + good * 40)
    with pytest.raises(UserError, match=r"reviews\.csv, line 42: byte 0xe5 is not UTF-8"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "label,review\n1,好\n0,差,很差\n", "line 3: 3 cells, where the header in line 1 has 2"),
        ("a.csv", "label,review\n1,好,但是早餐很差\n0,差\n", "not a regular table: line 2: 3 cells"),
        (
            "a.csv",
            '\nlabel,review\n\n1,"好\n吃"\n0,差,很差\n',
            "line 6: 3 cells, where the header in line 2 has 2",
        ),
        ("a.csv", 'label,review\n1,"没有结尾的引号\n0,差\n', "line 2: unexpected end of data"),
        ("a.csv", "label,review\n0,差\n1,还行。\r味道很好\n0,差\n", "line 3: a carriage return within"),
        ("a.csv", "label,review\n1,还行。\r味道,很好,吃\n0,差\n", "line 2: a carriage return within"),
        ("a.csv", "", "empty"),
        ("a.jsonl", '{"label": 1}\n{"label": \n', "line 2: not JSON: .*; write one object a line, or"),
        ("a.jsonl", "[1]\n", "line 1: holds list, not an object with keys; write one object a line, or"),
        ("a.parquet", "no parquet", "not readable as parquet: .*[^.]; write it anew, or as CSV"),
        ("a.xlsx", "no sheet", "not readable as xlsx: .*; open it in a spreadsheet and save it as .xlsx, or"),
        ("a.doc", "label,review", "format .doc is not read; .* save any other table as .xlsx or as CSV"),
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
    assert read_table(path).to_dict("records") == [{"label": "1", "review": "不错，很好"}]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\r\r\n"])  # an old Mac's, and one written twice over
def test_a_csv_may_end_its_lines_otherwise(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(end.join(["label,review", "1,不错", '0,"差\r很差"', ""]).encode())
    assert read_table(path)["review"].tolist() == ["不错", "差\r很差"]


def test_a_carriage_return_of_a_spreadsheet_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    pd.DataFrame({"label": ["1"], "review": ["很好_x000D_\n下次再来"]}).to_excel(path, index=False)
    assert read_table(path)["review"].tolist() == ["很好\r\n下次再来"]


def test_sheets_that_are_not_read_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    with pd.ExcelWriter(path) as book:
        pd.DataFrame({"评论": ["很好"], "标签": ["1"]}).to_excel(book, sheet_name="全部", index=False)
        pd.DataFrame({"评论": ["很差"], "情感": ["0"]}).to_excel(book, sheet_name="2024", index=False)
        pd.DataFrame().to_excel(book, sheet_name="空", index=False)
    with listening(lambda said: None) as told:
        assert read_table(path)["评论"].tolist() == ["很好"]
    assert [each.zh for each in told] == ["a.xlsx：只读工作表 全部；以下工作表有内容但没有读：2024"]


def test_a_sheet_without_styles_is_read_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """As some programs write it."""
    path, plain = tmp_path / "a.xlsx", tmp_path / "plain.xlsx"
    _frame().to_excel(path, index=False)
    with ZipFile(path) as styled, ZipFile(plain, "w") as written:
        for name in styled.namelist():
            content = styled.read(name)
            if name == "xl/styles.xml":
                content = re.sub(rb"<cellStyles.*</cellStyles>", b"", content)
                assert b"cellStyles" not in content
            written.writestr(name, content)
    assert read_table(plain)["review"].tolist() == TEXTS
    assert [str(each.message) for each in recwarn] == []


def test_empty_objects_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"review": "很好"}\n' * 3 + "{}\n" * 2, encoding="utf-8")
    monkeypatch.setattr("workflows.core.tables.CHUNK_ROWS", 3)
    assert read_table(path)["review"].fillna("").tolist() == ["很好"] * 3 + [""] * 2


def test_jsonl_with_missing_keys_and_half_a_surrogate_pair_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(
        '{"label": 1, "review": "\\ud83d好"}\n\n{"label": null, "review": 3.5}\n{"label": 0}\n',
        encoding="utf-8",
    )
    rows = read_table(path).to_dict("records")
    assert rows == [
        {"label": "1", "review": "\ud83d好"},
        {"label": "", "review": "3.5"},
        {"label": "0", "review": ""},
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_file_read_in_many_chunks_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    rows = [{"label": i % 2, "review": f'{text}{"，" * i}"\n{i}'} for i, text in enumerate(TEXTS * 5)]
    path = tmp_path / f"reviews{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    whole = read_table(path)
    monkeypatch.setattr(tables, "CHUNK_ROWS", 3)
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 5)  # cuts characters in two
    at_once = suffix == ".csv" and not tables.CHUNKS_ARE_WHOLE  # with pandas 2, on Python 3.10
    sizes = [20] if at_once else [3] * 6 + [2]
    assert [len(chunk) for chunk in read_chunks(open_table(path))] == sizes
    assert read_table(path).equals(whole)
    assert whole["review"].tolist() == [row["review"] for row in rows]


@pytest.mark.parametrize("row", range(1, 9))
def test_a_row_with_too_many_cells_is_refused_wherever_chunks_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    lines = ["label,review", *("1,好" for _ in range(9))]
    lines[row] += ",但是很差"
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(tables, "CHUNK_ROWS", 3)
    with pytest.raises(UserError, match="not a regular table"):
        read_table(path)


@pytest.mark.parametrize("block", [7, 1 << 20])
@pytest.mark.parametrize(
    ("encoding", "bad", "message"),
    [
        ("gb18030", b"\xff", "line 42: byte 0xff is neither UTF-8 nor GB18030"),
        ("utf-16-le", b"\x00\xdc", "line 42: byte 0x00 is neither UTF-8 nor UTF-16"),
    ],
)
def test_a_byte_that_no_encoding_has_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, bad: bytes, message: str, block: int
) -> None:
    monkeypatch.setattr(encodings, "BLOCK_BYTES", block)
    bom = "\ufeff" if encoding == "utf-16-le" else ""
    good = "1,早上好\n".encode(encoding)  # 上 has the byte of a line end in UTF-16
    path = tmp_path / "reviews.csv"
    path.write_bytes(f"{bom}label,review\n".encode(encoding) + good * 40 + bad + good * 40)
    with pytest.raises(UserError, match=message):
        open_table(path)
