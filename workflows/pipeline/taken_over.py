"""Prepared data or a finished training of another run of the same study or search, taken over where the same
goes into it: runs that differ in their training alone read the data once, those that differ in their test
rows alone train once.
"""

import os
import shutil
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import fingerprint, open_whole
from workflows.core.run_folder import SPLITS, RunFolder, checkpoint_of, finished_stages

Record = dict[str, Any]  # of a stage, in stages.json


def take_over_data(run: RunFolder, inputs: dict[str, str], others: Iterable[RunFolder]) -> Record | None:
    """Give `run` the data that one of `others` prepared of the same `inputs`; what stages.json says of it, or
    None where there is none.

    Files are linked where that is possible: none is written to once it is there.
    """
    start = time.monotonic()
    for other in others:
        record = finished_stages(other).get("prepare")
        if record is None or other.path.resolve() == run.path.resolve() or record["inputs"] != inputs:
            continue
        if not all(path.exists() for path in (*map(other.split, SPLITS), other.rejected, other.manifest)):
            continue
        shutil.rmtree(run.manifest.parent, ignore_errors=True)
        own = shutil.ignore_patterns(".*", other.tokens.name, "derived*")  # what later stages add
        shutil.copytree(other.manifest.parent, run.manifest.parent, ignore=own, copy_function=_link)
        return _taken(record, other, start)
    return None


def take_over_training(run: RunFolder, inputs: dict[str, str], others: Iterable[RunFolder]) -> Record | None:
    """Give `run` the sft/ and training.json of that one of `others` which trained on the same `inputs`; what
    stages.json says of it, or None where there is none.

    Files of sft/ are linked where that is possible: none is written to once a training is done.  As after one
    of its own, training.json is there last, so that a stop in the middle starts anew.
    """
    start = time.monotonic()
    for other in others:
        record = finished_stages(other).get("train")
        if record is None or other.path.resolve() == run.path.resolve() or not _is_whole(other, record):
            continue
        if _trained_on(record["inputs"]) != _trained_on(inputs):
            continue
        shutil.rmtree(run.sft, ignore_errors=True)
        marker = shutil.ignore_patterns(run.trained_on.name)  # it is written when all else is there
        shutil.copytree(other.sft, run.sft, symlinks=True, ignore=marker, copy_function=_link)
        run.trained_on.write_text(fingerprint(inputs), encoding="utf-8")
        with open_whole(run.training) as file:
            file.write(other.training.read_text(encoding="utf-8"))
        return {**_taken(record, other, start), "inputs": inputs}
    return None


def _taken(record: Record, other: RunFolder, start: float) -> Record:
    """The record of a stage that was taken over from `other`: what it took and needed there stays known."""
    before = {"run": str(other.path.resolve()), "seconds": record["seconds"]}
    return {
        **record,
        "seconds": round(time.monotonic() - start, 2),
        "at": f"{datetime.now():%F %T}",
        "taken_over": record.get("taken_over", before),
    }


def _trained_on(inputs: dict[str, str]) -> dict[str, str]:
    """The inputs without the lengths of rows: those of training rows follow from the others, and no training
    looks at those of test rows.
    """
    return {name: value for name, value in inputs.items() if name != "data/tokens.json"}


def _is_whole(run: RunFolder, record: dict[str, Any]) -> bool:
    """Whether what lies in sft/ is the training of the record, and not a later one that was stopped."""
    if not (run.trained_on.exists() and run.training.exists()):
        return False
    try:
        checkpoint_of(run)
    except UserError:
        return False
    return run.trained_on.read_text(encoding="utf-8") == fingerprint(record["inputs"])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
