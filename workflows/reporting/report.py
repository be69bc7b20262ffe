"""The door of the reporting stage: a run's files become report.html, report.md and figures/."""

import shlex
import shutil
from pathlib import Path

from workflows.core.files import read_jsonl
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.core.screen import as_typed
from workflows.experiment.cards import COMMAND
from workflows.experiment.job import Job
from workflows.experiment.options import flags_of
from workflows.reporting.content import build_report
from workflows.reporting.figures import (
    draw_confusions,
    draw_curves,
    draw_lengths,
    draw_reliability,
    save_figure,
)
from workflows.reporting.files import Files, read_files
from workflows.reporting.render import write_report

# What a table says as well: one label for all rows, and other ways to read what the untuned model says.
NO_PANEL = ("majority", "zero_shot_labels", "zero_shot_threshold")


def report(job: Job) -> None:
    """Read scores.json, predictions, manifest and what else there is; write report.html, report.md, figures/.

    The report shows the command that starts the same run anew, and the one that repeats it from its own file.
    """
    run, experiment = job.run, job.experiment
    command = shlex.join([*COMMAND.split(), "run", *flags_of(experiment.options)])
    reproduce = shlex.join([*COMMAND.split(), "reproduce", as_typed(run.path)])
    files = read_files(run)
    drawing = run.figures.with_name(".figures.part")
    shutil.rmtree(drawing, ignore_errors=True)
    _draw(drawing, run, files, [label.name for label in experiment.labels])
    shutil.rmtree(run.figures, ignore_errors=True)
    drawing.rename(run.figures)
    write_report(build_report(files, experiment, command, reproduce), run.path, experiment.lang)


def _draw(folder: Path, run: RunFolder, files: Files, labels: list[str]) -> None:
    systems = files.scores["systems"]
    if files.training is not None:
        kept = int(files.training["checkpoint"].split("-")[1])
        save_figure(folder, "curves", draw_curves, files.training["log_history"], kept)
    if files.scores["task"] == "single_label":
        panels = {name: figures for name, figures in systems.items() if name not in NO_PANEL} or systems
        save_figure(folder, "confusion", draw_confusions, panels, labels=labels)
        save_figure(folder, "reliability", draw_reliability, panels)
    characters = {name: [len(row["review"]) for row in read_jsonl(run.split(name))] for name in SPLITS}
    save_figure(folder, "lengths", draw_lengths, characters, files.tokens)
