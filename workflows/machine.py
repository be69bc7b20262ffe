"""What this machine is, and which of SWIFT's arguments follow from it."""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.experiment import ROOT, Arguments

PACKAGES = ("ms-swift", "modelscope", "torch", "transformers", "peft", "datasets", "pandas", "scikit-learn")

# Of control groups, version 2 and 1: folder, files of the limit and of what is in use, and the entry of
# memory.stat for files in memory.
CONTAINER_FILES = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Machine:
    """The device that a run uses and the dtype that suits it."""

    device: str  # cuda, mps or cpu
    name: str
    torch_dtype: str  # bfloat16, float16 or float32
    reason: str
    memory: int | None = None  # bytes: the GPU's own, else this machine's
    flash_attention: bool = False  # whether the package is here, and the GPU new enough for it


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
        memory = torch.cuda.get_device_properties(0).total_memory
        flash = bf16 and importlib.util.find_spec("flash_attn") is not None
        dtype = "bfloat16" if bf16 else "float16"
        return Machine("cuda", torch.cuda.get_device_name(), dtype, why, memory, flash)
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch.backends.mps.is_available():
        name = platform.processor() or "Apple GPU"
        return Machine("mps", name, "float32", "mixed precision is off on mps", ram)
    flags = _cpu_flags()
    bf16 = bool(flags & {"avx512_bf16", "amx_bf16"})
    why = f"this CPU {'has' if bf16 else 'has no'} bf16 instructions"
    return Machine("cpu", _cpu_name(), "bfloat16" if bf16 else "float32", why, ram)


def free_memory(device: str) -> int:
    """Bytes that a program may still take on `device` now: of the GPU in use, else of RAM.

    In a container that is what its own limit leaves, where that is less than the machine has.
    """
    import psutil

    if device == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        # What torch keeps of what was freed can be taken again.
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return min([psutil.virtual_memory().available, *_left_in_container()])


def used_memory(device: str) -> int:
    """Bytes that this process has taken on `device`."""
    import psutil

    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    return psutil.Process().memory_info().rss


def _left_in_container() -> list[int]:
    """Bytes that the control group's limit leaves, where there is a limit; the files that it holds in memory
    are given up when needed.
    """
    left = []
    for folder, limit, used, files in CONTAINER_FILES:
        try:
            most, now = (int(Path(folder, name).read_text(encoding="utf-8")) for name in (limit, used))
            statistics = Path(folder, "memory.stat").read_text(encoding="utf-8").split()
        except (OSError, ValueError):  # no such kind of group here, or "max": no limit
            continue
        left.append(most - now + int(statistics[statistics.index(files) + 1]))
    return left


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
    if machine.flash_attention:
        put("attn_impl", "flash_attn")
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


def reset_peak_memory() -> None:
    """Let `peak_memory` start anew: for this process where Linux allows it, and for a GPU in use."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # proc(5): resets the peak of resident memory
    except OSError:  # not Linux, or not allowed: the peak is then that of the whole process so far
        pass
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Bytes at most in use since `reset_peak_memory`: of this process in RAM, and of a GPU in use."""
    status = _read_field("/proc/self/status", "VmHWM")
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    peaks = {"ram": int(status.split()[0]) * 1024 if status else usage}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peaks["gpu"] = torch.cuda.max_memory_allocated()
    return peaks


def _git_commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # no git here
        return None


def _read_field(path: str, key: str) -> str:
    """What stands after `key:` in a file of /proc, or "" where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(key)), "")
    except OSError:
        return ""


def _cpu_flags() -> set[str]:
    return set(_read_field("/proc/cpuinfo", "flags").split())


def _cpu_name() -> str:
    return _read_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
