"""What this machine is, and which of SWIFT's arguments follow from it."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workflows.core.files import read_json, write_json
from workflows.experiment.cards import ROOT, Arguments
from workflows.experiment.job import Job

PACKAGES = ("ms-swift", "modelscope", "torch", "transformers", "peft", "datasets", "pandas", "scikit-learn")

# Of control groups, version 2 and 1: folder, files of the limit and of what is in use, and the entry of
# memory.stat for files in memory.
CONTAINER_FILES = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
CONTAINER_PROCESSORS = Path("/sys/fs/cgroup/cpu.max")  # microseconds of them in a period of so many, or max


@dataclass(frozen=True)
class Machine:
    """The device that a run uses and the dtype that suits it."""

    device: str  # cuda or cpu
    name: str
    torch_dtype: str  # what it computes in: bfloat16, float16 or float32
    reason: str
    memory: int | None = None  # bytes: the GPU's own, else this machine's


def find_machine() -> Machine:
    """The best device here and its dtype: bf16 on Ampere and newer, fp16 on older GPUs.

    A CPU gets bf16 where `has_fast_bf16` says so.  A Mac works on its CPU: nothing here was ever run on its
    GPU.
    """
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        bf16 = major >= 8
        why = f"compute capability {major}.{minor} {'has' if bf16 else 'has no'} bf16"
        memory = torch.cuda.get_device_properties(0).total_memory
        return Machine("cuda", torch.cuda.get_device_name(), "bfloat16" if bf16 else "float16", why, memory)
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bf16 = has_fast_bf16(*(_read_field("/proc/cpuinfo", key) for key in ("vendor_id", "flags")))
    why = f"this CPU has {'' if bf16 else 'no '}bf16 instructions that are faster than fp32"
    return Machine("cpu", _cpu_name(), "bfloat16" if bf16 else "float32", why, ram)


def has_fast_bf16(vendor: str, flags: str) -> bool:
    """Whether a CPU computes faster in bf16 than in fp32, by what /proc/cpuinfo says of it.

    Matrix products with a 0.5 B Qwen and torch 2.13, bf16 and fp32: 300 to 390 and 135 to 170 GFLOP/s on 2
    cores of an AMD EPYC with AVX-512's bf16; 80 and 140 on 1 of an Intel Xeon with that alone, where a LoRA
    step took 1.7 times as long in bf16.  Intel's AMX was not measured.  Without any of them bf16 is emulated.
    """
    there = {*flags.split()}
    return "amx_bf16" in there or ("avx512_bf16" in there and vendor == "AuthenticAMD")


def free_memory(device: str) -> int:
    """Bytes that a program may still take on `device` now: of the GPU in use, else of RAM.

    In a container that is what its own limit leaves, where that is less than the machine has; of RAM each of
    several processes has its part.
    """
    import psutil

    if device == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        # What torch keeps of what was freed can be taken again.
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return min([psutil.virtual_memory().available, *_left_in_container()]) // _processes_here()


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's


def give_back_freed_memory() -> None:
    """Give what was freed back to the machine, where the C library keeps it for itself (glibc does).

    Pieces of many sizes leave holes in its heap that no larger tensor fits into, and the holes add up.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def let_go_of_memory() -> None:
    """Free what nothing refers to any more; what torch keeps of a GPU's memory is then there for others."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory_within_reach(device: str) -> int:
    """Bytes that this process may have on `device`: what is free, and what it has taken."""
    import psutil

    if device == "cuda":
        import torch

        return free_memory(device) + torch.cuda.memory_allocated()
    return free_memory(device) + psutil.Process().memory_info().rss


def processors_within_reach() -> float:
    """Processors that this process may keep busy: by torch's threads, its affinity, its container's limit."""
    import torch

    processors: float = torch.get_num_threads()
    if hasattr(os, "sched_getaffinity"):
        processors = min(processors, len(os.sched_getaffinity(0)))
    if not CONTAINER_PROCESSORS.is_file():
        return processors
    limit, period = CONTAINER_PROCESSORS.read_text(encoding="ascii").split()
    return processors if limit == "max" else min(processors, int(limit) / int(period))


def products_per_second(dtype: str, device: str) -> float:
    """Floating-point operations a second of a large matrix product in `dtype`, the best of ten."""
    import torch

    a = torch.randn(1024, 4096, dtype=getattr(torch, dtype), device=device)
    b = torch.randn(4096, 4096, dtype=getattr(torch, dtype), device=device)
    return 2 * 1024 * 4096 * 4096 / _least_seconds(lambda: a @ b)


def copies_per_second(device: str) -> float:
    """Bytes read and written a second by the copy of 256 MB within `device`'s memory, the best of ten."""
    import torch

    a = torch.ones(2**26, device=device)
    b = torch.ones_like(a)
    return 2 * a.nbytes / _least_seconds(lambda: b.copy_(a))


