"""What is learned does not depend on how many tokens are computed at a time, whatever the loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from swift.callbacks import callbacks_map
from swift.trainers import Seq2SeqTrainer

from tests.conftest import LAST, make_experiment, settings
from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.screen import Screen
from workflows.model import memory
from workflows.pipeline.run import do_stages, start_run
from workflows.tuning.callbacks import RUN_WATCH

pytestmark = pytest.mark.slow

SETTINGS = [*LAST, *settings("logging_steps=1", "lora_dropout=0")]


@pytest.mark.parametrize("method", ["lora", "label-loss", "head"])
def test_losses_are_the_same_row_by_row(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(
        "--method", method, "--train-samples", "96", "--test-samples", "20", *SETTINGS
    )
    losses: list[list[float]] = []
    for tokens in (2048, 1):
        monkeypatch.setitem(memory.PIECE_TOKENS, "cpu", tokens)
        run = start_run(experiment, tmp_path / str(tokens), Screen())
        do_stages(run, experiment, ("prepare", "tokens", "train"), Screen())
        history = read_json(run.training)["log_history"]
        losses.append([entry[key] for entry in history for key in ("loss", "eval_loss") if key in entry])
        assert callbacks_map[RUN_WATCH].watched.model is None  # nothing keeps the trained model
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_training_without_memory_for_one_row_is_one_line_that_says_what_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    experiment = make_experiment("--train-samples", "96", "--test-samples", "20")
    run = start_run(experiment, tmp_path / "run", Screen())
    do_stages(run, experiment, ("prepare", "tokens"), Screen())
    monkeypatch.setattr("workflows.tuning.train.sft_main", no_memory)
    line = r"memory ran out in training: .* GB free .* goes on from the last"
    with pytest.raises(UserError, match=line) as caught:
        do_stages(run, experiment, ("train",), Screen())
    assert "\n" not in str(caught.value)


def test_a_step_of_several_batches_without_memory_goes_on_with_smaller_ones_and_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    step, batches = Seq2SeqTrainer.training_step, 0

    def short_of_memory(trainer: Any, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
        nonlocal batches
        batches += 1
        if batches > 3 and len(inputs["labels"]) > 8:  # in the second step
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(trainer, model, inputs, *args)

    options = settings("max_steps=3", "eval_steps=1", "save_steps=1", "logging_steps=1", "lora_dropout=0")
    options += settings("per_device_train_batch_size=16", "gradient_accumulation_steps=2")
    options += settings("group_by_length=false")  # else SWIFT draws the order of rows by the rows of a batch
    experiment = make_experiment("--train-samples", "96", "--test-samples", "20", *options)
    losses: list[list[float]] = []
    for name in ("enough", "short"):
        run = start_run(experiment, tmp_path / name, Screen())
        do_stages(run, experiment, ("prepare", "tokens", "train"), Screen())
        history = read_json(run.training)["log_history"]
        losses.append([entry["loss"] for entry in history if "loss" in entry])
        monkeypatch.setattr(Seq2SeqTrainer, "training_step", short_of_memory)
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    (told,) = read_json(run.stages)["train"]["told"]
    assert told["en"] in capfd.readouterr().out
    assert "8 rows are computed at a time and 4 times before each step" in told["en"]
