"""Starts or opens a run, does its stages, and shows the scores."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from workflows.core.costs import costs_of
from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen, as_typed
from workflows.core.texts import text
from workflows.experiment.cards import COMMAND
from workflows.experiment.options import Language, NewRun, ProcessOptions, flags_of
from workflows.experiment.resolve import resolve
from workflows.pipeline.run import do_stages, join_stages, open_run, start_run
from workflows.pipeline.stages import STAGES
from workflows.scoring.table import render_scores


def work_on_run(
    stages: tuple[str, ...],
    folder: Path | None,
    new: NewRun,
    screen: Screen,
    lang: Language | None,
    processes: ProcessOptions,
    named: Collection[str],
) -> None:
    """Do `stages` of a run (none named: all), and show the scores where they are made anew.

    `folder`: a run that is there and describes itself; None starts `new`.  `processes`: on another machine
    than 0 they only help.  `named`: the options on the command line.  Raises UserError where `new` would be
    ignored, and as the stages do.
    """
    names = stages or tuple(stage.name for stage in STAGES)
    if processes.node_rank >= processes.nnodes:
        raise UserError(
            f"--node-rank {processes.node_rank}: with --nnodes {processes.nnodes} the last is "
            f"{processes.nnodes - 1}."
        )
    if folder is None:
        if processes.nnodes > 1:
            raise UserError(
                f"--nnodes {processes.nnodes}: every machine must name the same run folder; make it first: "
                f"{COMMAND} prepare --run-folder FOLDER."
            )
        experiment = resolve(new.options)
        if "train" in names:
            from workflows.model.folder import check_machine

            check_machine(experiment)  # before data is prepared that this machine could not train on
        run = start_run(experiment, new.run_folder, screen)
        unasked = experiment.model.name == "tiny" and new.options.tuning.model is None
        is_demo = experiment.data.data_file is None and experiment.dataset.name.startswith("demo")
        if unasked and "train" in names and not is_demo:
            said = text("tiny_at_the_start")
            screen.say(f"{said.en}\n{said.zh}")
    else:
        flags = ", ".join(flag for flag in flags_of(new, named) if flag.startswith("--"))
        if flags and folder.is_file():  # as a shell makes of --data-file *.csv
            raise UserError(
                f"{folder}: is a file, not a run; --data-file takes one file: put all rows into one, or name "
                "those for validation and test with --val-file and --test-file."
            )
        if flags and not RunFolder(folder).experiment.exists():
            raise UserError(
                f"{folder}: there is no such run; the folder of a new one is named by --run-folder {folder}."
            )
        if flags:
            raise UserError(
                f"{folder} has its own experiment.yaml, so {flags} would be ignored: leave them out to go on "
                "with it, or leave out the folder to start a new run."
            )
        run, experiment = open_run(folder)
        experiment = replace(experiment, lang=lang or experiment.lang)
    if "tuned" in names and "train" not in names:  # whatever answers by now
        if experiment.tunes and not run.training.exists():
            names = tuple(name for name in names if name != "tuned")
            screen.say("not trained yet: only the answers before tuning")
        parts = [stage.name for stage in STAGES if stage.is_part_of(experiment)]
        names = tuple(name for name in names if name in parts) or names
    if processes.node_rank > 0:
        join_stages(run, experiment, names, screen, processes)
        return
    do_stages(run, experiment, names, screen, processes=processes)
    if "score" in names:
        screen.say("\n" + render_scores(read_json(run.scores), costs_of(run)))
    screen.say(f"run folder: {as_typed(run.path)}")
