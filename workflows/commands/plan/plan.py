"""What a run will take, before it is started and before any weights are downloaded.

python run_swift.py plan --dataset jd --model qwen2.5-0.5b-instruct

The data are prepared for it, and the stages that need no model are run, in a temporary folder.  For this
machine a short calibration (calibration.py) gives time and memory; other machines are estimated (devices.py).
Not covered: the time that a download takes; heads, and methods that make training rows.
"""

import math
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.rows import conversation
from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.screen import Screen, as_text
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.pipeline.run import run_stages

# What a run changes by itself where memory is short (memory.py).
LEARNS_THE_SAME = {"gradient_checkpointing"}
NOTICEABLE = 0.05  # of the processors' time taken by other programs
SCORER_ROWS = 64  # that share a batch of the scorer, about


def plan(experiment: Experiment, folder: Path | None, screen: Screen) -> dict[str, Any]:
    """Rows, tokens, steps, and for each machine memory, time and what to change where it does not fit.

    `folder`: a run folder whose data are used where they are those of this experiment. Everything is written
    to a temporary folder, which is gone afterwards. Raises UserError as a run would.
    """
    if experiment.has_head or experiment.derives_rows:
        raise UserError(
            f"plan: does not cover method {experiment.tuning.method}; it does those that write answers and "
            "train on the data as they are, such as lora."
        )
    with tempfile.TemporaryDirectory(prefix="plan-") as temporary:
        run = RunFolder(Path(temporary) / "run")
        with screen.output_to(run.log("plan")):
            return _plan(run, experiment, folder, screen)


def _plan(run: RunFolder, experiment: Experiment, folder: Path | None, screen: Screen) -> dict[str, Any]:
    screen.say("loading SWIFT …")
    start = time.monotonic()
    from workflows.baselines.audit import audit
    from workflows.baselines.baselines import run_baselines
    from workflows.commands.plan.calibration import calibrate
    from workflows.commands.plan.devices import DEVICES, Device, changes_to_fit, seconds_on
    from workflows.data.splits import sample_rows
    from workflows.model.arguments import build_sft_arguments, merged_arguments
    from workflows.model.folder import fetch_model, with_local_model
    from workflows.model.machine import Machine, OtherPrograms, find_machine, memory_within_reach
    from workflows.model.memory import PROCESS, fit_to_memory, load_of, memory, read_sizes
    from workflows.model.swift_names import check_overrides
    from workflows.pipeline.training import SCORE_AND_REPORT

    imported = time.monotonic() - start
    check_overrides(experiment.overrides)
    if folder is not None and RunFolder(folder).manifest.exists() and RunFolder(folder).stages.exists():
        shutil.copytree(RunFolder(folder).manifest.parent, run.manifest.parent)
        shutil.copy(RunFolder(folder).stages, run.stages)
    run_stages(run, experiment, ("prepare",), screen)
    described = fetch_model(experiment.arguments, weights=False)
    card = replace(experiment.model, arguments={**experiment.model.arguments, "model": str(described)})
    experiment = replace(experiment, model=card)
    run_stages(run, experiment, ("tokens",), screen)
    start = time.monotonic()
    run_baselines(Job(run, experiment, screen))
    audit(Job(run, experiment, screen))
    without_model = {
        "import": imported,
        **{name: finished_stages(run)[name]["seconds"] for name in ("prepare", "tokens")},
        "baselines and audit": time.monotonic() - start,
        "score and report": SCORE_AND_REPORT,
    }
    machine, ready = find_machine(), with_local_model(experiment)
    within_reach = memory_within_reach(machine.device)
    fitted, _ = fit_to_memory(run, ready, machine, within_reach)
    arguments = build_sft_arguments(run, fitted, machine)
    tokens = read_json(run.tokens)
    rows, lengths, begun = _used_rows(run, arguments, tokens, screen)
    shared = 0 if read_sizes(described).state else begun  # layers that carry a state on share none
    schedule = _schedule(arguments.training_args, lengths, shared)
    batches, splits = schedule.pop("batches"), tokens["splits"]
    screen.say(f"calibrating on {machine.device} ({machine.name}) with a few layers of random weights …")
    looked_at = sample_rows(
        read_jsonl(run.split("val")), experiment.tuning.eval_rows, experiment.data.data_seed
    )
    given = {"train": rows, "val": looked_at, "test": read_jsonl(run.split("test"))}
    others = OtherPrograms()
    figures = calibrate(given, fitted, machine, batches, run.path / "calibration", screen)
    taken = others.share()
    figures = {
        name: value if name.endswith(("_ram", "_gpu")) else value * (1 - taken)
        for name, value in figures.items()
    }
    training = figures["start"] + figures["token"] * (schedule["training_tokens"]["computed"] - batches[0][1])
    with_model = {
        "load": figures["load"],
        "zero_shot": figures["answering"],
        "train": training + figures["evaluation"] * schedule["evaluations"],
        "tuned": figures["answering"],
    }
    kind = "gpu" if machine.device == "cuda" else "ram"
    stages = {"zero_shot": "zero_shot", "start": "train", "tuned": "tuned"}
    peaks = {stage: figures[f"{name}_{kind}"] for name, stage in stages.items()}

    sizes = read_sizes(described)
    work = _work(schedule, splits, len(looked_at))
    name = f"this machine: {machine.name}"
    here = Device(name, machine.device, within_reach, machine.torch_dtype, "calibration")
    machines = []
    for device in (here, *DEVICES):
        merged = merged_arguments(ready, Machine(device.kind, device.name, device.torch_dtype, ""))
        load = load_of(arguments, ready, merged, device.kind, splits["train"])
        if "gradient_checkpointing" not in ready.pinned:  # a run turns it on where memory asks for it
            load = replace(load, checkpointing=False)
        need = memory(sizes, load)
        # What the calibration found more than the formula, or less, stays when settings are changed. Of a GPU
        # it sees what torch allocates, without CUDA's context.
        unseen = PROCESS["cuda"] if kind == "gpu" else 0.0
        measured_extra = max(peaks.values()) + unseen - need if device is here else 0.0
        model = [sum(with_model.values())] * 2 if device is here else seconds_on(device, sizes, load, work)
        changes, smaller, fits = changes_to_fit(
            device, sizes, load, math.ceil(splits["train"]["p99"]), measured_extra
        )
        if not _asked(changes):  # the run makes itself fit
            need = memory(sizes, smaller)
        machines.append(
            {
                "name": device.name,
                "torch_dtype": load.torch_dtype,
                "bytes": need + measured_extra,
                "bytes_there": device.memory,
                "seconds": [sum(without_model.values()) + each for each in model],
                "changes": changes,
                "piece_tokens": None if smaller.piece_tokens == load.piece_tokens else smaller.piece_tokens,
                "fits_with_changes": fits,
                "rests_on": device.rests_on,
            }
        )
    figures_of = ("rows", "median", "max")
    return {
        "dataset": experiment.dataset.name,
        "model": experiment.model.name,
        "method": experiment.tuning.method,
        "splits": {name: {key: split[key] for key in figures_of} for name, split in splits.items()},
        "training_rows_used": len(rows),
        **schedule,
        "parameters": sizes.parameters,
        "this_machine": {
            "seconds": {**without_model, **with_model},
            "peak_bytes": peaks,
            "taken_by_other_programs": taken,
        },
        "machines": machines,
    }


