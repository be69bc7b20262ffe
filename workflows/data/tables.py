"""Reads a file of reviews, whatever its format and encoding, into rows of strings.

CSV, TSV, JSONL, Parquet and XLSX; text files in UTF-8 (with or without BOM), GB18030 or UTF-16.  Row
numbers count data rows from 1, without the header.

Not covered: files larger than memory; JSON that is one array; Big5, whose bytes are valid GB18030 too.
"""

import csv
import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from workflows.errors import UserError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
# With these alone the detector takes short GB 18030 files neither for Korean nor for Big5.
ENCODINGS = ["utf_8", "gb18030", "utf_16"]
# A file with fewer undecodable characters than this share is damaged UTF-8, not another encoding.
DAMAGED_SHARE = 0.01


@dataclass(frozen=True)
class Table:
    """One file as read: `frame` holds strings only, and "" where a cell is empty; row 1 is
    `frame.iloc[0]`.
    """

    path: Path
    format: str
    encoding: str | None  # None where the format has its own
    frame: pd.DataFrame


def read_table(path: Path) -> Table:
    """Read one file.

    Raises UserError where the file is missing, of an unknown format, or damaged, naming the place.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(
            f"{path}: format {path.suffix or '(none)'} is not read; use one of {', '.join(FORMATS)}."
        )
    if kind == "parquet" or kind == "xlsx":
        return Table(path, kind, None, _read_binary(path, kind))
    text, encoding = decode(path)
    if not text.strip():
        raise UserError(f"{path}: the file is empty.")
    frame = _parse_jsonl(path, text) if kind == "jsonl" else _parse_delimited(path, text, kind)
    return Table(path, kind, encoding, frame)


def decode(path: Path) -> tuple[str, str]:
    """The text of a file and the name of its encoding."""
    data = path.read_bytes()
    try:
        bom = data.startswith(b"\xef\xbb\xbf")
        return data.decode("utf-8-sig"), "utf-8-sig" if bom else "utf-8"
    except UnicodeDecodeError as error:
        lossy = data.decode("utf-8", errors="replace")
        if lossy.count("\ufffd") < DAMAGED_SHARE * len(lossy):
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8, the rest of the file is; "
                "mend that line or save the file as UTF-8 again."
            ) from error
    from charset_normalizer import from_bytes

    best = from_bytes(data, cp_isolation=ENCODINGS, steps=10, chunk_size=4096).best()
    if best is None:
        try:  # the detector turns down some short files of real reviews
            return data.decode("gb18030"), "gb18030"
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: encoding not recognised (tried {', '.join(ENCODINGS)}); save the file as UTF-8."
            ) from error
    return str(best), best.encoding


def _parse_delimited(path: Path, text: str, kind: str) -> pd.DataFrame:
    header = text.split("\n", 1)[0]
    delimiter = "\t" if kind == "tsv" else ","
    if delimiter not in header:  # an export that says .csv and separates by semicolons or tabs
        delimiter = next((other for other in ("\t", ";", ",") if other in header), delimiter)
    try:
        with warnings.catch_warnings():
            # pandas only warns where the first data row is longer than the header, and cuts all rows off
            # there.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                io.StringIO(text),
                sep=delimiter,
                dtype=str,
                keep_default_na=False,  # "NA" and "null" are words of a review, not missing values
                quoting=csv.QUOTE_MINIMAL,
                index_col=False,
                on_bad_lines="error",
            ).fillna("")
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise UserError(
            f"{path}: not a regular table: {reason}. A text that holds {delimiter!r}, a quote or a line "
            "break "
            'must stand in double quotes, with "" for a quote inside.'
        ) from error


def _parse_jsonl(path: Path, text: str) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: holds {type(row).__name__}, not an object with keys.")
        rows.append(row)
    return _as_strings(pd.DataFrame(rows, dtype=object))


def _read_binary(path: Path, kind: str) -> pd.DataFrame:
    try:
        frame = (
            pd.read_parquet(path)
            if kind == "parquet"
            else pd.read_excel(path, dtype=object, keep_default_na=False)
        )
    except Exception as error:  # each engine has its own exceptions for a damaged file
        raise UserError(f"{path}: not readable as {kind}: {' '.join(str(error).split())[:200]}.") from error
    return _as_strings(frame)


def _as_strings(frame: pd.DataFrame) -> pd.DataFrame:
    # As objects: pandas' own strings cannot hold half of a surrogate pair, which a JSON escape can bring.
    def strings(column: pd.Series) -> pd.Series:
        empty = column.isna()
        cells = ["" if no else _as_string(cell) for cell, no in zip(column, empty, strict=True)]
        return pd.Series(cells, dtype=object)

    return pd.DataFrame({str(name): strings(frame[name]) for name in frame.columns}, dtype=object)


def _as_string(cell: Any) -> str:
    return cell.decode("utf-8", errors="replace") if isinstance(cell, bytes) else str(cell)
