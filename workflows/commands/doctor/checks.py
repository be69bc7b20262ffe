"""What of this machine would stop a run, or is worth knowing before one: quick checks, each with what to do.

python run_swift.py doctor

The light ones come first; torch and SWIFT are loaded for the last two.  Nothing is downloaded.
"""

import importlib.metadata
import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

from workflows.core.errors import UserError
from workflows.core.hubs import HUBS, Hub, HubError, check_reachable
from workflows.core.permissions import offline_variable
from workflows.core.texts import Text, in_language, text, texts
from workflows.experiment.cards import DATASETS, ROOT

FILE = "doctor.json"  # what --gpu leaves, to send

Status = Literal["well", "note", "wrong"]  # wrong: it would stop a run

PYTHONS = ((3, 10), (3, 13))  # the oldest and the newest that the project was tried with
# The newest that the project was tried with, all together but for torch: each from 2.13 on.
TRIED = {"ms-swift": "4.6", "torch": "2.15", "transformers": "5.19", "peft": "0.20"}
# The embedded model's run took 0.8 GB at its peak, LoRA of 0.5 B parameters 6.4 GB; its weights are 1 GB.
LEAST_MEMORY, USUAL_MEMORY = 1e9, 8e9
LEAST_DISK, USUAL_DISK = 0.5e9, 5e9
REACH_SECONDS = 3.0
STEPS, ROWS = 8, 16  # of the self-test


@dataclass(frozen=True)
class Check:
    """One check: what it is of, how it stands, what was found, and what to do where it is not well."""

    name: str  # a key of the texts `doctor_checks`
    status: Status
    found: Text | str
    do: Text | str | None = None


def check_machine() -> Iterator[Check]:
    """The checks, one after another, each as soon as it is known."""
    yield _check_python()
    packages = _check_packages()
    yield packages
    yield _check_memory()
    yield _check_disk()
    yield from _check_hubs()
    for name, check in (("fonts", _check_fonts), ("device", _check_device), ("self_test", _check_self_test)):
        try:
            yield check()
        except UserError as error:
            yield Check(name, "wrong", text("doctor_refused"), str(error))
        except Exception as error:  # whatever a broken library raises when it is loaded or used
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            yield Check(name, "wrong", why, packages.do or text("doctor_install_again"))


def render_check(check: Check, language: str) -> str:
    """A check in one line, and what to do in another."""
    status = in_language(texts("doctor_statuses")[check.status], language)
    name = in_language(texts("doctor_checks")[check.name], language)
    line = f"{status:5} {name}: {in_language(check.found, language)}"
    return line if check.do is None else f"{line}\n      → {in_language(check.do, language)}"


def as_json(check: Check, language: str) -> dict[str, Any]:
    """A check as --json has it."""
    return {key: None if each is None else in_language(each, language) for key, each in vars(check).items()}


def _check_python() -> Check:
    version = sys.version_info[:2]
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if PYTHONS[0] <= version <= PYTHONS[1]:
        return Check("python", "well", found)
    oldest, newest = (".".join(map(str, each)) for each in PYTHONS)
    do = text("doctor_python", oldest=oldest, newest=newest)
    return Check("python", "wrong" if version < PYTHONS[0] else "note", found, do)


