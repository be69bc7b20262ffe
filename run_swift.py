#!/usr/bin/env python3
"""Fine-tune a small Qwen for Chinese review sentiment with ModelScope SWIFT, and score it honestly.

Without a command: the whole job on the embedded demo data and model.
Your own reviews: run --data-file reviews.csv --text-column text --label-column label --labels 差评,好评
"""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from workflows.core.errors import UserError, what_to_mend
from workflows.core.permissions import permitted
from workflows.core.screen import Screen, as_typed, open_closed_streams
from workflows.core.secrets import hide
from workflows.experiment.options import (
    DEFAULTS,
    NEW_RUN,
    ONE_PROCESS,
    Count,
    DataOptions,
    File,
    Flag,
    Language,
    NewRun,
    Pairs,
    ProcessOptions,
    RunOptions,
    SourceOptions,
    TuningOptions,
)

Run = Annotated[Path, Parameter(help="a run folder")]
Answering = Annotated[Path, Parameter(help="a finished run, or a folder that `export` wrote")]
System = Literal["tuned", "zero_shot", "probe", "tfidf"]
FinishedRun = Annotated[Path, Parameter(help="a finished run")]
Output = Annotated[Path | None, Parameter(help="where to write (default: a new folder in outputs/)")]
Opens = Annotated[Language, Parameter(help="language that the report opens in")]
Push = Annotated[str | None, Parameter(help="OWNER/NAME on the hub; needs MODELSCOPE_API_TOKEN")]
Ray = Annotated[
    str | None, Parameter(help="share the work by Ray: local, or the HOST:PORT of a cluster")
]  # docs/en/scale.md
Verbose = Annotated[Flag, Parameter(help="show SWIFT's own log on the screen too")]
app = App(
    name="run_swift.py",
    help=__doc__,
    help_format="plaintext",
    version_flags=(),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.meta.group_parameters = Group("Any command", sort_key=3)
app.meta.suppress_keyboard_interrupt = False


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
        return app(words, exit_on_error=False, print_error=False) or 0


@app.command
def run(
    folder: Run | None = None,
    /,
    *,
    new: NewRun = NEW_RUN,
    processes: ProcessOptions = ONE_PROCESS,
    verbose: Verbose = False,
) -> None:
    """The whole job; goes on at the first unfinished stage."""
    _work((), folder, new, verbose, processes=processes)


@app.command
def prepare(folder: Run | None = None, /, *, new: NewRun = NEW_RUN, verbose: Verbose = False) -> None:
    """Only the data: read, clean, split, write SWIFT's files."""
    _work(("prepare",), folder, new, verbose)


@app.command
def train(folder: Run, /, *, processes: ProcessOptions = ONE_PROCESS, verbose: Verbose = False) -> None:
    """Only the tuning of a prepared run."""
    _work(("tokens", "derive", "train"), folder, verbose=verbose, processes=processes)


@app.command
def infer(folder: Run, /, *, processes: ProcessOptions = ONE_PROCESS, verbose: Verbose = False) -> None:
    """Only the answers to the test rows, before and (once trained) after tuning."""
    _work(("probe", "zero_shot", "tuned"), folder, verbose=verbose, processes=processes)


@app.command
def score(folder: Run, /, *, verbose: Verbose = False) -> None:
    """Only baselines and scores."""
    _work(("baselines", "score"), folder, verbose=verbose)


@app.command
def report(folder: Run, /, *, lang: Opens | None = None, verbose: Verbose = False) -> None:
    """Only the report of a scored run."""
    _work(("report",), folder, verbose=verbose, lang=lang)


@app.command
def audit(
    what: Annotated[Path | None, Parameter(help="a run folder, or a data set by name")] = None,
    /,
    *,
    new: NewRun = NEW_RUN,
    verbose: Verbose = False,
) -> None:
    """Only the data, and which of its labels are likely wrong."""
    from workflows.experiment.cards import DATASETS, names_of

    if str(what) in names_of(DATASETS):
        options, data = new.options, new.options.data
        if data.dataset is not None:
            raise UserError(f"audit {what} --dataset {data.dataset}: name one data set.")
        new = replace(new, options=replace(options, data=replace(data, dataset=str(what))))
        what = None
    _work(("prepare", "audit"), what, new, verbose)


@app.command
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
    if output is not None:
        write_json(output, result)
    screen.say("\n" + planning.render_plan(result))


@app.command
def compare(
    folders: Annotated[list[Path], Parameter(help="run folders, two or more")],
    /,
    *,
    common: Annotated[Flag, Parameter(help="on the test rows that all share, where they differ")] = False,
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


@app.command
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


@app.command
def export(
    folder: FinishedRun,
    /,
    *,
    output: Annotated[Path | None, Parameter(help="where to write (default: export/ in the run)")] = None,
    push: Push = None,
    verbose: Verbose = False,
) -> None:
    """A run's tuned model as a plain Hugging Face folder, uploaded where asked."""
    use_one_gpu()
    from workflows.commands.export import push as pushing
    from workflows.core.run_folder import locked
    from workflows.pipeline.run import open_finished

    if push is not None:
        pushing.check_push(push)
    screen, found = Screen(verbose), open_finished(folder)
    with locked(found), screen.output_to(found.log("export")):
        from workflows.commands.export import export as exporting

        model = exporting.export(found, output, screen)
    screen.say(f"model: {as_typed(model)}")
    if push is not None:
        screen.say(f"pushed: {pushing.push(model, push)}")


@app.command
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


@app.command
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


@app.command
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
) -> None:
    """Many runs that answer one question, on one page; goes on at the first unfinished run.

    Options of a run go before the study's own, in all its runs.
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
    folder = work_on_study(
        name, scale, draws, plan, so_far, known_runs, options, output, ray, screen, estimate_runs
    )
    if push is not None:
        screen.say(f"pushed: {pushing.push(folder, push, FILES)}")


@app.command
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


@app.command
def predict(
    folder: Answering,
    /,
    *,
    input: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            allow_leading_hyphen=True,
            help="a table, a pattern like 'day-*.csv', or s3://... and the like; -: lines; may be repeated",
        ),
    ] = (),
    text: Annotated[tuple[str, ...], Parameter(negative=(), help="one review; may be repeated")] = (),
    text_column: Annotated[str, Parameter(help="the column with the review")] = "review",
    label_column: Annotated[str | None, Parameter(help="the column with the label, to be scored")] = None,
    output: Annotated[Path | None, Parameter(help="the table with the answers")] = None,
    system: Annotated[System, Parameter(help="what answers")] = "tuned",
    min_confidence: Annotated[float | None, Parameter(help="give no label below this probability")] = None,
    ray: Ray = None,
    verbose: Verbose = False,
) -> None:
    """Answers to your own reviews: a table with a label and probabilities for each row.

    CSV, TSV, JSONL, Parquet or XLSX; all rows and columns are kept. A command that was stopped goes on.
    """
    use_one_gpu()
    from workflows.serving.predict import Wanted
    from workflows.serving.predict import predict as answer

    wanted = Wanted(text_column, label_column, min_confidence, name_system=system != "tuned")
    answer(folder, system, wanted, input, text, output, ray, Screen(verbose))


@app.command
def explain(
    folder: Answering,
    /,
    *,
    text: Annotated[tuple[str, ...], Parameter(negative=(), help="a review; may be repeated")] = (),
    mistakes: Annotated[Flag, Parameter(help="explain the confident mistakes in the report")] = False,
    system: Annotated[System | None, Parameter(help="what answers (default: tuned)")] = None,
    verbose: Verbose = False,
) -> None:
    """Which clauses and words of a review carried its label: what the answer loses without each of them."""
    use_one_gpu()
    from workflows.serving.explain import explain_mistakes, explain_texts

    if mistakes == bool(text):
        raise UserError("explain: give --text TEXT, or --mistakes.")
    if mistakes and system is not None:
        raise UserError("explain --mistakes: is about the report's own system; leave out --system.")
    if mistakes:
        explain_mistakes(folder, Screen(verbose))
    else:
        explain_texts(folder, system or "tuned", text, Screen(verbose))


@app.command
def serve(
    folder: Answering,
    /,
    *more: Annotated[Path, Parameter(help="other runs, asked by their folders' names")],
    host: Annotated[str, Parameter(help="address to listen on; 0.0.0.0: all")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="port to listen on; 0: any that is free")] = 8000,
    engine: Annotated[
        Literal["fast", "vllm"], Parameter(help="our scorer, or SWIFT's own server on vLLM")
    ] = "fast",
    verbose: Verbose = False,
) -> None:
    """A server of finished runs: /v1/classify, and OpenAI's chat dialect, on this machine alone.

    The variable REVIEW_API_KEY, where it is set, holds the key that requests must bring.
    """
    use_one_gpu()
    from workflows.serving.start import serve_runs

    serve_runs((folder, *more), engine, host, port, Screen(verbose))


@app.command(name="app")
def open_page(
    *folders: Annotated[Path, Parameter(help="finished runs that the API answers by, too")],
    host: Annotated[str, Parameter(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="port to listen on; 0: any that is free")] = 7860,
    verbose: Verbose = False,
) -> None:
    """A page in the browser: try runs, answer tables, read reports, start and watch runs. Needs Gradio.

    The variable REVIEW_API_KEY, where it is set, holds the password of the page, and the key of the API.
    """
    use_one_gpu()
    from workflows.serving.start import serve_page

    serve_page(folders, host, port, Screen(verbose))


@app.command
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


@app.command(name="list")
def list_names(
    kind: Literal["datasets", "models", "methods", "prompts", "studies"],
    /,
    *,
    data_dir: Annotated[File | None, Parameter(help="a folder with data sets' files")] = None,
) -> None:
    """What can be named: data sets, models, methods, prompts, studies."""
    from workflows.commands.listing import render_list

    Screen().say(render_list(kind, data_dir))


def _work(
    stages: tuple[str, ...],
    folder: Path | None,
    new: NewRun = NEW_RUN,
    verbose: bool = False,
    lang: Language | None = None,
    processes: ProcessOptions = ONE_PROCESS,
) -> None:
    """`work_on_run`, whose import would double the time of --help."""
    from workflows.commands.run import work_on_run

    if not {"prepare", "baselines", "report"}.intersection(stages):  # a model may be needed
        use_one_gpu(says=processes.nproc == 1)
    work_on_run(stages, folder, new, Screen(verbose), lang, processes)


def use_one_gpu(says: bool = True) -> None:
    """Settle on the GPU that is used, where there is one, before anything else asks for it."""
    from workflows.model.gpu import settle_gpu

    if (said := settle_gpu()) is not None and says:
        Screen().say(said)


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
    try:
        Path.cwd()
    except FileNotFoundError as error:  # else each path would fail in a way of its own
        raise UserError("the folder that this was started in is gone; start it in another one") from error


def _on_one_line(text: str) -> str:
    """A message without what would break its line, or steer the terminal: it may quote a stranger's file."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


if __name__ == "__main__":
    sys.exit(main())
