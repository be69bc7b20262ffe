"""What does not go together, said before anything is run."""

import importlib.util
import itertools
import os
from importlib import import_module, metadata
from typing import Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from workflows.core.errors import UserError
from workflows.core.permissions import check_arguments, is_here, is_off, is_offline
from workflows.experiment.cards import COMMAND, Arguments, ModelCard
from workflows.experiment.experiment import Experiment
from workflows.experiment.ranges import check_ranges
from workflows.experiment.recipes import Plain, Preference

# The first Qwen's own code calls `self.generate`, which PreTrainedModel carries up to transformers 4.49.
FIRST_QWEN_TRANSFORMERS = "transformers<4.50"
QWEN3_5_TRANSFORMERS = "transformers>=5.2"  # SWIFT's own bound for it
TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow>=3", "swanlab": "swanlab>=0.10"}  # pip's names
# It takes no such adapter, or reads the model in 16 bits.
NOT_ON_VLLM = ("use_dora", "modules_to_save", "quant_method")
SWIFT_SAVE_STEPS = 500  # where nothing is given
SEEDS = 1 << 32  # that NumPy takes
ENCODER_TOKENS = 512  # that BERT-size encoders read, their two marks included


def check_environment(card: ModelCard, engine: str) -> None:
    """Raise UserError where model or engine cannot run in this environment, with the way to one that can."""
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "--engine vllm: vLLM is not installed here. On a GPU make an environment of its own, since vLLM "
            "and this project may replace each other's transformers: python -m venv with-vllm && "
            "with-vllm/bin/pip install vllm -r requirements.txt; without a GPU leave --engine out."
        )
    family, installed = card.arguments.get("model_type"), metadata.version("transformers")
    if family == "qwen" and installed not in Requirement(FIRST_QWEN_TRANSFORMERS).specifier:
        raise UserError(
            f"model {card.name}: the first Qwen's own code needs {FIRST_QWEN_TRANSFORMERS}, here is "
            f"{installed}. Make a second environment and run the same command with first-qwen/bin/python: "
            "python -m venv first-qwen && first-qwen/bin/pip install -r requirements.txt "
            f'"{FIRST_QWEN_TRANSFORMERS}". Its repository\'s own code needs --trust-code auto_map, too.'
        )
    if family == "qwen3_5" and installed not in Requirement(QWEN3_5_TRANSFORMERS).specifier:
        raise UserError(
            f"model {card.name}: Qwen3.5 needs {QWEN3_5_TRANSFORMERS}, here is {installed}: "
            f'pip install -U "{QWEN3_5_TRANSFORMERS},<5.20"'
        )
    # SWIFT loads Qwen3.5 with these, pictures or not.
    packages = ("qwen_vl_utils", "torchvision") if family == "qwen3_5" else ()
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(
            f"model {card.name}: SWIFT loads Qwen3.5 with {' and '.join(lacking)}, not installed here: pip "
            f'install {" ".join(lacking)} "torch=={metadata.version("torch")}" (torchvision from where torch '
            "came from: it is built for one torch)."
        )


