"""Trackers: TensorBoard, MLflow and SwanLab, where `report_to` names them.

SWIFT's trainer sends a training's losses to them.  Here the tracked run is opened around it, and opened again
when the scores are made, so that both stand in one: tracked.json keeps its id, until a training starts anew.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from workflows.core.errors import MomentaryError
from workflows.core.files import read_json, write_json
from workflows.core.run_folder import RunFolder
from workflows.core.texts import Text, text, texts
from workflows.core.told import tell
from workflows.experiment.checks import swanlab_mode
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.reporting.blocks import Block, Paragraph, Report, Section
from workflows.reporting.render import render_markdown
from workflows.reporting.results import systems_grid
from workflows.scoring.score import score

Figures = dict[str, float]
Send = Callable[[dict[str, str], Figures, str, int], None]  # what it is, figures, their table, the step
LOG_DIR = "TENSORBOARD_LOGGING_DIR"  # transformers' callback writes there


def score_and_track(job: Job) -> dict[str, Any]:
    """The door of the stage `score`: write scores.json, send its figures to the trackers; return its content.

    Raises UserError as `score` does, and where a tracker cannot be reached: scores.json is there then.
    """
    scores = score(job)
    if not job.experiment.trackers:
        return scores
    step = read_json(job.run.training)["steps"] if job.run.training.exists() else 0
    about = {f"run.{name}": str(value) for name, value in scores["experiment"].items()}
    table = table_of(scores, job.experiment.lang)
    with tracked(job.run, job.experiment) as trackers:
        for name, send in trackers.items():
            with _said_of(name):
                send(about, figures_of(scores), table, step)
    return scores


def figures_of(scores: dict[str, Any]) -> Figures:
    """What trackers draw: of each system the figures that have an interval, with its ends; the test rows."""
    found = {"test/rows": scores["test_rows"]}
    for system, figures in scores["systems"].items():
        for metric in texts("metrics"):
            if f"{metric}_interval" not in figures:
                continue
            low, high = figures[f"{metric}_interval"] or (None, None)
            each = {"": figures[metric], "_low": low, "_high": high}
            found |= {
                f"test/{system}/{metric}{end}": value for end, value in each.items() if value is not None
            }
    return found


def table_of(scores: dict[str, Any], language: str) -> str:
    """The table of systems and what may be concluded, in Markdown."""
    titles: dict[str, Text | str] = {**texts("systems")}
    blocks: list[Block] = [systems_grid(scores["systems"], titles), Paragraph(Text(**scores["verdict"]))]
    rows = text("rows_and_intervals", count=scores["test_rows"])
    page = Report(scores["experiment"]["dataset"], rows, [Section(text("result"), blocks)])
    return render_markdown(page, Path(), language)


@contextmanager
def tracked(run: RunFolder, experiment: Experiment) -> Iterator[dict[str, Send]]:
    """The run's trackers, open: a training within logs to them, and each takes figures.

    Raises UserError where one cannot be opened.
    """
    known = read_json(run.tracked) if run.tracked.exists() else {}
    with ExitStack() as opened:
        sends: dict[str, Send] = {}
        for name in experiment.trackers:
            with _said_of(name):
                known[name], sends[name] = opened.enter_context(
                    TRACKERS[name](run, experiment, known.get(name))
                )
        if sends:
            write_json(run.tracked, known)
        yield sends


@contextmanager
def _said_of(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each tracker has its own family of exceptions
        raise MomentaryError(
            f"report_to={name}: {type(error).__name__}: {' '.join(str(error).split())[:300]} Is it set as it "
            "was when the run began? The same command goes on from here."
        ) from error


Tracked = Iterator[tuple[str, Send]]  # its id, by which it is opened again


@contextmanager
def _tensorboard(run: RunFolder, experiment: Experiment, known: str | None) -> Tracked:
    """Events in sft/runs, as SWIFT has them.  SWIFT sets the variable once a process."""
    folder = str(experiment.arguments.get("logging_dir") or run.sft.resolve() / "runs")
    before = os.environ.get(LOG_DIR)
    os.environ[LOG_DIR] = folder

    def send(about: dict[str, str], figures: Figures, table: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(folder) as writer:
            writer.add_text("test", "  \n".join([*map(": ".join, about.items()), "", table]), step)
            for name, value in figures.items():
                writer.add_scalar(name, value, step)

    try:
        yield "runs", send
    finally:
        del os.environ[LOG_DIR]
        if before is not None:
            os.environ[LOG_DIR] = before


@contextmanager
def _mlflow(run: RunFolder, experiment: Experiment, known: str | None) -> Tracked:
    """A run in the store that MLFLOW_TRACKING_URI names, else in mlflow.db beside the run folder."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # on import it would ask its makers' server
    import mlflow

    is_set, store = mlflow.is_tracking_uri_set(), run.path.resolve().parent / "mlflow.db"
    if not is_set:
        mlflow.set_tracking_uri(f"sqlite:///{store}")
        if known is not None and not _has(mlflow, known):  # as where the run folder alone was moved
            tell(text("tracked_anew", store=str(store)))
            known = None

    def send(about: dict[str, str], figures: Figures, table: str, step: int) -> None:
        mlflow.log_params(about)
        mlflow.log_metrics(figures, step=step)
        mlflow.set_tag("mlflow.note.content", table)  # shown as the run's description

    try:
        with mlflow.start_run(run_id=known, run_name=None if known else run.path.resolve().name) as opened:
            yield opened.info.run_id, send
    finally:
        if not is_set:
            mlflow.set_tracking_uri(None)


def _has(mlflow: Any, run: str) -> bool:
    try:
        mlflow.get_run(run)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


@contextmanager
def _swanlab(run: RunFolder, experiment: Experiment, known: str | None) -> Tracked:
    """An experiment on SwanLab's server, or what `swanlab sync` sends there later, in sft/swanlog."""
    import swanlab

    name = known or uuid4().hex[:21]  # as long as SwanLab's own
    swanlab.init(
        project=experiment.arguments.get("swanlab_project", "ms-swift"),  # SWIFT's default
        workspace=experiment.arguments.get("swanlab_workspace"),
        experiment_name=experiment.arguments.get("swanlab_exp_name", run.path.resolve().name),
        mode=swanlab_mode(experiment),
        log_dir=str(run.sft / "swanlog"),
        id=name,
        resume="allow",
        # What is printed, and the address of the git remote, stay here: either may hold a secret.
        settings=swanlab.Settings(terminal={"proxy_type": "none"}, probe={"git": False}),
    )

    def send(about: dict[str, str], figures: Figures, table: str, step: int) -> None:
        swanlab.config.update(about)
        swanlab.log({**figures, "test/table": swanlab.Text(table)}, step=step)

    try:
        yield name, send
    except BaseException as error:
        swanlab.finish(state="crashed", error=type(error).__name__)
        raise
    swanlab.finish()


TRACKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "swanlab": _swanlab}
