"""Reads tables that are not text: the first visible sheet of an XLSX file, and Parquet.

A small file may be huge in memory: one that expands to far more than its size is refused.

Not covered: formulas whose values the file does not hold, which are empty cells; merged cells, whose value is
in the first of them.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pandas as pd

from workflows.core.errors import UserError
from workflows.core.texts import text
from workflows.core.told import tell

EXPANDS = 200  # times a file's size: sheets of real reviews take 3 to 20 times, bombs 1000 times and more
SMALL = 1 << 26  # 64 MiB: no file is refused for less
PARQUET_ROWS = 2000  # at a time, at most: one text of a megabyte may stand in all of them

Cells = list[Any]


def read_sheet(path: Path, rows_at_once: int, cells_at_once: int) -> Iterator[pd.DataFrame]:
    """The rows of the first visible sheet, some at a time; empty rows below the last full one are none.

    Raises UserError for cells right of the named columns, and where another sheet has two of the columns or
    more, or all that one of them has: its rows would be lost.  Other sheets that hold cells are told.
    """
    from openpyxl import load_workbook

    # Of styles and the like, which no row depends on. For good: rows are read in a thread.
    warnings.filterwarnings("ignore", module="openpyxl")
    with open(path, "rb") as file:
        if file.read(4) == b"\xd0\xcf\x11\xe0":
            raise UserError(f"{path}: is an old Excel file, or has a password: save it as .xlsx without one.")
    with ZipFile(path) as archive:
        refuse_bomb(path, sum(member.file_size for member in archive.infolist()))
    book = load_workbook(path, read_only=True, data_only=True)
    try:
        # As the program that wrote it shows them: what is hidden comes last.
        first, *others = sorted(book.worksheets, key=lambda sheet: sheet.sheet_state != "visible")
        rows = _full_rows(first)
        start, header = next(rows, (0, []))
        if not header:
            raise UserError(f"{path}: sheet {first.title!r} is empty.")
        unread = []
        for other in others:
            headers = header, next(_full_rows(other), (0, []))[1]
            here, there = ({str(name).strip() for name in names} - {""} for names in headers)
            if there and (there <= here or here <= there or len(there & here) > 1):
                raise UserError(
                    f"{path}: sheet {other.title!r} has columns of {first.title!r}, which alone is read; "
                    "put all rows on one sheet, or save each sheet as a file of its own."
                )
            unread += [other.title] if there else []
        if unread:
            tell(text("sheets_not_read", file=path.name, read=first.title, others=", ".join(unread)))
        names = [f"{name}" or f"Unnamed: {at}" for at, name in enumerate(header)]
        aligned = _aligned(path, rows, start, len(names))
        count = max(1, min(rows_at_once, cells_at_once // max(1, len(names))))
        refuse_twice(path, names)
        chunk = [*islice(aligned, count)]
        while True:
            yield pd.DataFrame(chunk, columns=names, dtype=object)
            if not (chunk := [*islice(aligned, count)]):
                return
    finally:
        book.close()


def _aligned(path: Path, rows: Iterator[tuple[int, Cells]], top: int, width: int) -> Iterator[Cells]:
    """All rows below the row `top`, the empty ones between them too, with as many cells as columns."""
    last = top
    for number, cells in rows:
        if len(cells) > width:
            raise UserError(
                f"{path}, row {number} of the sheet: has a cell in column {len(cells)}, and the names in row "
                f"{top} end at column {width}; name that one, too, or empty it; where row {top} is a title, "
                "delete it."
            )
        yield from repeat([""] * width, number - last - 1)
        yield [*cells, *[""] * (width - len(cells))]
        last = number


def _full_rows(sheet: Any) -> Iterator[tuple[int, Cells]]:
    """The rows of a sheet that are not empty, with their numbers, without empty cells at their ends."""
    sheet.reset_dimensions()  # which may say a million rows
    for number, row in enumerate(sheet.iter_rows(), 1):
        cells = [_value(cell) for cell in row]
        while cells and cells[-1] == "":
            cells.pop()
        if cells:
            yield number, cells


def _value(cell: Any) -> Any:
    value = cell.value
    if value is None or cell.data_type == "e":  # such as #DIV/0!
        return ""
    if isinstance(value, str):
        return value.replace("_x000D_", "\r")  # as Excel's format has a carriage return
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_parquet(path: Path, rows_at_once: int) -> Iterator[pd.DataFrame]:
    """The rows of a Parquet file, some at a time; UserError where a column's name stands twice."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        refuse_bomb(path, sum(group.total_byte_size for group in groups))
        refuse_twice(path, file.schema_arrow.names)
        if file.metadata.num_rows == 0:
            yield file.read().to_pandas(ignore_metadata=True)
        for batch in file.iter_batches(min(rows_at_once, PARQUET_ROWS)):
            # As they stand: an index is a column, and whole numbers beside empty cells stay whole.
            yield batch.to_pandas(ignore_metadata=True, integer_object_nulls=True)


def refuse_twice(path: Path, names: list[str]) -> None:
    """Raise UserError where a column's name stands twice."""
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise UserError(
                f"{path}: {count} columns are called {name!r}; give all but one of them another name."
            )


def refuse_bomb(path: Path, expanded: int) -> None:
    """Raise UserError where so many bytes or characters are too many for the file's size."""
    size = path.stat().st_size
    most = max(SMALL, EXPANDS * size)
    if expanded > most:
        raise UserError(
            f"{path}: its {size:,} bytes expand to more than {most:,}, which is not read; save the table as "
            "CSV in UTF-8."
        )
