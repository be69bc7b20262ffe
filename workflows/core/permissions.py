"""What the command line allows this process: to reach other machines, to run code that a file names.

A run folder, a card or a model may come from anybody, so neither is ever read from one of them.
"""

import ipaddress
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import read_json

OFFLINE = "HF_HUB_OFFLINE"  # the Hugging Face libraries' own variable; processes started from here inherit it
OFFLINE_VARIABLES = (OFFLINE, "TRANSFORMERS_OFFLINE")
AUTO_MAP = "auto_map"  # the key by which a model's config names Python code beside it
NO = ("", "0", "f", "false", "n", "no", "none", "null")  # what SWIFT's parser takes for false, or for nothing
# SWIFT's arguments that name a Python file, a place to import from, variables of the environment, another
# file of arguments, or a model that is loaded with its own code.
RUNS_CODE = {
    *("external_plugins", "custom_register_path", "custom_dataset_info", "local_repo_path", "model_kwargs"),
    *("load_args", "load_data_args", "device_groups", "ref_model", "reward_model", "teacher_model"),
    *("reward_model_plugin", "vllm_engine_kwargs"),
}
# These run code where they are more than a word that SWIFT knows: a file, settings, a kernel of a hub.
RUNS_CODE_BY_PATH = {
    *("accelerator_config", "attn_impl", "deepspeed", "experts_impl", "fsdp", "fsdp_config"),
    *("parallelism_config", "teacher_deepspeed"),
}
# These hold a secret, which would be written into the run folder; where SWIFT finds it instead.
SECRET = {
    "hub_token": "set MODELSCOPE_API_TOKEN or HF_TOKEN",
    "swanlab_token": "set SWANLAB_API_KEY",
    "swanlab_secret": "leave it out",
    "swanlab_webhook_url": "leave it out",
}
CONNECTING = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}

_trusted: set[str] = set()  # what --trust-code named


def is_off(value: object) -> bool:
    """Whether SWIFT's parser takes a value for false, or for nothing."""
    return str(value).lower() in NO


@contextmanager
def permitted(offline: bool, trusted: Collection[str]) -> Iterator[None]:
    """Within this, what --offline and --trust-code said holds for the whole process.

    Raises UserError for a name that no check asks for.
    """
    known = {*RUNS_CODE, *RUNS_CODE_BY_PATH, AUTO_MAP}
    for name in trusted:
        if name not in known:
            raise UserError(f"--trust-code {name}: runs no code. What does: {', '.join(sorted(known))}.")
    before = os.environ.get(OFFLINE)
    _trusted.update(trusted)
    if offline:
        os.environ[OFFLINE] = "1"
    if is_offline():
        _forbid_connections()
    try:
        yield
    finally:
        _trusted.clear()
        if offline and before is None:
            del os.environ[OFFLINE]


def is_offline() -> bool:
    """Whether no hub may be asked: by --offline, or by the variables that the hubs' clients heed."""
    return offline_variable() is not None


def offline_variable() -> str | None:
    """The variable that keeps the hubs' clients from the network, where one is set."""
    is_set = ("1", "ON", "YES", "TRUE")
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").upper() in is_set), None)


@cache
def _forbid_connections() -> None:
    """While the process is offline, whatever tries to reach another machine finds it unreachable.

    A promise kept at the last door: trackers and libraries have ways out that nobody listed.
    """

    def refuse(event: str, given: tuple[Any, ...]) -> None:
        if event not in CONNECTING or not is_offline():
            return
        address = given[1] if event in ("socket.connect", "socket.sendto") else given
        host = (
            address[0] if isinstance(address, tuple) else None
        )  # a socket of this machine's files: no tuple
        if not is_here(host.decode() if isinstance(host, bytes) else host):
            raise OSError(f"--offline: {host} is another machine")

    sys.addaudithook(refuse)


def is_here(host: str | None) -> bool:
    """Whether a host, by name or address, is this machine; None is."""
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(host))
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def is_trusted(name: str) -> bool:
    """Whether --trust-code names it."""
    return name in _trusted


def trusted_names() -> list[str]:
    """What --trust-code named."""
    return sorted(_trusted)


def check_arguments(arguments: Mapping[str, Any], where: str) -> None:
    """Raise UserError where SWIFT's arguments would run code that the command line does not trust, upload
    what is trained, or hold a secret.

    `where` they come from is said first.
    """
    for name, value in arguments.items():
        if value and name in SECRET:
            raise UserError(f"{where} {name}: is a secret, which no run folder may hold; {SECRET[name]}.")
        if name == "push_to_hub" and not is_off(value):
            raise UserError(f"{where} push_to_hub: a training uploads nothing; use `export --push`.")
        if not value or str(value).lower() in ("false", "none", "null") or is_trusted(name):
            continue
        by_path = name in RUNS_CODE_BY_PATH and not re.fullmatch(r"[\w ]+", str(value))
        if name in RUNS_CODE or by_path:
            raise UserError(
                f"{where} {name}={value} names code to be run, or settings that can run some; look at it "
                f"first, and if you trust it add --trust-code {name}."
            )


def check_folder(folder: Path) -> None:
    """Raise UserError where a folder of a model or an adapter wants code beside its weights to be run."""
    for path in sorted(folder.glob("*config*.json")):
        try:
            config = read_json(path)
        except ValueError:  # whoever loads it says what is wrong
            continue
        if not isinstance(config, dict):
            continue
        if AUTO_MAP in config and not is_trusted(AUTO_MAP):
            raise UserError(
                f"{path}: wants to run Python code from the model's repository ({AUTO_MAP}). Take a model "
                f"without; or look at the code, and if you trust it add --trust-code {AUTO_MAP}."
            )
        if config.get("megatron_config"):  # peft would import the module that megatron_core names
            raise UserError(f"{path}: has a megatron_config, by which peft imports Python code; take it out.")
