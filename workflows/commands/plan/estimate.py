"""The figures of a plan: stages that need no model are run, a short calibration (calibration.py) gives time
and memory of the others here, and other machines are estimated (devices.py).
"""

import math
import time
from dataclasses import replace
from typing import Any

import psutil
from swift.dataloader.shard import BatchSamplerShard

from workflows.baselines.audit import audit
from workflows.baselines.baselines import run_baselines
from workflows.commands.plan.calibration import STAGES, Batch, calibrate
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
from workflows.model.machine import Machine, find_machine, memory_within_reach
from workflows.model.memory import PROCESS, fit_to_memory, load_of, memory, read_sizes
from workflows.model.tokens import common_beginning, row_lengths
from workflows.pipeline.run import run_stages
from workflows.pipeline.training import SCORE_AND_REPORT
from workflows.tuning.callbacks import SAMPLED

SCORER_ROWS = 64  # that share a batch of the scorer, about
PROBED = 0.75  # of the layers
ALL_BUSY = 0.9  # of the processors' time: where less was used, other programs took nothing


def estimate(run: RunFolder, experiment: Experiment, imported: float, screen: Screen) -> dict[str, Any]:
    """What plan.py says of an experiment; `run`: takes its data and the calibration's; `imported`: seconds
    that SWIFT's import took. Raises UserError as a run would.
    """
    described = fetch_model(experiment.arguments, weights=False)
    card = replace(experiment.model, arguments={**experiment.model.arguments, "model": str(described)})
    experiment = replace(experiment, model=card)
    stages = ("prepare", "tokens")
    run_stages(run, experiment, stages, screen)
    start, job = time.monotonic(), Job(run, experiment, screen)
    run_baselines(job)
    audit(job)
    without_model = {
        "import": imported,
        **{name: finished_stages(run)[name]["seconds"] for name in stages},
        "baselines and audit": time.monotonic() - start,
        "score and report": SCORE_AND_REPORT,
    }
    splits = read_json(run.tokens)["splits"]
    machine, ready = find_machine(), with_local_model(experiment)
    within_reach = memory_within_reach(machine.device)
    fitted, _ = fit_to_memory(run, ready, machine, within_reach)
    arguments = build_sft_arguments(run, fitted, machine)
    rows, lengths, begun = _used_rows(run, arguments, screen)
    sizes = read_sizes(described)
    shared = 0 if carries_state(sizes.config) else begun  # such layers share no beginning
    batches = _batches(arguments.training_args, lengths, shared)
    epochs, steps, evaluations = _schedule(arguments.training_args, len(batches))
    computed = round(epochs * sum(tokens for _, tokens in batches))
    screen.say(f"calibrating on {machine.device} ({machine.name}) with a few layers of random weights …")
    data, tuning, test = experiment.data, experiment.tuning, read_jsonl(run.split("test"))
    val = sample_rows(read_jsonl(run.split("val")), tuning.eval_rows, data.data_seed)
    process, processors = psutil.Process(), psutil.cpu_count() or 1
    process.cpu_percent(), psutil.cpu_percent()  # both count from here
    given = {"train": rows, "val": val, "test": test}
    figures = calibrate(given, fitted, machine, batches, run.path / "calibration", screen)
    own, busy = process.cpu_percent() / 100 / processors, psutil.cpu_percent() / 100
    taken = max(0.0, 1 - own / busy) if busy > ALL_BUSY else 0.0
    peaks = {stage: figures.pop(f"{stage}_bytes") for stage in STAGES}
    seconds = {name: each * (1 - taken) for name, each in figures.items()}
    # Tokens of the test rows, and of those that the untuned model is fitted to.
    tested = len(test) * splits["test"]["mean"]
    known = splits["train"]["rows"] + splits["val"]["rows"]
    labelled = min(known, tuning.probe_rows) * splits["train"]["mean"]
    first = seconds["train"] + seconds["evaluation"] * evaluations
    with_model = {
        "load": seconds["load"],
        "probe": PROBED * (1 + labelled / tested) * seconds["answering"],
        "zero_shot": (1 + labelled / tested) * seconds["answering"],
        "train": first + seconds["token"] * (computed - batches[0][1]),
        "tuned": seconds["answering"],
    }
    trained = (computed, round(epochs * len(batches)))
    read = (
        evaluations * len(val) * splits["val"]["mean"] + tested + (1 + PROBED) * (tested + labelled),
        evaluations * math.ceil(len(val) / SCORER_ROWS) + 3 * math.ceil(len(test) / SCORER_ROWS),
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
            extra = max(peaks.values()) + (PROCESS["cuda"] if device.kind == "cuda" else 0.0) - need
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
        "training_rows_used": len(rows),
        "steps": steps,
        "evaluations": evaluations,
        "training_tokens": {"used": round(epochs * sum(lengths)), "computed": computed},
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
