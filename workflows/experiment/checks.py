"""What does not go together, said before anything is run."""

import importlib.util
from importlib import metadata

from packaging.specifiers import SpecifierSet

from workflows.core.errors import UserError
from workflows.experiment.cards import COMMAND, DatasetCard, Label, ModelCard, Prompt
from workflows.experiment.experiment import Experiment


def check_labels(experiment: Experiment, source: Experiment) -> None:
    """Raise UserError unless the run that a method starts from has the same labels, by name.

    A method that goes on with its model needs the same words too.
    """
    same_words = experiment.model == source.model and experiment.prompt == source.prompt
    own, other = (
        [(label.name, label.words) if same_words else (label.name,) for label in each.labels]
        for each in (experiment, source)
    )
    if set(own) != set(other):
        listed = (", ".join(" ".join(label) for label in labels) for labels in (other, own))
        raise UserError(
            "--from-run: its labels are {}, here they are {}; they must be the same.".format(*listed)
        )


def check_beginnings(labels: tuple[Label, ...], method: str) -> None:
    """Raise UserError where one label's words begin another's: without an end mark they look alike."""
    for label in labels:
        for other in labels:
            if label != other and other.words.startswith(label.words):
                raise UserError(
                    f"method {method}: label words {other.words!r} begin with {label.words!r}, and an answer "
                    "that goes on after its label cannot tell them apart: take other words."
                )


def check_prompt(prompt: Prompt, dataset: DatasetCard) -> None:
    """Raise UserError where a prompt with label words or descriptions of its own lacks a label of the data
    set.
    """
    for kind, given in (("words", prompt.label_words), ("descriptions", prompt.descriptions)):
        unknown = [label.name for label in dataset.labels if given and label.name not in given]
        if unknown:
            raise UserError(
                f"prompt {prompt.name} has {kind} for {', '.join(given)}, not for label "
                f"{', '.join(unknown)}; take another with --prompt ({COMMAND} list prompts)."
            )


def check_task(experiment: Experiment) -> None:
    """Raise UserError for an option that means nothing where rows have several labels, or numbers."""
    data, dataset = experiment.data, experiment.dataset
    one_label = {"--balance": data.balance, "--apply": data.apply, "--mix": data.mix}
    if dataset.task == "regression":
        one_label["--best-by macro_f1"] = experiment.tuning.best_by == "macro_f1"
    for flag, given in one_label.items():
        if given and dataset.task != "single_label":
            raise UserError(f"{flag}: means nothing for data set {dataset.name}, which is {dataset.task}.")


# The first Qwen's own modeling code calls `self.generate`, which PreTrainedModel carries up to
# transformers 4.49.
FIRST_QWEN_TRANSFORMERS = "<4.50"

QWEN3_5_TRANSFORMERS = ">=5.2"  # SWIFT's own bound for it

ENCODER_TOKENS = 512  # that BERT-size encoders read, their two marks included

FIRST_QWEN_INSTALL = (
    'python -m venv first-qwen && first-qwen/bin/pip install -r requirements.txt "transformers<4.50"'
)


def check_environment(card: ModelCard, engine: str) -> None:
    """Raise UserError where this environment cannot run the model or the engine, with the command that makes
    one that can.
    """
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "--engine vllm: vLLM is not installed here. On a GPU make an environment of its own, since vLLM "
            "and this project may replace each other's transformers: python -m venv with-vllm && "
            "with-vllm/bin/pip install vllm -r requirements.txt; without a GPU leave --engine out."
        )
    family, installed = card.arguments.get("model_type"), metadata.version("transformers")
    if family == "qwen3_5":
        _check_packages_for_pictures(card, installed)
    if family == "qwen" and installed not in SpecifierSet(FIRST_QWEN_TRANSFORMERS):
        raise UserError(
            f"model {card.name}: the first Qwen's own code needs transformers{FIRST_QWEN_TRANSFORMERS}, "
            "here is "
            f"{installed}. Make a second environment and run the same command with first-qwen/bin/python: "
            f"{FIRST_QWEN_INSTALL}"
        )


def _check_packages_for_pictures(card: ModelCard, transformers: str) -> None:
    """Raise UserError where a package is not here that SWIFT loads Qwen3.5 with, pictures or not."""
    if transformers not in SpecifierSet(QWEN3_5_TRANSFORMERS):
        raise UserError(
            f"model {card.name}: Qwen3.5 needs transformers{QWEN3_5_TRANSFORMERS}, here is {transformers}: "
            f'pip install -U "transformers{QWEN3_5_TRANSFORMERS},<5.20"'
        )
    lacking = [name for name in ("qwen_vl_utils", "torchvision") if importlib.util.find_spec(name) is None]
    if lacking:
        torch = metadata.version("torch")
        raise UserError(
            f"model {card.name}: SWIFT loads Qwen3.5 with {' and '.join(lacking)}, not installed here: pip "
            f'install {" ".join(lacking)} "torch=={torch}" (torchvision from where torch came from: it is '
            "built for one torch)."
        )


def check_method(experiment: Experiment) -> None:
    """Raise UserError where the model or the data set's task is not what the method is for, with the method
    that is.
    """
    model, dataset, tuning = experiment.model, experiment.dataset, experiment.tuning
    method = f"--method {tuning.method}"
    family = model.arguments.get("model_type")  # None where it is known only when the model is here
    if experiment.for_encoders and family not in (None, "bert"):
        raise UserError(
            f"{method}: is for BERT-size encoders, {model.name} is a {family}; take --method head."
        )
    if family == "bert" and not experiment.for_encoders:
        raise UserError(f"{method}: {model.name} is a BERT-size encoder; take --method encoder.")
    if tuning.window is not None and not experiment.for_encoders:
        raise UserError("--window: only encoders need it, which read 512 tokens; take --method encoder.")
    if tuning.window is not None and tuning.window > ENCODER_TOKENS - 2:
        raise UserError(
            f"--window {tuning.window}: an encoder reads {ENCODER_TOKENS - 2} tokens of text at a time; "
            "take a smaller one, or some would never be read."
        )
    if tuning.window is not None and tuning.engine == "swift":
        raise UserError("--window: SWIFT's engine reads the beginning alone; leave out --engine swift.")
    if experiment.has_head and experiment.prompt.shots:
        raise UserError(
            f"{method}: a head learns from all training rows; prompt "
            f"{experiment.prompt.name}, which shows some, is for methods that write their answers."
        )
    if experiment.has_head and tuning.engine == "vllm":
        raise UserError("--engine vllm: takes no adapter with a head; leave it out.")
    if experiment.has_head and family == "qwen":
        raise UserError(
            f"{method}: transformers has no classification head for the first Qwen "
            f"({model.name}); take --method lora, or a Qwen1.5 or newer."
        )
    if not experiment.has_head and dataset.task != "single_label":
        raise UserError(
            f"{method}: answers with one label's words, data set {dataset.name} is "
            f"{dataset.task}; take --method head."
        )
