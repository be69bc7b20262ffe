"""How much memory a training needs, by formula, and how it is made to fit without changing what is learned.

A run changes by itself what does not change the result: rows at a time, at the same effective batch, and
gradient checkpointing.  Not covered: heads, and more than one device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workflows.experiment import Experiment
from workflows.machine import Machine
from workflows.models import runs_own_code
from workflows.run_folder import RunFolder, read_json
from workflows.swift_arguments import build_sft_arguments, merged_arguments

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
POSITIONS = 4  # of a row that reach the output layer in training: answer, end mark, and what goes before them
USABLE = 0.9  # of a device's memory: the rest is the display's, the allocator's gaps, and other programs'
EFFECTIVE_BATCH = {"per_device_train_batch_size", "gradient_accumulation_steps"}
CONTEXT = 1.0e9  # bytes that a process needs beside the model: CUDA's context or Python with SWIFT


@dataclass(frozen=True)
class Sizes:
    """A model in numbers, read from its config."""

    layers: int
    hidden: int
    intermediate: int
    key_values: int  # elements of a token's keys, as many of its values
    vocabulary: int
    parameters: int
    body: int  # parameters without embedding and output layer: what a token is multiplied with
    linears: tuple[tuple[str, int, int], ...]  # name, inputs, outputs of the linear layers in the decoder


@dataclass(frozen=True)
class Load:
    """What a run asks of a machine."""

    torch_dtype: str
    checkpointing: bool
    train_batch: int
    accumulation: int
    eval_batch: int
    widest: int  # tokens of the longest training row, at most max_length
    widest_evaluated: int
    lora_rank: int | None  # None: all parameters are trained
    target_modules: str  # all-linear, or names joined by commas
    quant_bits: int | None


def read_sizes(folder: Path) -> Sizes:
    """The sizes of the model that the config in `folder` describes; no weights are needed or made."""
    trusted = runs_own_code(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    outer = {id(layer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    linears = tuple(
        (name.rsplit(".", 1)[-1], layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and id(layer) not in outer
    )
    parameters = sum(each.numel() for each in model.parameters())
    vocabulary_rows = {
        id(layer.weight): layer.weight.numel() for layer in model.modules() if id(layer) in outer
    }
    heads = config.num_attention_heads
    key_values = getattr(config, "num_key_value_heads", heads) * (
        getattr(config, "head_dim", None) or config.hidden_size // heads
    )
    return Sizes(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        key_values=key_values,
        vocabulary=config.vocab_size,
        parameters=parameters,
        body=parameters - sum(vocabulary_rows.values()),
        linears=linears,
    )


def adapted(sizes: Sizes, load: Load) -> list[tuple[str, int, int]]:
    """The linear layers that get an adapter."""
    if load.lora_rank is None:
        return []
    wanted = load.target_modules.split(",")
    return [each for each in sizes.linears if "all-linear" in wanted or each[0] in wanted]


def memory_parts(sizes: Sizes, load: Load) -> dict[str, float]:
    """Bytes of a training at its widest batch, by what they are for.

    weights: in the run's dtype, or quant_bits and a tenth for their scales, the embeddings left as they are.
    optimiser: of each trained parameter the fp32 value, its gradient, and Adam's two moments (16 bytes).
    activations: what the backward pass keeps, counted tensor by tensor as in Korthikanti et al. 2022
    (Reducing Activation Recomputation in Large Transformer Models, section 4), for RMSNorm, rotary grouped
    attention by a fused kernel, a gated MLP, and peft's LoRA with dropout (its output and its mask). With
    gradient checkpointing: each layer's input, and one layer's activations (their section 5).
    logits: of the needed positions, in the run's dtype, in fp32, and their gradient; training or evaluation.
    """
    size = BYTES[load.torch_dtype]
    tokens = load.train_batch * load.widest
    norms = 2 * (4 + size) * sizes.hidden
    attention = size * (3 * sizes.hidden + 3 * sizes.key_values)
    mlp = 4 * size * sizes.intermediate
    lora = (
        sum(inputs for _, inputs, _ in adapted(sizes, load)) / sizes.layers * (size + (1 if size == 2 else 4))
    )
    layer = tokens * (norms + attention + mlp + lora)
    kept = tokens * size * sizes.hidden * sizes.layers + layer if load.checkpointing else layer * sizes.layers
    trained = (
        sizes.parameters
        if load.lora_rank is None
        else sum(load.lora_rank * (inputs + outputs) for _, inputs, outputs in adapted(sizes, load))
    )
    outer = sizes.parameters - sizes.body
    weights = (
        sizes.parameters * size
        if load.quant_bits is None
        else outer * size + sizes.body * load.quant_bits / 8 * 1.1
    )
    positions = POSITIONS * max(load.train_batch, load.eval_batch)
    # An evaluation keeps nothing for a backward pass; a layer's tensors are all that it has at a time.
    evaluated = load.eval_batch * load.widest_evaluated * (norms + attention + mlp)
    return {
        "weights": weights,
        "optimiser": 16.0 * trained,
        "activations": max(kept, evaluated),
        "logits": positions * sizes.vocabulary * (size + 8.0),
        "process": CONTEXT,
    }


def memory(sizes: Sizes, load: Load) -> float:
    """Bytes in all, with a tenth for what an allocator cannot use."""
    parts = memory_parts(sizes, load)
    return parts["process"] + 1.1 * (sum(parts.values()) - parts["process"])


def gentler(load: Load) -> Iterator[tuple[dict[str, str], Load]]:
    """Loads, each smaller than the one before, that learn the same, with the arguments that make it.

    Fewer rows at a time, accumulated to the same batch, cost less time than checkpointing's second forward
    pass.
    """
    while max(load.train_batch, load.eval_batch) > 1:
        names = {}
        if load.train_batch > 1:
            batch = load.train_batch // 2 if load.train_batch % 2 == 0 else 1
            accumulation = load.accumulation * load.train_batch // batch
            load = replace(load, train_batch=batch, accumulation=accumulation)
            names = {
                "per_device_train_batch_size": str(batch),
                "gradient_accumulation_steps": str(accumulation),
            }
        if load.eval_batch > 1:
            load = replace(load, eval_batch=load.eval_batch // 2)
            names["per_device_eval_batch_size"] = str(load.eval_batch)
        yield names, load
    if not load.checkpointing:
        yield {"gradient_checkpointing": "true"}, replace(load, checkpointing=True)


def fit(
    loads: Iterator[tuple[dict[str, str], Load]], sizes: Sizes, load: Load, limit: float
) -> tuple[dict[str, str], bool]:
    """The arguments of the first of `load` and `loads` that needs at most `limit` bytes; whether any does."""
    changes: dict[str, str] = {}
    while not (fits := memory(sizes, load) <= limit):
        names, load = next(loads, ({}, load))
        if not names:
            break
        changes |= names
    return changes, fits


def load_of(arguments: Any, merged: dict[str, Any], widest: int, widest_evaluated: int) -> Load:
    """The load of a run with SWIFT's parsed `arguments`, and the `merged` ones of the machine in question."""
    own = arguments.training_args
    bits = merged.get("quant_bits")
    lora = arguments.tuner_type == "lora"
    return Load(
        torch_dtype=str(merged["torch_dtype"]),
        checkpointing=str(merged.get("gradient_checkpointing", True)).lower() == "true",
        train_batch=own.per_device_train_batch_size,
        accumulation=own.gradient_accumulation_steps,
        eval_batch=own.per_device_eval_batch_size,
        widest=widest,
        widest_evaluated=widest_evaluated,
        lora_rank=arguments.lora_rank if lora else None,
        target_modules=",".join(arguments.target_modules),
        quant_bits=None if bits is None else int(bits),
    )


