"""What a run would take on machines that are not here: memory by formula, time from public peak speeds.

Estimates throughout: no figure of this module was measured on the GPUs that it names.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from workflows.model.batches import USABLE
from workflows.model.memory import Sizes, Workload, fit, lighter_same_result


@dataclass(frozen=True)
class Device:
    """A machine: one that is not here by its public figures and what is assumed of it."""

    name: str
    kind: str  # as Machine.device has it
    memory: float | None  # bytes; None where it is anyone's guess
    torch_dtype: str
    rests_on: str
    speed: tuple[float, float] = (math.inf, math.inf)  # operations a second in torch_dtype, best and worst
    launch: tuple[float, float] = (
        0.0,
        0.0,
    )  # seconds of a layer's pass however few the tokens, best and worst


# Peaks: NVIDIA's data sheets.  A layer starts about 100 kernels, each 10 to 30 µs from Python.
LAUNCH = (0.001, 0.003)
GPU_RESTS_ON = "data sheet's peak x 0.1 to 0.4, at least 1 to 3 ms a layer and pass: assumed, not measured"
CPU_RESTS_ON = "150 GFLOP/s (matrix products on an AMD EPYC) x 0.3 to 0.6: assumed"
DEVICES = (
    Device("A10 (24 GB)", "cuda", 24e9, "bfloat16", GPU_RESTS_ON, (0.4 * 125e12, 0.1 * 125e12), LAUNCH),
    Device("T4 (16 GB)", "cuda", 16e9, "float16", GPU_RESTS_ON, (0.4 * 65e12, 0.1 * 65e12), LAUNCH),
    Device("CPU, 2 cores, fp32", "cpu", None, "float32", CPU_RESTS_ON, (0.6 * 150e9, 0.3 * 150e9)),
)


def seconds_on(
    device: Device, sizes: Sizes, load: Workload, trained: tuple[float, int], read: tuple[float, int]
) -> list[float]:
    """Seconds of all that the model does, at best and at worst.

    `trained`, `read` (without gradients: evaluations and answers): tokens that are computed, and batches.
    A token costs 2 operations a parameter and pass.  However few the tokens, each layer's kernels have to be
    started.
    """
    tokens, batches = (
        passes(load) * training + reading for training, reading in zip(trained, read, strict=True)
    )
    return [
        2 * sizes.body * tokens / speed + sizes.config.num_hidden_layers * batches * launch
        for speed, launch in zip(device.speed, device.launch, strict=True)
    ]


def passes(load: Workload) -> int:
    """How often a token of training passes the weights (Kaplan et al. 2020, section 2.1).

    Forwards and backwards; once more for the weights' own gradients, which full tuning needs and LoRA does
    not, where checkpointing repeats the forward pass, and where the loss compares with the base model.
    """
    return 2 + (load.lora_rank is None) + load.checkpointing + load.second_pass


def changes_to_fit(
    device: Device, sizes: Sizes, load: Workload, p99: int, measured_extra: float = 0.0
) -> tuple[list[str], Workload, bool]:
    """What to change, as `--set` lines, for the run to fit the device's memory, the load that it then is, and
    whether it fits.

    `p99`: a max_length that nearly all rows keep to; `measured_extra`: bytes that a measurement found more
    than the formula. What costs least goes first, and nothing more is changed than is needed.
    """
    lines: dict[str, str] = {}
    if device.torch_dtype == "float16" and load.torch_dtype == "bfloat16":  # which it has no instructions for
        lines["torch_dtype"] = "float16"
        load = replace(load, torch_dtype="float16", compute_dtype="float16")
    limit = math.inf if device.memory is None else USABLE * device.memory
    changes, load, fits = fit(_lighter(load, p99, device.kind == "cuda"), sizes, limit - measured_extra)
    return [f"--set {name}={value}" for name, value in {**lines, **changes}.items()], load, fits


def _lighter(load: Workload, p99: int, can_quantise: bool) -> Iterator[tuple[dict[str, str], Workload]]:
    """`load`, and others, each smaller than the one before, with the arguments that make it."""
    same_result = list(lighter_same_result(load))
    yield from same_result
    changes, load = same_result[-1]
    if p99 < load.longest[0]:
        changes = {**changes, "max_length": str(p99)}
        load = replace(load, longest=tuple(min(p99, length) for length in load.longest))
        yield changes, load
    if load.quant_bits is None and can_quantise:
        yield {**changes, "quant_method": "bnb", "quant_bits": "4"}, replace(load, quant_bits=4)
