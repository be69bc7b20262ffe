"""Whether a GPU does what the project asks of it: ten small commands, and one file on how they went.

python run_swift.py doctor --gpu

Each command is run as a person would run it, in a process of its own: what one breaks does not hurt the
next.  All use the embedded reviews and model, so that nothing is downloaded.  docs/en/gpu.md has them too.
Not covered: a real model's speed and memory, 4 bits, vLLM.
"""

import importlib.metadata
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workflows.commands.doctor.checks import FILE
from workflows.commands.reproduce import largest_difference
from workflows.core.errors import UserError
from workflows.core.files import read_json, write_json
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.cards import COMMAND, ROOT
from workflows.model.gpu import driver_cuda, list_gpus
from workflows.model.machine import (
    Machine,
    copies_per_second,
    describe_environment,
    find_machine,
    free_memory,
    products_per_second,
)

# The folder pins no dtype, as the card of `tiny` does: the machine's is used.
SHORT = "run --model workflows/tiny/model --train-samples 320 --test-samples 60"
LEARNED = 0.85  # accuracy on the embedded reviews: on a CPU it was 0.94 to 0.97, TF-IDF has 0.89
CLOSE = 1e-3  # of a probability, between a GPU's fp32 and a CPU's: their sums have another order
LAST_LINES = 40  # of what a command printed, and of its log


@dataclass(frozen=True)
class Step:
    """One command: what it shows, and its arguments; {folder} in them takes what it writes."""

    shows: str
    arguments: str
    learns: bool = False  # a training that is long enough to be judged by its accuracy
    on_cpu: bool = False  # with no GPU to be seen

    def line(self, folder: str) -> str:
        """The command as it is typed."""
        hidden = 'CUDA_VISIBLE_DEVICES="" ' if self.on_cpu else ""
        return f"{hidden}{COMMAND} {self.arguments.format(folder=folder)}"


STEPS = (
    Step("the whole job in fp32", "run --run-folder {folder}/fp32", learns=True),
    Step(
        "LoRA in 16 bits, as a Qwen gets it",
        "run --model workflows/tiny/model --set learning_rate=2e-3 --set num_train_epochs=3 "
        "--set per_device_train_batch_size=32 --run-folder {folder}/lora",
        learns=True,
    ),
    Step("full tuning, weights in fp32", f"{SHORT} --method full --run-folder {{folder}}/full"),
    Step("a head", f"{SHORT} --method head --run-folder {{folder}}/head"),
    Step("a loss of our own", f"{SHORT} --method label-loss --run-folder {{folder}}/label-loss"),
    Step("the embedding trained too", f"{SHORT} --method lora-embedding --run-folder {{folder}}/embedding"),
    Step("a model to take away", "export {folder}/lora"),
    Step(
        "answers beside SWIFT's",
        "benchmark inference {folder}/lora --rows 60 --repeats 1 --output {folder}/benchmark-inference",
    ),
    Step(
        "training beside SWIFT's",
        "benchmark training {folder}/lora --steps 5 --repeats 1 --output {folder}/benchmark-training",
    ),
    Step("the same answers on the CPU", "reproduce {folder}/fp32", on_cpu=True),
)


def describe_machine(machine: Machine) -> dict[str, Any]:
    """Versions, device, free memory, speeds; of a GPU its driver and what torch was compiled for."""
    import torch

    dtypes = sorted({"float32", machine.torch_dtype})
    described: dict[str, Any] = {
        **describe_environment(),
        "installed": {each.name: each.version for each in importlib.metadata.distributions()},
        "machine": asdict(machine),
        "memory_free": free_memory(machine.device),
        "products_per_second": {dtype: products_per_second(dtype, machine.device) for dtype in dtypes},
        "bytes_copied_per_second": copies_per_second(machine.device),
    }
    if machine.device == "cuda":
        described["gpu"] = {
            "visible": list_gpus(),
            "driver_cuda": driver_cuda(),
            "torch_cuda": torch.version.cuda,
            "compiled_for": torch.cuda.get_arch_list(),
        }
        torch.cuda.empty_cache()  # for the commands
    return described


def refuse_examined(folder: Path) -> None:
    """Raise UserError where a folder has all commands' runs, which would only be looked at again."""
    file = folder / FILE
    if file.exists() and len(read_json(file)["commands"]) == len(STEPS):
        raise UserError(f"doctor --output {folder}: holds what an earlier one found; name a new folder.")


