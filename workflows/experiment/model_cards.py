"""The model that a name, a folder or a hub id stands for, and what its files say of it."""

import json
import re
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.permissions import AUTO_MAP, is_trusted
from workflows.experiment.cards import MODELS, Arguments, ModelCard, did_you_mean, names_of, read_yaml
from workflows.experiment.options import absolute


def load_model_card(name: str) -> ModelCard:
    """The card `sft_args/models/<name>.yaml`, or one made of a model folder or a hub id (owner/name).

    Raises UserError where `name` is none of them.
    """
    known, folder = names_of(MODELS), Path(absolute(name))
    if name not in known and folder.is_dir():
        return ModelCard(folder.name, describe_folder(folder))
    for card in [name] if name in known else known:
        arguments = read_yaml(MODELS / f"{card}.yaml")
        if "model" not in arguments:
            raise UserError(f"{MODELS / card}.yaml: has no `model`, the hub id or folder.")
        if card == name or str(arguments["model"]).lower() == name.lower():
            return ModelCard(card, arguments)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        chats = any(word in name.lower() for word in ("chat", "instruct"))
        is_base = _is_named_base(name) if "qwen3" in name.lower() else not chats
        base: Arguments = {"use_chat_template": False} if is_base else {}
        return ModelCard(name.split("/")[1], {"model": name, **base})
    raise UserError(
        f"model {name!r} is neither a known name, nor a folder, nor a hub id (owner/name)."
        f"{did_you_mean(name, known)}"
    )


def describe_folder(folder: Path) -> Arguments:
    """SWIFT's arguments for a local model folder, read from its own files.

    SWIFT asks for `model_type` and `template` where a folder's name does not tell them.  Base and chat models
    of one family differ in the token that ends their output: <|endoftext|> or <|im_end|>.
    """
    config = read_config(folder)
    arguments: Arguments = {"model": str(folder)}
    family = config.get("model_type")
    if family == "qwen":  # the first Qwen: base and chat have the same files, but for their names
        arguments |= {"model_type": "qwen", "template": "qwen"}
        return arguments if "chat" in folder.name.lower() else {**arguments, "use_chat_template": False}
    if family == "bert":
        return {**arguments, "model_type": "bert", "template": "dummy"}
    if family == "qwen3_5":  # the configs of base and chat end with the same token
        arguments |= {"model_type": family, "template": family, "enable_thinking": False}
        arguments |= {"freeze_vit": True, "freeze_aligner": True}  # it sees pictures too; there are none here
        tokenizer = _read(folder / "tokenizer_config.json")
        is_base = tokenizer.get("eos_token") == "<|endoftext|>" or _is_named_base(folder.name)
        return {**arguments, "use_chat_template": False} if is_base else arguments
    if family not in {"qwen2", "qwen3"}:
        return arguments
    chat = _text(folder / "chat_template.jinja") or _text(folder / "tokenizer_config.json")
    system_of_qwen2_5 = "You are Qwen, created by Alibaba Cloud" in chat
    template = "qwen3" if family == "qwen3" else "qwen2_5" if system_of_qwen2_5 else "qwen"
    arguments |= {"model_type": family, "template": template}
    added = _read(folder / "tokenizer.json").get("added_tokens", [])
    if "<|endoftext|>" in [each["content"] for each in added if each["id"] == config.get("eos_token_id")]:
        arguments["use_chat_template"] = False
    elif family == "qwen3":
        arguments["enable_thinking"] = False
    return arguments


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise UserError(
            f"model folder {folder}: it has no config.json; give the folder that holds the weights."
        )
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of a model, empty where it is not there; a UserError where it is torn."""
    try:
        return dict(json.loads(_text(path))) if path.exists() else {}
    except ValueError as error:
        raise UserError(
            f"{path}: not readable as JSON: {error}; is it whole? (`git clone` leaves pointers: git lfs pull)"
        ) from error


def _is_named_base(name: str) -> bool:
    """Whether one of a name's parts is "base", as in Qwen3-0.6B-Base."""
    return "base" in re.split(r"[^a-z0-9]+", name.lower())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def runs_own_code(folder: Path) -> bool:
    """Whether the Python code of the model's repository may run, as the first Qwen needs: where it has some,
    and the command line trusts it.
    """
    return is_trusted(AUTO_MAP) and AUTO_MAP in read_config(folder)
