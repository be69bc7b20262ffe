"""What a person sees while a run works: short lines and progress bars; SWIFT's own output goes to a file."""

from __future__ import annotations

import copy
import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from workflows.core.files import refuse_link
from workflows.core.secrets import hide
from workflows.core.told import listening

if TYPE_CHECKING:
    from workflows.core.texts import Text


class Screen:
    """The terminal as it was when the command started, reachable while standard output goes to a log file.

    `verbose`: show SWIFT's output on the screen too.
    """

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose
        self.out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace", buffering=1)
        self.err: TextIO = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)

    def say(self, text: str = "") -> None:
        """Print a line (or several) of the result; where its reader has left (`head`), end the program."""
        try:
            print(text, file=self.out, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.out.fileno())  # else closing it would fail again
            sys.exit(1)

    @property
    def beside(self) -> Screen:
        """A screen whose lines go where the bars do, beside a result that another program reads."""
        other = copy.copy(self)
        other.out = self.err
        return other

    @contextmanager
    def silenced(self) -> Iterator[Screen]:
        """A screen that shows bars only, no lines."""
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            silent = copy.copy(self)
            silent.out = nowhere
            yield silent

    def progress(self, title: str, total: int | None, counted: bool = True) -> tqdm:
        """A bar that counts to `total` with the time left (None: counts only), for work that takes a moment;
        on a file or a notebook it is drawn less often.

        Without `counted`, `total` is in a unit that says nothing to a person: only the share that is done and
        the time left are drawn.
        """
        seconds = 0.2 if self.err.isatty() else 5.0
        return tqdm(
            total=total,
            desc=f"  {title}",
            file=self.err,
            ncols=90 if counted else 110,
            bar_format=None if counted else "{desc}: {percentage:3.0f}%|{bar}| {remaining} left",
            smoothing=0.3 if counted else 0.0,
            mininterval=seconds,
            maxinterval=seconds,
            delay=seconds,
            leave=False,
        )

    @contextmanager
    def output_to(self, log: Path) -> Iterator[list[Text]]:
        """Send everything written to standard output and error, by C code and child processes too, to
        `log`, in which secrets are hidden at the end; what is told within it (told.py) is said here, and
        gathers in the list.
        """
        refuse_link(log)
        with ExitStack() as stack:
            stack.callback(_hide_secrets, log)
            target: IO[bytes] | None = stack.enter_context(_opened(log))
            if self.verbose:
                # In a session of its own tee outlives a Ctrl-C, and takes down what is said after it.
                tee = subprocess.Popen(["tee", "-a", log], stdin=subprocess.PIPE, start_new_session=True)
                target = stack.enter_context(tee).stdin
            assert target is not None
            if not (_writes_to(sys.stdout, 1) and _writes_to(sys.stderr, 2)):  # but straight into a notebook
                stack.enter_context(redirect_stdout(_stream(1)))
                stack.enter_context(redirect_stderr(_stream(2)))
            saved = os.dup(1), os.dup(2)
            _redirect(target.fileno(), target.fileno())
            try:
                yield stack.enter_context(listening(self.say))
            finally:
                _redirect(*saved)
                for descriptor in saved:
                    os.close(descriptor)


def _opened(log: Path) -> IO[bytes]:
    """The log, to be added to; nothing where it may only be read, as a shared run may, which answers yet."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return open(log, "ab")
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return open(os.devnull, "ab")


def _hide_secrets(log: Path) -> None:
    if not log.is_file():  # taken away while the command ran
        return
    said = log.read_bytes().decode("utf-8", errors="surrogateescape")
    if (hidden := hide(said)) != said:
        log.write_bytes(hidden.encode("utf-8", errors="surrogateescape"))


def _writes_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


@cache
def _stream(descriptor: int) -> TextIO:
    """What writes to a descriptor, wherever that leads by then; it stays, since loggers keep their stream."""
    return open(descriptor, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)


def _redirect(output: int, errors: int) -> None:
    """Standard output and error go to these descriptors from now on."""
    for stream, descriptor, target in ((sys.stdout, 1, output), (sys.stderr, 2, errors)):
        try:
            stream.flush()
        except OSError:  # into a log on a full disk: what could not be written goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            stream.flush()
        os.dup2(target, descriptor)


def open_closed_streams() -> None:
    """A standard stream that was closed (`>&-`) leads nowhere; else the next file that is opened would get
    what is printed.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", encoding="utf-8"))


def as_text(*tables: Table) -> str:
    """Tables as plain text, without colours or trailing blanks."""
    # The width is in columns, of which a Chinese character takes two.
    console = Console(width=118, record=True, file=io.StringIO(), markup=False)
    for table in tables:
        console.print(table)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def as_typed(path: Path) -> str:
    """A path as a person would type it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
