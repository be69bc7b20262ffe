"""What a person and the report are told of from deep inside a stage, beside its result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it takes YAML, which would double the time of --help
    from workflows.core.texts import Text

_LOGGER = logging.getLogger("workflows.told")
_LOGGER.propagate = False
_LOGGER.addHandler(logging.NullHandler())  # where nobody listens


def tell(said: Text) -> None:
    """Tell whoever listens (`listening`), from any thread."""
    _LOGGER.warning(said)


@contextmanager
def listening(say: Callable[[str], None]) -> Iterator[list[Text]]:
    """Within this, what is told is said at once; the list gathers it, each text once."""
    told: list[Text] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said: Any = record.msg
            if said not in told:
                told.append(said)
                say(f"  {said.en}")

    listener = Listener()
    _LOGGER.addHandler(listener)
    try:
        yield told
    finally:
        _LOGGER.removeHandler(listener)
