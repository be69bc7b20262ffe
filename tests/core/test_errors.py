"""Real failures of the disk, as each library tells of them, become one line that says what to mend."""

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from run_swift import main
from workflows.core.errors import is_out_of_memory, what_to_mend
from workflows.core.files import write_json

WRITERS: dict[str, Callable[[Path], Any]] = {
    "safetensors": lambda path: save_file({"a": torch.zeros(100_000)}, path),
    "torch.save": lambda path: torch.save(torch.zeros(100_000), path),
    "ours": lambda path: write_json(path, ["很长"] * 50_000),
}


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 100 KB: what a full disk does, without a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _line(work: Callable[[], Any], *written: Path) -> str | None:
    with pytest.raises(Exception) as caught:
        work()
    return what_to_mend(caught.value, written or ("/",))


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_be_written_whole_is_one_line(
    name: str, tmp_path: Path, small_files: None
) -> None:
    said = _line(lambda: WRITERS[name](tmp_path / "file"), tmp_path)
    assert said is not None
    assert "\n" not in said
    assert "no space is left" in said or "File too large" in said
    assert "the same command then goes on" in said


@pytest.mark.parametrize("name", ["safetensors", "torch.save"])
def test_a_folder_that_is_gone_is_named(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert f"{folder}: this folder is gone" in str(_line(lambda: WRITERS[name](folder / "file")))
    assert f"{folder}: this folder is gone" in str(_line(lambda: (folder / "file").open("w")))


def test_weights_that_are_torn_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    for whole in (path.read_bytes()[:2000], b"version https://git-lfs.github.com/spec/v1"):
        path.write_bytes(whole)
        assert "a .safetensors file of the model, its checkpoint" in str(_line(lambda: load_file(path)))


def test_the_fault_of_a_program_keeps_its_traceback(tmp_path: Path) -> None:
    assert _line((tmp_path / "missing").open) is None  # its folder is there
    assert _line(lambda: int("正面")) is None
    assert _line(lambda: torch.zeros(2) @ torch.zeros(3)) is None


def test_a_database_that_cannot_grow_is_a_full_disk() -> None:
    def fill() -> None:
        database = sqlite3.connect(":memory:")
        database.execute("PRAGMA max_page_count = 2")
        database.execute("CREATE TABLE answers (answer)")
        database.execute("INSERT INTO answers VALUES (zeroblob(100000))")

    assert "no space is left" in str(_line(fill))


def test_memory_that_ran_out_is_one_line() -> None:
    assert "memory ran out" in str(_line(lambda: np.ones(1 << 50, np.int8)))
    assert "memory ran out" in str(_line(lambda: torch.empty(1 << 50)))


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"])
def test_cudas_own_words_for_no_memory_are_known(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))


def test_output_that_nobody_can_take_is_one_line() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "run_swift.py", "list", "prompts"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "no space is left" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["--run-folder", "--data-file", "--model"])
@pytest.mark.parametrize("path", ["loop", "loop/inside", "file/inside", "x" * 300])
def test_an_odd_path_is_one_line(
    flag: str, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("", encoding="utf-8")
    columns = ["--text-column", "a", "--label-column", "b"] if flag == "--data-file" else []
    arguments = ["prepare", flag, str(tmp_path / path), *columns]
    if flag != "--run-folder":
        arguments += ["--run-folder", str(tmp_path / "run")]
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o555)
    assert main(["prepare", "--run-folder", str(tmp_path / "run")]) == 2
    assert "Permission denied" in capsys.readouterr().err
