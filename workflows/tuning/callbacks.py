"""The trainer callback that SWIFT loads by name: progress, rows used, the task's figures on validation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from swift.callbacks import TrainerCallback, callbacks_map
from tqdm import tqdm

RUN_WATCH = "run_watch"
Measure = Callable[[Any, Any], dict[str, float]]  # (model, template) -> figures by name


@dataclass
class Watched:
    """What the callback saw; filled when training starts."""

    rows: dict[str, int] = field(default_factory=dict)  # by split: how many SWIFT really uses
    model: Any = None  # as it is trained: with its adapter


class WatchCallback(TrainerCallback):
    """Draws training and evaluation on `bar`, notes what is trained on how many rows, and adds the figures
    of `measure` to each evaluation, as eval_<name>.

    SWIFT drops rows that are too long or that it cannot encode with a log line only.
    """

    bar: tqdm
    watched: Watched
    measure: Measure

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the bar to the number of optimiser steps."""
        val = self.trainer.eval_dataset
        self.watched.rows = {"train": len(self.trainer.train_dataset), "val": 0 if val is None else len(val)}
        self.watched.model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        self.bar.reset(total=state.max_steps)
        self.bar.update(state.global_step)  # of a resumed training
        self.evaluated = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move on by a step."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Show the latest losses."""
        shown: dict[str, object] = {
            name: f"{float(logs[name]):.3f}"
            for name in ("loss", "eval_loss", "eval_macro_f1")
            if logs and name in logs
        }
        if shown:
            self.bar.set_postfix(shown, refresh=False)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show how far an evaluation is."""
        self.evaluated += 1
        # Drawn at once on a terminal only: a file or a notebook would get a line for every batch.
        total = len(kwargs["eval_dataloader"])
        self.bar.set_postfix_str(f"evaluating {self.evaluated}/{total}", refresh=self.bar.fp.isatty())

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Add the task's figures to `metrics`, where the trainer looks for the best checkpoint's."""
        self.evaluated = 0
        with self.trainer.compute_loss_context_manager():
            figures = type(self).measure(self.watched.model, self.trainer.template)
        named = {f"eval_{name}": value for name, value in figures.items()}
        metrics.update(named)
        self.trainer.log(named)


def register_watch(bar: tqdm, measure: Measure) -> Watched:
    """Make `callbacks: [run_watch]` draw on `bar` and call `measure`; the returned value has what it saw."""
    watched = Watched()
    bound = {"bar": bar, "watched": watched, "measure": staticmethod(measure)}
    callbacks_map[RUN_WATCH] = type("BoundWatch", (WatchCallback,), bound)
    return watched
