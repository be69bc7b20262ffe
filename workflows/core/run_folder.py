"""Where a run's files lie, how they are written whole, and which stages are done.

A stage writes to a temporary name and renames at the end, so a file that exists is complete.  `stages.json`
keeps, for each finished stage, the fingerprint of each thing that went into it: a stage whose fingerprints
still fit is not run again.
"""

import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from workflows.core.errors import UserError
from workflows.core.files import read_json, refuse_link, remove_left_parts, write_json
from workflows.core.permissions import check_folder

SPLITS = ("train", "val", "test")
LOCK = ".lock"


class _Inside:
    """A file or folder of a run, by its path inside the run folder."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, run: "RunFolder", _: type) -> Path:
        return run.path / self._path


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of one run; nothing is read or written on construction."""

    path: Path
    is_new: bool = field(default=False, compare=False)  # this command has made it

    experiment = _Inside("experiment.yaml")  # everything needed to repeat the run
    environment = _Inside("environment.json")  # versions, hardware, git commit when a model was first loaded
    stages = _Inside("stages.json")  # the finished stages: inputs, seconds and more of each
    rejected = _Inside("data/rejected.jsonl")  # every row that was read and not kept, with its reason
    manifest = _Inside("data/manifest.json")  # counts, sources and hashes of the data
    corrections = _Inside("data/corrections.jsonl")  # labels that --apply changed, where it was given
    flipped = _Inside("data/flipped.jsonl")  # labels that --flip-labels made wrong, where it was given
    tokens = _Inside("data/tokens.json")  # lengths of the rows in tokens, and which exceed max_length
    audit = _Inside("audit.csv")  # likely wrong labels, a table to correct by hand
    audit_summary = _Inside("audit.json")  # how many labels are likely wrong
    probe = _Inside("probe/probe.json")  # what the probe was fitted to, or why it was not
    probe_weights = _Inside("probe/probe.safetensors")  # its regressions, one a layer
    out_of_fold = _Inside("probe/out_of_fold.jsonl")  # of each labelled row, by a probe that did not see it
    threshold = _Inside("predictions/threshold.json")  # what zero_shot_threshold does to log probabilities
    # Training rows that a method made of train.jsonl, used in its place; validation rows where it needs more
    # than val.jsonl has; how they were made; what did not become such a row, with reasons.
    derived = _Inside("data/derived.jsonl")
    derived_val = _Inside("data/derived_val.jsonl")
    derived_summary = _Inside("data/derived.json")
    derived_rejected = _Inside("data/derived_rejected.jsonl")
    sft = _Inside("sft")  # SWIFT's own output: checkpoints, args.json, logging.jsonl
    trained_on = _Inside("sft/inputs.txt")  # the fingerprint of what went into the training that lies there
    training = _Inside("training.json")  # what training gave: checkpoint, rows used, losses
    tracked = _Inside("tracked.json")  # the run's ids in the trackers that report_to names
    scores = _Inside("scores.json")  # metrics of every system
    explained = _Inside("explained.jsonl")  # the clause that carried each confident mistake, by `explain`
    exported = _Inside("export.json")  # in a folder that `export` wrote: what the export was checked by
    report_page = _Inside("report.html")
    report_markdown = _Inside("report.md")
    figures = _Inside("figures")  # the report's figures, as SVG and PNG

    def split(self, name: str) -> Path:
        """SWIFT's data file of the split `name`: train, val or test."""
        return self.path / "data" / f"{name}.jsonl"

    def predictions(self, system: str) -> Path:
        """One row a test review, by the system `system`."""
        return self.path / "predictions" / f"{system}.jsonl"

    def log(self, stage: str) -> Path:
        """What SWIFT printed during `stage`."""
        return self.path / "logs" / f"{stage}.log"


def checkpoint_of(run: RunFolder) -> Path:
    """The folder of the checkpoint that a run's training kept: an adapter, or (full tuning) a whole model.

    Raises UserError where it lies elsewhere, wants code beside it to be run (the run may be anybody's), or
    is gone: the record of a training alone counts as done.
    """
    name = str(read_json(run.training)["checkpoint"])
    if not re.fullmatch(r"checkpoint-\d+", name):
        raise UserError(f"{run.training}: its checkpoint {name!r} is no folder of {run.sft}.")
    folder = run.sft / name
    if not folder.is_dir():
        raise UserError(f"{folder}: is gone; to train again remove {run.training}, then `run {run.path}`.")
    check_folder(folder)
    return folder


def listed_in(run: RunFolder) -> str:
    """What a refusal ends with that has written its rows to the run folder."""
    return f" All rejected rows are listed in {run.rejected}."


def finished_stages(run: RunFolder) -> dict[str, dict[str, Any]]:
    """For each finished stage its record: the fingerprints of its inputs, seconds, peak memory, when."""
    return read_json(run.stages) if run.stages.exists() else {}


def mark_begun(run: RunFolder, stage: str) -> None:
    """Drop the record of `stage`: from now on its files may be of other inputs, some or all of them."""
    done = finished_stages(run)
    if done.pop(stage, None) is not None:
        write_json(run.stages, done)


def mark_finished(run: RunFolder, stage: str, record: dict[str, Any]) -> None:
    """Record that `stage` is done."""
    write_json(run.stages, {**finished_stages(run), stage: record})


def discard_if_unstarted(run: RunFolder, said: str) -> None:
    """Remove the folder of a new run that was refused and holds no whole stage's files yet.  What the refusal
    `said` names stays, such as a list of rejected rows.
    """
    if run.path.exists() and holds_a_start_alone(run) and f"{run.manifest.parent}" not in said:
        shutil.rmtree(run.path)


def holds_a_start_alone(run: RunFolder) -> bool:
    """Whether a run folder that is there holds no whole stage's files yet: data have a manifest, which is
    written last.
    """
    begun = {run.experiment.name, LOCK, "logs", run.manifest.parent.name}
    return not run.manifest.exists() and {path.name for path in run.path.iterdir()} <= begun


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Hold the run folder for this process; a UserError that says which other process holds it."""
    run.path.mkdir(parents=True, exist_ok=True)
    with hold(run.path / LOCK):
        remove_left_parts(run.path)
        yield


def is_locked(run: RunFolder) -> bool:
    """Whether a process holds the run folder."""
    return is_held(run.path / LOCK)


def holder_of(run: RunFolder) -> int | None:
    """The id of the process on this machine that holds the run folder; None where none does.

    The lock file is only read: who tried to hold it would be in the way of who begins just then.
    """
    lock = run.path / LOCK
    said = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    found = re.match(r"process (\d+) on (\S+) since", said)
    if found is None or found[2] != socket.gethostname():
        return None
    try:
        opened = psutil.Process(int(found[1])).open_files()
    except psutil.Error:  # it has ended, or is somebody else's
        return None
    return int(found[1]) if any(Path(each.path) == lock.resolve() for each in opened) else None


@contextmanager
def hold(lock: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock file for this process; the system lets go of it when the process ends, however it ends.

    Raises UserError where it is a link and, unless `wait`, where another process holds it, with which.
    """
    refuse_link(lock)
    with open(lock, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "it just began"
            raise UserError(
                f"{lock.parent}: another command is working on this run ({holder}); wait for it, or stop it."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%F %T}")
        file.flush()
        yield


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock file."""
    try:
        with hold(lock):
            return False
    except UserError:
        return True
