"""Which GPU a command uses, and whether torch can use it: settled before a model is touched.

Covered: NVIDIA GPUs, one for each process.  An Ascend NPU is refused; a Mac works on its CPU.
"""

import importlib.util
import os
import re
import subprocess
import warnings
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from workflows.core.errors import UserError

INDEX = "https://download.pytorch.org/whl"
ON_CPU = 'to work on the CPU all the same, put CUDA_VISIBLE_DEVICES="" before the command'


_visible: list[str] = []  # GPUs that settle_gpu found, as CUDA_VISIBLE_DEVICES names them


def gpus_of_processes(count: int) -> str | None:
    """CUDA_VISIBLE_DEVICES for `count` processes that use a GPU each; None where there is none to use.

    Raises UserError where there are fewer GPUs.
    """
    if not _visible:
        return None
    if len(_visible) < count:
        raise UserError(f"--nproc {count}: {len(_visible)} GPU(s) are visible; each process takes one.")
    return ",".join(_visible[:count])


def settle_gpu() -> str | None:
    """Keep this process, and those that it starts, to the first visible GPU; return what to say of it, or
    None where there is nothing to choose.

    Must be called before torch starts CUDA.  CUDA_VISIBLE_DEVICES is respected: of its list the first is
    taken, and where it is empty nothing is looked for.  Raises UserError for an NPU, for a GPU that the
    torch installed here cannot use, and for a torch that needs a GPU where none is, with the line that
    installs what fits.
    """
    _refuse_npu()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = None if chosen is None else chosen.split(",")[0].strip()
    # By the first two CUDA is told to show none.
    gpus = [] if first in ("", "-1") else list_gpus()
    if not gpus:
        _check_import_without_gpu()
        return None
    _visible[:] = [str(at) for at in range(len(gpus))] if chosen is None else chosen.split(",")
    count = len(_visible)
    if count > 1:  # SWIFT would spread the model over all
        os.environ["CUDA_VISIBLE_DEVICES"] = first or "0"
    _check_torch(gpus[0])
    if count == 1:
        return None
    return (
        f"{count} GPUs are visible; the first alone is used (CUDA_VISIBLE_DEVICES chooses another; run, "
        f"train and infer take all with --nproc {count})"
    )


def list_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this machine, or container, was given."""
    named = re.findall(r"^GPU \d+: (.+?) \(UUID", nvidia_smi("-L"), re.MULTILINE)
    # Without nvidia-smi: a container gets the devices, and sees /proc/driver/nvidia of its host in any case.
    return named or ["an NVIDIA GPU" for _ in Path("/dev").glob("nvidia[0-9]*")]


def nvidia_smi(*arguments: str) -> str:
    """What nvidia-smi prints, or "" where it is missing or fails."""
    command = ["nvidia-smi", *arguments]
    try:
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, encoding="utf-8", errors="replace", timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver runs, as nvidia-smi's first lines have it."""
    found = re.search(r"CUDA[\w ]* Version: *(\d+)\.(\d+)", nvidia_smi())
    return None if found is None else (int(found[1]), int(found[2]))


def runs_on(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether kernels compiled for `architectures` (as torch.cuda.get_arch_list names them) run on a GPU of
    this compute capability.

    Machine code runs on its own major version from its minor one on, with the suffix a on its own version
    alone; PTX (compute_…) runs on everything newer (CUDA C++ Programming Guide, sections 5.1 and 5.2).
    """
    compiled = (re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name) for name in architectures)
    return any(
        built == capability
        if parts[4] == "a"
        else built <= capability and (parts[1] == "compute" or built[0] == capability[0])
        for parts in compiled
        if parts is not None and (built := (int(parts[2]), int(parts[3])))
    )


def install_line(driver: tuple[int, int] | None, capability: tuple[int, int] | None) -> str:
    """What installs a torch for a driver that runs CUDA up to `driver` and a GPU of this compute capability.

    PyTorch's wheels (its RELEASE.md, support matrix): CUDA 12.6 from Maxwell to Hopper, 12.8 from Turing to
    Blackwell.  Wheels of CUDA 12 run with each driver of CUDA 12, those of 11.8 with older ones.
    """
    if driver is not None and driver < (12, 0):
        wheels = "cu118"
    else:
        wheels = "cu128" if capability is not None and capability >= (10, 0) else "cu126"
    # All three are built for each other: with a new torch an old torchvision cannot be imported.
    installed = [name for name in ("torchvision", "torchaudio") if importlib.util.find_spec(name)]
    names = " ".join(["torch", *installed])
    return f"pip uninstall -y {names} && pip install {names} --index-url {INDEX}/{wheels}"


def _check_torch(gpu: str) -> None:
    """Raise UserError unless the torch installed here can use the visible GPU, named `gpu`."""
    import torch

    with warnings.catch_warnings():  # torch warns of the same in many lines
        warnings.simplefilter("ignore")
        usable = torch.cuda.is_available()
        capability = torch.cuda.get_device_capability() if usable else _capability_of_driver()
        architectures = torch.cuda.get_arch_list()
    if usable and capability is not None and (not architectures or runs_on(capability, architectures)):
        return
    driver, built_for = driver_cuda(), torch.version.cuda
    way_out = f"One that fits: {install_line(driver, capability)}"
    if built_for is None:
        why = "is built without CUDA"
    elif usable and capability is not None:
        why = f"has nothing compiled for its compute capability {capability[0]}.{capability[1]}"
    elif driver is not None and int(built_for.split(".")[0]) > driver[0]:
        why = f"is built for CUDA {built_for} and the driver runs {driver[0]}.{driver[1]} at most"
    else:
        why = "cannot start CUDA: it does not say why"
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            why = f"cannot start CUDA: {' '.join(str(error).split())[:200].rstrip('.')}"
        way_out = "See what nvidia-smi says, and whether CUDA_VISIBLE_DEVICES names a GPU that is there"
    raise UserError(f"{gpu} is here, but torch {torch.__version__} {why}. {way_out} ; {ON_CPU}.")


def _capability_of_driver() -> tuple[int, int] | None:
    """The first GPU's compute capability, of drivers that can say it."""
    found = re.match(r"(\d+)\.(\d+)", nvidia_smi("--query-gpu=compute_cap", "--format=csv,noheader"))
    return None if found is None else (int(found[1]), int(found[2]))


def _check_import_without_gpu() -> None:
    """Raise UserError where transformers could not be imported for want of a GPU.

    From 5.18 on its import asks torch for the accelerator; torch 2.6 then raises where there is none, newer
    ones answer.
    """
    torch_version, transformers_version = (metadata.version(name) for name in ("torch", "transformers"))
    if Version(torch_version) >= Version("2.7") or Version(transformers_version) < Version("5.18"):
        return
    import torch

    try:
        torch.accelerator.current_accelerator()
    except RuntimeError as error:
        raise UserError(
            f"torch {torch_version} and transformers {transformers_version} do not work together without a "
            'GPU: pip install "transformers<5.18", or a newer torch.'
        ) from error


def _refuse_npu() -> None:
    """Raise UserError where torch_npu is at work: SWIFT would take the NPU for part of the job."""
    if importlib.util.find_spec("torch_npu") is None:
        return
    import torch

    if hasattr(torch, "npu") and torch.npu.is_available():
        raise UserError(
            "torch_npu and an Ascend NPU are here, which nothing was ever run on: take an environment "
            "without torch_npu, with an NVIDIA GPU or on the CPU."
        )
