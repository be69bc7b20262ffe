"""Models by name: cards, local folders and hub ids; what is checked before a model is loaded.

Nothing here imports torch or SWIFT until a model is needed (`fetch_model`).
"""

import importlib.util
import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from workflows.errors import UserError
from workflows.experiment import (
    MAX_NEW_TOKENS,
    MODELS,
    ROOT,
    Arguments,
    Experiment,
    Label,
    ModelCard,
    did_you_mean,
    names_of,
    read_mapping,
)
from workflows.machine import find_machine, fit_to_machine, is_full

# The first Qwen's own modeling code calls `self.generate`, which PreTrainedModel carries up to
# transformers 4.49.
FIRST_QWEN_TRANSFORMERS = "<4.50"
FLASH_ATTENTION = {"flash_attn", "flash_attention_2"}  # SWIFT's names for the package flash_attn
ENCODER_TOKENS = 512  # that BERT-size encoders read, their two marks included
FIRST_QWEN_INSTALL = (
    'python -m venv first-qwen && first-qwen/bin/pip install -r requirements.txt "transformers<4.50"'
)


def load_model_card(name: str) -> ModelCard:
    """The card `sft_args/models/<name>.yaml`, a local model folder, or a hub id such as
    Qwen/Qwen2.5-0.5B-Instruct.

    Raises UserError where `name` is none of them.
    """
    cards = {card: read_mapping(MODELS / f"{card}.yaml") for card in names_of(MODELS)}
    by_hub_id = {str(arguments.get("model")).lower(): card for card, arguments in cards.items()}
    folder = Path(name).expanduser()
    if name in cards:
        if "model" not in cards[name]:
            raise UserError(f"{MODELS / name}.yaml: has no `model`, the hub id or folder.")
        return ModelCard(name, cards[name])
    if folder.is_dir():
        return ModelCard(folder.resolve().name, describe_folder(folder.resolve()))
    if name.lower() in by_hub_id:
        return ModelCard(by_hub_id[name.lower()], cards[by_hub_id[name.lower()]])
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        base = not any(word in name.lower() for word in ("chat", "instruct")) and "qwen3" not in name.lower()
        return ModelCard(
            name.split("/")[1], {"model": name, "use_chat_template": False} if base else {"model": name}
        )
    raise UserError(
        f"model {name!r} is neither a known name, nor a folder, nor a hub id (owner/name)."
        f"{did_you_mean(name, list(cards))} Known: {', '.join(cards)}."
    )


