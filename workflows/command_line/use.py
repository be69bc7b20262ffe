"""The commands that use a finished run: answers, servers, a folder to pass on."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from workflows.command_line.shared import FinishedRun, Push, Ray, Verbose, use_one_gpu
from workflows.core.errors import UserError
from workflows.core.screen import Screen, as_typed
from workflows.experiment.options import Flag

Answering = Annotated[Path, Parameter(help="a finished run, or a folder that `export` wrote")]
Port = Annotated[
    int, Parameter(validator=Number(gte=0, lte=65535), help="port to listen on; 0: any that is free")
]
System = Literal["tuned", "zero_shot", "probe", "tfidf"]


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


def serve(
    folder: Answering,
    /,
    *more: Annotated[Path, Parameter(help="other runs, asked by their folders' names")],
    host: Annotated[str, Parameter(help="address to listen on; 0.0.0.0: all")] = "127.0.0.1",
    port: Port = 8000,
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


def open_page(
    *folders: Annotated[Path, Parameter(help="finished runs that the API answers by, too")],
    host: Annotated[str, Parameter(help="address to listen on")] = "127.0.0.1",
    port: Port = 7860,
    verbose: Verbose = False,
) -> None:
    """A page in the browser: try runs, answer tables, read reports, start and watch runs. Needs Gradio.

    The variable REVIEW_API_KEY, where it is set, holds the password of the page, and the key of the API.
    """
    use_one_gpu()
    from workflows.serving.start import serve_page

    serve_page(folders, host, port, Screen(verbose))


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
