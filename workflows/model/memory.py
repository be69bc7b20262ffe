"""How much memory a training needs, by formula, and how it is made to fit without changing what is learned.

A run changes by itself what does not change the result: tokens computed at a time, at the same effective
batch, and gradient checkpointing.  Not covered: more than one device.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from workflows.core.files import read_json
from workflows.core.permissions import is_off
from workflows.core.run_folder import RunFolder
from workflows.experiment.experiment import Experiment
from workflows.experiment.model_cards import runs_own_code
from workflows.experiment.recipes import LabelLoss, Preference
from workflows.model.arguments import build_sft_arguments, merged_arguments
from workflows.model.batches import LOGIT_ROWS, USABLE, length_batches, state_bytes
from workflows.model.loaded import class_for
from workflows.model.machine import Machine, free_memory, is_adalora, memory_within_reach
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
    """A model in numbers."""

    config: Any  # transformers' own, of the layers that read text
    parameters: int
    body: int  # parameters without embedding, output layer and what sees pictures: a token's multiplications
    linears: tuple[tuple[str, int, int], ...]  # name, inputs, outputs of the linear layers in the decoder


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
    trains_embedding: bool = False  # beside LoRA
    has_head: bool = False  # instead of logits over the vocabulary
    second_pass: bool = False  # whether the loss compares with the base model


def read_sizes(folder: Path) -> Sizes:
    """The sizes of the model that the config in `folder` describes; no weights are needed or made."""
    trusted = runs_own_code(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    with torch.device("meta"):
        model = class_for(config).from_config(config, trust_remote_code=trusted)
    outer = {
        id(layer.weight): layer.weight.numel()
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
        if layer is not None
    }
    linears = tuple(
        (name.rsplit(".", 1)[-1], layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and id(layer.weight) not in outer and PICTURES not in name
    )
    parameters = sum(each.numel() for each in model.parameters())
    pictures = sum(each.numel() for name, each in model.named_parameters() if PICTURES in name)
    return Sizes(config.get_text_config(), parameters, parameters - pictures - sum(outer.values()), linears)


def _widest_piece(load: Workload) -> tuple[int, int]:
    """(rows, tokens of the widest row) of the piece of a batch that has most tokens."""
    lengths = list(load.longest[: load.batch])
    lengths += lengths[-1:] * (load.batch - len(lengths))
    budget = load.batch * lengths[0] if load.piece_tokens is None else load.piece_tokens
    pieces = length_batches(dict(enumerate(lengths)), load.device, budget=budget)
    return max(((len(piece), lengths[piece[0]]) for piece in pieces), key=math.prod)


def memory(sizes: Sizes, load: Workload) -> float:
    """Bytes of a training at its widest piece.

    weights: in the run's dtype, or quant_bits and a tenth for their scales, the embeddings left as they are.
    optimiser: of each trained parameter the fp32 value (LoRA's, and of an embedding trained with it, are
    beside the weights), its gradient, and Adam's two moments; where the weights are fp32 and products are
    not, a copy of them.
    kept, activations: what the backward pass keeps of a layer's tensors, counted in torch's saved tensors of
    a Qwen2.5-0.5B under LoRA: 8 of the hidden size and 4 of the MLP's in the products' dtype, 2 of the hidden
    size in fp32; LoRA's dropout keeps its output and mask besides; on a CPU short rows' attention weights
    (patches.py) 8 bytes an entry. With gradient checkpointing: each layer's input, and one layer (Korthikanti
    et al. 2022, Reducing Activation Recomputation in Large Transformer Models, section 5).
    logits: of the needed positions, in the products' dtype, in fp32, and their gradient.
    evaluation: the weights with the adapter in them, a layer's tensors, and logits; or training, if more.
    """
    size, compute = BYTES[load.torch_dtype], BYTES[load.compute_dtype]
    config, hidden, layers = sizes.config, sizes.config.hidden_size, sizes.config.num_hidden_layers
    wanted = set(load.target_modules.split(","))
    adapted = [
        (inputs, outputs)
        for name, inputs, outputs in sizes.linears
        if load.lora_rank is not None and wanted & {"all-linear", name}
    ]
    rows, width = _widest_piece(load)
    a_token = compute * (8 * hidden + 4 * config.intermediate_size) + 8 * hidden
    kinds = getattr(config, "layer_types", None) or [""]
    a_token += state_bytes(config) * kinds.count("linear_attention") / len(kinds)  # the mean of all layers
    if load.dropout:
        a_token += sum(inputs for inputs, _ in adapted) / layers * (compute + 1)
    layer = rows * width * a_token
    if load.device == "cpu" and rows * width**2 <= PLAIN_ATTENTION:
        layer += 8 * config.num_attention_heads * rows * width**2
    kept = rows * width * compute * hidden * layers + layer if load.checkpointing else layer * layers
    weights, optimiser = 1.0 * sizes.parameters * size, 0.0
    if load.quant_bits is not None:
        weights = (sizes.parameters - sizes.body) * size + sizes.body * load.quant_bits / 8 * 1.1
    if load.lora_rank is None:
        optimiser = (14.0 if compute < size else 12.0) * sizes.parameters
    else:
        optimiser = 16.0 * load.lora_rank * sum(map(sum, adapted))
        if load.trains_embedding:
            optimiser += 16.0 * config.vocab_size * hidden
    vocabulary = 0 if load.has_head else config.vocab_size
    logits = POSITIONS * rows * vocabulary * (compute + 8.0) * (2 if load.second_pass else 1)
    merged = 0 if load.quant_bits else size * sum(map(math.prod, adapted))
    evaluation = merged + EVALUATED_TOKENS * a_token + 12.0 * LOGIT_ROWS * vocabulary
    in_steps = kept * ALLOCATED[load.device] + logits
    return PROCESS[load.device] + weights + optimiser + in_steps + max(0.0, evaluation - kept - logits)


def lighter_same_result(load: Workload) -> Iterator[tuple[dict[str, str], Workload]]:
    """`load`, and others that learn the same, each smaller than the one before; with the arguments that make
    it.

    Smaller pieces cost less time than checkpointing's second forward pass.
    """
    yield {}, load
    while load.piece_tokens is not None and load.piece_tokens > max(load.longest[0], SHORTEST_PIECE):
        load = replace(load, piece_tokens=max(load.piece_tokens // 2, load.longest[0], SHORTEST_PIECE))
        yield {}, load
    if not load.checkpointing:
        yield {"gradient_checkpointing": "true"}, replace(load, checkpointing=True)


def fit(
    loads: Iterable[tuple[dict[str, str], Workload]], sizes: Sizes, limit: float
) -> tuple[dict[str, str], Workload, bool]:
    """The first of `loads` that needs at most `limit` bytes, or the last; the arguments that make it; whether
    it fits.
    """
    for changes, load in loads:
        if memory(sizes, load) <= limit:
            return changes, load, True
    return changes, load, False


def load_of(run: RunFolder, arguments: Any, experiment: Experiment, machine: Machine) -> Workload:
    """The load of a run on `machine`, with SWIFT's parsed `arguments` (of this machine), on the rows that are
    trained on.
    """
    own, recipe, merged = arguments.training_args, experiment.recipe, merged_arguments(experiment, machine)
    rank = arguments.adalora_init_r if is_adalora(merged) else arguments.lora_rank  # with which it begins
    passes = 2 if isinstance(recipe, Preference) else 1  # the right and the wrong label in one
    derived = experiment.derives_rows
    rows = read_json(run.derived_summary)["tokens"] if derived else read_json(run.tokens)["splits"]["train"]
    weights, bits = str(merged["torch_dtype"]), merged.get("quant_bits")
    mixed = [
        name for name, flag in (("bfloat16", "bf16"), ("float16", "fp16")) if not is_off(merged.get(flag))
    ]
    return Workload(
        device=machine.device,
        torch_dtype=weights,
        compute_dtype=mixed[0] if mixed else weights,
        checkpointing=not is_off(merged.get("gradient_checkpointing", True)),
        batch=passes * own.per_device_train_batch_size,
        longest=tuple(
            int(min(length, arguments.max_length or math.inf))
            for length in rows.get("longest") or [rows["max"]]
            for _ in range(passes)
        ),
        piece_tokens=None if isinstance(recipe, Preference) else PIECE_TOKENS[machine.device],
        lora_rank=None if arguments.tuner_type == "full" else rank,
        target_modules=",".join(arguments.target_modules),
        quant_bits=None if bits is None else int(bits),
        dropout=arguments.lora_dropout > 0,
        trains_embedding=bool({"all-embedding", "embed_tokens"} & {*arguments.modules_to_save}),
        has_head=experiment.has_head,
        second_pass=isinstance(recipe, LabelLoss) and recipe.beta > 0,
    )


def fit_to_memory(
    run: RunFolder, ready: Experiment, machine: Machine, within_reach: float
) -> tuple[Experiment, int | None]:
    """The experiment with the rows of a step given at once, to be computed in pieces instead of accumulated,
    and gradient checkpointing only where the bytes `within_reach` ask for it; and how many tokens are
    computed at a time (None: whole batches).

    The effective batch stays, and so does what the model card or --set says.
    """
    own = build_sft_arguments(run, ready, machine).training_args
    changes = {"gradient_checkpointing": "false"}
    if not isinstance(ready.recipe, Preference) and not ready.pinned & EFFECTIVE_BATCH:
        rows = own.per_device_train_batch_size * own.gradient_accumulation_steps
        changes |= {"per_device_train_batch_size": str(rows), "gradient_accumulation_steps": "1"}

    def fitted() -> Experiment:
        free = {name: value for name, value in changes.items() if name not in ready.pinned}
        return replace(ready, overrides={**ready.overrides, **free})

    load = load_of(run, build_sft_arguments(run, fitted(), machine), fitted(), machine)
    sizes = read_sizes(Path(ready.model.arguments["model"]))
    added, load, _ = fit(lighter_same_result(load), sizes, USABLE * within_reach)
    changes |= added
    return fitted(), load.piece_tokens


def out_of_memory_line(run: RunFolder, ready: Experiment, machine: Machine) -> str:
    """What is said when memory ran out at one row at a time: what is free, and what would fit."""
    load = load_of(run, build_sft_arguments(run, ready, machine), ready, machine)
    load = replace(load, checkpointing=True, piece_tokens=None if load.piece_tokens is None else 1)
    sizes, free = read_sizes(Path(ready.model.arguments["model"])), free_memory(machine.device)
    limit = USABLE * memory_within_reach(machine.device)
    fits = [
        length
        for length in (1024, 512, 256, 128)
        if length < load.longest[0]
        and memory(sizes, replace(load, longest=tuple(min(each, length) for each in load.longest))) <= limit
    ]
    lighter = f"--set max_length={fits[0]}" if fits else "a smaller model, or --method qlora on a GPU"
    return (
        f"memory ran out in training: {machine.name} has {free / 1e9:.1f} GB free beside this run, whose "
        f"longest row has {load.longest[0]} tokens. End other programs that use it, and the same command "
        f"goes on from the last checkpoint; or begin a new run with {lighter}."
    )
