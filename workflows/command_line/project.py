"""The commands about this machine, the cards and the code's speed."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from workflows.command_line.shared import Output, Verbose, use_one_gpu
from workflows.core.screen import Screen
from workflows.experiment.options import Count, File, Flag, Language


def doctor(
    *,
    gpu: Annotated[
        Flag, Parameter(help="then run ten small commands on the GPU; leaves one file to send")
    ] = False,
    json: Annotated[Flag, Parameter(help="print one JSON object instead of lines")] = False,
    lang: Annotated[Language, Parameter(help="language of the lines")] = "en",
    output: Output = None,
) -> int:
    """Whether a run would work here, and what to do where not; nothing is downloaded.

    The exit code is 3 where something would stop a run, or a command did not end well.
    """
    from workflows.commands.doctor.doctor import see_doctor

    return see_doctor(gpu, json, lang, output, Screen())


def list_names(
    kind: Literal["datasets", "models", "methods", "prompts", "studies"],
    /,
    *,
    data_dir: Annotated[File | None, Parameter(help="a folder with data sets' files")] = None,
) -> None:
    """What can be named: data sets, models, methods, prompts, studies."""
    from workflows.commands.listing import render_list

    Screen().say(render_list(kind, data_dir))


def benchmark(
    kind: Literal["inference", "training", "pipeline", "serving", "startup", "data"],
    folder: Annotated[Path | None, Parameter(help="a finished run (for all but data)")] = None,
    /,
    *,
    rows: Annotated[
        Count | None, Parameter(help="inference (default: 200), serving (2,000), data (100,000)")
    ] = None,
    steps: Annotated[Count, Parameter(help="training")] = 10,
    repeats: Annotated[Count, Parameter(help="of each, in turn")] = 3,
    output: Output = None,
    verbose: Verbose = False,
) -> None:
    """Times against plain SWIFT and against this machine's limit."""
    if kind != "data":
        use_one_gpu()
    from workflows.commands.benchmark.run import benchmark as time_it

    time_it(kind, folder, rows, steps, repeats, output, Screen(verbose))
