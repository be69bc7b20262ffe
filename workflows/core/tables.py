"""Reads a file of reviews, whatever its format and encoding, in chunks of rows of strings.

CSV, TSV, JSONL, Parquet and XLSX; text files in UTF-8 (with or without BOM), GB18030, or UTF-16 with BOM.
No file but XLSX is ever whole in memory; with pandas 2 a CSV is, too.

Not covered: JSON that is one array; Big5, whose bytes are valid GB18030 too.
"""

import codecs
import json
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from workflows.core.errors import UserError
from workflows.core.files import sha256

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
# A file with fewer undecodable characters than this share is damaged UTF-8, not another encoding.
DAMAGED_SHARE = 0.01
CHUNK_ROWS = 20_000
# pandas 2 (the newest for Python 3.10) cuts off the first row of a later chunk without a word where it is too
# long: there a CSV is read at once.
CHUNKS_ARE_WHOLE = int(pd.__version__.split(".")[0]) >= 3
BLOCK_BYTES = 1 << 20
HEADER_CHARACTERS = 1 << 16


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
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(
            f"{path}: format {path.suffix or '(none)'} is not read; use one of {', '.join(FORMATS)}."
        )
    encoding = None if kind in ("parquet", "xlsx") else _find_encoding(path)
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


def _find_encoding(path: Path) -> str:
    """The encoding of a text file; a UserError names the line that does not fit."""
    with open(path, "rb") as file:
        start = file.read(3)
    misfit = _first_misfit(path, "utf-8")
    if misfit is None:
        return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"
    with open(path, encoding="utf-8", errors="replace") as text:
        damaged = total = 0
        while part := text.read(BLOCK_BYTES):
            damaged, total = damaged + part.count("\ufffd"), total + len(part)
    if damaged < DAMAGED_SHARE * total:
        raise UserError(
            f"{path}, line {misfit[0]}: byte 0x{misfit[1]:02x} is not UTF-8, the rest of the file is; "
            "mend that line or save the file as UTF-8 again."
        )
    utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding, name = ("utf_16", "UTF-16") if utf16 else ("gb18030", "GB18030")
    misfit = _first_misfit(path, encoding)
    if misfit is not None:
        raise UserError(
            f"{path}, line {misfit[0]}: byte 0x{misfit[1]:02x} is neither UTF-8 nor {name}; "
            "save the file as UTF-8."
        )
    return encoding


def _first_misfit(path: Path, encoding: str) -> tuple[int, int] | None:
    """Line and value of the first byte that `encoding` does not have there."""
    line = 1
    with open(path, "rb") as file:
        try:
            for part in codecs.iterdecode(iter(partial(file.read, BLOCK_BYTES), b""), encoding):
                line += part.count("\n")
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(error.encoding, errors="ignore")
            return line + before.count("\n"), error.object[error.start]
    return None


def _read_delimited(table: Table, columns: list[str] | None) -> Iterator[pd.DataFrame]:
    with open(table.path, encoding=table.encoding, newline="\n") as file:
        header = file.readline(HEADER_CHARACTERS)
    usual = "\t" if table.format == "tsv" else ","
    # An export may say .csv and separate by semicolons or tabs.
    delimiter = next((each for each in (usual, "\t", ";", ",") if each in header), usual)
    try:
        with pd.read_csv(
            table.path,
            encoding=table.encoding,
            sep=delimiter,
            dtype=object,
            na_filter=False,  # "NA" and "null" are words of a review, not missing values
            index_col=False,
            usecols=columns,
            low_memory=False,
            chunksize=CHUNK_ROWS if CHUNKS_ARE_WHOLE else sys.maxsize,
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
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise UserError(
            f"{table.path}: not a regular table: {reason}. A text that holds {delimiter!r}, a quote or a "
            'line break must stand in double quotes, with "" for a quote inside.'
        ) from error


def _read_jsonl(table: Table) -> Iterator[pd.DataFrame]:
    with open(table.path, encoding=table.encoding, newline="\n") as file:
        rows = (_parse_line(table, number, line) for number, line in enumerate(file, 1) if line.strip())
        empty = True
        while chunk := list(islice(rows, CHUNK_ROWS)):
            empty = False
            yield _as_strings(pd.DataFrame(chunk, dtype=object))
    if empty:
        raise UserError(f"{table.path}: the file is empty.")


def _parse_line(table: Table, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{table.path}, line {number}: not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise UserError(f"{table.path}, line {number}: holds {type(row).__name__}, not an object with keys.")
    return row


def _read_binary(table: Table) -> Iterator[pd.DataFrame]:
    try:
        if table.format == "xlsx":
            yield _as_strings(pd.read_excel(table.path, dtype=object, keep_default_na=False))
            return
        from pyarrow.parquet import ParquetFile

        with ParquetFile(table.path) as file:
            if file.metadata.num_rows == 0:
                yield _as_strings(file.read().to_pandas())
            for batch in file.iter_batches(CHUNK_ROWS):
                yield _as_strings(batch.to_pandas())
    except Exception as error:  # each engine has its own exceptions for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{table.path}: not readable as {table.format}: {reason}.") from error


def _as_strings(frame: pd.DataFrame) -> pd.DataFrame:
    # As objects: pandas' own strings cannot hold half of a surrogate pair, which a JSON escape can bring.
    empty = frame.isna()
    cells = {
        str(name): ["" if no else _as_string(cell) for cell, no in zip(frame[name], empty[name], strict=True)]
        for name in frame.columns
    }
    return pd.DataFrame(cells, dtype=object)


def _as_string(cell: Any) -> str:
    return cell.decode("utf-8", errors="replace") if isinstance(cell, bytes) else str(cell)
