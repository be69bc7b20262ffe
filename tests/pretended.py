"""Machines that are not here, as torch and the driver would show them: their answers, not their work."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

CU126 = (
    "sm_50",
    "sm_60",
    "sm_70",
    "sm_75",
    "sm_80",
    "sm_86",
    "sm_90",
)  # torch.cuda.get_arch_list() of wheels
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


@dataclass(frozen=True)
class Gpu:
    """What torch says of a GPU."""

    name: str
    capability: tuple[int, int]
    memory: int = 24 * 10**9
    count: int = 1


A10 = Gpu("NVIDIA A10", (8, 6))
T4 = Gpu("Tesla T4", (7, 5), 16 * 10**9)
V100 = Gpu("Tesla V100-SXM2-16GB", (7, 0), 16 * 10**9)


@contextmanager
def torch_shows(gpu: Gpu, wheels: tuple[str, ...] = CU126) -> Iterator[None]:
    """Within this, torch says that it can use `gpu`, and that it was compiled for `wheels`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.version, "cuda", "12.6")
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: gpu.count)
        patch.setattr(torch.cuda, "get_device_name", lambda *_: gpu.name)
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: gpu.capability)
        patch.setattr(
            torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=gpu.memory)
        )
        patch.setattr(torch.cuda, "get_arch_list", lambda: list(wheels))
        yield


def write_nvidia_smi(folder: Path, gpus: list[Gpu], cuda: str = "12.4") -> Path:
    """An nvidia-smi in `folder`, to be put on PATH, which lists `gpus` of a driver that runs CUDA `cuda`."""
    names = "".join(f"GPU {i}: {gpu.name} (UUID: GPU-{i})\n" for i, gpu in enumerate(gpus))
    capabilities = "".join(f"{gpu.capability[0]}.{gpu.capability[1]}\n" for gpu in gpus)
    head = f"| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: {cuda}     |\n"
    program = folder / "nvidia-smi"
    answers = {"-L": names, "--query-gpu=compute_cap": capabilities, "": head}
    cases = "".join(f"'{asked}') printf '{answer}' ;;\n" for asked, answer in answers.items())
    program.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}*) exit 2 ;;\nesac\n', encoding="utf-8")
    program.chmod(0o755)
    return program
