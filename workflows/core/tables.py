"""Reads a file of reviews, whatever its format and encoding, in chunks of rows of strings.

CSV, TSV, JSONL, Parquet and XLSX; text files in UTF-8 (with or without BOM), GB18030, Big5, or UTF-16 with
BOM.  No file is ever whole in memory, but for the texts of XLSX; with pandas 2 a CSV is.

Not covered: JSON that is one array; a quote that is never closed, where the next one stands at a cell's end.
"""

import csv
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflows.core.encodings import find_encoding
from workflows.core.errors import UserError
from workflows.core.files import check_file, sha256
from workflows.core.sheets import read_parquet, read_sheet, refuse_bomb, refuse_twice

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
CHUNK_ROWS, CHUNK_CELLS = 20_000, 2_000_000  # at most
# pandas 2 (the newest for Python 3.10) cuts off the first row of a later chunk without a word where it is too
# long: there a CSV is read at once.
CHUNKS_ARE_WHOLE = int(pd.__version__.split(".")[0]) >= 3
HEADER_CHARACTERS = 1 << 16
COLUMNS_NAMED, NAME_CHARACTERS = 20, 40  # in an error, at most
NO_HEADER = "Where the names shown are a review already, put a row with the columns' names above it."
ONE_A_LINE = "write one object a line, or save the table as CSV in UTF-8"


class NotText(str):
    """A cell of JSONL or Parquet that is no text there: a number, a truth value, a list, an object."""


@dataclass(frozen=True)
class Table:
    """One file, looked at; `read_chunks` gives its rows."""

    path: Path
    format: str
    encoding: str | None  # None where the format has its own
    sha256: str


