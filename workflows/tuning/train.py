"""The door of the training stage: SftArguments to sft_main to the best checkpoint."""

import math
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift import rlhf_main, sft_main
from swift.template import MaxLengthError

from workflows.core.errors import MomentaryError, TrainingStopped, UserError, is_out_of_memory
from workflows.core.files import read_json, read_jsonl, write_json
from workflows.core.rows import conversation
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.core.texts import text
from workflows.core.told import tell
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.experiment.recipes import Distillation, LabelLoss, Preference
from workflows.model.arguments import build_sft_arguments, merged_arguments
from workflows.model.folder import label_tokens, with_local_model
from workflows.model.machine import Machine, free_memory, is_adalora, let_go_of_memory, memory_within_reach
from workflows.model.memory import PIECE_TOKENS, fit_to_memory, out_of_memory_line
from workflows.model.ranks import rank, ranks
from workflows.tuning.callbacks import RUN_WATCH, Measure, Plan, Watched, register_watch
from workflows.tuning.checkpoints import last_checkpoint
from workflows.tuning.label_loss import Terms, balanced_weights, register_label_loss

SWIFT_STEP = 16  # rows of a step, about, where nothing says how many batches it has (SWIFT's own default)
# Arguments with which a batch has no rows of known length that could be computed in pieces.
WITHOUT_ROWS = ("packing", "padding_free", "streaming", "lazy_tokenize")


def train(
    job: Job, machine: Machine, measure: Measure, evaluated_rows: int, afterwards: float = 0.0
) -> dict[str, Any]:
    """Tune the model on train.jsonl, or what the method made of it, watch val.jsonl; write sft/ and
    training.json, return the latter's content.

    An interrupted training with the same `job.inputs` goes on from its last checkpoint, another, and one of
    AdaLoRA, starts anew.
    `measure` gives the loss and the task's figures of so many validation rows (`evaluated_rows`) at each
    evaluation; `afterwards`: seconds that the stages after this one take, about, for the time left. Raises
    UserError where the model cannot be had, a label does not fit in five tokens, SWIFT refuses a value, or
    memory is too small for one row, and TrainingStopped where `job.stops` ended it.
    """
    run, experiment, screen, base = job.run, job.experiment, job.screen, job.base
    resume_from = last_checkpoint(job)
    if resume_from:
        screen.say(f"  going on from {resume_from.name}")
    pairs = isinstance(experiment.recipe, Preference)  # of answers: DPO's trainer has its own steps and loss
    with screen.progress("training", total=1, counted=False) as bar:
        ready = share_batch(with_local_model(experiment), machine, ranks())
        ready, piece_tokens = fit_to_memory(run, ready, machine, memory_within_reach(machine.device))
        arguments = build_sft_arguments(run, ready, machine, resume_from)
        by_others = arguments.deepspeed or arguments.fsdp  # whose engines count backward passes.  Not run yet
        if pairs or by_others or any(getattr(arguments, name) for name in WITHOUT_ROWS):
            piece_tokens = None
        free = f"{free_memory(machine.device) / 1e9:.0f} GB of memory are free"
        if piece_tokens is not None and piece_tokens < PIECE_TOKENS[machine.device]:
            screen.say(f"  {free}: {piece_tokens} tokens are computed at a time, with the same result")
        checkpointing = arguments.training_args.gradient_checkpointing
        if checkpointing and "gradient_checkpointing" not in experiment.pinned:
            screen.say(f"  {free}: gradient checkpointing is on, with the same result")
        plan = Plan(measure, piece_tokens, pairs, afterwards, job.stops)
        while True:
            watched = register_watch(bar, plan)
            try:
                result = _train(job, ready, arguments, watched)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                traceback.print_exc()  # into the log
                fewer = None
                if ranks() == 1:  # else the other processes wait for this one
                    fewer = _fewer_rows_at_a_time(ready, arguments.training_args, piece_tokens)
                if fewer is None:
                    raise MomentaryError(out_of_memory_line(run, ready, machine)) from error
            watched.model = None
            base.release()
            let_go_of_memory()  # what the failed step held is let go only after that block
            ready, resume_from = fewer, last_checkpoint(job)
            arguments = build_sft_arguments(run, ready, machine, resume_from)
    base.remove_adapter(watched.model)
    watched.model = None  # SWIFT's table of callbacks would keep it
    if watched.stopped:
        raise TrainingStopped(f"{run.path}: its training was ended at step {result['global_step']}.")
    _tell_of_rows_left(watched.rows["train"], arguments.training_args)
    # A training that was stopped behind its last checkpoint saves none more.
    best = result["best_model_checkpoint"] or result["last_model_checkpoint"] or resume_from
    assert best is not None  # save_strategy no is refused
    tokens = read_json(run.tokens)["splits"]
    if experiment.derives_rows:
        tokens["train"] = read_json(run.derived_summary)["tokens"]
    summary = {
        "checkpoint": Path(best).name,
        "best_by": {"metric": arguments.training_args.metric_for_best_model, "value": result["best_metric"]},
        "steps": result["global_step"],
        "evaluated_rows": evaluated_rows,
        "rows": {name: _row_counts(tokens[name], watched.rows[name]) for name in SPLITS[:2]},
        "parameters": result["model_parameter_info"],
        "log_history": result["log_history"],
    }
    if rank() == 0:
        write_json(run.training, summary)
    return summary


