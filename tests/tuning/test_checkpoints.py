"""Which checkpoint an interrupted training goes on from, where files of some are torn or missing."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers.trainer_utils import rotate_checkpoints

from tests.conftest import make_experiment
from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.job import Job
from workflows.tuning.checkpoints import last_checkpoint
from workflows.tuning.train import _resume_with


def _write(run: RunFolder, step: int, best: int) -> Path:
    """A checkpoint with the files that SWIFT writes."""
    folder = run.sft / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"lora_A.weight": torch.zeros(8, 8)}, folder / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"step": step}, folder / name)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    # As where the run was on the machine that is gone.
    state = {"global_step": step, "best_model_checkpoint": f"/gone/sft/checkpoint-{best}"}
    (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Job:
    run = RunFolder(tmp_path / "run")
    for step, best in ((10, 10), (20, 20), (30, 20)):
        _write(run, step, best)
    run.trained_on.write_text("these inputs", encoding="utf-8")
    return Job(run, make_experiment(), inputs="these inputs")


def _resumed(job: Job) -> str | None:
    found = last_checkpoint(replace(job, screen=Screen()))  # as the terminal is now
    return None if found is None else found.name


NEWEST = "checkpoint-30"
CUT = ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "adapter_config.json")
LOST = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("name", "left"),
    [*((name, 0.5) for name in CUT), *((name, 0) for name in CUT), *((n, None) for n in LOST)],
)
def test_a_checkpoint_that_is_not_whole_is_left_out_and_named(
    job: Job, name: str, left: float | None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _resumed(job) == NEWEST
    file = job.run.sft / NEWEST / name
    if left is None:
        file.unlink()
    else:
        os.truncate(file, int(left * file.stat().st_size))
    assert _resumed(job) == "checkpoint-20"
    said = capfd.readouterr().out
    assert said.startswith(f"  {NEWEST} is left out: ")
    assert said.count("\n") == 1
    assert name in said or "weights are missing" in said
    assert not file.parent.exists()  # else the training would write into it


def test_the_best_checkpoint_of_a_run_that_was_moved_is_found_beside_the_last(job: Job) -> None:
    last = job.run.sft / NEWEST
    _resume_with(last / "trainer_state.json", 8)
    state = read_json(last / "trainer_state.json")
    assert state["best_model_checkpoint"] == str(job.run.sft / "checkpoint-20")
    assert state["train_batch_size"] == 8


def test_without_a_whole_checkpoint_training_begins_again(job: Job) -> None:
    for checkpoint in job.run.sft.glob("checkpoint-*"):
        (checkpoint / "optimizer.pt").write_bytes(b"")
    assert _resumed(job) is None
    assert not any(job.run.sft.glob("checkpoint-*"))


def test_what_a_training_gave_goes_with_its_checkpoints(job: Job) -> None:
    job.run.training.write_text('{"checkpoint": "checkpoint-30"}', encoding="utf-8")
    assert _resumed(job) == NEWEST
    assert job.run.training.exists()
    assert _resumed(replace(job, inputs="others")) is None
    assert not job.run.training.exists()


def test_adalora_begins_anew_for_its_optimiser_has_ranks_that_a_checkpoint_left_out(
    job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    adaptive = replace(job, experiment=make_experiment("--method", "adalora"))
    assert _resumed(adaptive) is None
    assert not any(job.run.sft.glob("checkpoint-*"))
    assert capfd.readouterr().out.startswith("  AdaLoRA cannot go on from a checkpoint")
    assert _resumed(adaptive) is None  # a training that begins says nothing
    assert capfd.readouterr().out == ""


def test_one_whose_best_so_far_is_torn_could_not_end_well(job: Job) -> None:
    os.truncate(job.run.sft / "checkpoint-20" / "adapter_model.safetensors", 20)
    assert _resumed(job) == "checkpoint-10"


def test_a_clock_that_was_set_back_takes_no_new_checkpoint(job: Job) -> None:
    ahead = time.time() + 86400
    for checkpoint in job.run.sft.glob("checkpoint-*"):
        os.utime(checkpoint, (ahead, ahead))
    assert _resumed(job) == NEWEST
    newer = _write(job.run, 40, 20)
    # As transformers does after each checkpoint.
    rotate_checkpoints(str(job.run.sft), 2, str(job.run.sft / "checkpoint-20"), use_mtime=True)
    assert newer.exists()
    assert {path.name for path in job.run.sft.glob("checkpoint-*")} == {"checkpoint-20", "checkpoint-40"}
