"""Writes a table piece by piece: CSV, TSV, JSONL, Parquet or XLSX, by its file's name.

A cell is a text; in a column that is said to hold numbers, a number or None.

A cell that a spreadsheet would run as a formula gets an apostrophe in front in CSV and TSV (OWASP, CSV
Injection); in XLSX it is marked as text, and stays as it is.
"""

import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pandas as pd

from workflows.core.errors import UserError
from workflows.core.tables import FORMATS, as_unicode

FORMULA = re.compile(r"[=+\-@\t\r]")  # what a cell begins with that may be run
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?%?")  # which may begin so, too
XLSX_ROWS, XLSX_CELL = 1_048_576, 32_767  # what Excel takes: rows of a sheet, characters of a cell
ENDS = "\r\n"
NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

Cell = str | float | None
Write = Callable[[pd.DataFrame], None]


def harmless(cell: str) -> str:
    """A cell of a CSV file that no spreadsheet runs."""
    return f"'{cell}" if FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


def as_read(cell: str) -> str:
    """A cell of a CSV file without the apostrophe that `harmless` put in front."""
    return cell[1:] if cell.startswith("'") and harmless(cell[1:]) == cell else cell


def check_format(path: Path) -> str:
    """The format of a table to be written; a UserError where its name says none, or it is a folder."""
    kind = FORMATS.get(path.suffix.lower())
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file.")
    if kind is None:
        raise UserError(f"{path}: name a file that ends with one of {', '.join(FORMATS)}.")
    return kind


def check_sheet(path: Path, frame: pd.DataFrame, before: int) -> None:
    """Raise UserError where a sheet of XLSX does not take the rows of `frame` after `before` others."""
    for number, row in enumerate(frame.itertuples(index=False), before + 1):
        longest = max((len(cell) for cell in row if isinstance(cell, str)), default=0)
        if number >= XLSX_ROWS or longest > XLSX_CELL:
            what = f"row {number} has a cell of {longest:,} characters" if longest > XLSX_CELL else "rows"
            raise UserError(f"{path}: more than a sheet of XLSX takes ({what}); write CSV.")


@contextmanager
def open_table_writer(
    path: Path, columns: list[str], kind: str, numbers: Collection[str] = ()
) -> Iterator[Write]:
    """What writes frames with these columns, of which some hold `numbers`, one after another, into `path`, in
    the format `kind`.

    Raises UserError where a sheet of XLSX does not take a row.
    """
    writers = {"csv": _delimited, "tsv": _delimited, "jsonl": _jsonl, "parquet": _parquet, "xlsx": _xlsx}
    with contextmanager(writers[kind])(path, columns, kind, numbers) as write:
        yield write


def write_csv(file: TextIO, rows: Iterable[Iterable[Cell]], delimiter: str = ",") -> None:
    """Write rows with \\n at a line's end, as Python's writer of CSV does; but a cell that holds \\r is
    quoted, too, and no spreadsheet runs one.
    """
    lines = SimpleNamespace(write=lambda line: file.write(f"{line.removesuffix(ENDS)}\n"))
    writer = csv.writer(lines, delimiter=delimiter, lineterminator=ENDS)
    writer.writerows(map(_written, row) for row in rows)


def _delimited(path: Path, columns: list[str], kind: str, numbers: Collection[str]) -> Iterator[Write]:
    # With a mark of UTF-8, by which spreadsheets know it.
    with open(path, "w", encoding="utf-8-sig", errors="replace", newline="") as file:
        delimiter = "\t" if kind == "tsv" else ","
        write_csv(file, [columns], delimiter)
        yield lambda frame: write_csv(file, frame.itertuples(index=False), delimiter)


def _written(cell: Cell) -> str:
    if isinstance(cell, str):
        return harmless(cell)
    return "" if cell is None else f"{cell:.6f}"


def _jsonl(path: Path, columns: list[str], kind: str, numbers: Collection[str]) -> Iterator[Write]:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        yield lambda frame: file.writelines(
            # Half of a surrogate pair, which UTF-8 has no bytes for, is written as an escape.
            json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=not _encodes(row)) + "\n"
            for row in frame.itertuples(index=False)
        )


def _encodes(row: tuple[Cell, ...]) -> bool:
    texts = [cell for cell in row if isinstance(cell, str)]
    return not any("\ud800" <= letter <= "\udfff" for text in texts for letter in text)


def _parquet(path: Path, columns: list[str], kind: str, numbers: Collection[str]) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in columns])

    def rows(frame: pd.DataFrame) -> Any:
        cells = [
            [as_unicode(cell) if isinstance(cell, str) else cell for cell in frame[name]] for name in columns
        ]
        return pa.table(cells, schema=schema)

    with ParquetWriter(path, schema) as writer:
        yield lambda frame: writer.write_table(rows(frame))


def _xlsx(path: Path, columns: list[str], kind: str, numbers: Collection[str]) -> Iterator[Write]:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    written = 0

    def cell(text: Cell) -> Any:
        if not isinstance(text, str):
            return text
        made = WriteOnlyCell(sheet, NOT_IN_XML.sub("", as_unicode(text)))
        made.data_type = "s"
        return made

    def write(frame: pd.DataFrame) -> None:
        nonlocal written
        check_sheet(path, frame, written)
        written += len(frame)
        for row in frame.itertuples(index=False):
            sheet.append([cell(each) for each in row])

    sheet.append([cell(name) for name in columns])
    try:
        yield write
        book.save(path)
    finally:
        if not sheet.closed:
            sheet.close()
