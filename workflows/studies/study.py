"""The door of studies: runs what is missing of a study, and writes study.json and its page.

python run_swift.py study learning-curve --scale smoke
"""

import shlex
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from workflows.core.errors import UserError, what_to_mend
from workflows.core.files import write_json
from workflows.core.run_folder import RunFolder, locked
from workflows.core.screen import Screen, as_typed
from workflows.core.texts import text
from workflows.experiment.cards import COMMAND
from workflows.experiment.experiment import Experiment
from workflows.experiment.options import RunOptions, flags_of
from workflows.pipeline.cluster import Task, each_once, on_cluster, run_in_task
from workflows.pipeline.run import OUTPUTS, do_stages, start_run
from workflows.reporting.render import write_report
from workflows.studies.answers import answer, refuse_other_data, refuse_other_test_rows
from workflows.studies.card import Study, load_study
from workflows.studies.hub_card import write_hub_card
from workflows.studies.page import build_page
from workflows.studies.plan import expected_seconds, render_plan
from workflows.studies.records import read_known_runs, refuse_to_lose
from workflows.studies.runs import Run, Taken, find_runs, row_counter, without_missing_models

OWN = ("data", "features", "figures", "logs", "runs")  # folders of a study that has no run yet


def work_on_study(
    name: str,
    scale: str,
    draws: int | None,
    plan: bool,
    so_far: bool,
    known_runs: tuple[Path, ...],
    flags: RunOptions,
    output: Path | None,
    ray: str | None,
    screen: Screen,
    estimate: Callable[[Any, Screen], list[dict[str, Any]]],
    named: Collection[str] = (),
) -> tuple[Path, str | None]:
    """Run the study `name`, by name or YAML file, and say its answer; with `plan` say what it would take.
    Return its folder, and what is to be said where some runs could not be done.

    `so_far`: start no run.  `known_runs`: study.json files of other machines.  `flags`: options for all its
    runs, before its own, with those of their defaults that are `named`; `ray`: the cluster that does them, as
    of `on_cluster`; `estimate`: says what runs take of whose kind none is finished.  Raises UserError as
    `run_study` does, and where a file of `known_runs` is none.
    """
    study = load_study(name, flags, scale == "smoke", draws, named)
    folder = output or OUTPUTS / "studies" / (study.name if scale == "full" else f"{study.name}-{scale}")
    _refuse_other_folder(folder)
    refuse_other_data(study, folder)
    known = read_known_runs(known_runs)
    needed = not so_far and (not plan or flags.data.data_file is not None)  # what is named is there
    with TemporaryDirectory(prefix="study-") if plan or so_far else nullcontext(folder) as place:
        taken = find_runs(study, folder, known, row_counter(Path(place), folder, needed, screen))
    if plan:
        _, taken, _ = without_missing_models(study, taken, False, screen)
        runs = [*{run.name: run for _, run in taken}.values()]
        screen.say(render_plan(runs, lambda asked: estimate(asked, screen)))
        return folder, None
    command = [*COMMAND.split(), "study", name, *flags_of(flags, named)]
    command += [] if scale == "full" else ["--scale", scale]
    command += [] if draws is None else ["--draws", str(draws)]
    command += [] if output is None else ["--output", str(output)]
    found, failed = run_study(study, taken, folder, shlex.join(command), so_far, flags.lang, ray, screen)
    for said in found["answer"]:
        screen.say(f"\n{said['en']}\n{said['zh']}")
    if found["stands_in"]:
        stand_in = text("answers_nothing_of_a_real_qwen")
        screen.say(f"\n{stand_in.en}\n{stand_in.zh}")
    screen.say(f"\nreport: {as_typed(folder / 'report.html')}")
    return folder, failed


def _refuse_other_folder(folder: Path) -> None:
    """Raise UserError where `folder` is a file, a run, or has files that are of no study: a page and a
    README.md would be written over them.
    """
    if not folder.exists():
        return
    others = [folder.name] if not folder.is_dir() else []
    if not others and not (folder / "study.json").exists() and not any(folder.glob("runs/*/experiment.yaml")):
        others = [each.name for each in folder.iterdir() if each.name[0] != "." and each.name not in OWN]
    if others:
        raise UserError(f"{folder}: is no study, and has {others[0]}; name a folder of its own by --output.")


