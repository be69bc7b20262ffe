"""Gives the readers of tables files that a fuzzer makes: each must be read, or refused in one line.

    pip install atheris
    python -m tests.fuzz_readers FOLDER -max_total_time=600

FOLDER takes the files that reached new code.  What `pytest` runs instead: tests/data/test_bad_input.py, where
a file that was found here becomes a case.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["workflows"]):
    from workflows.core import tables
    from workflows.core.errors import UserError

from tests.data.strange_files import FILES

KINDS = sorted({*tables.FORMATS.values()})
PLACE = Path(tempfile.mkdtemp())


def read(content: bytes) -> None:
    """Read a file twice, all of it and its first column; the first byte says its format."""
    path = PLACE / f"a.{KINDS[content[0] % len(KINDS)]}" if content else PLACE / "a.csv"
    path.write_bytes(content[1:])
    try:
        table = tables.open_table(path)
        frames = list(tables.read_chunks(table))
        first = frames[0].columns[0] if len(frames[0].columns) else None
        again = 0 if first is None else sum(map(len, tables.read_chunks(table, [first])))
    except UserError as error:
        assert str(error), "nothing is said"
        return
    assert all(isinstance(cell, str) for frame in frames for name in frame for cell in frame[name])
    assert first is None or again == sum(map(len, frames)), "other rows in the second reading"


def write_seeds(folder: Path) -> None:
    """The small files of the corpus, as the fuzzer takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, make) in enumerate(FILES.values()):
        kind = tables.FORMATS.get(Path(name).suffix)
        path = PLACE / f"seed{number}{Path(name).suffix}"
        make(path)
        if kind is not None and path.is_file() and path.stat().st_size < 1 << 14:
            (folder / f"seed{number}").write_bytes(bytes([KINDS.index(kind)]) + path.read_bytes())


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
