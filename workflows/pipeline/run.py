"""Runs the stages of a run (stages.py), and finds or makes its folder.

A stage whose inputs (by fingerprint) did not change is not run again, so a run goes on at its first
unfinished stage.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from datetime import datetime
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import check_file, fingerprint, open_whole, read_json, sha256
from workflows.core.run_folder import (
    RunFolder,
    discard_if_unstarted,
    finished_stages,
    holds_a_start_alone,
    is_locked,
    locked,
    mark_begun,
    mark_finished,
)
from workflows.core.screen import Screen, as_typed
from workflows.experiment.cards import COMMAND, INSTALLED, ROOT
from workflows.experiment.checks import check_trackers
from workflows.experiment.experiment import Experiment, load_experiment, save_experiment
from workflows.experiment.job import Job, Stops
from workflows.experiment.options import ONE_PROCESS, ProcessOptions
from workflows.model.loaded import LoadedModel
from workflows.model.machine import peak_memory, reset_peak_memory
from workflows.model.swift_names import check_settings
from workflows.pipeline.lines import lines_again, lines_of
from workflows.pipeline.spread import check_processes, do_by_many
from workflows.pipeline.stages import STAGES, Stage, makers
from workflows.pipeline.taken_over import take_over_data, take_over_training

TAKE_OVER = {"prepare": take_over_data, "train": take_over_training}
# Of an installed copy: in the folder where it was started.
OUTPUTS = Path("outputs") if INSTALLED else ROOT / "outputs"


def start_run(experiment: Experiment, folder: Path | None, screen: Screen) -> RunFolder:
    """The run folder for an experiment: the unfinished one of the same experiment where there is one, else a
    new one.
    """
    check_settings(experiment)
    text = save_experiment(experiment)
    if folder is not None:
        run = RunFolder(folder)
        if run.exported.exists():
            raise UserError(f"--run-folder {folder}: was written by `export`; name a new one.")
        if folder.exists() and not run.experiment.exists() and (not folder.is_dir() or _holds_more(run)):
            raise UserError(f"--run-folder {folder}: is no run folder and not empty; name a new one.")
        if run.experiment.exists() and run.experiment.read_text(encoding="utf-8") != text:
            if not holds_a_start_alone(run) or is_locked(run):
                raise UserError(
                    f"{folder}: holds another experiment; name a new folder, or go on with it: run {folder}"
                )
            run.experiment.unlink()  # nothing came of it: a refused start, say, that was corrected since
    else:
        run = _unfinished(experiment, text) or RunFolder(timed_folder(experiment.name))
    if run.experiment.exists():
        screen.say(f"going on with {as_typed(run.path)}")
        return run
    if experiment.tuning.unlabelled is not None:
        check_file(Path(experiment.tuning.unlabelled))  # it is read late
    with open_whole(run.experiment) as file:
        file.write(text)
    screen.say(f"new run {as_typed(run.path)}")
    return replace(run, is_new=True)


def _holds_more(run: RunFolder) -> bool:
    """Whether a folder holds more than what a process left that was killed before it had described a run."""
    return any(not path.match(f".{run.experiment.name}.*.part") for path in run.path.iterdir())


def _unfinished(experiment: Experiment, text: str) -> RunFolder | None:
    for path in sorted(OUTPUTS.glob(f"{escape(experiment.name)}-*/experiment.yaml"), reverse=True):
        run = RunFolder(path.parent)
        if (
            path.read_text(encoding="utf-8") == text
            and STAGES[-1].name not in finished_stages(run)
            and not is_locked(run)
        ):
            return run
    return None


def timed_folder(name: str) -> Path:
    """A folder in outputs/ that is not there yet: <name>-<time>."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    count, path = 1, OUTPUTS / stem
    while path.exists():
        count, path = count + 1, OUTPUTS / f"{stem}-{count}"
    return path


def open_run(folder: Path) -> tuple[RunFolder, Experiment]:
    """An existing run folder and its experiment; a UserError where it is none, or an exported model."""
    run = RunFolder(folder)
    if run.exported.exists():
        raise UserError(f"{folder}: was written by `export`; name the run itself.")
    return run, load_experiment(run.experiment)


def open_finished(folder: Path) -> RunFolder:
    """A run folder whose model is tuned and scored; a UserError where it is not."""
    run, experiment = open_run(folder)
    if not experiment.tunes:
        raise UserError(f"{folder}: method {experiment.tuning.method} tunes no model; name a run that did.")
    if not are_done(run, experiment, ("tuned", "score")):
        raise UserError(f"{folder}: is not finished; finish it first: {COMMAND} run {folder}")
    return run


