"""From a run's merged arguments to SWIFT's own argument objects, through SWIFT's own parser.

The parser is the one behind `swift sft FILE`, so a preset means the same in both places, and every value gets
the type that SWIFT declares for it.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from swift import DeployArguments, InferArguments, RLHFArguments, SftArguments
from swift.utils import parse_args
from transformers import HfArgumentParser

from workflows.core.errors import UserError
from workflows.core.permissions import is_offline
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.core.secrets import Unseen
from workflows.experiment.cards import MAX_NEW_TOKENS, Arguments
from workflows.experiment.experiment import Experiment, load_experiment
from workflows.experiment.options import listed
from workflows.experiment.recipes import Preference, Recipe
from workflows.model.machine import Machine, dtype_of_answers, fit_to_machine
from workflows.model.swift_names import nearest

SFT_NAMES = {field.name for field in fields(SftArguments)}
INFER_NAMES = {field.name for field in fields(InferArguments)}
# How the model is loaded and prompted: inference must use the same as training.
SHARED = (
    *("model", "model_type", "model_revision", "use_hf", "max_model_len", "torch_dtype", "attn_impl"),
    *("device_map", "rope_scaling", "new_special_tokens", "quant_method", "quant_bits", "hqq_axis"),
    *("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"),
    *("template", "template_backend", "use_chat_template", "system", "response_prefix"),
    *("enable_thinking", "add_non_thinking_prefix", "preserve_thinking", "seed", "data_seed"),
    *("task_type", "num_labels", "problem_type"),
)  # fmt: skip
# Of SHARED: what is not of the prompt, nor of the weights.
OF_A_MACHINE = ("torch_dtype", "attn_impl", "device_map", "seed", "data_seed", "use_hf")
VLLM_RANKS = (
    16,
    32,
    64,
    128,
    256,
    320,
    512,
)  # of LoRA that vLLM makes room for (its MaxLoRARanks), from 16 on
VLLM_SHARE = 0.5  # of the GPU's memory: the model that gives label probabilities needs its own
Parsed = TypeVar("Parsed", SftArguments, RLHFArguments, InferArguments, DeployArguments)


def known_names(recipe: Recipe | None) -> set[str]:
    """The arguments that the installed SWIFT has, for training with the recipe or for inference."""
    return {field.name for field in fields(_training_kind(recipe))} | INFER_NAMES


def _training_kind(recipe: Recipe | None) -> type[SftArguments]:
    return RLHFArguments if isinstance(recipe, Preference) else SftArguments


def merged_arguments(experiment: Experiment, machine: Machine) -> Arguments:
    """Preset, model card, machine and overrides in one, the later ones winning where they overlap."""
    seeds = {"seed": experiment.tuning.seed, "data_seed": experiment.data.data_seed}
    return fit_to_machine({**experiment.arguments, **seeds}, experiment.pinned, machine)


def build_sft_arguments(
    run: RunFolder, experiment: Experiment, machine: Machine, resume_from: Path | None = None
) -> SftArguments:
    """The SftArguments of this run: LoRA or what the preset says, on the run's own data files.

    For DPO they are RLHFArguments, which start from the adapter of the run that the experiment names.
    Raises UserError where SWIFT refuses a value, or there is no adapter.
    """
    merged = merged_arguments(experiment, machine)
    derived = experiment.derives_rows
    # What SWIFT does not know stays in, to be refused.
    arguments = {name: value for name, value in merged.items() if name not in INFER_NAMES - SFT_NAMES}
    arguments |= {
        "dataset": [str(run.derived if derived else run.split("train"))],
        "val_dataset": [str(run.derived_val if derived and run.derived_val.exists() else run.split("val"))],
        "output_dir": str(run.sft),
        "add_version": False,
        "resume_from_checkpoint": str(resume_from) if resume_from else None,
    }
    # It tells the hub of each training, and asks whether there is a newer model.
    arguments["check_model"] = not is_offline() and arguments.get("check_model", False)
    arguments.pop("split_dataset_ratio", None)  # the data stage cut the validation set by it
    tuning = experiment.tuning
    if isinstance(experiment.recipe, Preference) and tuning.from_run is not None:
        adapter = checkpoint_of(RunFolder(Path(tuning.from_run)))
        if not (adapter / "adapter_config.json").exists():
            raise UserError(f"{tuning.from_run}: is fully tuned; method {tuning.method} needs an adapter.")
        refuse_other_prompting(experiment, load_experiment(RunFolder(Path(tuning.from_run)).experiment))
        arguments |= {"ref_adapters": [str(adapter)], "adapters": None if resume_from else [str(adapter)]}
    parsed = parse_swift(_training_kind(experiment.recipe), arguments)
    if parsed.dataset_num_proc == 1:
        parsed.dataset_num_proc = None  # here: a process beside this one takes longer to start than to work
    return parsed


def refuse_other_prompting(experiment: Experiment, source: Experiment) -> None:
    """Raise UserError where an adapter would be trained on with other settings of model and prompt than those
    that it was tuned with.
    """
    # A preset has values of YAML, --set texts.
    own, before = (
        {name: str(value).lower() for name, value in {**each.preset, **each.overrides}.items()}
        for each in (experiment, source)
    )
    other = [name for name in SHARED if name not in OF_A_MACHINE and own.get(name) != before.get(name)]
    asked = [f"--set {name}={before[name]}" if name in before else f"no {name}" for name in other]
    if other:
        run = experiment.tuning.from_run
        raise UserError(f"--from-run {run}: its adapter was tuned with {' '.join(asked)}; give the same.")


def build_infer_arguments(
    experiment: Experiment, machine: Machine, test_file: Path, result_file: Path, adapter: Path | None
) -> InferArguments:
    """The InferArguments for one pass over `test_file`: greedy, at most five new tokens.

    `adapter`: the checkpoint of a tuned model. Raises UserError where SWIFT refuses a value.
    """
    merged = merged_arguments(experiment, machine)
    batch = merged.get("max_batch_size", merged.get("per_device_eval_batch_size", 16))
    taken = {*SHARED, *(INFER_NAMES - SFT_NAMES)}
    arguments = {name: value for name, value in merged.items() if name in taken} | {
        **_greedy(experiment, machine),
        "val_dataset": [str(test_file)],
        "stream": False,
        "max_batch_size": batch,
        "write_batch_size": batch,  # the file grows with each batch: it shows progress and survives a stop
        "result_path": str(result_file),
        "truncation_strategy": truncation_of_answers(experiment),
    }
    if adapter is not None:  # an adapter beside the model, or (full tuning) the model itself
        is_adapter = (adapter / "adapter_config.json").exists()
        arguments |= {"adapters": [str(adapter)]} if is_adapter else {"model": str(adapter)}
    if experiment.tuning.engine == "vllm":
        arguments |= {"vllm_gpu_memory_utilization": VLLM_SHARE, **_on_vllm([merged])}
    parsed = parse_swift(InferArguments, arguments)
    if not experiment.has_head:
        parsed.max_length -= MAX_NEW_TOKENS  # what the model can read, less the room for the answer
    return parsed


def build_deploy_arguments(
    experiments: list[Experiment],
    machine: Machine,
    adapters: dict[str, Path],
    host: str,
    port: int,
    key: str | None,
) -> DeployArguments:
    """The DeployArguments of SWIFT's own server on vLLM, with adapters by name.  Not run yet: it needs a GPU.

    `experiments`: of the adapters' runs, all on the same base; `key`: what requests must bring.  Raises
    UserError where SWIFT refuses a value.
    """
    merged = [merged_arguments(experiment, machine) for experiment in experiments]
    arguments = {name: value for name, value in merged[0].items() if name in SHARED} | {
        **_greedy(experiments[0], machine),
        **_on_vllm(merged),
        "adapters": [f"{name}={path}" for name, path in adapters.items()],
        "host": host,
        "port": port,
    }
    parsed = parse_swift(DeployArguments, arguments)
    parsed.api_key = None if key is None else Unseen(key)
    return parsed


def _greedy(experiment: Experiment, machine: Machine) -> Arguments:
    """How a model answers, whoever asks it."""
    return {
        # Full tuning trains fp32 weights; what came of it is read as the untuned model is.
        "torch_dtype": dtype_of_answers(experiment.arguments, experiment.pinned, machine),
        "max_new_tokens": MAX_NEW_TOKENS,
        "temperature": 0,
        "load_args": False,
    }


def _on_vllm(merged: list[Arguments]) -> Arguments:
    """vLLM's own arguments for runs with these: room for each one's LoRA; what --set says of vLLM stays."""
    most = max(int(each.get("lora_rank", 8)) for each in merged)
    room = next((rank for rank in VLLM_RANKS if rank >= most), most)
    asked = {name: value for each in merged for name, value in each.items() if name.startswith("vllm_")}
    return {"infer_backend": "vllm", "vllm_max_lora_rank": room, **asked}


def truncation_of_answers(experiment: Experiment) -> str:
    """Which end of a text goes that is longer than the model can read; every test row is answered.

    The beginning, so that question and answer's place stay; of an encoder the end, as in training.
    """
    return "right" if experiment.for_encoders else "left"


def parse_swift(kind: type[Parsed], arguments: Arguments) -> Parsed:
    """`arguments` as a `kind`, read by SWIFT's parser as if they stood on its command line.

    Raises UserError for what the parser or the argument classes refuse.
    """
    for name in arguments.keys() - {field.name for field in fields(kind)}:
        # argparse would take a part of a name
        raise UserError(
            f"SWIFT has no argument {name}; correct the preset or the model card. "
            f"{nearest(name, [*SFT_NAMES, *INFER_NAMES])}"
        )
    # Hugging Face's library would tell a server of each local file that it reads.
    vars(import_module("datasets.config"))["HF_UPDATE_DOWNLOAD_COUNTS"] = False
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), _without_login():
            return parse_args(kind, command_line_of(kind, arguments))[0]
    except SystemExit as error:  # argparse: it wrote its usage of a thousand lines, then what is wrong
        message = complaint.getvalue().strip().splitlines()[-1].split("error: ", 1)[-1]
        raise UserError(f"SWIFT refuses the arguments: {message}.") from error
    except (ValueError, AssertionError, ImportError) as error:  # such as deepspeed that is not installed
        raise UserError(f"SWIFT refuses the arguments: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _without_login() -> Iterator[None]:
    """Within this SWIFT does not log in to ModelScope, as it would with any arguments where there is a token:
    none is needed to read them, and what is fetched from the hub brings the token itself.
    """
    from swift.hub import MSHub

    login = vars(MSHub)["try_login"]
    MSHub.try_login = classmethod(lambda cls, token=None: False)
    try:
        yield
    finally:
        MSHub.try_login = login


def command_line_of(kind: type, arguments: Arguments) -> list[str]:
    """`arguments` as SWIFT's command line has them; a text for a list is cut at blanks and commas."""
    line: list[str] = []
    for name, value in arguments.items():
        if name in _lists(kind) and value is not None:
            line += [f"--{name}", *map(str, listed(value))]
        elif value is not None:  # with "=", so that a value may begin with a dash
            line.append(f"--{name}={json.dumps(value) if isinstance(value, dict | list) else value}")
    return line


@cache
def _lists(kind: type) -> set[str]:
    """The arguments that take several values."""
    return {action.dest for action in HfArgumentParser([kind])._actions if action.nargs in ("+", "*")}
