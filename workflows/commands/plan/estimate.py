"""The figures of a plan: stages that need no model are run, a short calibration (calibration.py) gives time
and memory of the others here, and other machines are estimated (devices.py).
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from swift.dataloader.shard import BatchSamplerShard

from workflows.baselines.audit import audit
from workflows.baselines.baselines import run_baselines
from workflows.commands.plan.calibration import STAGES, Batch, Figures, calibrate
from workflows.commands.plan.devices import DEVICES, Device, changes_to_fit, seconds_on
from workflows.commands.plan.plan import asked_for
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.rows import Rows, conversation
from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.screen import Screen
from workflows.data.splits import sample_rows
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.model.arguments import build_sft_arguments
from workflows.model.folder import fetch_model, with_local_model
from workflows.model.loaded import carries_state
from workflows.model.machine import Machine, find_machine, memory_within_reach, processors_within_reach
from workflows.model.memory import PROCESS, Sizes, fit_to_memory, load_of, memory, read_sizes
from workflows.model.tokens import common_beginning, row_lengths
from workflows.pipeline.run import do_stages
from workflows.pipeline.training import SCORE_AND_REPORT
from workflows.tuning.callbacks import SAMPLED

SCORER_ROWS = 64  # that share a batch of the scorer, about
PROBED = 0.75  # of the layers
ALL_BUSY = 0.9  # of the processors' time: where less was used, other programs took nothing


@dataclass(frozen=True)
class Training:
    """What a prepared run would train on, and how, on this machine."""

    ready: Experiment  # with its model as a local folder, weights or not
    fitted: Experiment  # with what memory here asks for
    piece_tokens: int | None  # that are computed at a time
    arguments: Any  # SWIFT's, of `fitted`
    sizes: Sizes
    rows: Rows  # that are used
    lengths: list[int]  # their tokens
    batches: list[Batch]  # of an epoch
    epochs: float
    steps: int
    evaluations: int

    @property
    def computed(self) -> int:
        """Tokens in all epochs."""
        return round(self.epochs * sum(tokens for _, tokens in self.batches))


def with_description(experiment: Experiment) -> Experiment:
    """The experiment with its model as a local folder of what describes it; a UserError where it cannot be
    had.
    """
    folder = fetch_model(experiment.arguments, weights=False)
    card = replace(experiment.model, arguments={**experiment.model.arguments, "model": str(folder)})
    return replace(experiment, model=card)


def training_of(
    run: RunFolder, experiment: Experiment, machine: Machine, within_reach: float, screen: Screen
) -> Training:
    """What a run that has its data and tokens.json would train on; `within_reach`: bytes of memory.

    Raises UserError as training does.
    """
    ready = with_local_model(experiment)
    fitted, piece_tokens = fit_to_memory(run, ready, machine, within_reach)
    arguments = build_sft_arguments(run, fitted, machine)
    rows, lengths, begun = _used_rows(run, arguments, screen)
    sizes = read_sizes(Path(ready.model.arguments["model"]))
    shared = 0 if carries_state(sizes.config) else begun  # such layers share no beginning
    batches = _batches(arguments.training_args, lengths, shared)
    schedule = _schedule(arguments.training_args, len(batches))
    return Training(ready, fitted, piece_tokens, arguments, sizes, rows, lengths, batches, *schedule)


def rows_looked_at(run: RunFolder, experiment: Experiment) -> Rows:
    """The validation rows that an evaluation during training looks at."""
    return sample_rows(read_jsonl(run.split("val")), experiment.tuning.eval_rows, experiment.data.data_seed)


def measure(
    run: RunFolder, training: Training, machine: Machine, screen: Screen
) -> tuple[Figures, dict[str, float], float]:
    """Seconds of the model's stages as `calibrate` has them, bytes of each stage at most, and the share of
    the processors' time that other programs took, which the seconds are without.
    """
    screen.say(f"calibrating on {machine.device} ({machine.name}) with a few layers of random weights …")
    process = psutil.Process()
    process.cpu_percent(), psutil.cpu_percent()  # both count from here
    val, test = rows_looked_at(run, training.ready), read_jsonl(run.split("test"))
    given = {"train": training.rows, "val": val, "test": test}
    folder = run.path / "calibration"
    figures = calibrate(given, training.fitted, machine, training.batches, folder, screen)
    own, busy = process.cpu_percent() / 100 / processors_within_reach(), psutil.cpu_percent() / 100
    taken = max(0.0, 1 - own / busy) if machine.device == "cpu" and busy > ALL_BUSY else 0.0
    peaks = {stage: figures.pop(f"{stage}_bytes") for stage in STAGES}
    return {name: each * (1 - taken) for name, each in figures.items()}, peaks, taken


def estimate(run: RunFolder, experiment: Experiment, imported: float, screen: Screen) -> dict[str, Any]:
    """What plan.py says of an experiment; `run`: takes its data and the calibration's; `imported`: seconds
    that SWIFT's import took. Raises UserError as a run would.
    """
    experiment = with_description(experiment)
    stages = ("prepare", "tokens")
    do_stages(run, experiment, stages, screen)
    start, job = time.monotonic(), Job(run, experiment, screen)
    run_baselines(job)
    audit(job)
    without_model = {
        "import": imported,
        **{name: finished_stages(run)[name]["seconds"] for name in stages},
        "baselines and audit": time.monotonic() - start,
        "score and report": SCORE_AND_REPORT,
    }
    splits, tuning = read_json(run.tokens)["splits"], experiment.tuning
    machine = find_machine()
    within_reach = memory_within_reach(machine.device)
    training = training_of(run, experiment, machine, within_reach, screen)
    ready, arguments, sizes = training.ready, training.arguments, training.sizes
    computed, evaluations = training.computed, training.evaluations
    seconds, peaks, taken = measure(run, training, machine, screen)
    # Tokens of the test rows, and of those that the untuned model is fitted to.
    tested = splits["test"]["rows"] * splits["test"]["mean"]
    known = splits["train"]["rows"] + splits["val"]["rows"]
    labelled = min(known, tuning.probe_rows) * splits["train"]["mean"]
    first = seconds["train"] + seconds["evaluation"] * evaluations
    with_model = {
        "load": seconds["load"],
        "probe": PROBED * (1 + labelled / tested) * seconds["answering"],
        "zero_shot": (1 + labelled / tested) * seconds["answering"],
        "train": first + seconds["token"] * (computed - training.batches[0][1]),
        "tuned": seconds["answering"],
    }
    trained = (computed, round(training.epochs * len(training.batches)))
    looked_at = len(rows_looked_at(run, experiment))
    read = (
        evaluations * looked_at * splits["val"]["mean"] + tested + (1 + PROBED) * (tested + labelled),
        evaluations * math.ceil(looked_at / SCORER_ROWS)
        + 3 * math.ceil(splits["test"]["rows"] / SCORER_ROWS),
    )
    name = f"this machine: {machine.name}"
    here = Device(name, machine.device, within_reach, machine.torch_dtype, "calibration")
    machines = []
    for device in (here, *DEVICES):
        load = load_of(run, arguments, ready, Machine(device.kind, device.name, device.torch_dtype, ""))
        if "gradient_checkpointing" not in ready.pinned:  # a run turns it on where memory asks for it
            load = replace(load, checkpointing=False)
        need, extra, model = memory(sizes, load), 0.0, seconds_on(device, sizes, load, trained, read)
        if device is here:
            # What the calibration found more than the formula, or less, stays when settings are changed. Of a
            # GPU it sees what torch allocates, without CUDA's context.
            context = PROCESS["cuda"] if device.kind == "cuda" else 0.0
            measured = load_of(run, training.arguments, training.fitted, machine)
            measured = replace(measured, piece_tokens=training.piece_tokens)
            extra = max(peaks.values()) + context - memory(sizes, measured)
            model = [sum(with_model.values())] * 2
        p99 = math.ceil(splits["train"]["p99"])
        changes, smaller, fits = changes_to_fit(device, sizes, load, p99, extra)
        if not asked_for(changes):  # the run makes itself fit
            need = memory(sizes, smaller)
        machines.append(
            {
                "name": device.name,
                "torch_dtype": load.torch_dtype,
                "bytes": need + extra,
                "bytes_there": device.memory,
                "seconds": [sum(without_model.values()) + each for each in model],
                "changes": changes,
                "piece_tokens": None if smaller.piece_tokens == load.piece_tokens else smaller.piece_tokens,
                "fits_with_changes": fits,
                "rests_on": device.rests_on,
            }
        )
    return {
        "dataset": experiment.dataset.name,
        "model": experiment.model.name,
        "method": tuning.method,
        "splits": {
            name: {key: split[key] for key in ("rows", "median", "max")} for name, split in splits.items()
        },
        "training_rows_used": len(training.rows),
        "steps": training.steps,
        "evaluations": evaluations,
        "training_tokens": {"used": round(training.epochs * sum(training.lengths)), "computed": computed},
        "parameters": sizes.parameters,
        "this_machine": {
            "seconds": {**without_model, **with_model},
            "peak_bytes": peaks,
            "taken_by_other_programs": taken,
        },
        "machines": machines,
    }


def _used_rows(run: RunFolder, arguments: Any, screen: Screen) -> tuple[Rows, list[int], int]:
    """The training rows that SWIFT will use, the tokens that it will use of each, and how many tokens they
    all begin with.
    """
    template, rows = arguments.get_template(), read_jsonl(run.split("train"))
    limit, template.max_length = template.max_length or math.inf, None
    template.set_mode("train")
    with screen.progress("train: reading lengths", total=len(rows)) as bar:
        used = list(zip(rows, row_lengths(template, rows, bar), strict=True))
    if arguments.truncation_strategy == "delete":
        used = [(row, length) for row, length in used if length <= limit]
    if not used:
        raise UserError(f"max_length {limit} is shorter than every training row: take a larger one.")
    begun = common_beginning(
        template.encode({"messages": conversation(row)})["input_ids"] for row, _ in used[:SAMPLED]
    )
    return [row for row, _ in used], [int(min(length, limit)) for _, length in used], len(begun)


def _batches(own: Any, lengths: list[int], begun: int) -> list[Batch]:
    """Batches of the first epoch as SWIFT's trainer will have them under its training arguments `own`: their
    rows' positions, and the tokens that are computed, most first.

    `begun`: tokens that all rows begin with, which are computed once for a piece.
    """
    batches = BatchSamplerShard(
        len(lengths),
        own.per_device_train_batch_size,
        shuffle=own.train_dataloader_shuffle,
        drop_last=own.dataloader_drop_last,
        data_seed=own.data_seed,
        group_by_length=own.group_by_length,
        lengths=lengths if own.group_by_length else None,
    )
    computed = [(batch, sum(lengths[at] - begun for at in batch) + begun) for batch in batches]
    return sorted(computed, key=lambda batch: -batch[1])


def _schedule(own: Any, batches: int) -> tuple[float, int, int]:
    """Epochs, optimiser steps and evaluations under SWIFT's training arguments `own`; `batches`: of an
    epoch.
    """
    an_epoch = math.ceil(batches / own.gradient_accumulation_steps)
    steps = own.max_steps if own.max_steps > 0 else math.ceil(own.num_train_epochs * an_epoch)
    every = an_epoch if own.eval_strategy == "epoch" else own.eval_steps or own.logging_steps
    if every < 1:  # a share of all steps
        every = math.ceil(steps * every)
    # At the end in any case.
    return steps / an_epoch, steps, 0 if own.eval_strategy == "no" else math.ceil(steps / every)