def check_experiment(experiment: Experiment, source: Experiment | None) -> None:
    """Raise UserError where prompt, options, labels and data set do not go together.

    `source`: the run that the method starts from. Its labels must be the same, by name; and their words too
    where the method goes on with its model.
    """
    data, dataset, prompt = experiment.data, experiment.dataset, experiment.prompt
    for kind, own in (("words", prompt.label_words), ("descriptions", prompt.descriptions)):
        unknown = [label.name for label in dataset.labels if own and label.name not in own]
        if unknown:
            raise UserError(
                f"prompt {prompt.name} has {kind} for {', '.join(own)}, not for label "
                f"{', '.join(unknown)}; take another with --prompt ({COMMAND} list prompts)."
            )
    for where, arguments in (
        (f"method {experiment.tuning.method}:", experiment.preset),
        (f"model {experiment.model.name}:", experiment.model.arguments),
        ("--set", experiment.overrides),
    ):
        check_arguments(arguments, where)
        check_ranges(arguments, where)
    check_method(experiment)
    truncation = str(experiment.arguments.get("truncation_strategy"))
    if experiment.tunes and not experiment.has_head and truncation in ("right", "split"):
        raise UserError(
            f"method {experiment.tuning.method}: truncation_strategy {truncation} would cut the answer off "
            "long rows, which then teach nothing; take left, which keeps the end of a review, or delete."
        )
    check_trackers(experiment)
    for flag, seed in (("--data-seed", data.data_seed), ("--seed", experiment.tuning.seed)):
        if not 0 <= seed < SEEDS:
            raise UserError(f"{flag} {seed}: must be from 0 to {SEEDS - 1}.")
    if data.sample_seed is not None and not data.draws:
        raise UserError(
            "--sample-seed: nothing is drawn without --train-samples, --balance, --mix or --flip-labels; "
            "add one."
        )
    if not 0 <= data.flip_labels < 1:
        raise UserError(f"--flip-labels {data.flip_labels}: a share of the labels, from 0 to below 1.")
    of_one_label = {
        "--balance": data.balance,
        "--apply": data.apply,
        "--mix": data.mix,
        "--test-dataset": data.test_dataset,
        "--flip-labels": data.flip_labels,
    }
    if dataset.task == "regression":
        of_one_label["--best-by macro_f1"] = experiment.tuning.best_by == "macro_f1"
        of_one_label["--labels"] = data.labels
    for flag, given in of_one_label.items():
        if given and dataset.task != "single_label":
            raise UserError(f"{flag}: means nothing for data set {dataset.name}, which is {dataset.task}.")
    check_evaluations(experiment)
    fewest = len(experiment.labels) if dataset.task == "single_label" else 1
    for flag, rows, is_read in (
        ("--probe-rows", experiment.tuning.probe_rows, True),
        ("--eval-rows", experiment.tuning.eval_rows, experiment.tunes),
    ):
        if is_read and rows < fewest:
            raise UserError(f"{flag} {rows}: takes a row of each of the {fewest} labels at least.")
    for label, other in itertools.permutations(experiment.labels, 2):
        if other.words.startswith(label.words) and not experiment.ends_after_label:
            raise UserError(
                f"method {experiment.tuning.method}: label words {other.words!r} begin with {label.words!r}, "
                "and an answer that goes on after its label cannot tell them apart: take other words."
            )
    if source is not None:
        same_words = experiment.model == source.model and experiment.prompt == source.prompt
        here, there = (
            [f"{label.name} {label.words}" if same_words else label.name for label in each.labels]
            for each in (experiment, source)
        )
        if set(here) != set(there):
            raise UserError(
                f"--from-run: its labels are {', '.join(there)}, here they are {', '.join(here)}; they must "
                "be the same."
            )


def check_evaluations(experiment: Experiment) -> None:
    """Raise UserError where nothing would be saved, or the best evaluation may be of a step that is not, or
    by what no evaluation measures.
    """
    if not experiment.tunes or isinstance(experiment.recipe, Plain):
        return
    arguments = experiment.arguments
    saves, evaluates = when_saved_and_evaluated(arguments)
    saved = _number(arguments.get("save_steps") or SWIFT_SAVE_STEPS)
    evaluated = _number(arguments.get("eval_steps") or saved)
    if saves == "no":
        raise UserError("save_strategy no: the training would leave nothing; take steps or epoch.")
    if evaluates == "no":
        return
    wanted = "must be the same, so that the checkpoint of the best evaluation is there; set both."
    if saves == "best" and _number(arguments.get("early_stop_interval")):
        raise UserError(
            "save_strategy best: saves each best alone, so early_stop_interval never counts; take steps."
        )
    if saves != "best" and evaluates != saves:
        raise UserError(f"eval_strategy {evaluates} and save_strategy {saves}: {wanted}")
    if saves == "steps" and None not in (evaluated, saved) and evaluated != saved:
        raise UserError(f"eval_steps {evaluated:g} and save_steps {saved:g}: {wanted}")
    metric = str(arguments.get("metric_for_best_model") or "loss").removeprefix("eval_")
    measured = ("mae", "rmse") if experiment.dataset.task == "regression" else ("accuracy", "macro_f1")
    measured = ("loss", *measured, *(() if experiment.has_head else ("label_loss",)))
    if metric not in measured and not isinstance(experiment.recipe, Preference):  # SWIFT measures that itself
        raise UserError(
            f"metric_for_best_model {metric}: evaluations do not measure it; take {', '.join(measured)}."
        )


def when_saved_and_evaluated(arguments: Arguments) -> tuple[str, str]:
    """save_strategy and eval_strategy; what is not given SWIFT takes from what is."""
    saves = str(arguments.get("save_strategy") or "steps")
    return saves, str(arguments.get("eval_strategy") or saves)


