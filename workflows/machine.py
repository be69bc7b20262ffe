"""What this machine is, and which of SWIFT's arguments follow from it."""

import importlib.metadata
import platform
import subprocess
from dataclasses import dataclass
from typing import Any

from workflows.experiment import ROOT, Arguments

PACKAGES = ("ms-swift", "modelscope", "torch", "transformers", "peft", "datasets", "pandas", "scikit-learn")


@dataclass(frozen=True)
class Machine:
    """The device that a run uses and the dtype that suits it."""

    device: str  # cuda, mps or cpu
    name: str
    torch_dtype: str  # bfloat16, float16 or float32
    reason: str


def find_machine() -> Machine:
    """The best device here and its dtype: bf16 on Ampere and newer, fp16 on older GPUs.

    A CPU gets bf16 where it has instructions for it: measured with a 0.5 B Qwen on 2 cores, matrix products
    run at 300 to 390 GFLOP/s in bf16 and at 135 to 170 in fp32.  Without those instructions bf16 is emulated
    and slower.
    """
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        bf16 = major >= 8
        why = f"compute capability {major}.{minor} {'has' if bf16 else 'has no'} bf16"
        return Machine("cuda", torch.cuda.get_device_name(), "bfloat16" if bf16 else "float16", why)
    if torch.backends.mps.is_available():
        return Machine("mps", platform.processor() or "Apple GPU", "float32", "mixed precision is off on mps")
    flags = _cpu_flags()
    bf16 = bool(flags & {"avx512_bf16", "amx_bf16"})
    why = f"this CPU {'has' if bf16 else 'has no'} bf16 instructions"
    return Machine("cpu", _cpu_name(), "bfloat16" if bf16 else "float32", why)


def fit_to_machine(arguments: Arguments, pinned: set[str], machine: Machine) -> Arguments:
    """`arguments` as this machine needs them; names in `pinned` (the model card's, --set's) stay as they
    are.
    """
    fitted = dict(arguments)

    def put(name: str, value: Any) -> None:
        if name not in pinned:
            fitted[name] = value

    put("torch_dtype", machine.torch_dtype)
    dtype = fitted["torch_dtype"]
    # SWIFT takes fp32 weights for fp16 mixed precision unless told otherwise.
    put("bf16", dtype == "bfloat16")
    put("fp16", dtype == "float16")
    if machine.device == "cpu":
        put("use_cpu", True)  # else transformers refuses bf16 without a GPU
        put("gradient_checkpointing", False)  # saves GPU memory; here it would only cost time
        put("dataloader_num_workers", 0)  # a worker would compete for the same cores
    return fitted


def describe_environment() -> dict[str, Any]:
    """Versions, hardware and git commit, as environment.json keeps them."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # no git here
        return None


def _cpuinfo(key: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(key)), "")
    except OSError:
        return ""


def _cpu_flags() -> set[str]:
    return set(_cpuinfo("flags").split())


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()