def examine(
    folder: Path, screen: Screen, checks: list[dict[str, Any]], steps: tuple[Step, ...] = STEPS
) -> dict[str, Any]:
    """Describe this machine, run `steps`, and write folder/doctor.json after each; return its content, which
    has `checks` too.

    Its `well` says whether every command ended as it should; each of `commands` has its problems.
    """
    outcomes: list[dict[str, Any]] = []
    report = {**describe_machine(find_machine()), "well": False, "checks": checks, "commands": outcomes}
    for line in summary_of(report):
        screen.say(line)
    for number, step in enumerate(steps, start=1):
        screen.say(f"[{number}/{len(steps)}] {step.shows}\n  {step.line(str(folder))}")
        outcomes.append(_run(step, folder))
        problems, seconds = outcomes[-1]["problems"], outcomes[-1]["seconds"]
        screen.say(f"  {'NOT well: ' + '; '.join(problems) if problems else 'well'} ({seconds:.0f} s)")
        report["well"] = number == len(steps) and not any(each["problems"] for each in outcomes)
        write_json(folder / FILE, report)
    return report


def summary_of(report: dict[str, Any]) -> list[str]:
    """What the first lines say of the machine."""
    machine, gpu = report["machine"], report.get("gpu")
    products = ", ".join(
        f"{dtype} {each / 1e12:.2f}" for dtype, each in report["products_per_second"].items()
    )
    lines = [
        f"device: {machine['device']} ({machine['name']}); dtype: {machine['torch_dtype']} "
        f"({machine['reason']})",
        f"memory: {report['memory_free'] / 1e9:.1f} GB free of {machine['memory'] / 1e9:.1f}; "
        f"copied at {report['bytes_copied_per_second'] / 1e9:.0f} GB/s",
        f"matrix products: {products} TFLOP/s",
    ]
    if gpu is not None:
        runs = ".".join(map(str, gpu["driver_cuda"] or ("unknown",)))
        lines.insert(1, f"driver: runs CUDA up to {runs}; torch is built for {gpu['torch_cuda']}")
    return lines


def _run(step: Step, folder: Path) -> dict[str, Any]:
    """One command's outcome: exit code, seconds, what it printed last, and what is not well."""
    arguments = [word.format(folder=folder) for word in step.arguments.split()]
    run = RunFolder(next(Path(word) for word in arguments if word.startswith(str(folder))))
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_swift.py"), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        cwd=ROOT,
        env=os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if step.on_cpu else {}),
        check=False,
    )
    outcome: dict[str, Any] = {
        "shows": step.shows,
        "command": step.line(str(folder)),
        "seconds": round(time.monotonic() - start, 1),
        "exit_code": done.returncode,
        "printed": done.stdout.splitlines()[-LAST_LINES:],
        "errors": done.stderr.splitlines()[-LAST_LINES:],
        "problems": [],
    }
    if arguments[0] == "run":
        found = [path for path in (run.stages, run.training) if path.exists()]
        outcome |= {path.stem: read_json(path) for path in found}
    if done.returncode not in ((0, 3) if step.on_cpu else (0,)):
        outcome["problems"] = [(outcome["errors"] or [f"exit code {done.returncode}"])[-1]]
        logs = sorted(run.path.glob("logs/*.log"), key=lambda path: path.stat().st_mtime)
        outcome["log"] = logs[-1].read_text(encoding="utf-8").splitlines()[-LAST_LINES:] if logs else []
    elif step.on_cpu:
        again = run.path.with_name(f"{run.path.name}-again-1")
        outcome["problems"] = compare_answers(run, RunFolder(again))
    elif arguments[0] == "run":
        outcome["problems"] = check_training(run, step.learns)
    return outcome


def check_training(run: RunFolder, learns: bool) -> list[str]:
    """What is not well with a run's training: losses that are no numbers, as where fp16 runs over, or an
    accuracy as if nothing had been learned.
    """
    history = read_json(run.training)["log_history"]
    losses = [value for entry in history for name, value in entry.items() if name in ("loss", "eval_loss")]
    bad = sum(value is None for value in losses)  # as files have what is no finite number
    problems = [f"{bad} of {len(losses)} logged losses are no numbers"] if bad or not losses else []
    accuracy = read_json(run.scores)["systems"]["tuned"]["accuracy"]
    if learns and accuracy < LEARNED:
        problems.append(f"accuracy after tuning is {accuracy:.3f}, below {LEARNED}")
    return problems


def compare_answers(run: RunFolder, again: RunFolder) -> list[str]:
    """What is not well between the untuned model's answers here and on the CPU, both in fp32."""
    apart = largest_difference(run, again, "zero_shot")
    return [] if apart <= CLOSE else [f"probabilities differ by up to {apart:.1e}, more than {CLOSE}"]
