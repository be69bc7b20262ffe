"""Addresses of files: by loopback, in an archive, on this disk; what cannot be had is one line."""

import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from workflows.core.errors import UserError
from workflows.core.permissions import permitted
from workflows.core.remote import copied_here
from workflows.core.screen import Screen
from workflows.core.tables import open_table


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """A folder with three files and an archive of two of them."""
    for number in (2, 1, 3):
        (tmp_path / f"day-{number}.csv").write_text(f"review\n第{number}天很好\n", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "days.zip", "w") as archive:
        for number in (2, 1):
            archive.write(tmp_path / f"day-{number}.csv", f"in/day-{number}.csv")
    return tmp_path


@pytest.fixture
def served(day: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(day))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_addresses_and_patterns_become_files_here(day: Path, served: str) -> None:
    names = (
        f"zip://in/day-*.csv::{day / 'days.zip'}",
        str(day / "day-3.csv"),
        f"{served}/day-2.csv",
        f"file://{day}/day-[12].csv",
    )
    with copied_here("--input", names, Screen()) as paths:
        shown = [Path(path).read_text(encoding="utf-8")[7:-1] for path in paths]
        assert shown == [f"第{number}天很好" for number in (1, 2, 3, 2, 1, 2)]
        here = [str(day) in path for path in paths]
        assert here == [False, False, True, False, True, True]
    assert [Path(path).exists() for path in paths] == here


def test_an_error_names_the_address(served: str, day: Path) -> None:
    (day / "empty.doc").write_text("review\n", encoding="utf-8")
    with pytest.raises(UserError) as refused, copied_here("-", (f"{served}/empty.doc",), Screen()) as paths:
        open_table(Path(paths[0]))
    assert str(refused.value).startswith(f"{served}/empty.doc: format .doc is not read")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zip://none-*.csv::HERE/days.zip", "there is no such file"),
        ("zip://in::HERE/days.zip", "is a folder; name files, or a pattern like"),
        ("file://HERE/none.csv", "there is no such file"),
        ("zip://in/day-1.csv::HERE/day-1.csv", "cannot be read: BadZipFile: "),
        ("SERVED/none.csv", "there is no such file"),
        ("nosuch://bucket/a.csv", "cannot be read: ValueError: Protocol not known: nosuch"),
        pytest.param(
            "s3://bucket/a.csv",
            "cannot be read: ImportError: Install s3fs",
            marks=pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed"),
        ),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(day: Path, served: str, name: str, message: str) -> None:
    name = name.replace("HERE", str(day)).replace("SERVED", served)
    with pytest.raises(UserError) as refused, copied_here("--input", (name,), Screen()):
        pass
    said = str(refused.value)
    assert said.startswith(f"--input {name}: ")
    assert message in said
    assert "\n" not in said


def test_offline_reads_what_is_here_alone(day: Path, served: str) -> None:
    with permitted(True, ()):
        with copied_here("--input", (f"zip://in/day-1.csv::file://{day}/days.zip",), Screen()) as paths:
            assert Path(paths[0]).exists()
        for name in (f"{served}/day-1.csv", f"zip://in/day-1.csv::{served}/days.zip"):
            with (
                pytest.raises(UserError, match="which --offline does not reach"),
                copied_here("--input", (name,), Screen()),
            ):
                pass