def _check_packages() -> Check:
    """Each package of requirements.txt within its bounds, and none newer than it was tried with."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    file = ROOT / "requirements.txt"
    if file.is_file():
        lines = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    else:  # an installed copy
        lines = importlib.metadata.requires("run-swift") or []
    missing, newer, versions = [], [], {}
    for requirement in (Requirement(line) for line in lines if line):
        try:
            version = versions[requirement.name] = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            missing.append(f"{requirement} ({version or '–'})")
        elif (newest := TRIED.get(requirement.name)) and Version(version).release[:2] > Version(
            newest
        ).release:
            newer.append(f"{requirement.name} {version} (> {newest})")
    shown = ", ".join(f"{name} {versions.get(name, '–')}" for name in TRIED)
    if missing:
        found = text("doctor_missing", packages=", ".join(missing))
        do = f"pip install -r {file}" if file.is_file() else "pip install --force-reinstall run-swift"
        return Check("packages", "wrong", found, do)
    if newer:
        return Check("packages", "note", shown, text("doctor_newer", packages=", ".join(newer)))
    return Check("packages", "well", shown)


def _check_memory() -> Check:
    from workflows.model.machine import free_memory

    free = free_memory("cpu")
    found = text("doctor_free", free=free / 1e9)
    if free < USUAL_MEMORY:
        return Check("memory", "wrong" if free < LEAST_MEMORY else "note", found, text("doctor_memory"))
    return Check("memory", "well", found)


def _check_disk() -> Check:
    """Where runs are written."""
    from workflows.pipeline.run import OUTPUTS

    folder = OUTPUTS.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = text("doctor_free_in", free=free / 1e9, folder=str(folder))
    if not os.access(folder, os.W_OK):
        return Check("disk", "wrong", found, text("doctor_read_only"))
    if free < USUAL_DISK:
        return Check("disk", "wrong" if free < LEAST_DISK else "note", found, text("doctor_disk"))
    return Check("disk", "well", found)


def _check_hubs() -> Iterator[Check]:
    """Both at once, and no longer than a moment: one that stalls is as good as none."""
    if variable := offline_variable():
        yield Check("hubs", "note", text("doctor_offline", variable=variable))
        return
    answers: dict[Hub, str] = {}

    def ask(hub: Hub) -> None:
        try:
            answers[hub] = check_reachable(hub, REACH_SECONDS)
        except HubError:
            return

    asking = [threading.Thread(target=ask, args=(hub,), daemon=True) for hub in HUBS]
    for each in asking:
        each.start()
    for each in asking:
        each.join(2 * REACH_SECONDS)
    for hub in HUBS:
        if hub in answers:
            yield Check(hub, "well", text("doctor_answers", address=answers[hub]))
        else:
            yield Check(hub, "note", text("doctor_no_answer"), text("doctor_hub"))


def _check_fonts() -> Check:
    from workflows.reporting.figures import chinese_fonts

    found = chinese_fonts()
    if not found:
        return Check("fonts", "note", text("doctor_no_font"), "apt install fonts-noto-cjk")
    return Check("fonts", "well", found[0])


def _check_device() -> Check:
    """The GPU, whether torch and its driver fit it, or the CPU; with which dtype."""
    import torch

    from workflows.model.gpu import driver_cuda, settle_gpu
    from workflows.model.machine import find_machine, free_memory

    settle_gpu()
    machine = find_machine()
    found = f"{machine.device} ({machine.name}), {machine.torch_dtype}, torch {torch.__version__}"
    if machine.device == "cuda":
        driver = ".".join(map(str, driver_cuda() or ("?",)))
        found += f" (CUDA {torch.version.cuda}), driver: CUDA {driver}, {free_memory('cuda') / 1e9:.1f} GB"
    return Check("device", "well", found)


def _check_self_test() -> Check:
    """SWIFT can be loaded, and the embedded model learns from a few embedded reviews, all weights in fp32."""
    start = time.monotonic()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        import swift.pipelines.train.sft  # noqa: F401

        first, last = _learn()
    found = text("doctor_learned", steps=STEPS, first=first, last=last, seconds=time.monotonic() - start)
    if not last < 0.9 * first:  # also where a loss is no number
        return Check("self_test", "wrong", found, text("doctor_install_again"))
    return Check("self_test", "well", found)


def _learn() -> tuple[float, float]:
    """The loss of the first and the last of a few steps on the same rows."""
    import csv

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workflows.model.machine import find_machine

    folder = ROOT / "workflows" / "tiny" / "model"
    with open(DATASETS / "demo" / "demo.csv", encoding="utf-8", newline="") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(ROWS), strict=False)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [tokenizer.encode(f"{row['text']} {row['label']}")[-64:] for row in rows]
    device = find_machine().device
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    length = max(map(len, encoded))
    ids = torch.tensor([each + [0] * (length - len(each)) for each in encoded], device=device)
    mask = torch.tensor([[1] * len(each) + [0] * (length - len(each)) for each in encoded], device=device)
    losses = []
    for _ in range(STEPS):
        loss = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses[0], losses[-1]
