"""The hidden file in which the answers to a table gather, so that a command that was stopped goes on."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from workflows.core.errors import UserError


@contextmanager
def held(answered: Path, output: Path) -> Iterator[BinaryIO]:
    """The file of answers, open for this process alone: two that write it in turn would spoil it.

    Raises UserError where another one has it.
    """
    with open(answered, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--output {output}: another command is writing it; wait for it, or stop it."
            ) from error
        yield file


def whole_blocks(file: BinaryIO, rows: int, block: int) -> tuple[int, int]:
    """How many of `rows` lines are there in whole blocks of `block`, and the bytes that they take.

    A block that was begun is answered again: a row's last digits depend on which others share its batch.
    """
    lines = taken = 0
    whole = (0, 0)
    file.seek(0)
    for line in file:
        lines, taken = lines + 1, taken + len(line)
        if line.endswith(b"\n") and (lines % block == 0 or lines == rows):
            whole = lines, taken
    return whole
