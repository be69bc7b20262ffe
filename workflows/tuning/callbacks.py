"""Trainer callbacks that SWIFT loads by name."""

from typing import Any

from swift.callbacks import TrainerCallback, callbacks_map
from tqdm import tqdm

PROGRESS = "run_progress"


class ProgressCallback(TrainerCallback):
    """Draws training and evaluation on `bar`, and notes how many rows SWIFT really trains on.

    SWIFT drops rows that are too long or that it cannot encode with a log line only; `rows` holds what is
    left.
    """

    bar: tqdm
    rows: dict[str, int]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the bar to the number of optimiser steps."""
        self.rows["train"] = len(self.trainer.train_dataset)
        self.rows["val"] = len(self.trainer.eval_dataset) if self.trainer.eval_dataset is not None else 0
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
            name: f"{float(logs[name]):.3f}" for name in ("loss", "eval_loss") if logs and name in logs
        }
        if shown:
            self.bar.set_postfix(shown, refresh=False)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show how far an evaluation is."""
        self.evaluated += 1
        # Drawn at once on a terminal only: a file or a notebook would get a line for every batch.
        total = len(kwargs["eval_dataloader"])
        self.bar.set_postfix_str(f"evaluating {self.evaluated}/{total}", refresh=self.bar.fp.isatty())

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start counting anew for the next evaluation."""
        self.evaluated = 0


def register_progress(bar: tqdm) -> dict[str, int]:
    """Make `callbacks: [run_progress]` draw on `bar`; the returned dict is filled when training starts."""
    rows: dict[str, int] = {}
    callbacks_map[PROGRESS] = type("BoundProgress", (ProgressCallback,), {"bar": bar, "rows": rows})
    return rows
