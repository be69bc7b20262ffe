"""Starts or opens a run, does its stages, and shows the scores."""

from dataclasses import replace
from pathlib import Path

from workflows.core.costs import costs_of
from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.run_folder import discard_if_unstarted, locked
from workflows.core.screen import Screen, shown
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
    with locked(run):
        if "tuned" in names and "train" not in names:  # whatever answers by now
            if experiment.tunes and not run.training.exists():
                names = tuple(name for name in names if name != "tuned")
                screen.say("not trained yet: only the answers before tuning")
            parts = [stage.name for stage in STAGES if stage.is_part_of(experiment)]
            names = tuple(name for name in names if name in parts) or names
        try:
            run_stages(run, experiment, names, screen)
        except UserError:
            discard_if_unstarted(run)
            raise
    if "score" in names:
        screen.say("\n" + render_scores(read_json(run.scores), costs_of(run)))
    screen.say(f"run folder: {shown(run.path)}")
