"""The trainer callback that SWIFT loads by name: how steps are computed, what an evaluation is, what is
shown.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from swift.callbacks import TrainerCallback, callbacks_map
from swift.callbacks.early_stop import EarlyStopCallback
from tqdm import tqdm

from workflows.experiment.job import Stops
from workflows.model.loaded import body_of
from workflows.model.machine import give_back_freed_memory
from workflows.model.ranks import ranks
from workflows.model.tokens import common_beginning
from workflows.tuning.checkpoints import keep_order
from workflows.tuning.step import share_beginning, shares_beginning, train_in_pieces

RUN_WATCH = "run_watch"
Measure = Callable[[Any, Any], dict[str, float]]  # (model, template) -> figures by name, the loss among them
SAMPLED = 200  # training rows whose tokens say what all begin with
# After so many, and after an evaluation, a CPU gets freed memory back, which takes a quarter of a second.
TRIM_STEPS = 10
A_PAUSE = 8.0  # an evaluation takes as long as so many steps, until one was timed


@dataclass(frozen=True)
class Plan:
    """What a training is to do that SWIFT's arguments cannot say."""

    measure: Measure
    piece_tokens: int | None  # tokens at most that are computed at a time; None: whole batches, as SWIFT does
    evaluates_in_swift: bool  # whether SWIFT's own evaluation runs, and `measure` only adds to it
    afterwards: float  # seconds of the job's later stages, about
    stops: Stops | None = None


@dataclass
class Watched:
    """What the callback saw; filled when training starts."""

    rows: dict[str, int] = field(default_factory=dict)  # by split: how many SWIFT really uses
    model: Any = None  # as it is trained: with its adapter
    stopped: bool = False  # whether `stops` of the plan ended it


@dataclass
class Pace:
    """How long is left, from the work done so far, and the pauses between steps."""

    total: float  # work of all steps, in tokens
    pauses: int  # evaluations that are to come, each with a checkpoint
    done: float = 0.0
    timed: float = 0.0  # the part of `done` that took `seconds`
    seconds: float = 0.0
    steps: int = 0
    paused: list[float] = field(default_factory=list)  # seconds of each pause

    def add_step(self, work: float, seconds: float) -> None:
        """Count a step."""
        self.done, self.timed = self.done + work, self.timed + work
        self.seconds, self.steps = self.seconds + seconds, self.steps + 1

    def left(self) -> float:
        """Seconds until the end; there must have been a step."""
        pause = sum(self.paused) / len(self.paused) if self.paused else A_PAUSE * self.seconds / self.steps
        to_come = max(0, self.pauses - len(self.paused)) * pause
        return max(0.0, self.total - self.done) * self.seconds / max(self.timed, 1.0) + to_come