def run_study(
    study: Study,
    taken: Taken,
    folder: Path,
    command: str,
    so_far: bool,
    lang: str,
    ray: str | None,
    screen: Screen,
) -> tuple[dict[str, Any], str | None]:
    """Do the runs of a study that are missing, unless `so_far`; write study.json, report.html, report.md,
    README.md and figures/ into `folder`; return what study.json holds, and what is to be said where some runs
    could not be done.

    `command`: the one that repeats it; `ray`: as of `work_on_study`.  Raises UserError where another command
    works on the study, where the answers of its runs do not go together, where no run is finished, or where
    study.json would lose runs of other machines.
    """
    left_out: list[dict[str, str]] = []
    failed: list[str] = []
    if not so_far:
        study, taken, left_out = without_missing_models(study, taken, ray is None, screen)
    with nullcontext() if so_far else locked(RunFolder(folder)):
        runs = [*{run.name: run for _, run in taken}.values()]
        finished = {run.key for run in runs if run.is_done}
        missing = [run for run in runs if not run.without_model and run.key not in finished]
        screen.say(f"study {study.name}: {len(runs)} runs, {len(finished)} of them finished")
        refuse_to_lose(folder / "study.json", finished, {run.key: run.name for run in runs})
        if not so_far and missing and ray is not None:
            failed = _do_on_cluster(runs, missing, folder, ray, screen)
        elif not so_far:
            failed = _do_missing(study, taken, runs, missing, folder, screen)
        elif not finished:
            raise UserError(f"study {study.name} --so-far: none of its runs is finished yet.")
        if failed and not any(run.is_done for run in runs):
            raise UserError(failed[0])
        found = answer(study, taken, folder) | {"left_out": left_out, "command": command}
        write_json(folder / "study.json", found)
        page = build_page(found, folder / "figures")
        write_report(page, folder, lang)
        tested = {run.key: run.experiment.tested_on for _, run in taken}
        write_hub_card(found, page, tested, folder)
    if not failed:
        return found, None
    return found, (
        f"study {study.name}: {len(failed)} of {len(missing)} runs could not be done, and are left for the "
        f"same command; the page has the others. The first: {failed[0]}"
    )


def _do_missing(
    study: Study, taken: Taken, runs: list[Run], missing: list[Run], folder: Path, screen: Screen
) -> list[str]:
    """Do the runs that are missing; why some could not be done, which keeps no other from it.

    Raises UserError as soon as two runs of a panel are tested on different rows.
    """
    start, failed = time.monotonic(), list[str]()
    names = {run.name for run in missing}
    done = {cell.panel: run for cell, run in taken if run.name not in names and not run.without_model}
    tested = {panel: (run, run.record) for panel, run in done.items()}
    for number, run in enumerate(missing):
        expected = expected_seconds(runs)
        times = [expected.get((each.kind, each.size)) for each in missing[number:]]
        known = sum(seconds for seconds in times if seconds is not None)
        left = "" if None in times else f", about {_spoken(known)} left"
        so_far = "" if number == 0 else f", {(time.monotonic() - start) / number:.0f} s a run so far"
        what = f"{run.experiment.name}, {run.size} training rows{so_far}{left}"
        screen.say(f"\nrun {number + 1} of {len(missing)}: {what}")
        others = [each.folder for each in runs]
        try:
            started = start_run(run.experiment, run.folder.path, screen)
            do_stages(started, run.experiment, run.stages, screen, folder / "features", others)
        except Exception as error:
            if (why := what_to_mend(error, [folder])) is None:
                raise
            screen.say(f"not done: {why}")
            failed.append(why)
            continue
        here = run, run.record
        for panel in {cell.panel for cell, each in taken if each is run}:
            refuse_other_test_rows(study, here, tested.setdefault(panel, here))
    return failed


def _do_on_cluster(
    runs: list[Run], missing: list[Run], folder: Path, address: str, screen: Screen
) -> list[str]:
    """As `_do_missing`, each run a task of its own.  What one reads of a frozen model is not shared with
    those beside it.
    """
    start, failed = time.monotonic(), list[str]()
    others = [RunFolder(each.folder.path.resolve()) for each in runs]
    tasks = iter(
        Task(
            f"{each.name}, {each.size} training rows",
            partial(do_there, each.experiment, each.folder.path.resolve(), each.stages, others),
            with_model=bool(each.makes - {"baselines"}),
        )
        for each in missing
    )
    done = 0
    with screen.output_to(folder / "logs" / "ray.log"), on_cluster(address) as has:
        screen.say(has)
        for task, machine, wrong in each_once(lambda: next(tasks, None)):  # its result: None, or an error
            if machine is not None:
                screen.say(f"begun on {machine}: {task.name}")
                continue
            done += 1
            if wrong is not None:
                failed.append(str(wrong))
            left = (time.monotonic() - start) / done * (len(missing) - done)
            how = "done" if wrong is None else f"not done ({wrong})"
            screen.say(f"run {done} of {len(missing)} is {how}: {task.name}; about {_spoken(left)} left")
    return failed


def do_there(experiment: Experiment, folder: Path, stages: tuple[str, ...], others: list[RunFolder]) -> None:
    """Do a run of a study, `folder`, in a process on any machine that sees the study.

    Raises UserError where the machine does not see it, and as the stages do.
    """
    with run_in_task(experiment, folder, beside=folder.parents[1]) as (run, screen):
        do_stages(run, experiment, stages, screen, others=others)


def _spoken(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"
