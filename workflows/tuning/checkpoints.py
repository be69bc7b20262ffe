"""The checkpoints of an interrupted training: which of them it can go on from."""

import os
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from workflows.core.files import read_json
from workflows.core.permissions import check_folder
from workflows.experiment.job import Job
from workflows.model.machine import is_adalora
from workflows.model.ranks import first_before_others

# What a training cannot go on without: it would learn something else, or nothing.
NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
OF_A_PROCESS = "rng_state_*.pth"  # stand for the last where several processes trained


def last_checkpoint(job: Job) -> Path | None:
    """The newest whole checkpoint of an interrupted training with the same inputs; clears away any other
    training, one of AdaLoRA, and newer checkpoints that are not whole, and says so of these two.
    """
    with first_before_others():
        return _find_last(job)


def _find_last(job: Job) -> Path | None:
    run, marker = job.run, job.run.trained_on
    same = marker.exists() and marker.read_text(encoding="utf-8") == job.inputs
    if same and is_adalora(job.experiment.arguments) and any(run.sft.glob("checkpoint-*")):
        # A checkpoint's weights leave out the ranks that were taken; its optimiser has them.
        job.screen.say("  AdaLoRA cannot go on from a checkpoint: the training begins anew")
        same = False
    if not same:
        run.training.unlink(missing_ok=True)  # it names a checkpoint of that training
        shutil.rmtree(run.sft, ignore_errors=True)
        run.tracked.unlink(missing_ok=True)  # a tracked run has the losses of one training
        run.sft.mkdir(parents=True)
        marker.write_text(job.inputs, encoding="utf-8")
        return None
    found = sorted(run.sft.glob("checkpoint-*"), key=step_of)
    for checkpoint in found:
        keep_order(checkpoint)
    while found:
        if (why := _not_whole(found[-1]) or _best_not_whole(found[-1])) is None:
            check_folder(found[-1])
            return found[-1]
        job.screen.say(f"  {found[-1].name} is left out: {why}")
        shutil.rmtree(found.pop())
    return None


def keep_order(checkpoint: Path) -> None:
    """Date a checkpoint by its step: transformers removes the one with the oldest date, which is the newest
    where the clock was set back.
    """
    os.utime(checkpoint, (step_of(checkpoint), step_of(checkpoint)))


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(checkpoint.name.split("-")[1])


def _not_whole(checkpoint: Path) -> str | None:
    """The first file that a checkpoint lacks or that is cut off; None where there is none."""
    for name in NEEDED:
        by_processes = name == NEEDED[-1] and any(checkpoint.glob(OF_A_PROCESS))
        if not (checkpoint / name).exists() and not by_processes:
            return f"{name} is missing"
    if not any(checkpoint.glob("*model*.safetensors")) and not any(checkpoint.glob("*model*.bin")):
        return "its weights are missing"
    for path in sorted(checkpoint.iterdir()):
        try:
            if path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".safetensors":
                safe_open(path, "pt")
            elif path.suffix in (".pt", ".pth", ".bin"):  # zip files, of which the end says what is in them
                zipfile.ZipFile(path).close()
        except (SafetensorError, zipfile.BadZipFile, ValueError):
            return f"{path.name} is torn"
    return None


def _best_not_whole(checkpoint: Path) -> str | None:
    """What the best checkpoint lacks that a whole one names: it may be the one that is kept in the end."""
    named = read_json(checkpoint / NEEDED[0]).get("best_model_checkpoint")
    best = checkpoint if named is None else checkpoint.with_name(Path(named).name)
    why = _not_whole(best)
    return None if why is None else f"of {best.name}, the best before it, {why}"