def open_table(path: Path) -> Table:
    """Look at one file: format, encoding, hash.

    Raises UserError where the file is missing, of an unknown format, or in no encoding that is read, naming
    the place.
    """
    check_file(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(
            f"{path}: format {path.suffix or '(none)'} is not read; use one of {', '.join(FORMATS)}: "
            "unpack a packed file, save any other table as .xlsx or as CSV in UTF-8."
        )
    encoding = None if kind in ("parquet", "xlsx") else find_encoding(path)
    return Table(path, kind, encoding, sha256(path))


def read_chunks(table: Table, columns: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """The rows as strings, "" where a cell is empty, some thousand at a time; one empty chunk where there are
    none.

    `columns`: all that are wanted of a file that was read wholly before, which saves time; rows with too many
    cells are then not noticed.  While a chunk is worked on, the next one is read.  Raises UserError where the
    file is damaged.
    """
    if table.format in ("csv", "tsv"):
        chunks = _read_delimited(table, columns)
    else:
        chunks = _read_jsonl(table) if table.format == "jsonl" else _read_binary(table)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield chunk


def read_table(path: Path) -> pd.DataFrame:
    """All rows of a small file."""
    return pd.concat(read_chunks(open_table(path)), ignore_index=True).fillna("")


def name_columns(names: Iterable[str]) -> str:
    """The columns of a file, as an error lists them."""
    first = [*map(shorten, names)]
    more = len(first) - COLUMNS_NAMED
    return ", ".join(first[:COLUMNS_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def as_unicode(text: str) -> str:
    """A text with "?" for half surrogates, which no file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def shorten(name: str) -> str:
    """A cell or a column's name in quotes, as an error shows it."""
    return repr(name if len(name) <= NAME_CHARACTERS else f"{name[:NAME_CHARACTERS]}…")


def _read_delimited(table: Table, columns: list[str] | None) -> Iterator[pd.DataFrame]:
    with open(table.path, encoding=table.encoding, newline="\n") as file:
        header = "\n"
        while header and not header.strip():
            header = file.readline(HEADER_CHARACTERS)
    usual = "\t" if table.format == "tsv" else ","
    # An export may say .csv and separate by semicolons or tabs.
    delimiter = next((each for each in (usual, "\t", ";", ",") if each in header), usual)
    try:
        width, before = _check_delimited(table, delimiter, header_alone=columns is not None)
        rows = _rows_at_once(width)
        with pd.read_csv(
            table.path,
            encoding=table.encoding,
            sep=delimiter,
            dtype=object,
            na_filter=False,  # "NA" and "null" are words of a review, not missing values
            index_col=False,
            usecols=columns,
            # A line with nothing on it is an empty cell of a single column; of more columns it is no row.
            header=before,
            skip_blank_lines=width != 1,
            low_memory=False,
            chunksize=rows if CHUNKS_ARE_WHOLE else sys.maxsize,
        ) as chunks:
            while True:
                with warnings.catch_warnings():
                    # pandas only warns where the first data row is longer than the header, and cuts all rows
                    # off there.
                    warnings.simplefilter("error", pd.errors.ParserWarning)
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                yield chunk
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{table.path}: the file is empty.") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, csv.Error) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise UserError(
            f"{table.path}: not a regular table: {reason}. A text that holds {delimiter!r}, a quote or a "
            'line break must stand in double quotes, with "" for a quote inside.'
        ) from error


def _check_delimited(table: Table, delimiter: str, header_alone: bool) -> tuple[int, int]:
    """The number of columns, and of rows without content before the header that pandas does not leave out.

    Raises UserError for two of one name, and, unless only the header is looked at, csv.Error for what pandas
    would read otherwise than it was meant, without a word: a quoted cell that goes on after its quote is
    joined with lines after it, and a carriage return within an unquoted one ends its row; and for a row with
    too many cells, whose line pandas does not count as an editor does.
    """
    csv.field_size_limit(sys.maxsize)
    line = ""

    def lines() -> Iterator[str]:
        nonlocal line
        for each in file:
            line = each
            yield each

    with open(table.path, encoding=table.encoding, newline="") as file:
        reader, whole = csv.reader(lines(), delimiter=delimiter, strict=True), 0  # lines that are well
        cut, ends = 0, set[str]()  # the first line that a carriage return ended, and what ends lines
        try:
            header, empty = list[str](), list[list[str]]()
            for row in reader:
                if any(map(str.strip, row)):
                    header = row
                    break
                empty.append(row)
            width, top = len(header), reader.line_num
            whole = top
            refuse_twice(table.path, [name for name in header if name])
            ended = line[-1:]
            ends.add(ended)
            if not header_alone:
                for row in reader:
                    if row and ended == "\r":  # what follows it is a row, not the rest of a line's end
                        cut = cut or whole
                    if any(row[width:]) and not cut:
                        raise csv.Error(f"{len(row)} cells, where the header in line {top} has {width}")
                    ended, whole = line[-1:], reader.line_num
                    ends.add(ended)
                if cut and "\n" in ends:
                    whole = cut - 1
                    raise csv.Error("a carriage return within an unquoted text ends the row")
        except csv.Error as error:
            raise csv.Error(f"line {whole + 1}: {error}") from error
    return width, len(empty) if width == 1 else sum(not _is_blank(row) for row in empty)


def _is_blank(row: list[str]) -> bool:
    """Whether a row is a line of nothing but blanks, which pandas leaves out where there are more columns."""
    return not row or (len(row) == 1 and row[0] != "" and not row[0].strip(" \t"))


def _rows_at_once(columns: int) -> int:
    return max(1, min(CHUNK_ROWS, CHUNK_CELLS // max(1, columns)))


def _read_jsonl(table: Table) -> Iterator[pd.DataFrame]:
    with open(table.path, encoding=table.encoding, newline="\n") as file:
        rows: list[dict[str, Any]] = []
        names: dict[str, None] = {}
        empty = True
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            rows.append(_parse_line(table, number, line))
            names.update(dict.fromkeys(rows[-1]))
            if len(rows) >= _rows_at_once(len(names)):
                yield _as_strings(pd.DataFrame(rows, dtype=object), NotText)
                rows, names, empty = [], {}, False
        if rows:
            yield _as_strings(pd.DataFrame(rows, dtype=object), NotText)
        elif empty:
            raise UserError(f"{table.path}: the file is empty.")


def _parse_line(table: Table, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{table.path}, line {number}: not JSON: {error}; {ONE_A_LINE}.") from error
    if not isinstance(row, dict):
        raise UserError(
            f"{table.path}, line {number}: holds {type(row).__name__}, not an object with keys; {ONE_A_LINE}."
        )
    return row


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return row


def _read_binary(table: Table) -> Iterator[pd.DataFrame]:
    try:
        if table.format == "xlsx":
            frames = read_sheet(table.path, CHUNK_ROWS, CHUNK_CELLS)
        else:
            frames = read_parquet(table.path, CHUNK_ROWS)
        expanded = 0
        for frame in frames:
            # A sheet makes a number of a text that looks like one.
            cells = _as_strings(frame, str if table.format == "xlsx" else NotText)
            expanded += sum(sum(map(len, cells[name])) for name in cells.columns)
            refuse_bomb(table.path, expanded)
            yield cells
    except UserError:
        raise
    except Exception as error:  # each engine has its own exceptions for a damaged file
        reason = " ".join(str(error).split())[:200].rstrip(".")
        anew = "open it in a spreadsheet and save it as .xlsx" if table.format == "xlsx" else "write it anew"
        raise UserError(
            f"{table.path}: not readable as {table.format}: {reason}; {anew}, or as CSV in UTF-8."
        ) from error


def _as_strings(frame: pd.DataFrame, other: type[str]) -> pd.DataFrame:
    """A frame of texts; what was none becomes one of the kind `other`."""
    # As objects: pandas' own strings cannot hold half of a surrogate pair, which a JSON escape can bring.
    empty = frame.isna()
    cells = {
        str(name): [
            "" if no else _as_string(cell, other) for cell, no in zip(frame[name], empty[name], strict=True)
        ]
        for name in frame.columns
    }
    return pd.DataFrame(cells, frame.index, dtype=object)  # rows without any cell count, too


def _as_string(cell: Any, other: type[str]) -> str:
    """Bytes that are no UTF-8 stay as halves of surrogate pairs, by which their row is rejected."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    if isinstance(cell, dict | list):
        return other(json.dumps(cell, ensure_ascii=False, default=str))
    return cell.decode("utf-8", errors="surrogateescape") if isinstance(cell, bytes) else other(cell)
