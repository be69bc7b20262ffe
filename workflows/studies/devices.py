"""What a run would take on machines that are not here: memory by formula, time from public peak speeds.

Estimates throughout: no figure of this module was measured on the GPUs that it names.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workflows.models import runs_own_code

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
POSITIONS = 4  # of a row that reach the output layer in training: answer, end mark, and what goes before them
USABLE = 0.9  # of a device's memory: the rest is the display's, the allocator's gaps, and other programs'
CONTEXT = 1.0e9  # bytes that a process needs beside the model: CUDA's context or Python with SWIFT


@dataclass(frozen=True)
class Device:
    """A machine: one that is not here by its public figures and what is assumed of it."""

    name: str
    kind: str  # as Machine.device has it
    memory: float | None  # bytes; None where it is anyone's guess
    torch_dtype: str
    rests_on: str
    peak: float = math.inf  # floating-point operations a second, dense, in torch_dtype
    utilisation: tuple[float, float] = (1.0, 1.0)  # share of the peak, at worst and at best
    launches: tuple[float, float] = (
        0.0,
        0.0,
    )  # seconds of a layer's pass however few the tokens, best and worst


# Peaks: NVIDIA's data sheets.  A layer starts about 100 kernels, each 10 to 30 µs from Python.
GPU = {"utilisation": (0.1, 0.4), "launches": (0.001, 0.003)}
GPU_RESTS_ON = "data sheet's peak x 0.1 to 0.4, at least 1 to 3 ms a layer and pass: assumed, not measured"
CPU_RESTS_ON = "150 GFLOP/s (matrix products on an AMD EPYC) x 0.3 to 0.6: assumed"
DEVICES = (
    Device("A10 (24 GB)", "cuda", 24e9, "bfloat16", GPU_RESTS_ON, 125e12, **GPU),
    Device("T4 (16 GB)", "cuda", 16e9, "float16", GPU_RESTS_ON, 65e12, **GPU),
    Device("CPU, 2 cores, fp32", "cpu", None, "float32", CPU_RESTS_ON, 150e9, (0.3, 0.6)),
)


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


@dataclass(frozen=True)
class Work:
    """What a run computes."""

    train_tokens: int  # padded, all epochs
    train_batches: int
    read_tokens: int  # without gradients: evaluations and answers
    read_batches: int


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


def seconds_on(device: Device, sizes: Sizes, load: Load, work: Work) -> tuple[float, float]:
    """Seconds of all that the model does, at best and at worst.

    A token costs 2 operations a parameter forwards, as many backwards (the weights' own gradients are not
    needed under LoRA; they are 2 more in full tuning), and 2 more where checkpointing repeats the forward
    pass (Kaplan et al. 2020, section 2.1).  However few the tokens, each layer's kernels have to be started.
    """
    passes = 2 + (load.lora_rank is None) + load.checkpointing
    flops = 2 * sizes.body * (passes * work.train_tokens + work.read_tokens)
    started = sizes.layers * (passes * work.train_batches + work.read_batches)
    worst, best = device.utilisation
    return (
        flops / device.peak / best + started * device.launches[0],
        flops / device.peak / worst + started * device.launches[1],
    )


def make_fit(
    device: Device, sizes: Sizes, load: Load, p99: int, beside: float = 0.0
) -> tuple[list[str], bool]:
    """What to change, as `--set` lines, for the run to fit the device's memory, and whether it then does.

    `p99`: a max_length that nearly all rows keep to; `beside`: bytes that a measurement found more than the
    formula. What costs least goes first, and nothing more is changed than is needed.
    """
    lines: dict[str, str] = {}
    if device.torch_dtype == "float16" and load.torch_dtype == "bfloat16":  # which it has no instructions for
        lines["torch_dtype"], load = "float16", replace(load, torch_dtype="float16")
    limit = math.inf if device.memory is None else USABLE * device.memory
    smaller = _smaller(load, p99, device.kind == "cuda")
    while not (fits := memory(sizes, load) + beside <= limit):
        names, load = next(smaller, ({}, load))
        if not names:
            break
        lines |= names
    return [f"--set {name}={value}" for name, value in lines.items()], fits


def _smaller(load: Load, p99: int, can_quantise: bool) -> Iterator[tuple[dict[str, str], Load]]:
    """Loads, each smaller than the one before, with the arguments that make it."""
    if not load.checkpointing:
        load = replace(load, checkpointing=True)
        yield {"gradient_checkpointing": "true"}, load
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
    if p99 < load.widest:
        load = replace(load, widest=p99, widest_evaluated=min(p99, load.widest_evaluated))
        yield {"max_length": str(p99)}, load
    if load.quant_bits is None and can_quantise:
        yield {"quant_method": "bnb", "quant_bits": "4"}, replace(load, quant_bits=4)


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
