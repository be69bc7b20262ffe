"""Files that are refused, each with what is in it and the line that refuses it; and how files are made."""

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

GOOD = (
    "房间很大，早餐也不错",
    "送餐很快，味道好",
    "老板热情，下次还来",
    "包装完好，分量足",
    "环境安静，服务周到",
)
BAD = (
    "房间很小，隔音太差",
    "送餐太慢，饭都凉了",
    "老板冷淡，不会再来",
    "包装破损，漏了一半",
    "环境嘈杂，没人理",
)
ROWS = [*((1, text) for text in GOOD), *((0, text) for text in BAD)]
TRADITIONAL = (
    "房間很大，早餐也不錯",
    "送餐很快，味道不錯！",
    "老闆熱情，下次還來",
    "包裝完好，份量足",
    "環境安靜～服務周到",
)
LINES = "".join(f"{label},{text}\n" for label, text in ROWS)
TEXT = f"label,review\n{LINES}"
MADE = "label,review\n" + "".join(f"{at % 2},评论第{at}条，还算可以\n" for at in range(40))
Make = Callable[[Path], Any]


def binary(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def typed(content: str, encoding: str = "utf-8") -> Make:
    return binary(content.encode(encoding))


def dumped(*rows: Any) -> Make:
    return typed("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def excel(*sheets: list[list[Any]], merge: str | None = None, hide: bool = False) -> Make:
    def make(path: Path) -> None:
        book = openpyxl.Workbook()
        book.remove(book["Sheet"])
        for number, rows in enumerate(sheets, 1):
            sheet = book.create_sheet(f"表{number}")
            for row in rows:
                sheet.append(row)
            if merge is not None:
                sheet.merge_cells(merge)
        if hide:
            book.worksheets[0].sheet_state = "hidden"
        book.save(path)

    return make


def far_cell(path: Path) -> None:
    """One cell at the last place that a sheet has: a million empty rows, 16,384 columns."""
    book = openpyxl.Workbook()
    for row in (["label", "review"], *ROWS):
        book.active.append(row)
    book.active["XFD1048576"] = "x"
    book.save(path)


def parquet(columns: dict[str, list[Any]], **options: Any) -> Make:
    return lambda path: pq.write_table(pa.table(columns), path, **options)


def zip_bomb(path: Path) -> None:
    """A sheet of 70 MB of blanks, in 70 kB."""
    excel([["label", "review"], *map(list, ROWS)])(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            with archive.open(name, "w") as file:
                file.write(content)
                for _ in range(70 if name == "xl/worksheets/sheet1.xml" else 0):
                    file.write(b" " * 1_000_000)


def half_of(make: Make) -> Make:
    def made(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return made


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def long_names(count: int) -> str:
    return ",".join(f"column_{at}" for at in range(count))


TABLE: list[list[Any]] = [["label", "review"], *map(list, ROWS)]
COLUMNS: dict[str, list[Any]] = {"label": [row[0] for row in ROWS], "review": [row[1] for row in ROWS]}
UNKNOWN = "is none of negative, positive"


def assert_refused(code: int, capfd: pytest.CaptureFixture[str], message: str) -> None:
    """A command with this code and output ended in one line that has `message`, a pattern."""
    said = capfd.readouterr().err
    assert code == 2, said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert re.search(message, lines[0]), lines[0][:2000]
    assert len(lines[0]) < 1500, "too long to be read"


# File, what is in it, the line that refuses it (a pattern).
REFUSED: dict[str, tuple[str, Make, str]] = {
    # What is no file
    "no file": ("a.csv", lambda path: None, "a.csv: there is no such file"),
    "a folder": ("a.csv", Path.mkdir, "a.csv: is a folder; name a file"),
    "a pipe": ("a.csv", os.mkfifo, "a.csv: is a pipe; name a file"),
    "a device": ("a.csv", lambda path: path.symlink_to("/dev/zero"), "is a device; name a file"),
    "a loop of links": ("a.csv", loop, "a.csv: cannot be read: Too many levels of symbolic links"),
    "a broken link": ("a.csv", lambda path: path.symlink_to("gone"), "there is no such file"),
    "no ending": ("a", typed(TEXT), r"format \(none\) is not read; use one of .csv"),
    "a packed file": ("a.csv.gz", binary(b"\x1f\x8b\x08\x00"), "format .gz is not read; .*: unpack a packed"),
    # What is another file
    "empty": ("a.csv", binary(b""), "a.csv: the file is empty"),
    "blank lines": ("a.csv", typed("\n \n\n"), "a.csv: the file is empty"),
    "a mark alone": ("a.csv", binary(b"\xef\xbb\xbf"), "a.csv: the file is empty"),
    "a mark of UTF-16 alone": ("a.csv", binary(b"\xff\xfe"), "a.csv: the file is empty"),
    "gzip": ("a.csv", binary(b"\x1f\x8b\x08\x00\x00\x00"), "a.csv: is packed with gzip: unpack it"),
    "XLSX as CSV": (
        "a.csv",
        excel(TABLE),
        "is an Excel or ZIP file: give an XLSX file its ending .xlsx",
    ),
    "XLS as CSV": (
        "a.csv",
        binary(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        "an old Excel file: save it as .xlsx",
    ),
    "a password": (
        "a.xlsx",
        binary(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        "an old Excel file, or has a password: save it as .xlsx without one",
    ),
    "Parquet as CSV": ("a.csv", parquet(COLUMNS), "a Parquet file: give it the ending .parquet"),
    "PDF as CSV": ("a.tsv", binary(b"%PDF-1.7\n"), "a PDF file: save its table as CSV"),
    "CSV as XLSX": ("a.xlsx", typed(TEXT), "not readable as xlsx: File is not a zip file"),
    "CSV as Parquet": (
        "a.parquet",
        typed(TEXT),
        "not readable as parquet: Parquet magic bytes not found",
    ),
    "CSV as JSONL": ("a.jsonl", typed(TEXT), "a.jsonl, line 1: not JSON"),
    "ZIP as XLSX": (
        "a.xlsx",
        lambda path: zipfile.ZipFile(path, "w").close(),
        "not readable as xlsx: ",
    ),
    "half an XLSX": ("a.xlsx", half_of(excel(TABLE)), "not readable as xlsx: File is not a zip file"),
    "half a Parquet file": ("a.parquet", half_of(parquet(COLUMNS)), "not readable as parquet: "),
    "an empty XLSX": ("a.xlsx", excel([]), "a.xlsx: sheet '表1' is empty"),
    "an XLSX that is empty in the file": ("a.xlsx", binary(b""), "not readable as xlsx: "),
    # Encodings
    "UTF-16 without its mark": (
        "a.csv",
        typed(TEXT, "utf-16-le"),
        "line 1: holds a NUL character, as UTF-16",
    ),
    "UTF-32": ("a.csv", typed(TEXT, "utf-32"), "line 1: holds a NUL character"),
    "half a character of UTF-16": (
        "a.csv",
        binary(TEXT.encode("utf-16")[:-1]),
        "neither UTF-8 nor UTF-16",
    ),
    "a NUL": ("a.csv", typed(TEXT + "1,好\0\n"), "a.csv, line 12: holds a NUL character"),
    "UTF-8, then GB18030": (
        "a.csv",
        binary(TEXT.encode() + LINES.encode("gb18030")),
        "a.csv: line 2 is UTF-8, line 12 is not; save the file as UTF-8, all of it",
    ),
    "names of columns in UTF-8, then GB18030": (
        "a.csv",
        binary("评论,label\n".encode() + "房间很大,1\n".encode("gb18030")),
        "a.csv: line 1 is UTF-8, line 2 is not",
    ),
    "GB18030, then UTF-8": (
        "a.csv",
        binary(TEXT.encode("gb18030") + LINES.encode()),
        "a.csv: line 12 is UTF-8, line 2 is not",
    ),
    "a damaged byte": (
        "a.csv",
        binary((TEXT + LINES * 3).encode() + b"1,\xff\xe5\n"),
        "a.csv, line 42: byte 0xff is not UTF-8, the rest of the file is",
    ),
    "Japanese in Shift-JIS": (
        "a.csv",
        typed("label,review\n" + "1,とてもおいしかったです\n" * 9, "shift-jis"),
        "a.csv, line 2: .* neither UTF-8 nor",
    ),
    "Latin-1": (
        "a.csv",
        typed("label,review\n1,très bon\n", "latin-1"),
        "line 2: is neither UTF-8 nor Chinese",
    ),
    "UTF-8 read as GB18030": (
        "a.csv",
        typed(TEXT.encode().decode("gb18030", "replace")),
        "was read in a wrong encoding before it was saved: it says '.*' instead of '1,房间很大",
    ),
    "UTF-8 read as Latin-1": (
        "a.jsonl",
        typed(
            "".join(f"{json.dumps(row[1], ensure_ascii=False)}\n" for row in ROWS).encode().decode("latin-1")
        ),
        "was read in a wrong encoding before it was saved",
    ),
    "UTF-8 read as Windows' Latin": (
        "a.csv",
        typed(TEXT.encode().decode("cp1252", "ignore")),
        "was read in a wrong encoding before it was saved",
    ),
    "GB18030 read as Latin-1": (
        "a.tsv",
        typed(TEXT.encode("gb18030").decode("latin-1")),
        "was read in a wrong encoding before it was saved",
    ),
    "lost characters": (
        "a.csv",
        typed("label,review\n1,房间\ufffd\ufffd好\n0,锟斤拷\n"),
        "3 characters were lost",
    ),
    # Tables that are none
    "a cell too many": (
        "a.csv",
        typed("label,review\n1,好\n0,差,很差\n"),
        "not a regular table: line 3: 3 cells, where",
    ),
    "a cell too many in the first row": (
        "a.csv",
        typed("label,review\n1,好,很好\n0,差\n"),
        "not a regular table",
    ),
    "an open quote": ("a.csv", typed(f'{TEXT}1,"好\n{LINES}'), "line 12: unexpected end of data"),
    "a quote that swallows a row": (
        "a.csv",
        typed(f'{TEXT}1,"好\n0,差\n1,"很好"\n{LINES}'),
        "line 12: ',' expected after '\"'",
    ),
    "text after a quote": ("a.csv", typed(f'{TEXT}1,"好"吃\n'), "line 12: ',' expected after '\"'"),
    "two columns of one name": (
        "a.csv",
        typed("review,label,review\na,1,b\n"),
        "2 columns are called 'review'",
    ),
    "two columns of one name in XLSX": (
        "a.xlsx",
        excel([["review", "review"]]),
        "2 columns are called 'review'",
    ),
    "two columns of one name in Parquet": (
        "a.parquet",
        lambda path: pq.write_table(pa.table([[1], [2]], names=["review", "review"]), path),
        "2 columns are called 'review'",
    ),
    "a cell right of the columns": (
        "a.xlsx",
        excel([*TABLE, [1, "好", "?"]]),
        "row 12 of the sheet: has a cell in column 3, and the names in row 1 end at column 2; name that one",
    ),
    "the last cell of a sheet": ("a.xlsx", far_cell, "row 1048576 of the sheet: has a cell in column 16384"),
    "a title above the columns of a sheet": (
        "a.xlsx",
        excel([["评论表"], *TABLE]),
        "where row 1 is a title, delete it",
    ),
    "two sheets of rows": (
        "a.xlsx",
        excel(TABLE, TABLE),
        "sheet '表2' has columns of '表1', which alone",
    ),
    "a second sheet with the columns turned round": (
        "a.xlsx",
        excel(TABLE, [row[::-1] for row in TABLE]),
        "sheet '表2' has columns of '表1', which alone",
    ),
    "a second sheet with a column more": (
        "a.xlsx",
        excel(TABLE, [[*row, "备注"] for row in TABLE]),
        "sheet '表2' has columns of '表1', which alone",
    ),
    "sheets with a column more each": (
        "a.xlsx",
        excel([["日期", *row] for row in TABLE], [[*row, "备注"] for row in TABLE]),
        "sheet '表2' has columns of '表1', which alone",
    ),
    "a second sheet with blanks in its header": (
        "a.xlsx",
        excel(TABLE, [["label ", "review ", "备注"], *([*row, ""] for row in TABLE[1:])]),
        "sheet '表2' has columns of '表1', which alone",
    ),
    "a second sheet with reviews alone": (
        "a.xlsx",
        excel(TABLE, [row[1:] for row in TABLE]),
        "sheet '表2' has columns of '表1', which alone",
    ),
    "a zip bomb": (
        "a.xlsx",
        zip_bomb,
        r"a.xlsx: its [\d,]+ bytes expand to more than [\d,]+, which is not read",
    ),
    "a Parquet bomb": (
        "a.parquet",
        parquet(
            {"label": ["1"] * 80, "review": ["好" * 300_000] * 80}, compression="zstd", use_dictionary=False
        ),
        "bytes expand to more than",
    ),
    "a Parquet bomb of one text": (
        "a.parquet",
        parquet(
            {"label": ["1"] * 2000, "review": pa.DictionaryArray.from_arrays([0] * 2000, ["好" * 50_000])}
        ),
        "bytes expand to more than",
    ),
    # JSON lines
    "half a line": (
        "a.jsonl",
        dumped({"label": 1, "review": "好"}, '{"label": 0, "rev'),
        "line 2: not JSON",
    ),
    "a list": ("a.jsonl", dumped([{"label": 1, "review": "好"}]), "line 1: holds list, not an object"),
    "a word": ("a.jsonl", dumped('"好"'), "line 1: holds str, not an object"),
    "a JSON file": ("a.jsonl", typed(json.dumps([{"review": "好"}], indent=1)), "line 1: not JSON"),
    "a key twice": (
        "a.jsonl",
        dumped('{"label": 1, "review": "好", "label": 0}'),
        "line 1: .* a key stands twice",
    ),
    "deep brackets": ("a.jsonl", dumped("[" * 100_000), "line 1: not JSON: "),
    "a number of 5000 digits": (
        "a.jsonl",
        dumped('{"label": %s, "review": "好"}' % ("1" * 5000)),
        "line 1: not JSON",
    ),
}