def describe_folder(folder: Path) -> Arguments:
    """SWIFT's arguments for a local model folder, read from its own files.

    SWIFT asks for `model_type` and `template` where a folder's name does not tell them.  Base and chat models
    of one family differ in the token that ends their output: <|endoftext|> or <|im_end|>.
    """
    config = _read_config(folder)
    arguments: Arguments = {"model": str(folder)}
    family = config.get("model_type")
    if family == "qwen":  # the first Qwen: base and chat have the same files, but for their names
        arguments |= {"model_type": "qwen", "template": "qwen"}
        return arguments if "chat" in folder.name.lower() else {**arguments, "use_chat_template": False}
    if family == "bert":
        return {**arguments, "model_type": "bert", "template": "dummy"}
    if family not in {"qwen2", "qwen3"}:
        return arguments
    system_of_qwen2_5 = "You are Qwen, created by Alibaba Cloud" in _chat_template(folder)
    template = "qwen3" if family == "qwen3" else "qwen2_5" if system_of_qwen2_5 else "qwen"
    arguments |= {"model_type": family, "template": template}
    if _end_token(folder, config) == "<|endoftext|>":
        arguments["use_chat_template"] = False
    elif family == "qwen3":
        arguments["enable_thinking"] = False
    return arguments


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise UserError(
            f"model folder {folder}: it has no config.json; give the folder that holds the weights."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {error}.") from error


def _chat_template(folder: Path) -> str:
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    return str(json.loads(path.read_text(encoding="utf-8")).get("chat_template")) if path.exists() else ""


def _end_token(folder: Path, config: dict[str, Any]) -> str | None:
    """The text of the token that the model's config says ends its output."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", [])
    return next((token["content"] for token in added if token["id"] == config.get("eos_token_id")), None)


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
    if card.arguments.get("model_type") != "qwen":
        return
    installed = metadata.version("transformers")
    if installed not in SpecifierSet(FIRST_QWEN_TRANSFORMERS):
        raise UserError(
            f"model {card.name}: the first Qwen's own code needs transformers{FIRST_QWEN_TRANSFORMERS}, "
            "here is "
            f"{installed}. Make a second environment and run the same command with first-qwen/bin/python: "
            f"{FIRST_QWEN_INSTALL}"
        )


def check_method(experiment: Experiment) -> None:
    """Raise UserError where the model or the data set's task is not what the method is for, with the method
    that is.
    """
    model, dataset = experiment.model, experiment.dataset
    family = model.arguments.get("model_type")  # None where it is known only when the model is here
    if experiment.for_encoders and family not in (None, "bert"):
        raise UserError(
            f"--method {experiment.method}: is for BERT-size encoders, {model.name} is a {family}; "
            "take --method head."
        )
    if family == "bert" and not experiment.for_encoders:
        raise UserError(
            f"--method {experiment.method}: {model.name} is a BERT-size encoder; take --method encoder."
        )
    if experiment.window is not None and not experiment.for_encoders:
        raise UserError("--window: only encoders need it, which read 512 tokens; take --method encoder.")
    if experiment.window is not None and experiment.window > ENCODER_TOKENS - 2:
        raise UserError(
            f"--window {experiment.window}: an encoder reads {ENCODER_TOKENS - 2} tokens of text at a time; "
            "take a smaller one, or some would never be read."
        )
    if experiment.window is not None and experiment.engine == "swift":
        raise UserError("--window: SWIFT's engine reads the beginning alone; leave out --engine swift.")
    if experiment.has_head and experiment.prompt.shots:
        raise UserError(
            f"--method {experiment.method}: a head learns from all training rows; prompt "
            f"{experiment.prompt.name}, which shows some, is for methods that write their answers."
        )
    if experiment.has_head and experiment.engine == "vllm":
        raise UserError("--engine vllm: takes no adapter with a head; leave it out.")
    if experiment.has_head and family == "qwen":
        raise UserError(
            f"--method {experiment.method}: transformers has no classification head for the first Qwen "
            f"({model.name}); take --method lora, or a Qwen1.5 or newer."
        )
    if not experiment.has_head and dataset.task != "single_label":
        raise UserError(
            f"--method {experiment.method}: answers with one label's words, data set {dataset.name} is "
            f"{dataset.task}; take --method head."
        )


def check_machine(experiment: Experiment) -> None:
    """Raise UserError where the experiment asks for what this machine cannot do: four bits without
    bitsandbytes and a GPU, or flash attention that would stop the run; and for full tuning of fp16 weights,
    which no machine can.
    """
    arguments = experiment.arguments
    if arguments.get("quant_method") == "bnb" and (lacking := _lacking_for_four_bits()):
        raise UserError(
            f"method {experiment.method} loads the model in 4 bits, which needs {' and '.join(lacking)}; "
            "without them take --method lora."
        )
    if is_full(arguments) and "torch_dtype" in experiment.pinned and arguments["torch_dtype"] == "float16":
        raise UserError(
            f"method {experiment.method} trains all weights, which fp16 has too few digits for: leave out "
            "torch_dtype=float16; the weights are then fp32, and a GPU without bf16 computes in fp16."
        )
    if str(arguments.get("attn_impl")) in FLASH_ATTENTION and (why := _why_no_flash_attention(experiment)):
        raise UserError(
            f"--set attn_impl={arguments['attn_impl']}: {why}; leave it out, torch's own attention is used."
        )


def _lacking_for_four_bits() -> list[str]:
    import torch

    lacking = []
    if importlib.util.find_spec("bitsandbytes") is None:
        lacking.append("bitsandbytes (pip install bitsandbytes)")
    if not torch.cuda.is_available():
        lacking.append("an NVIDIA GPU")
    return lacking


def _why_no_flash_attention(experiment: Experiment) -> str | None:
    """Why the package flash_attn would stop this run here, or None where nothing speaks against it."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    if not torch.cuda.is_available():
        return "it needs an NVIDIA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return "it needs a GPU of Ampere or newer"
    fitted = fit_to_machine(experiment.arguments, experiment.pinned, find_machine())
    if fitted["torch_dtype"] == "float32":
        return "it refuses float32, which this run's weights are in"
    if not is_flash_attn_2_available():
        return "the package flash_attn is not installed here, or too old"
    try:
        import flash_attn  # noqa: F401
    except ImportError as error:
        return f"the package flash_attn was built for another torch ({' '.join(str(error).split())[:100]})"
    return None


def runs_own_code(folder: Path) -> bool:
    """Whether the model is of the first Qwen architecture, the one whose repository's Python code may
    run here.
    """
    return _read_config(folder).get("architectures") == ["QWenLMHeadModel"]


def fetch_model(arguments: Arguments, weights: bool = True) -> Path:
    """The local folder of the model that `arguments` name, downloaded by SWIFT where it is a hub id;
    without `weights` only what describes the model is: config, tokenizer, generation config.

    Switches remote code off in SWIFT's loader, and refuses a folder that asks for it, for all but the first
    Qwen. Raises UserError where the model cannot be had, with what was tried.
    """
    from swift.model.register import ModelLoader
    from swift.utils import safe_snapshot_download

    model = str(arguments["model"])
    local = ROOT / model  # `tiny` ships with the project; an absolute path stays as it is
    if local.is_dir():
        folder = local
    else:
        try:
            folder = Path(
                safe_snapshot_download(
                    model,
                    revision=arguments.get("model_revision"),
                    download_model=weights,
                    use_hf=arguments.get("use_hf") in (True, "true"),
                )
            )
        except Exception as error:  # whatever a hub client raises, the user's way out is the same
            raise UserError(
                f"model {model}: could not be downloaded ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}). "
                "Give a local folder with --model DIR, or take the other hub with --set use_hf=true."
            ) from error
    remote_code = runs_own_code(folder)
    if not remote_code and "auto_map" in _read_config(folder):
        raise UserError(
            f"model {folder}: its config.json wants to run Python code from the model's repository "
            "(auto_map); "
            "that is off here for all but the first Qwen. Take a model without remote code."
        )
    ModelLoader.default_trust_remote_code = remote_code
    return folder


def check_label_words(tokenizer: Any, labels: tuple[Label, ...]) -> None:
    """Raise UserError unless every label's words fit in MAX_NEW_TOKENS tokens and those tokens tell labels
    apart.

    `tokenizer` is the model's own.
    """
    starts: dict[tuple[int, ...], Label] = {}
    for label in labels:
        words, ids = label.words, tokenizer.encode(label.words, add_special_tokens=False)
        if len(ids) > MAX_NEW_TOKENS:
            raise UserError(
                f"label words {words!r} are {len(ids)} tokens for this model, its answers are cut at "
                f"{MAX_NEW_TOKENS}: "
                "take shorter words (--labels value=words, or label_words in the prompt)."
            )
        twin = starts.setdefault(tuple(ids), label)
        if twin != label:
            raise UserError(
                f"labels {twin.name} and {label.name} have the same words for this model ({words!r}): "
                "take other words."
            )


def label_tokens(template: Any, labels: tuple[Label, ...]) -> list[list[int]]:
    """Each label's whole answer: the tokens of its words, then the mark that ends an answer in training."""
    end = template.template_meta.stop_token_id
    return [[*template.tokenizer.encode(label.words, add_special_tokens=False), end] for label in labels]


def ready_model(experiment: Experiment) -> Experiment:
    """The experiment with its model as a local folder, after every check that can be made before loading it.

    What a hub id left open (model_type, template) is read from the folder's files.
    Raises UserError where the environment, the model or the label words do not fit.
    """
    from transformers import AutoTokenizer

    check_environment(experiment.model, experiment.engine)
    check_machine(experiment)
    folder = fetch_model(experiment.arguments)
    card = experiment.model
    ready = replace(card, arguments={**describe_folder(folder), **card.arguments, "model": str(folder)})
    readied = replace(experiment, model=ready)
    check_method(readied)
    if not experiment.has_head:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=runs_own_code(folder))
        check_label_words(tokenizer, experiment.labels)
    return readied