def render_plan(result: dict[str, Any]) -> str:
    """The plan as text: data, steps, a row a machine, and what to change."""
    data = Table(box=SIMPLE_HEAD)
    data.add_column("split")
    for heading in ("rows", "tokens: median", "max"):
        data.add_column(heading, justify="right")
    for name, split in result["splits"].items():
        data.add_row(name, f"{split['rows']:,}", f"{split['median']:.0f}", f"{split['max']:,}")
    machines = Table(box=SIMPLE_HEAD)
    machines.add_column("machine", overflow="fold")
    machines.add_column("dtype")
    for heading in ("memory, GB", "minutes"):
        machines.add_column(heading, justify="right")
    machines.add_column("fits")
    machines.add_column("rests on", overflow="fold")
    for each in result["machines"]:
        there = "" if each["bytes_there"] is None else f" of {each['bytes_there'] / 1e9:.0f}"
        low, high = (seconds / 60 for seconds in each["seconds"])
        fits = "yes" if not each["changes"] else "with changes" if each["fits_with_changes"] else "no"
        machines.add_row(
            each["name"],
            each["torch_dtype"],
            f"{each['bytes'] / 1e9:.1f}{there}",
            f"{low:.1f}" if low == high else f"{low:.1f} – {high:.1f}",
            fits,
            each["rests_on"],
        )
    tokens = result["training_tokens"]
    lines = [
        f"{result['training_rows_used']:,} rows are trained on, {tokens['used']:,} tokens in all epochs "
        f"({tokens['computed']:,} are computed, a common beginning once); {result['steps']:,} optimiser "
        f"steps, {result['evaluations']} evaluations",
    ]
    taken = result["this_machine"]["taken_by_other_programs"]
    if taken > NOTICEABLE:
        lines.append(
            f"{taken:.0%} of this machine's processors were busy with other programs: its minutes are "
            "reckoned as if it were alone, and are less sure; plan again when it is"
        )
    for each in result["machines"]:
        asked = _asked(each["changes"])
        own = [change for change in each["changes"] if change not in asked]
        if each["piece_tokens"]:
            lines.append(f"{each['name']}: a run computes {each['piece_tokens']} tokens at a time, to fit")
        if own:
            lines.append(f"{each['name']}: a run changes by itself, to fit: {' '.join(own)}")
        if asked:
            lines.append(f"{each['name']}: add {' '.join(asked)}")
        if not each["fits_with_changes"]:
            lines.append(f"{each['name']}: still too large, take a smaller model")
    return "\n".join([as_text(data), lines[0], as_text(machines), *lines[1:]])


