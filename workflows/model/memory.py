"""How much memory a training needs, by formula, and how it is made to fit without changing what is learned.

A run changes by itself what does not change the result: tokens computed at a time, at the same effective
batch, and gradient checkpointing.  Not covered: more than one device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder
from workflows.experiment.experiment import Experiment
from workflows.experiment.model_cards import runs_own_code
from workflows.experiment.recipes import LabelLoss, Preference
from workflows.model.arguments import build_sft_arguments, merged_arguments
from workflows.model.batches import LOGIT_ROWS, USABLE, length_batches, state_bytes
from workflows.model.loaded import class_for
from workflows.model.machine import Machine, free_memory, memory_within_reach
from workflows.model.patches import PLAIN_ATTENTION

EFFECTIVE_BATCH = {"per_device_train_batch_size", "gradient_accumulation_steps"}

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Bytes taken for each byte of activations: what a heap of freed smaller tensors cannot give to larger ones.
# On a CPU counted piece by piece; on a GPU, whose memory torch hands out itself, assumed.
ALLOCATED = {"cpu": 1.4, "cuda": 1.2}
POSITIONS = 4  # of a row that reach the output layer in training: answer, end mark, and what goes before them
# Bytes that a process needs beside the model: Python with SWIFT and its libraries, or CUDA's context.
PROCESS = {"cpu": 1.0e9, "cuda": 0.6e9}
# Tokens at most that are computed at a time. On a CPU matrix products are at their best speed long before.
PIECE_TOKENS = {"cpu": 2048, "cuda": 16384}
SHORTEST_PIECE = 256  # tokens; smaller ones would cost time and save little
PICTURES = "visual."  # in the names of the layers that see pictures, which are frozen and given none
EVALUATED_TOKENS = 4096  # that the scorer reads at a time, about


@dataclass(frozen=True)
class Sizes:
    """A model in numbers, read from its config."""

    layers: int
    heads: int
    hidden: int
    intermediate: int
    key_values: int  # elements of a token's keys, as many of its values
    vocabulary: int
    parameters: int
    body: int  # parameters without embedding, output layer and what sees pictures: a token's multiplications
    linears: tuple[tuple[str, int, int], ...]  # name, inputs, outputs of the linear layers in the decoder
    state: float = 0.0  # bytes a token, as state_bytes has them, the mean of all layers


@dataclass(frozen=True)
class Workload:
    """What a training asks of a machine."""

    device: str  # as Machine.device has it
    torch_dtype: str  # of the weights
    compute_dtype: str  # of matrix products
    checkpointing: bool
    batch: int  # rows of an optimiser step that are given at once
    longest: tuple[int, ...]  # tokens of the longest rows, the longest first, at most max_length each
    piece_tokens: int | None  # tokens at most that are computed at a time; None: all rows of a batch
    lora_rank: int | None  # None: all parameters are trained
    target_modules: str  # all-linear, or names joined by commas
    quant_bits: int | None
    dropout: bool = False  # of LoRA, whose masks are kept
    has_head: bool = False  # instead of logits over the vocabulary
    second_pass: bool = False  # whether the loss compares with the base model


def read_sizes(folder: Path) -> Sizes:
    """The sizes of the model that the config in `folder` describes; no weights are needed or made."""
    trusted = runs_own_code(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    with torch.device("meta"):
        model = class_for(config).from_config(config, trust_remote_code=trusted)
    outer = {id(layer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    linears = tuple(
        (name.rsplit(".", 1)[-1], layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and id(layer) not in outer and PICTURES not in name
    )
    parameters = sum(each.numel() for each in model.parameters())
    vocabulary_rows = {
        id(layer.weight): layer.weight.numel() for layer in model.modules() if id(layer) in outer
    }
    pictures = sum(each.numel() for name, each in model.named_parameters() if PICTURES in name)
    config = config.get_text_config()
    layer_types = getattr(config, "layer_types", None) or [""]
    heads = config.num_attention_heads
    key_values = getattr(config, "num_key_value_heads", heads) * (
        getattr(config, "head_dim", None) or config.hidden_size // heads
    )
    return Sizes(
        layers=config.num_hidden_layers,
        heads=heads,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        key_values=key_values,
        vocabulary=config.vocab_size,
        parameters=parameters,
        body=parameters - pictures - sum(vocabulary_rows.values()),
        linears=linears,
        state=state_bytes(config) * layer_types.count("linear_attention") / len(layer_types),
    )


def adapted(sizes: Sizes, load: Workload) -> list[tuple[str, int, int]]:
    """The linear layers that get an adapter."""
    if load.lora_rank is None:
        return []
    wanted = load.target_modules.split(",")
    return [each for each in sizes.linears if "all-linear" in wanted or each[0] in wanted]


def widest_piece(load: Workload) -> tuple[int, int]:
    """(rows, tokens of the widest row) of the piece of a batch that has most tokens."""
    lengths = list(load.longest[: load.batch])
    lengths += lengths[-1:] * (load.batch - len(lengths))
    budget = load.batch * lengths[0] if load.piece_tokens is None else load.piece_tokens
    pieces = length_batches(dict(enumerate(lengths)), load.device, budget=budget)
    return max(((len(piece), lengths[piece[0]]) for piece in pieces), key=lambda piece: piece[0] * piece[1])


def memory_parts(sizes: Sizes, load: Workload) -> dict[str, float]:
    """Bytes of a training at its widest piece, by what they are for.

    weights: in the run's dtype, or quant_bits and a tenth for their scales, the embeddings left as they are.
    optimiser: of each trained parameter the fp32 value (LoRA's are beside the weights), its gradient, and
    Adam's two moments; where the weights are fp32 and products are not, a copy of them.
    activations: what the backward pass keeps of a layer's tensors, counted in torch's saved tensors of a
    Qwen2.5-0.5B under LoRA: 8 of the hidden size and 4 of the MLP's in the products' dtype, 2 of the hidden
    size in fp32; LoRA's dropout keeps its output and mask besides; on a CPU short rows' attention weights
    (patches.py) 8 bytes an entry. With gradient checkpointing: each layer's input, and one layer (Korthikanti
    et al. 2022, Reducing Activation Recomputation in Large Transformer Models, section 5).
    logits: of the needed positions, in the products' dtype, in fp32, and their gradient.
    evaluation: the weights with the adapter in them, a layer's tensors, and logits; or training, if more.
    """
    size, compute = BYTES[load.torch_dtype], BYTES[load.compute_dtype]
    rows, width = widest_piece(load)
    a_token = compute * (8 * sizes.hidden + 4 * sizes.intermediate) + 8 * sizes.hidden + sizes.state
    if load.dropout:
        inputs = sum(inputs for _, inputs, _ in adapted(sizes, load)) / sizes.layers
        a_token += inputs * (compute + 1)
    plain = rows * width**2 if load.device == "cpu" and rows * width**2 <= PLAIN_ATTENTION else 0
    layer = rows * width * a_token + 8 * sizes.heads * plain
    kept = (
        rows * width * compute * sizes.hidden * sizes.layers + layer
        if load.checkpointing
        else layer * sizes.layers
    )
    outer = sizes.parameters - sizes.body
    weights = (
        sizes.parameters * size
        if load.quant_bits is None
        else outer * size + sizes.body * load.quant_bits / 8 * 1.1
    )
    if load.lora_rank is None:
        optimiser = 12.0 * sizes.parameters + (2.0 * sizes.parameters if compute < size else 0.0)
    else:
        optimiser = 16.0 * sum(
            load.lora_rank * (inputs + outputs) for _, inputs, outputs in adapted(sizes, load)
        )
    vocabulary = 0 if load.has_head else sizes.vocabulary
    logits = POSITIONS * rows * vocabulary * (compute + 8.0) * (2 if load.second_pass else 1)
    merged = 0.0 if load.quant_bits else sum(size * i * o for _, i, o in adapted(sizes, load))
    evaluation = merged + EVALUATED_TOKENS * a_token + 12.0 * LOGIT_ROWS * vocabulary
    return {
        "process": PROCESS.get(load.device, PROCESS["cpu"]),
        "weights": weights,
        "optimiser": optimiser,
        "activations": kept * ALLOCATED.get(load.device, ALLOCATED["cpu"]),
        "logits": logits,
        "evaluation": max(0.0, evaluation - kept - logits),
    }


def memory(sizes: Sizes, load: Workload) -> float:
    """Bytes in all."""
    return sum(memory_parts(sizes, load).values())


def lighter_same_result(load: Workload) -> Iterator[tuple[dict[str, str], Workload]]:
    """Loads, each smaller than the one before, that learn the same, with the arguments that make it.

    Smaller pieces cost less time than checkpointing's second forward pass.
    """
    while load.piece_tokens is not None and load.piece_tokens > max(load.longest[0], SHORTEST_PIECE):
        load = replace(load, piece_tokens=max(load.piece_tokens // 2, load.longest[0], SHORTEST_PIECE))
        yield {}, load
    if not load.checkpointing:
        yield {"gradient_checkpointing": "true"}, replace(load, checkpointing=True)


def fit(
    loads: Iterator[tuple[dict[str, str], Workload]], sizes: Sizes, load: Workload, limit: float
) -> tuple[dict[str, str], Workload, bool]:
    """The first of `load` and `loads` that needs at most `limit` bytes, or the last; the arguments that make
    it; whether it fits.
    """
    changes: dict[str, str] = {}
    while not (fits := memory(sizes, load) <= limit):
        names, smaller = next(loads, ({}, None))
        if smaller is None:
            break
        load, changes = smaller, {**changes, **names}
    return changes, load, fits


def load_of(
    arguments: Any, experiment: Experiment, merged: dict[str, Any], device: str, split: dict[str, Any]
) -> Workload:
    """The load of a run with SWIFT's parsed `arguments` and the `merged` ones of the machine in question, on
    training rows whose lengths tokens.json describes in `split`.
    """
    own, bits = arguments.training_args, merged.get("quant_bits")
    limit, recipe = arguments.max_length or math.inf, experiment.recipe
    given = split.get("longest") or [split["max"]]
    weights, cap = str(merged["torch_dtype"]), PIECE_TOKENS.get(device, PIECE_TOKENS["cpu"])
    mixed = [name for name, flag in (("bfloat16", "bf16"), ("float16", "fp16")) if _is_true(merged.get(flag))]
    return Workload(
        device=device,
        torch_dtype=weights,
        compute_dtype=mixed[0] if mixed else weights,
        checkpointing=_is_true(merged.get("gradient_checkpointing", True)),
        batch=own.per_device_train_batch_size,
        longest=tuple(int(min(length, limit)) for length in given),
        piece_tokens=None if isinstance(recipe, Preference) else cap,
        lora_rank=None if arguments.tuner_type == "full" else arguments.lora_rank,
        target_modules=",".join(arguments.target_modules),
        quant_bits=None if bits is None else int(bits),
        dropout=arguments.lora_dropout > 0,
        has_head=experiment.has_head,
        second_pass=isinstance(recipe, LabelLoss) and recipe.beta > 0,
    )


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"


def at_once(arguments: Any, pinned: set[str]) -> dict[str, str]:
    """The arguments that give the rows of an optimiser step at once, to be computed in pieces: accumulation
    is then needed no more. Empty where the model card or --set says otherwise.
    """
    own = arguments.training_args
    if own.gradient_accumulation_steps == 1 or pinned & EFFECTIVE_BATCH:
        return {}
    rows = own.per_device_train_batch_size * own.gradient_accumulation_steps
    return {"per_device_train_batch_size": str(rows), "gradient_accumulation_steps": "1"}


def fit_to_memory(
    run: RunFolder, ready: Experiment, machine: Machine, within_reach: float
) -> tuple[Experiment, int | None]:
    """The experiment with the rows of a step given at once, and gradient checkpointing only where the bytes
    `within_reach` ask for it; and how many tokens are computed at a time (None: whole batches).

    The effective batch stays, and so does what the model card or --set says.
    """
    arguments = build_sft_arguments(run, ready, machine)
    pairs = isinstance(ready.recipe, Preference)
    changes = {} if pairs else at_once(arguments, ready.pinned)
    changes["gradient_checkpointing"] = "false"
    changes = {name: value for name, value in changes.items() if name not in ready.pinned}
    fitted = replace(ready, overrides={**changes, **ready.overrides})
    arguments, merged = build_sft_arguments(run, fitted, machine), merged_arguments(fitted, machine)
    load = load_of(arguments, ready, merged, machine.device, training_lengths(run, ready))
    sizes = read_sizes(Path(ready.model.arguments["model"]))
    added, load, _ = fit(lighter_same_result(load), sizes, load, USABLE * within_reach)
    added = {name: value for name, value in added.items() if name not in ready.pinned}
    return replace(fitted, overrides={**fitted.overrides, **added}), load.piece_tokens


def training_lengths(run: RunFolder, experiment: Experiment) -> dict[str, Any]:
    """What tokens.json says of the rows that are trained on."""
    if experiment.derives_rows:
        return read_json(run.derived_summary)["tokens"]
    return read_json(run.tokens)["splits"]["train"]


def out_of_memory_line(run: RunFolder, ready: Experiment, machine: Machine) -> str:
    """What is said when memory ran out at one row at a time: what is free, and what would fit."""
    arguments, merged = build_sft_arguments(run, ready, machine), merged_arguments(ready, machine)
    load = load_of(arguments, ready, merged, machine.device, training_lengths(run, ready))
    load = replace(load, checkpointing=True, piece_tokens=None if load.piece_tokens is None else 1)
    sizes, free = read_sizes(Path(ready.model.arguments["model"])), free_memory(machine.device)
    limit = USABLE * memory_within_reach(machine.device)
    lengths = [length for length in (1024, 512, 256, 128) if length < load.longest[0]]
    fits = [
        length
        for length in lengths
        if memory(sizes, replace(load, longest=tuple(min(each, length) for each in load.longest))) <= limit
    ]
    advice = f"add --set max_length={fits[0]}" if fits else "take a smaller model, or --method qlora on a GPU"
    return (
        f"memory ran out in training: {machine.name} has {free / 1e9:.1f} GB free beside this run, whose "
        f"longest row has {load.longest[0]} tokens. End other programs that use it, or {advice}; the same "
        "command then goes on from the last checkpoint."
    )