def do_stages(
    run: RunFolder,
    experiment: Experiment,
    names: tuple[str, ...],
    screen: Screen,
    features: Path | None = None,
    others: Collection[RunFolder] = (),
    stops: Stops | None = None,
    processes: ProcessOptions = ONE_PROCESS,
) -> None:
    """Do the stages `names` of a run that no other command works on; leave nothing of a new run that is
    refused.

    `features`: where runs share what they read of a frozen model; `others`: the runs whose data and training
    are taken over where they are the same; `stops` may end the training; `processes` share what they can.
    Raises UserError as the stages do.
    """
    with locked(run):
        try:
            _run_stages(run, experiment, names, screen, features, others, stops, processes)
        except UserError as error:
            if run.is_new:
                discard_if_unstarted(run, str(error))
            raise


def join_stages(
    run: RunFolder,
    experiment: Experiment,
    names: tuple[str, ...],
    screen: Screen,
    processes: ProcessOptions,
) -> None:
    """Give this machine's processes to the stages `names` that machine 0 does, one after the other.

    Raises UserError where the run is not prepared, and as the stages do.
    """
    check_processes(experiment, processes, _is_to_train(run, experiment, names))
    job = Job(run, experiment, screen, LoadedModel())
    for stage in STAGES:
        if not (stage.by_many and stage.name in names and stage.is_part_of(experiment)):
            continue
        earlier = [each for each in STAGES[: STAGES.index(stage)] if each.name in names]
        before = tuple(each.name for each in earlier if each.is_part_of(experiment))
        # What it reads is machine 0's to make; files are hashed only once all of them are said to be there.
        while not ({*before} <= finished_stages(run).keys() and are_done(run, experiment, before)):
            time.sleep(1)
        inputs = _inputs(stage, run, experiment)
        if _is_done(stage, run, experiment, inputs):
            continue
        screen.say(f"{stage.name}: helping machine 0 at {processes.master_addr}, when it comes to it")
        with screen.output_to(run.log(f"{stage.name}-{processes.node_rank}")):
            do_by_many(replace(job, inputs=fingerprint(inputs)), stage.name, processes)


def check_answers(run: RunFolder, experiment: Experiment) -> None:
    """Raise UserError where answers of a run are of other inputs than there are now, or of a stage that was
    stopped, as the stage `score` does.  What a copy of a run lacks, as where rows are not given away, counts
    as it was.
    """
    scored = next(stage for stage in STAGES if stage.name == "score")
    if run.stages.exists():
        there = [path for path in scored.needs(run) if path.exists()]
        _check_current(there, run, experiment, cache(sha256))


def is_scored(run: RunFolder) -> bool:
    """Whether a run's scores are there, with those of the tuned model where it has answered."""
    done = finished_stages(run).keys()
    return "score" in done and ("tuned" not in done or "tuned" in read_json(run.scores)["systems"])


def are_done(run: RunFolder, experiment: Experiment, names: tuple[str, ...]) -> bool:
    """Whether none of the stages `names` of a run would be done again."""
    stages = [stage for stage in STAGES if stage.name in names and stage.is_part_of(experiment)]
    try:
        return all(_is_done(stage, run, experiment, _inputs(stage, run, experiment)) for stage in stages)
    except UserError:  # a file is missing
        return False


def _is_to_train(run: RunFolder, experiment: Experiment, names: tuple[str, ...]) -> bool:
    return experiment.tunes and "train" in names and not are_done(run, experiment, ("train",))


def _is_done(stage: Stage, run: RunFolder, experiment: Experiment, inputs: dict[str, str]) -> bool:
    there = all(path.exists() for path in stage.writes(run, experiment))
    return there and finished_stages(run).get(stage.name, {}).get("inputs") == inputs