def _number(value: Any) -> float | None:
    """A setting as a number; None where it is none, of which SWIFT's parser says more."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _is_set(value: Any) -> bool:
    return not is_off(value) and str(value) != "[]"


def check_trackers(experiment: Experiment) -> None:
    """Raise UserError where report_to names a tracker that is not known or not installed, or one that could
    not send anything from here.
    """
    for name in experiment.trackers:
        if name not in TRACKERS:
            raise UserError(f"report_to={name}: no such tracker; take {', '.join(TRACKERS)}, or none.")
        if importlib.util.find_spec(name) is None:
            raise UserError(f'report_to={name}: not installed here: pip install "{TRACKERS[name]}"')
    host = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).hostname
    if "mlflow" in experiment.trackers and is_offline() and not is_here(host):
        raise UserError(f"report_to=mlflow: {host} is another machine; leave out --offline.")
    if "swanlab" not in experiment.trackers:
        return
    instead = "or set SWANLAB_MODE=offline, and `swanlab sync` sends it later."
    mode = swanlab_mode(experiment)
    if mode == "local" and importlib.util.find_spec("swanboard") is None:
        raise UserError(
            f'swanlab_mode=local: its dashboard is missing: pip install "swanlab[dashboard]"; {instead}'
        )
    if mode in ("cloud", "online") and is_offline():
        raise UserError(f"report_to=swanlab: is another machine; leave out --offline, {instead}")
    if mode in ("cloud", "online") and import_module("swanlab").Settings().api_key is None:
        raise UserError(f"report_to=swanlab: needs your key: set SWANLAB_API_KEY, {instead}")


def swanlab_mode(experiment: Experiment) -> str:
    """Where SwanLab keeps a run: "cloud", "offline", "local", …; SWIFT's argument knows no "offline"."""
    asked = str(experiment.arguments.get("swanlab_mode", "cloud"))
    return asked if asked == "local" else os.environ.get("SWANLAB_MODE", asked)


def check_method(experiment: Experiment) -> None:
    """Raise UserError where model or task is not what the method is for, with the method that is."""
    model, dataset, tuning = experiment.model, experiment.dataset, experiment.tuning
    head, encoder, window = experiment.has_head, experiment.for_encoders, tuning.window
    method = f"--method {tuning.method}"
    family = model.arguments.get("model_type")  # None where it is known only when the model is here
    if encoder and family not in (None, "bert"):
        raise UserError(
            f"{method}: is for BERT-size encoders, {model.name} is a {family}; take --method head."
        )
    if family == "bert" and not encoder:
        raise UserError(f"{method}: {model.name} is a BERT-size encoder; take --method encoder.")
    if window is not None and not encoder:
        raise UserError("--window: only encoders need it, which read 512 tokens; take --method encoder.")
    if window is not None and window > ENCODER_TOKENS - 2:
        raise UserError(
            f"--window {window}: an encoder reads {ENCODER_TOKENS - 2} tokens of text at a time; take a "
            "smaller one, or some would never be read."
        )
    if window is not None and tuning.engine == "swift":
        raise UserError("--window: SWIFT's engine reads the beginning alone; leave out --engine swift.")
    if isinstance(experiment.recipe, Plain) and tuning.best_by == "macro_f1":
        raise UserError(f"--best-by macro_f1: method {tuning.method} keeps its last step; leave it out.")
    if head and experiment.prompt.shots:
        raise UserError(
            f"{method}: a head learns from all training rows; prompt {experiment.prompt.name}, which shows "
            "some, is for methods that write their answers."
        )
    chats = not is_off(experiment.arguments.get("use_chat_template", True))
    for what, given in (
        (f"prompt {experiment.prompt.name}", experiment.prompt.system),
        ("--set system", experiment.overrides.get("system")),
    ):
        if given and (encoder or not chats):
            chat = "" if encoder else "; if it is a chat model, add --set use_chat_template=true"
            raise UserError(
                f"{what}: {model.name} reads no system prompt; put its text into the user's turn of a prompt "
                f"({COMMAND} list prompts){chat}."
            )
    if "embed" in str(experiment.arguments.get("target_modules")):
        raise UserError(
            "target_modules: an adapter on the embedding would change the output layer too where both share "
            "their weights, as in the smaller Qwens; take --method lora-embedding."
        )
    of_vllm = [name for name in experiment.overrides if name.startswith("vllm_")]
    if tuning.engine != "vllm" and of_vllm:
        raise UserError(f"--set {of_vllm[0]}: only --engine vllm reads it; leave it out.")
    if tuning.engine == "vllm":
        unfit = [name for name in NOT_ON_VLLM if _is_set(experiment.arguments.get(name))]
        if head or unfit or experiment.arguments.get("tuner_type") == "adalora":
            what = "a head" if head else unfit[0] if unfit else "AdaLoRA's ranks"
            raise UserError(f"--engine vllm: takes no adapter with {what}; leave it out.")
    if head and (_number(experiment.arguments.get("label_smoothing_factor")) or 0) > 0:
        raise UserError(f"{method}: has no label smoothing; leave out label_smoothing_factor.")
    if head and family == "qwen":
        raise UserError(
            f"{method}: transformers has no classification head for the first Qwen ({model.name}); take "
            "--method lora, or a Qwen1.5 or newer."
        )
    if not head and dataset.task != "single_label":
        raise UserError(
            f"{method}: answers with one label's words, data set {dataset.name} is {dataset.task}; take "
            "--method head."
        )
