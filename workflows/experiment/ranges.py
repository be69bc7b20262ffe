"""The range of each of SWIFT's numbers that people change, so that a bad one is refused before data is read.

SWIFT and the trainer notice most of them only when training starts, and a few never.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from workflows.core.errors import UserError

ABOVE_0 = ("learning_rate", "aligner_lr", "vit_lr", "num_train_epochs", "lora_alpha", "adam_epsilon")
FROM_0 = ("weight_decay", "max_grad_norm", "warmup_steps", "beta", "neftune_noise_alpha")
FROM_1 = ("lora_rank", "vera_rank", "adalora_init_r", "adalora_target_r", "max_length", "max_model_len")
BATCHES = ("per_device_train_batch_size", "per_device_eval_batch_size", "max_batch_size")
SHARES = (
    "lora_dropout",
    "vera_dropout",
    "warmup_ratio",
    "label_smoothing_factor",
    "adam_beta1",
    "adam_beta2",
)
RANGES: dict[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "above 0": (lambda value: value > 0, (*ABOVE_0, "eval_steps", "save_steps")),
    "0 or more": (lambda value: value >= 0, (*FROM_0, "dataloader_num_workers", "early_stop_interval")),
    "1 or more": (
        lambda value: value >= 1,
        (*FROM_1, *BATCHES, "gradient_accumulation_steps", "logging_steps"),
    ),
    "1 or more, or -1 for no limit": (lambda value: value == -1 or value >= 1, ("max_steps",)),
    "from 0 to below 1": (lambda value: 0 <= value < 1, SHARES),
    "above 0, below 1": (lambda value: 0 < value < 1, ("split_dataset_ratio",)),
}


def check_ranges(arguments: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a number outside its range, with the key, the value and the range.

    `where` they come from is said first.  What is no number at all is left to SWIFT's parser.
    """
    for wanted, (fits, names) in RANGES.items():
        for name in names:
            try:
                value = float(arguments[name])
            except (KeyError, TypeError, ValueError):
                continue
            if not (math.isfinite(value) and fits(value)):
                raise UserError(f"{where} {name}={arguments[name]}: must be a finite number, {wanted}.")
