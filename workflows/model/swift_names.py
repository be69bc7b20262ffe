"""SWIFT's argument names and what values they take, known without importing SWIFT, which takes ten seconds.

swift_names.json is made of the installed SWIFT by

    python -m workflows.model.swift_names

and says which versions it was made with.  With others a name that it lacks is looked up in SWIFT itself.
"""

import difflib
import json
import math
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import open_whole, read_json
from workflows.experiment.experiment import Experiment
from workflows.experiment.recipes import Plain, Preference, Recipe

FILE = Path(__file__).with_suffix(".json")
TRUE_OR_FALSE = ["yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"]


def _finite(value: str) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{value} is not finite")
    return number


# How a value of each kind is read, with a ValueError for what is none, and what it is called.
KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "bool": (lambda value: TRUE_OR_FALSE.index(value.lower()), "true or false"),
    "int": (int, "a whole number"),
    "float": (_finite, "a finite number"),
    "any": (str, "a text"),
}
# What the run itself decides; naming it by --set would contradict the run folder.
OWNED = {
    "dataset": "use --dataset or --data-file",
    "val_dataset": "use --val-file",
    "model": "use --model",
    "adapters": "use --model with a merged model",
    "output_dir": "use --run-folder",
    "add_version": "use --run-folder",
    "result_path": "use --run-folder",
    "infer_backend": "use --engine",
    "seed": "use --seed",
    "data_seed": "use --data-seed",
    "max_new_tokens": "answers are five tokens long",
    "temperature": "decoding is greedy",
    "num_beams": "decoding is greedy",
    **dict.fromkeys(("top_k", "top_p"), "decoding is greedy"),
    **dict.fromkeys(("repetition_penalty", "stop_words"), "answers are decoded as the model's files say"),
    **dict.fromkeys(("logprobs", "top_logprobs"), "each answer has the probabilities of the labels"),
    "task_type": "use --method head",
    "num_labels": "the data set's labels are counted",
    "problem_type": "the data set's card has its task",
    "stream": "answers go to a file",
    "use_cpu": 'to leave a GPU alone, put CUDA_VISIBLE_DEVICES="" before the command',
    "resume_from_checkpoint": "the same command goes on by itself",
}
# What presets have for `swift sft`; here an option, or what the method needs, is put in its place.
OF_A_PRESET = {"seed", "data_seed", "task_type", "num_labels", "problem_type"}


# What the plain script (tuning/plain.py) hands on to transformers' Trainer, which has the same names.
TRAINERS = (
    *("learning_rate", "lr_scheduler_type", "weight_decay", "max_grad_norm", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "adam_beta2", "logging_steps"),
    *("seed", "data_seed", "bf16", "fp16", "use_cpu"),
)
OF_A_PLAIN_SCRIPT = {*TRAINERS, "lora_rank", "lora_alpha", "lora_dropout", "torch_dtype", "max_length"}
# What other stages read: data, prompts, answers, trackers.
OF_EVERY_RUN = {
    *("split_dataset_ratio", "model_type", "model_revision", "use_hf", "max_model_len", "template", "system"),
    *("use_chat_template", "response_prefix", "enable_thinking", "per_device_eval_batch_size", "report_to"),
    *("logging_dir", "swanlab_project", "swanlab_workspace", "swanlab_exp_name", "swanlab_mode"),
}


def check_settings(experiment: Experiment) -> None:
    """Check the preset and --set before anything is run.

    Raises UserError for a name in the preset that the run sets itself, and as `check_overrides`.
    """
    for name in sorted(experiment.preset.keys() & (OWNED.keys() - OF_A_PRESET)):
        method = experiment.tuning.method
        raise UserError(f"method {method}: {name}: the run sets this itself; {OWNED[name]}; take it out.")
    check_overrides(experiment.overrides, experiment.recipe)


def check_overrides(overrides: dict[str, str], recipe: Recipe | None = None) -> None:
    """Check --set before anything is run; where SWIFT is loaded its own parser has the last word.

    Raises UserError for a name that SWIFT does not know, with the nearest known ones, for one that the run
    owns or its method does not read, and for a value that is not of its type.
    """
    if not overrides:
        return
    content = read_json(FILE)
    kinds = {**content["infer"], **content["sft"]}
    if isinstance(recipe, Preference):
        kinds |= content["rlhf"]
    for name, value in overrides.items():
        if name in OWNED:
            raise UserError(f"--set {name}: the run sets this itself; {OWNED[name]}.")
        if name not in kinds and content["made_with"] != _versions():
            from workflows.model.arguments import known_names

            kinds = dict.fromkeys(known_names(recipe), "any") | kinds
        if name not in kinds:
            raise UserError(f"--set {name}: SWIFT has no such argument. {nearest(name, [*kinds])}")
        if isinstance(recipe, Plain) and name not in {*OF_A_PLAIN_SCRIPT, *OF_EVERY_RUN, *content["infer"]}:
            own = ", ".join(sorted(OF_A_PLAIN_SCRIPT - OWNED.keys()))
            raise UserError(f"--set {name}: the plain script does not read it; it has {own}.")
        kind = kinds[name]
        one_of = (kind.index, f"one of {', '.join(kind)}") if isinstance(kind, list) else None
        read, wanted = one_of or KINDS[kind]
        try:
            read(value)
        except ValueError:
            raise UserError(f"--set {name}={value}: SWIFT takes {wanted} for it.") from None


def nearest(name: str, known: list[str]) -> str:
    """ "Nearest: a, b." of the known names."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f"Nearest: {', '.join(near) or 'none'}."


def _versions() -> dict[str, str]:
    # SWIFT's arguments contain those of transformers.
    return {package: metadata.version(package) for package in ("ms-swift", "transformers")}


def describe_swift() -> dict[str, Any]:
    """What swift_names.json holds, of the installed SWIFT: of RLHFArguments and InferArguments only the names
    that SftArguments lack.
    """
    from swift import InferArguments, RLHFArguments, SftArguments
    from transformers import HfArgumentParser

    def kinds(arguments: type) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for action in HfArgumentParser([arguments])._actions:
            type_name = "" if action.nargs in ("+", "*") else getattr(action.type, "__name__", "")
            kind = {"int": "int", "float": "float", "string_to_bool": "bool"}.get(type_name, "any")
            found.setdefault(action.dest, [*map(str, action.choices)] if action.choices else kind)
        return {name: kind for name, kind in sorted(found.items()) if name != "help"}

    sft = kinds(SftArguments)
    others = {"rlhf": kinds(RLHFArguments), "infer": kinds(InferArguments)}
    lacking = {part: {n: k for n, k in names.items() if n not in sft} for part, names in others.items()}
    return {"made_with": _versions(), "sft": sft, **lacking}


if __name__ == "__main__":
    with open_whole(FILE) as file:
        file.write(json.dumps(describe_swift(), ensure_ascii=False, indent=1) + "\n")
