"""The commands of one run: the whole job, or some of its stages."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from workflows.command_line.shared import Opens, Verbose, Words, use_one_gpu
from workflows.core.errors import UserError
from workflows.core.screen import Screen
from workflows.experiment.options import NEW_RUN, ONE_PROCESS, Language, NewRun, ProcessOptions, named_in

Run = Annotated[Path, Parameter(help="a run folder")]


def run(
    folder: Run | None = None,
    /,
    *,
    new: NewRun = NEW_RUN,
    processes: ProcessOptions = ONE_PROCESS,
    verbose: Verbose = False,
    words: Words = (),
) -> None:
    """The whole job; goes on at the first unfinished stage."""
    _work((), folder, new, verbose, processes=processes, words=words)


def plan(
    *,
    new: NewRun = NEW_RUN,
    output: Annotated[Path | None, Parameter(help="write the figures as JSON, too")] = None,
    verbose: Verbose = False,
) -> None:
    """What a run would take, before any weights are downloaded."""
    use_one_gpu()
    from workflows.commands.plan import plan as planning
    from workflows.core.files import write_json
    from workflows.experiment.resolve import resolve

    screen = Screen(verbose)
    result = planning.plan(resolve(new.options), new.run_folder, screen)
    screen.say("\n" + planning.render_plan(result))
    if output is not None:
        write_json(output, result)


def prepare(
    folder: Run | None = None, /, *, new: NewRun = NEW_RUN, verbose: Verbose = False, words: Words = ()
) -> None:
    """Only the data: read, clean, split, write SWIFT's files."""
    _work(("prepare",), folder, new, verbose, words=words)


def audit(
    what: Annotated[Path | None, Parameter(help="a run folder, or a data set by name")] = None,
    /,
    *,
    new: NewRun = NEW_RUN,
    verbose: Verbose = False,
    words: Words = (),
) -> None:
    """Only the data, and which of its labels are likely wrong."""
    from workflows.experiment.cards import DATASETS, names_of

    if str(what) in names_of(DATASETS):
        options, data = new.options, new.options.data
        if data.dataset is not None:
            raise UserError(f"audit {what} --dataset {data.dataset}: name one data set.")
        new = replace(new, options=replace(options, data=replace(data, dataset=str(what))))
        what = None
    _work(("prepare", "audit"), what, new, verbose, words=words)


def train(folder: Run, /, *, processes: ProcessOptions = ONE_PROCESS, verbose: Verbose = False) -> None:
    """Only the tuning of a prepared run."""
    _work(("tokens", "derive", "train"), folder, verbose=verbose, processes=processes)


def infer(folder: Run, /, *, processes: ProcessOptions = ONE_PROCESS, verbose: Verbose = False) -> None:
    """Only the answers to the test rows, before and (once trained) after tuning."""
    _work(("probe", "zero_shot", "tuned"), folder, verbose=verbose, processes=processes)


def score(folder: Run, /, *, verbose: Verbose = False) -> None:
    """Only baselines and scores."""
    _work(("baselines", "score"), folder, verbose=verbose)


def report(folder: Run, /, *, lang: Opens | None = None, verbose: Verbose = False) -> None:
    """Only the report of a scored run."""
    _work(("report",), folder, verbose=verbose, lang=lang)


def _work(
    stages: tuple[str, ...],
    folder: Path | None,
    new: NewRun = NEW_RUN,
    verbose: bool = False,
    lang: Language | None = None,
    processes: ProcessOptions = ONE_PROCESS,
    words: tuple[str, ...] = (),
) -> None:
    """`work_on_run`, whose import would double the time of --help."""
    from workflows.commands.run import work_on_run

    if not {"prepare", "baselines", "report"}.intersection(stages):  # a model may be needed
        use_one_gpu(says=processes.nproc == 1)
    work_on_run(stages, folder, new, Screen(verbose), lang, processes, named_in(words))
