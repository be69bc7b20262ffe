#!/usr/bin/env python3
"""Fine-tune a small Qwen for Chinese review sentiment with ModelScope SWIFT, and score it honestly.

Without a command: the whole job on the embedded demo data and model.
Your own reviews: run --data-file reviews.csv --text-column text --label-column label --labels 0=差评,1=好评
"""

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter

from workflows.command_line import many, project, run, use
from workflows.core.errors import UserError, what_to_mend
from workflows.core.permissions import permitted
from workflows.core.screen import open_closed_streams
from workflows.core.secrets import hide
from workflows.experiment.options import Flag, Pairs

ANY_COMMAND = Group("Any command", sort_key=9)
app = App(
    name="run_swift.py",
    group_commands=ANY_COMMAND,  # of which only --help is left
    help=__doc__,
    help_format="plaintext",
    version_flags=(),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.meta.group_parameters = ANY_COMMAND
app.meta.suppress_keyboard_interrupt = False

COMMANDS: dict[str, dict[str, Callable[..., int | None]]] = {
    "One run": {
        "run": run.run,
        "plan": run.plan,
        "prepare": run.prepare,
        "audit": run.audit,
        "train": run.train,
        "infer": run.infer,
        "score": run.score,
        "report": run.report,
    },
    "Use a finished run": {
        "predict": use.predict,
        "explain": use.explain,
        "serve": use.serve,
        "app": use.open_page,
        "export": use.export,
    },
    "Several runs": {
        "compare": many.compare,
        "select-model": many.select_model,
        "study": many.study,
        "search": many.search,
        "reproduce": many.reproduce,
    },
    "This machine, and what there is": {
        "doctor": project.doctor,
        "list": project.list_names,
        "benchmark": project.benchmark,
    },
}
for number, (title, commands) in enumerate(COMMANDS.items()):
    group = Group(title, sort_key=number)
    for place, (name, command) in enumerate(commands.items()):
        app.command(command, name=name, group=group, sort_key=place)


@app.meta.default
def any_command(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    offline: Annotated[
        Flag, Parameter(help="reach no other machine: local files, and what the hubs' caches hold")
    ] = False,
    trust_code: Annotated[
        Pairs, Parameter(help="let this argument of a card or run folder run code; may be repeated")
    ] = (),
) -> int:
    """Carry out the command that the words name, `run` if they name none; its exit code."""
    words = words if words and not words[0].startswith("-") else ("run", *words)
    with permitted(offline, trust_code):
        command, bound, others = app.parse_args(words, exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs, **({"words": words} if "words" in others else {})) or 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command, the process's own if none is given; the exit code is 0, 1 with a traceback for
    what nobody expected, 2 for what the user can mend, 3 as `reproduce` and `doctor` say, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale says: labels and reviews are Chinese
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        _check_place()
        return app.meta(arguments, exit_on_error=False, print_error=False) or 0
    except CycloptsError as error:
        from workflows.experiment.cards import COMMAND

        print(
            f"error: {_on_one_line(hide(' '.join(str(error).split())))} ({COMMAND} --help)", file=sys.stderr
        )
        return 2
    except UserError as error:
        print(f"error: {_on_one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        from workflows.pipeline.run import OUTPUTS

        places = (OUTPUTS, Path.home(), os.environ.get("TMPDIR", "/tmp"))
        if (said := what_to_mend(error, (*places, *arguments))) is None:
            print(hide(traceback.format_exc()), end="", file=sys.stderr)
            return 1
        print(f"error: {_on_one_line(hide(said))}", file=sys.stderr)
        return 2


def _check_place() -> None:
    if sys.platform == "win32":
        raise UserError("this needs Linux: on Windows start it in WSL2")
    try:
        Path.cwd()
    except FileNotFoundError as error:  # else each path would fail in a way of its own
        raise UserError("the folder that this was started in is gone; start it in another one") from error


def _on_one_line(text: str) -> str:
    """A message without what would break its line, or steer the terminal: it may quote a stranger's file."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


if __name__ == "__main__":
    sys.exit(main())