def _least_seconds(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(10):
        start = now()
        work()
        times.append(now() - start)
    return min(times)


def now() -> float:
    """Seconds, when what was started on a GPU is done: launching is not computing."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _left_in_container() -> list[int]:
    """Bytes that the control group's limit leaves, where there is a limit; the files that it holds in memory
    are given up when needed.
    """
    left = []
    for folder, limit, used, files in CONTAINER_FILES:
        try:
            most, held = (int(Path(folder, name).read_text(encoding="utf-8")) for name in (limit, used))
            statistics = Path(folder, "memory.stat").read_text(encoding="utf-8").split()
        except (OSError, ValueError):  # no such kind of group here, or "max": no limit
            continue
        left.append(most - held + int(statistics[statistics.index(files) + 1]))
    return left


def machine_of(job: Job) -> Machine:
    """This machine, said on the screen and kept in environment.json when it is new to the run."""
    machine, run, experiment = find_machine(), job.run, job.experiment
    if not run.environment.exists() or read_json(run.environment).get("machine") != asdict(machine):
        write_json(run.environment, {**describe_environment(), "machine": asdict(machine)})
        dtype = dtype_of_answers(experiment.arguments, experiment.pinned, machine)
        why = machine.reason if dtype == machine.torch_dtype else "set by the model card or --set"
        job.screen.say(f"  device: {machine.device} ({machine.name}); dtype: {dtype} ({why})")
    return machine


def fit_to_machine(arguments: Arguments, pinned: set[str], machine: Machine) -> Arguments:
    """`arguments` as a training on this machine needs them; names in `pinned` (the model card's, --set's)
    stay as they are.

    Full tuning keeps its weights in fp32 and computes in the machine's dtype (mixed precision, Micikevicius
    et al. 2018, section 3.1): in bf16 the step of a usual learning rate is less than most weights' last digit
    and is rounded away, and gradients of fp16 weights cannot be unscaled.
    """
    fitted = dict(arguments)

    def put(name: str, value: Any) -> None:
        if name not in pinned:
            fitted[name] = value

    put("torch_dtype", "float32" if is_full(fitted) else machine.torch_dtype)
    computed_in = dtype_of_answers(arguments, pinned, machine)
    # SWIFT takes fp32 weights for fp16 mixed precision unless told otherwise.
    put("bf16", computed_in == "bfloat16")
    put("fp16", computed_in == "float16")
    put("logging_nan_inf_filter", False)  # else a loss that is no number is logged as one
    if fitted.get("quant_method") == "bnb":
        put("bnb_4bit_compute_dtype", computed_in)  # SWIFT would compute in fp32 beside fp16
    # One device, never several; torchrun numbers the processes here, each of which has a GPU of its own.
    put("device_map", f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if machine.device == "cuda" else "cpu")
    if machine.device == "cpu":
        put("use_cpu", True)  # else transformers refuses bf16 without a GPU
        put("gradient_checkpointing", False)  # saves GPU memory; here it would only cost time
        put("dataloader_num_workers", 0)  # a worker would compete for the same cores
    return fitted


def is_full(arguments: Arguments) -> bool:
    """Whether all of the model's weights are trained."""
    return arguments.get("tuner_type") == "full"


def is_adalora(arguments: Arguments) -> bool:
    """Whether the ranks of the layers change in training, and a checkpoint has those of its own step."""
    return arguments.get("tuner_type") == "adalora"


def dtype_of_answers(arguments: Arguments, pinned: set[str], machine: Machine) -> str:
    """What the model is read in, before tuning and after it; training computes in it, too."""
    return str(arguments["torch_dtype"]) if "torch_dtype" in pinned else machine.torch_dtype


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
    if not (ROOT / ".git").exists():  # an installed copy may lie in another project's repository
        return None
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


def _cpu_name() -> str:
    return _read_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
