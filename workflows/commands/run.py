"""Starts or opens a run, does its stages, and shows the scores."""

from dataclasses import replace
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder, discard_if_unstarted, locked
from workflows.core.screen import Screen, shown
from workflows.experiment.experiment import Experiment
from workflows.experiment.options import DEFAULTS, Language, RunOptions, flags_of
from workflows.experiment.resolve import resolve
from workflows.pipeline.run import open_run, run_stages, start_run
from workflows.pipeline.stages import STAGES
from workflows.scoring.table import render_scores

ALL_STAGES = tuple(stage.name for stage in STAGES)


def work_on_run(
    names: tuple[str, ...],
    folder: Path | None,
    options: RunOptions = DEFAULTS,
    run_folder: Path | None = None,
    verbose: bool = False,
    lang: Language | None = None,
) -> None:
    """Do the stages `names` of a run, and show the scores where they are made anew.

    `folder`: a run that is there and describes itself; None starts one as the options say, in `run_folder` or
    a new folder. Raises UserError where options would be ignored, and as the stages do.
    """
    screen = Screen(verbose)
    if folder is None:
        experiment = resolve(options)
        if "train" in names:
            from workflows.model.folder import check_machine

            check_machine(experiment)  # before data is prepared that this machine could not train on
        run = start_run(experiment, run_folder, screen)
    else:
        given = [flag for flag in flags_of(options) if flag.startswith("--")]
        flags = ", ".join([*given, *([] if run_folder is None else ["--run-folder"])])
        if flags:
            raise UserError(
                f"{folder} has its own experiment.yaml; {flags} would be ignored: leave out one of them."
            )
        run, experiment = open_run(folder)
        experiment = replace(experiment, lang=lang or experiment.lang)
    if "tuned" in names and "train" not in names and not run.training.exists():
        names = ("zero_shot",)
        screen.say("not trained yet: only the answers before tuning")
    do_stages(run, experiment, names, screen)
    if "score" in names:
        screen.say("\n" + render_scores(read_json(run.scores)))
    screen.say(f"run folder: {shown(run.path)}")


def do_stages(run: RunFolder, experiment: Experiment, names: tuple[str, ...], screen: Screen) -> None:
    """Do the stages `names` of a run that no other command works on; leave nothing of a refused start.

    Raises UserError as the stages do.
    """
    with locked(run):
        try:
            run_stages(run, experiment, names, screen)
        except UserError:
            discard_if_unstarted(run)
            raise
