"""Files on any file system that fsspec knows (s3://, hdfs://, https://, zip://...), copied here as long as
they are read: our readers go over a file more than once.

An address is told from a path by its "://". file:// is read where it is.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.permissions import is_offline
from workflows.core.screen import Screen
from workflows.core.secrets import hide

HERE = {"file", "local", "zip", "tar"}  # protocols that reach no other machine


@contextmanager
def copied_here(flag: str, names: tuple[str, ...], screen: Screen) -> Iterator[tuple[str, ...]]:
    """`names`, those that are addresses replaced by paths of copies, which are gone afterwards; a pattern by
    all that fit it, in order.  Errors within this name the address.

    Raises UserError where --offline forbids one, or it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="input-") as folder:
        copies: dict[str, str] = {}  # address by path
        paths: list[str] = []
        for name in names:
            found = {name: name}
            if "://" in name:
                found = dict(_copy(flag, name, Path(folder) / str(len(paths)), screen))
                copies |= found
            paths += found
        try:
            yield tuple(paths)
        except UserError as error:
            said = str(error)
            for path, address in copies.items():
                said = said.replace(path, address)
            raise UserError(said) from error


def _copy(flag: str, name: str, folder: Path, screen: Screen) -> Iterator[tuple[str, str]]:
    """Path and address of each file that an address stands for."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    protocols = {each.partition("://")[0] for each in name.split("::") if "://" in each}
    if is_offline() and not protocols <= HERE:
        raise UserError(f"{flag} {name}: is on another machine, which --offline does not reach.")
    try:
        files: Any
        files, path = url_to_fs(name)
        found = sorted(files.glob(path)) if re.search(r"[*\[]", path) else [path]
        if not found or not files.exists(found[0]):
            raise UserError(f"{flag} {name}: there is no such file.")
        for number, each in enumerate(found):
            if files.isdir(each):
                raise UserError(f"{flag} {name}: is a folder; name files, or a pattern like {name}/*.csv.")
            if isinstance(files, LocalFileSystem):
                yield each, each
                continue
            address = files.unstrip_protocol(each)
            screen.say(f"copying {hide(address)} …")
            copy = folder / str(number) / each.rsplit("/", 1)[-1].partition("?")[0]
            copy.parent.mkdir(parents=True)
            files.get_file(each, str(copy))
            yield str(copy), address
    except UserError:
        raise
    except Exception as error:  # each file system has its own
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{flag} {name}: cannot be read: {why}") from error