def fit_to_memory(run: RunFolder, ready: Experiment, machine: Machine) -> Experiment:
    """The experiment with as many rows at a time as the machine's memory holds, up to the effective batch on
    a GPU, and with gradient checkpointing only where even one is too many.

    The effective batch stays, and so does what the model card or --set says.
    """
    if ready.has_head or machine.memory is None:
        return ready
    arguments, merged = build_sft_arguments(run, ready, machine), merged_arguments(ready, machine)
    splits = read_json(run.tokens)["splits"]
    if ready.makes_material:
        splits["train"] = read_json(run.material_summary)["tokens"]
    limit = arguments.max_length or math.inf
    load = load_of(arguments, merged, *(int(min(splits[name]["max"], limit)) for name in ("train", "val")))
    kept = ready.pinned | (EFFECTIVE_BATCH if ready.pinned & EFFECTIVE_BATCH else set())
    changes: dict[str, str] = {}
    if "gradient_checkpointing" not in kept:
        load, changes["gradient_checkpointing"] = replace(load, checkpointing=False), "false"
    if load.accumulation > 1 and machine.device == "cuda" and not kept & EFFECTIVE_BATCH:
        load = replace(load, train_batch=load.train_batch * load.accumulation, accumulation=1)
        changes |= {"per_device_train_batch_size": str(load.train_batch), "gradient_accumulation_steps": "1"}
    sizes = read_sizes(Path(ready.model.arguments["model"]))
    changes |= fit(gentler(load), sizes, load, USABLE * machine.memory)[0]
    changes = {name: value for name, value in changes.items() if name not in kept}
    return replace(ready, overrides={**changes, **ready.overrides})