def _tell_of_rows_left(rows: int, own: Any) -> None:
    """SWIFT gives each process as many rows as the others; sorted by length, one that has a row more keeps it
    where its last batch has room.
    """
    lost = rows % ranks()
    if lost and not (own.group_by_length and (rows // ranks()) % own.per_device_train_batch_size):
        tell(text("rows_not_shared_alike", processes=ranks(), rows=rows, lost=lost))


def share_batch(experiment: Experiment, machine: Machine, processes: int) -> Experiment:
    """`experiment` with fewer rows a batch, so that a step of all processes has the rows that it says.

    Raises UserError where they cannot be shared alike.
    """
    if processes == 1:
        return experiment
    merged = merged_arguments(experiment, machine)
    rows = int(merged.get("per_device_train_batch_size", 1))
    batches = int(merged.get("gradient_accumulation_steps") or math.ceil(SWIFT_STEP / rows))
    parts = [own for own in range(rows, 0, -1) if rows * batches % (own * processes) == 0]
    if not parts:
        raise UserError(
            f"{processes} processes cannot share the {rows * batches} rows of a step alike: take another "
            f"number, or --set per_device_train_batch_size={math.ceil(rows / processes) * processes}."
        )
    # Of one batch a step each takes its part, so that the rows of every step are those of one process.
    own = rows // processes if rows % processes == 0 else parts[0]
    shared = {
        "per_device_train_batch_size": str(own),
        "gradient_accumulation_steps": str(rows * batches // (own * processes)),
    }
    return replace(experiment, overrides={**experiment.overrides, **shared})


def _train(job: Job, ready: Experiment, arguments: Any, watched: Watched) -> dict[str, Any]:
    """What SWIFT's training by `arguments`, those of `ready`, returned."""
    run = job.run
    if arguments.resume_from_checkpoint is not None:
        state = Path(arguments.resume_from_checkpoint) / "trainer_state.json"
        _resume_with(state, arguments.training_args.train_batch_size)
        if not arguments.training_args.fp16:  # begun in fp16, on another machine: here nothing is scaled
            state.with_name("scaler.pt").unlink(missing_ok=True)
    arguments.training_args.callbacks = [*(arguments.training_args.callbacks or []), RUN_WATCH]
    if is_adalora(ready.arguments):
        # peft cannot put a checkpoint's ranks into a model that has the last ones.
        arguments.training_args.load_best_model_at_end = False
    template, smoothing = arguments.get_template(), arguments.label_smoothing_factor
    terms = _loss_terms(run, ready, template, smoothing)
    if terms is not None:
        labels = label_tokens(template, ready.labels)
        arguments.training_args.loss_type = register_label_loss(labels, terms)
    try:
        with job.base.reused():
            return (rlhf_main if isinstance(ready.recipe, Preference) else sft_main)(arguments)
    except (ValueError, TypeError, KeyError) as error:
        if watched.rows:  # training had begun: no matter of arguments any more
            raise
        traceback.print_exc()  # into the log
        raise UserError(
            f"SWIFT could not start the training: {' '.join(str(error).split())} Usual causes: a "
            "--set value that "
            "SWIFT does not know, target_modules that this model lacks, or a max_length shorter than "
            "every row. "
            f"More in {run.log('train')}."
        ) from error


def _resume_with(state: Path, rows: int) -> None:
    """Let a checkpoint go on with so many rows at a time, which an older transformers takes from it, and find
    the best one beside it, where the run may lie in another place now.
    """
    before = read_json(state)
    best = before.get("best_model_checkpoint")
    moved = None if best is None else str(state.parent.with_name(Path(best).name))
    here = {**before, "train_batch_size": rows, "best_model_checkpoint": moved}
    if here != before:
        write_json(state, here)


def _fewer_rows_at_a_time(ready: Experiment, own: Any, piece_tokens: int | None) -> Experiment | None:
    """`ready` with half the rows at a time (or a third, …) and twice as many such batches to a step; None
    where a step was in pieces of single rows already (step.py), or its batches are.

    The rows of a step stay the same, but under `group_by_length`, whose order SWIFT draws by the rows of a
    batch.  `own`: SWIFT's training arguments of `ready`.
    """
    rows, batches = own.per_device_train_batch_size, own.gradient_accumulation_steps
    if rows == 1 or (piece_tokens is not None and batches == 1):
        return None
    parts = next(parts for parts in range(2, rows + 1) if rows % parts == 0)
    rows, batches = rows // parts, batches * parts
    tell(text("memory_ran_out_in_a_batch", rows=rows, batches=batches))
    fewer = {
        "per_device_train_batch_size": str(rows),
        "per_device_eval_batch_size": str(min(rows, own.per_device_eval_batch_size)),
        "gradient_accumulation_steps": str(batches),
    }
    return replace(ready, overrides={**ready.overrides, **fewer})


def _loss_terms(run: RunFolder, experiment: Experiment, template: Any, smoothing: float) -> Terms | None:
    """What the loss is made of beyond SWIFT's own; None where that will do."""
    recipe = experiment.recipe
    if isinstance(recipe, LabelLoss):
        weights: tuple[float, ...] = ()
        if recipe.class_weights == "balanced":
            rows = read_jsonl(run.split("train"))
            weights = balanced_weights([row["label"] for row in rows], len(experiment.labels))
        return Terms(smoothing, recipe.alpha, recipe.beta, weights)
    if isinstance(recipe, Distillation):
        return Terms(
            smoothing,
            teacher=_teacher_table(read_jsonl(run.derived), experiment, template),
            teacher_weight=recipe.teacher_weight,
            temperature=recipe.temperature,
        )
    if isinstance(recipe, Preference):  # SWIFT's DPO has a loss of its own
        return None
    # SWIFT's smoothing takes the mean of each micro-batch, and gradient accumulation adds them up.
    return Terms(smoothing) if smoothing else None


def _teacher_table(
    rows: list[dict[str, Any]], experiment: Experiment, template: Any
) -> dict[tuple[int, ...], list[float]]:
    """The teacher's label probabilities by what SWIFT makes of a row: it passes no column of ours on."""
    template.set_mode("train")
    table = {}
    for row in rows:
        try:
            encoded = template.encode({"messages": conversation(row)})
        except MaxLengthError:  # SWIFT leaves the row out too
            continue
        table[tuple(encoded["input_ids"])] = [row["teacher"][label.name] for label in experiment.labels]
    return table


def _row_counts(tokens: dict[str, Any], used: int) -> dict[str, Any]:
    """Rows given and used, and the ids of those that SWIFT left out: what is longer than max_length."""
    over = tokens["over_max_length"]["ids"]
    missing = tokens["rows"] - used
    # Any other number means that SWIFT could not encode some rows, or cut long ones in pieces.
    return {"given": tokens["rows"], "used": used, "left_out": over if missing == len(over) else None}
