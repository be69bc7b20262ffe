"""Tables come back from every format as they went in, and no cell of them is run by a spreadsheet."""

from pathlib import Path

import pandas as pd
import pytest
from openpyxl import load_workbook

from workflows.core.errors import UserError
from workflows.core.table_writers import check_format, open_table_writer
from workflows.core.tables import read_table

CELLS = {
    "评论": ["房间很大，\n早餐不错", '他说"还行"', '=HYPERLINK("http://x")', "-5", "@某人 好评", ""],
    "=1+1": ["1", "2", "3", "4", "5", "6"],
}
FRAME = pd.DataFrame(CELLS, dtype=object)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "xlsx"])
def test_what_is_written_is_read_back(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"table.{kind}"
    with open_table_writer(path, list(FRAME.columns), check_format(path)) as write:
        write(FRAME[:2])
        write(FRAME[2:])
    found = read_table(path)
    guarded = kind in ("csv", "tsv")
    wanted = [f"'{cell}" if guarded and cell[:1] in ("=", "@") else cell for cell in CELLS["评论"]]
    assert list(found.columns) == ["评论", "'=1+1" if guarded else "=1+1"]
    assert found["评论"].tolist() == wanted


def test_a_sheet_holds_texts_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.xlsx"
    with open_table_writer(path, list(FRAME.columns), "xlsx") as write:
        write(FRAME)
    sheet = load_workbook(path).active
    assert sheet is not None
    assert {cell.data_type for row in sheet.iter_rows() for cell in row if cell.value is not None} == {"s"}


def test_half_a_surrogate_pair_stops_no_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"t": ["好\ud83d"]}, dtype=object)
    for kind in ("csv", "jsonl", "parquet", "xlsx"):
        path = tmp_path / f"table.{kind}"
        with open_table_writer(path, ["t"], kind) as write:
            write(frame)
        assert read_table(path)["t"][0].startswith("好")


def test_a_sheet_with_what_xml_forbids_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "table.xlsx"
    with open_table_writer(path, ["t"], "xlsx") as write:
        write(pd.DataFrame({"t": ["\uffff房间\x01很\ufffe干净"]}, dtype=object))
    assert read_table(path)["t"].tolist() == ["房间很干净"]


def test_what_a_sheet_does_not_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.xlsx"
    with (
        pytest.raises(UserError, match="row 1 has a cell of 32,768 characters"),
        open_table_writer(path, ["t"], "xlsx") as write,
    ):
        write(pd.DataFrame({"t": ["好" * 32_768]}, dtype=object))
    with pytest.raises(UserError, match="name a file that ends with one of"):
        check_format(tmp_path / "answers.doc")