class WatchCallback(TrainerCallback):
    """Sets up how steps and evaluations are computed, notes what is trained on how many rows, and draws the
    training on `bar`.

    SWIFT drops rows that are too long or that it cannot encode with a log line only.
    """

    bar: tqdm
    watched: Watched
    plan: Plan

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Train in fp32 what an adapter trains whole, before the optimiser is made and a checkpoint read.

        peft does so with LoRA's own weights and SWIFT with all in fp16.  In bf16 a step of 5e-5 is less than
        the last digit of most weights, and is rounded away.
        """
        if self.args.bf16 and self.args.tuner_type != "full":
            for name, weight in self.trainer.model.named_parameters():
                # LoRA's are as lora_dtype has them.
                if weight.requires_grad and weight.dtype == torch.bfloat16 and "lora_" not in name:
                    weight.data = weight.data.float()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take hold of the trainer, and set the bar to the work to be done."""
        trainer, train = self.trainer, self.trainer.train_dataset
        val = trainer.eval_dataset
        self.watched.rows = {"train": len(train), "val": 0 if val is None else len(val)}
        self.watched.model = trainer.accelerator.unwrap_model(trainer.model)
        self.losses: dict[str, str] = {}
        self.undo: Callable[[], None] = lambda: None
        self.work, self.ended, self.pausing = 0.0, time.perf_counter(), False
        total = float(state.max_steps)
        if self.plan.piece_tokens is not None:
            train_in_pieces(trainer, self.plan.piece_tokens, self._count)
            body = body_of(self.watched.model)
            # NEFTune's noise depends on how much the embedding is given at a time.
            if shares_beginning(body) and not args.neftune_noise_alpha:
                self.undo = share_beginning(body)
            self.begun = count_beginning(train)
            batches = len(trainer.get_train_dataloader())
            epochs = state.max_steps / math.ceil(batches / args.gradient_accumulation_steps)
            # SWIFT has a row's length as a list of one.
            lengths = [max(each) if isinstance(each, list) else each for each in train["lengths"]]
            total = sum(length - self.begun for length in lengths) * epochs / ranks()
        if not self.plan.evaluates_in_swift:
            trainer.evaluate = self._evaluate
        done = total * state.global_step / state.max_steps  # of a resumed training
        self.pace = Pace(total, _evaluations(args, state), done)
        self.bar.bar_format = "{desc} {percentage:3.0f}%|{bar}|"  # evaluations are in the time that is said
        self.bar.reset(total=math.ceil(total))
        self.bar.update(int(done))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the model as it was."""
        self.undo()

    def _count(self, rows: int, tokens: int) -> None:
        self.work += tokens - rows * self.begun

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock; what an evaluation took, and a checkpoint after it, was a pause."""
        if args.device.type == "cpu" and (self.pausing or state.global_step % TRIM_STEPS == 0):
            give_back_freed_memory()
        self.began = time.perf_counter()
        if self.pausing:
            self.pace.paused.append(self.began - self.ended)
        self.pausing, self.work = False, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move on by a step."""
        self.ended = time.perf_counter()
        self.pace.add_step(self.work if self.plan.piece_tokens is not None else 1.0, self.ended - self.began)
        left = self.pace.left()
        shown = [
            f"step {state.global_step}/{state.max_steps}",
            *(f"{name} {value}" for name, value in self.losses.items()),
            f"{self.bar.format_interval(left)} left, with all stages "
            f"{self.bar.format_interval(left + self.plan.afterwards)}",
        ]
        self.bar.set_description_str(f"  training: {', '.join(shown)}", refresh=False)
        self.bar.update(min(int(self.pace.done), int(self.bar.total or 0)) - self.bar.n)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Keep the latest losses for the bar."""
        for name in ("loss", "eval_loss"):
            if logs and name in logs:
                self.losses[name.replace("eval", "val").replace("_", " ")] = f"{float(logs[name]):.3f}"

    def _evaluate(self, *args: Any, **named: Any) -> dict[str, float]:
        """What stands for the trainer's `evaluate`: one pass over the validation rows."""
        trainer = self.trainer
        trainer.model.eval()  # the log is then an evaluation's
        metrics = {f"eval_{name}": value for name, value in self._measured().items()}
        trainer.log(metrics)
        trainer.control = trainer.callback_handler.on_evaluate(
            trainer.args, trainer.state, trainer.control, metrics
        )
        return metrics

    def _measured(self) -> dict[str, float]:
        with self.trainer.accelerator.autocast():  # as in training: some weights are in fp32
            return self.plan.measure(self.watched.model, self.trainer.template)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint was written."""
        if state.is_world_process_zero:
            keep_order(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """After SWIFT's own evaluation add the task's figures, where the trainer looks for the best
        checkpoint's; then ask whether the training ends here.
        """
        self.pausing = True
        if self.plan.evaluates_in_swift:
            named = {f"eval_{name}": value for name, value in self._measured().items() if name != "loss"}
            metrics.update(named)
            self.trainer.log(named)
        ends = self.plan.stops is not None and self.plan.stops(state.log_history)
        if ends and state.global_step < state.max_steps:  # after the last step the end comes by itself
            self.watched.stopped = control.should_training_stop = True


class EarlyStop(EarlyStopCallback):
    """SWIFT's early stopping, which a training that goes on after a stop does not count anew."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Know what was best until now, and how many checkpoints came since without being better."""
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        found = [(entry[name], entry["step"]) for entry in state.log_history if name in entry]
        if not found:
            return
        choose = max if args.greater_is_better else min
        self.best_metric, best = choose(found, key=lambda each: each[0])  # the first of equal ones
        if getattr(args.save_strategy, "value", args.save_strategy) == "steps":
            self.interval = state.global_step // state.save_steps - math.ceil(best / state.save_steps)
        else:
            self.interval = sum(step > best for _, step in found)


def count_beginning(rows: Any) -> int:
    """Tokens that the first rows of an encoded data set all begin with."""
    return len(common_beginning(rows[at]["input_ids"] for at in range(min(SAMPLED, len(rows)))))


def _evaluations(args: Any, state: Any) -> int:
    """Evaluations that are to come; the last step has one in any case."""
    strategy = str(getattr(args.eval_strategy, "value", args.eval_strategy))
    if strategy == "no":
        return 0
    every = state.eval_steps if strategy == "steps" else math.ceil(state.max_steps / args.num_train_epochs)
    return math.ceil(state.max_steps / every) - state.global_step // every


def register_watch(bar: tqdm, plan: Plan) -> Watched:
    """Make `callbacks: [run_watch]` follow `plan` and draw on `bar`, and early stopping outlive a stop; the
    returned value has what was seen.
    """
    watched = Watched()
    bound = {"bar": bar, "watched": watched, "plan": plan}
    callbacks_map["early_stop"] = EarlyStop
    callbacks_map[RUN_WATCH] = type("BoundWatch", (WatchCallback,), bound)
    return watched
