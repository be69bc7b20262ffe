"""The commands about several runs."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from workflows.command_line.shared import FinishedRun, Opens, Output, Push, Ray, Verbose, Words, use_one_gpu
from workflows.core.errors import UserError
from workflows.core.screen import Screen, as_typed
from workflows.experiment.options import (
    DEFAULTS,
    Count,
    DataOptions,
    File,
    Flag,
    Pairs,
    RunOptions,
    SourceOptions,
    TuningOptions,
    named_in,
)


def compare(
    folders: Annotated[list[Path], Parameter(help="run folders, two or more")],
    /,
    *,
    common: Annotated[
        Flag, Parameter(help="where test rows differ, compare on those that all runs share")
    ] = False,
    lang: Opens = "zh",
    output: Output = None,
) -> None:
    """Several runs on the same test rows, in one table."""
    from workflows.commands import compare as comparing
    from workflows.pipeline.run import timed_folder
    from workflows.scoring.table import render_comparison

    screen, output = Screen(), output or timed_folder("compare")
    screen.say(render_comparison(comparing.compare(folders, common, output, lang)))
    screen.say(f"report: {as_typed(output / 'report.html')}")


def select_model(
    *,
    models: Annotated[str, Parameter(help="two or more, by name, folder or hub id: a,b,c")],
    cases: Annotated[Count, Parameter(help="balanced training rows")] = 50,
    prompt: Annotated[str | None, Parameter(help="a prompt by name, or a YAML file, for all models")] = None,
    set: Annotated[Pairs, Parameter(help="NAME=VALUE: any SWIFT argument; may be repeated")] = (),
    data: SourceOptions = DEFAULTS.data,
    output: Output = None,
    verbose: Verbose = False,
) -> None:
    """Which base model to tune: several answer the same few cases, untuned."""
    use_one_gpu()
    from workflows.commands import select_model as selecting
    from workflows.scoring.table import render_selection

    asked = RunOptions(DataOptions(**vars(data)), TuningOptions(prompt=prompt, set=set))
    screen = Screen(verbose)
    folder, selection = selecting.select_model(models, asked, cases, output, screen)
    screen.say(render_selection(selection))
    screen.say(f"selection: {as_typed(folder / 'selection.json')}")


def study(
    name: Annotated[str, Parameter(help="a study by name, or a YAML file")],
    /,
    *,
    scale: Annotated[
        Literal["full", "smoke"], Parameter(help="smoke: small, with the embedded model")
    ] = "full",
    draws: Annotated[
        Count | None, Parameter(help="training draws of each size (default: as it says)")
    ] = None,
    plan: Annotated[Flag, Parameter(help="only say what it would take")] = False,
    so_far: Annotated[
        Flag, Parameter(help="start no run: write the page of those that are finished")
    ] = False,
    known_runs: Annotated[
        tuple[Path, ...],
        Parameter(
            negative=(), help="study.json of another machine: do not do its runs again; may be repeated"
        ),
    ] = (),
    options: RunOptions = DEFAULTS,
    output: Annotated[Path | None, Parameter(help="where to write (default: outputs/studies/NAME)")] = None,
    ray: Ray = None,
    push: Push = None,
    verbose: Verbose = False,
    words: Words = (),
) -> None:
    """Many runs that answer one question, on one page; goes on at the first unfinished run.

    Options of a run override the study's own, but not an arm's.
    """
    use_one_gpu()
    from workflows.commands.export import push as pushing
    from workflows.commands.plan.plan import estimate_runs
    from workflows.studies.hub_card import FILES
    from workflows.studies.study import work_on_study

    if push is not None:
        if plan:
            raise UserError("study --push: a plan has no results; leave out --plan.")
        pushing.check_push(push)
    screen = Screen(verbose)
    folder, not_done = work_on_study(
        name,
        scale,
        draws,
        plan,
        so_far,
        known_runs,
        options,
        output,
        ray,
        screen,
        estimate_runs,
        named_in(words),
    )
    if push is not None:
        screen.say(f"pushed: {pushing.push(folder, push, FILES)}")
    if not_done is not None:
        raise UserError(not_done)


def search(
    *,
    trials: Annotated[Count, Parameter(help="in all; the same command with more goes on")] = 30,
    space: Annotated[File | None, Parameter(help="a YAML file with what is searched")] = None,
    options: RunOptions = DEFAULTS,
    output: Annotated[Path | None, Parameter(help="where to write (default: outputs/searches/NAME)")] = None,
    ray: Ray = None,
    verbose: Verbose = False,
) -> None:
    """Settings that are better on validation than a run's own; goes on where it was stopped. Needs optuna.

    What --set and --prompt give is not searched. Started twice, two processes share the trials.
    """
    use_one_gpu()
    from workflows.search.search import work_on_search

    work_on_search(options, space, trials, output, ray, Screen(verbose))


def reproduce(folder: FinishedRun, /, *, verbose: Verbose = False) -> int:
    """Repeat a run, and say what came out equal; exit code 3 where something did not."""
    use_one_gpu()
    from workflows.commands import reproduce as repeating

    screen = Screen(verbose)
    repeated, result = repeating.reproduce(folder, screen)
    screen.say(f"\n{as_typed(repeated.path)} against {as_typed(folder)}:")
    for stage, differences in result["stages"].items():
        screen.say(f"  {stage:10} {'; '.join(differences) or 'equal'}")
    for line in result["environment"]:
        screen.say(f"  not the same here: {line}")
    screen.say(f"  {result['can_be_equal']}")
    return 0 if result["equal"] else 3
