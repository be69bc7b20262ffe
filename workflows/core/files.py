"""Files that are whole or not there: JSON, JSON lines, tables of text, and their hashes."""

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from workflows.core.errors import UserError

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Damaged(UserError, ValueError):
    """A file that was written here is not whole any more: a copy broke off, say, or a disk failed."""

    def __init__(self, where: Path | str, error: Exception) -> None:
        super().__init__(
            f"{where}: is damaged ({error}); bring a whole copy back, or remove the file: the stage that "
            "wrote it does so again."
        )


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to for `path`; it is renamed at the end, removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def open_whole(path: Path) -> Iterator[TextIO]:
    """Open `path` for writing UTF-8 text, whole or not at all."""
    with whole(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        yield file


def remove_left_parts(folder: Path) -> None:
    """Remove what killed processes left of `open_whole`, in a run folder, in those right inside it, and in
    the data of the data sets that join it.
    """
    for path in chain.from_iterable(map(folder.glob, (".*.part", "*/.*.part", "data/*/*/data/.*.part"))):
        process = path.name.split(".")[-2]
        if process.isdecimal() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def refuse_link(path: Path) -> None:
    """Raise UserError where a file that is written to in its place, as a log is, is not one of its own:
    somebody else's folder may have a link there, to a file of yours.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path}: is a link or the like, where a file is written to; remove it.")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; what is not a finite number becomes null."""
    with open_whole(path) as file:
        json.dump(_finite(content), file, ensure_ascii=False, indent=2, allow_nan=False)
        file.write("\n")


def _finite(content: Any) -> Any:
    """`content` without the numbers that JSON has no word for, such as the loss of a diverged training."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises Damaged where it is none."""
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise Damaged(path, error) from error


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with open_whole(path) as file:
        file.writelines(map(json_line, rows))


def json_line(row: dict[str, Any]) -> str:
    """A row as a line of a JSONL file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file. Raises Damaged where a line is none."""
    rows: list[dict[str, Any]] = []
    with open(path, encoding="utf-8") as file:
        try:
            rows.extend(json.loads(line) for line in file)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"{path}, line {len(rows) + 1}", error) from error
    return rows


def check_file(path: Path) -> None:
    """Raise UserError where `path` is no ordinary file that can be read."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind != stat.S_IFREG:
            raise UserError(f"{path}: is {KINDS.get(kind, 'no ordinary file')}; name a file.")
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: there is no such file.") from error
    except OSError as error:  # a loop of links, no permission, a name that is too long
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r}: is no name of a file: {error}.") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(content: Any) -> str:
    """A short hash of anything that JSON can hold."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