def _asked(changes: list[str]) -> list[str]:
    """Those of the `--set` lines that a run does not make by itself, since they change what is learned."""
    return [change for change in changes if change.split()[1].split("=")[0] not in LEARNS_THE_SAME]


def _used_rows(
    run: RunFolder, arguments: Any, tokens: dict[str, Any], screen: Screen
) -> tuple[list[dict[str, Any]], list[int], int]:
    """The training rows that SWIFT will use, the tokens that it will use of each, and how many tokens they
    all begin with.
    """
    from workflows.model.tokens import row_lengths
    from workflows.tuning.callbacks import SAMPLED, common_beginning

    template = arguments.get_template()
    template.max_length = None
    template.set_mode("train")
    over = set(tokens["splits"]["train"]["over_max_length"]["ids"])
    rows = read_jsonl(run.split("train"))
    if arguments.truncation_strategy == "delete":
        rows = [row for row in rows if row["id"] not in over]
    if not rows:
        raise UserError(
            f"max_length {tokens['max_length']} is shorter than every training row: take a larger one."
        )
    with screen.progress("train: reading lengths", total=len(rows)) as bar:
        lengths = row_lengths(template, rows, bar)
    begun = common_beginning(
        template.encode({"messages": conversation(row)})["input_ids"] for row in rows[:SAMPLED]
    )
    return rows, [min(length, tokens["max_length"] or length) for length in lengths], begun


def _schedule(own: Any, lengths: list[int], begun: int) -> dict[str, Any]:
    """Batches of the first epoch (positions, and tokens that are computed, most first), steps, evaluations
    and tokens, as SWIFT's trainer will have them under its training arguments `own`.

    `begun`: tokens that all rows begin with, which are computed once for a piece.
    """
    from swift.dataloader.shard import BatchSamplerShard

    batches = list(
        BatchSamplerShard(
            len(lengths),
            own.per_device_train_batch_size,
            shuffle=own.train_dataloader_shuffle,
            drop_last=own.dataloader_drop_last,
            data_seed=own.data_seed,
            group_by_length=own.group_by_length,
            lengths=lengths if own.group_by_length else None,
        )
    )
    computed = [sum(lengths[at] - begun for at in batch) + begun for batch in batches]
    an_epoch = math.ceil(len(batches) / own.gradient_accumulation_steps)
    steps = own.max_steps if own.max_steps > 0 else math.ceil(own.num_train_epochs * an_epoch)
    in_all = (
        steps * own.gradient_accumulation_steps
        if own.max_steps > 0
        else math.ceil(own.num_train_epochs * len(batches))
    )
    epochs = in_all / len(batches)
    if own.eval_strategy == "no":
        evaluations = 0
    elif own.eval_strategy == "epoch":
        evaluations = math.ceil(epochs)
    else:  # a share of all steps where below 1; at the end in any case
        every = own.eval_steps or own.logging_steps
        evaluations = math.ceil(steps / (math.ceil(steps * every) if every < 1 else every))
    return {
        "batches": sorted(zip(batches, computed, strict=True), key=lambda batch: -batch[1]),
        "batches_in_all": in_all,
        "steps": steps,
        "evaluations": evaluations,
        "training_tokens": {
            "used": round(epochs * sum(lengths)),
            "computed": round(epochs * sum(computed)),
        },
    }


def _work(schedule: dict[str, Any], splits: dict[str, Any], looked_at: int) -> Any:
    from workflows.commands.plan.devices import Work

    test_rows, evaluations = splits["test"]["rows"], schedule["evaluations"]
    tested, evaluated = test_rows * splits["test"]["mean"], looked_at * splits["val"]["mean"]
    return Work(
        train_tokens=schedule["training_tokens"]["computed"],
        train_batches=schedule["batches_in_all"],
        read_tokens=round(evaluations * evaluated + 2 * tested),
        read_batches=evaluations * math.ceil(looked_at / SCORER_ROWS)
        + 2 * math.ceil(test_rows / SCORER_ROWS),
    )
