"""Which of several processes this one is, where they work on a stage together, and what they give each other.

One process alone is rank 0 of 1, for which all of this does nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

Each = TypeVar("Each")


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def ranks() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(rows: Sequence[Each]) -> list[Each]:
    """This process's part of rows that all have in the same order."""
    return list(rows[rank() :: ranks()])


def gathered(part: list[Each]) -> list[Each]:
    """The parts of all processes in one list, the same in each of them."""
    if ranks() == 1:
        return part
    parts: list[Any] = [None] * ranks()
    dist.all_gather_object(parts, part)
    return [each for found in parts for each in found]


def wait_for_all() -> None:
    """Return when every process has come here."""
    if ranks() > 1:
        dist.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Rank 0 does what is within before the others do it."""
    if rank() > 0:
        wait_for_all()
    yield
    if rank() == 0:
        wait_for_all()