def _run_stages(
    run: RunFolder,
    experiment: Experiment,
    names: tuple[str, ...],
    screen: Screen,
    features: Path | None,
    others: Collection[RunFolder],
    stops: Stops | None,
    processes: ProcessOptions,
) -> None:
    """Run the stages `names`, in order, leaving out those that are done or that this experiment has not;
    record each in stages.json.

    Raises UserError where a file of an earlier stage is missing, or the last of `names` is not for this
    experiment.
    """
    if not any(stage.name == names[-1] and stage.is_part_of(experiment) for stage in STAGES):
        raise UserError(
            f"{run.path}: {names[-1]} is no stage of method {experiment.tuning.method} on "
            f"{experiment.dataset.task} data."
        )
    stages = [stage for stage in STAGES if stage.name in names and stage.is_part_of(experiment)]
    if {"train", "score"} & {stage.name for stage in stages}:
        check_trackers(experiment)
    shared = Job(run, experiment, screen, LoadedModel(), features=features, stops=stops)
    if processes.total > 1:
        check_processes(experiment, processes, _is_to_train(run, experiment, names))
    for number, stage in enumerate(stages, start=1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        inputs = _inputs(stage, run, experiment)
        if _is_done(stage, run, experiment, inputs):
            screen.say(f"{title}: done before")
            if stage is stages[-1]:
                for line in lines_again(stage.name, run):
                    screen.say(f"  {line}")
            continue
        before = finished_stages(run).get(stage.name, {}).get("inputs")
        mark_begun(run, stage.name)
        take_over = TAKE_OVER.get(stage.name)
        taken = None if take_over is None else take_over(run, inputs, others)
        if taken is not None:
            screen.say(f"{title}: taken over from {as_typed(Path(taken['taken_over']['run']))}")
            mark_finished(run, stage.name, taken)
            continue
        screen.say(title + _why_again(before, inputs))
        start = time.monotonic()
        reset_peak_memory()
        try:
            with screen.output_to(run.log(stage.name)) as told:
                job = replace(shared, inputs=fingerprint(inputs))
                by_many = stage.by_many and processes.total > 1
                found = do_by_many(job, stage.name, processes) if by_many else {"summary": stage.do(job)}
                summary = found["summary"]
        except UserError:
            raise
        except Exception:
            screen.say(f"  failed; what SWIFT printed is in {as_typed(run.log(stage.name))}")
            raise
        for line in lines_of(stage.name, summary, run):
            screen.say(f"  {line}")
        seconds = time.monotonic() - start
        record = {
            "inputs": inputs,
            "seconds": round(seconds, 2),
            "peak_memory_bytes": found.get("peak_memory_bytes") or peak_memory(),
            "systems": summary.get("seconds", {}) if isinstance(summary, dict) else {},
            "at": f"{datetime.now():%F %T}",
            **({"told": [asdict(said) for said in told]} if told else {}),
        }
        mark_finished(run, stage.name, record)
        screen.say(f"  {seconds:.0f} s")


def _inputs(stage: Stage, run: RunFolder, experiment: Experiment) -> dict[str, str]:
    """The fingerprint of each thing that goes into a stage, by name; a UserError as `_check_current`."""
    hashed = cache(sha256)
    _check_current(stage.needs(run), run, experiment, hashed)
    files = {str(path.relative_to(run.path)): hashed(path) for path in stage.needs(run)}
    return files | {name: fingerprint(value) for name, value in stage.depends(run, experiment).items()}


def _check_current(
    paths: Collection[Path], run: RunFolder, experiment: Experiment, hashed: Callable[[Path], str]
) -> None:
    """Raise UserError where a file is missing, of a stage that was stopped, since it may be half of what was
    meant, or of other inputs than there are now.
    """
    done, made_by = finished_stages(run), makers(run, experiment)
    for path in paths:
        maker = made_by.get(path)
        command = "run" if maker is None else maker.made_by
        why = "is missing" if not path.exists() else None
        if why is None and maker is not None and maker.name not in done:
            why = f"is of a stage that was not finished ({maker.name})"
        if why is None and maker is not None:
            why = _why_stale(maker, run, done, made_by, hashed)
        if why is not None:
            raise UserError(
                f"{run.path}: {path.relative_to(run.path)} {why}; run `{command} {run.path}` first."
            )


def _why_stale(
    stage: Stage,
    run: RunFolder,
    done: dict[str, Any],
    made_by: dict[Path, Stage],
    hashed: Callable[[Path], str],
) -> str | None:
    """Why what a finished stage wrote is of other files than the run folder has now; None where it is not.

    A file that is gone counts as it was, and so does what lies outside of the run folder.
    """
    before = done[stage.name].get("inputs", {})
    for path in stage.needs(run):
        maker, name = made_by.get(path), str(path.relative_to(run.path))
        if maker is not None and maker.name not in done:
            return f"is older than a stage that was not finished ({maker.name})"
        if name in before and path.exists() and before[name] != hashed(path):
            if path.suffix == ".json":
                read_json(path)  # a damaged one is named as that
            return f"is of other inputs than there are now ({name} changed)"
        if maker is not None and (why := _why_stale(maker, run, done, made_by, hashed)) is not None:
            return why
    return None


def _why_again(before: dict[str, str] | None, inputs: dict[str, str]) -> str:
    """What is said of a stage that was done before and is done again."""
    if before is None:
        return ""
    changed = [name for name in {**before, **inputs} if before.get(name) != inputs.get(name)]
    return f": again, {', '.join(changed) + ' changed' if changed else 'its files are gone'}"
