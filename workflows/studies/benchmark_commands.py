"""How long whole commands take: start-up, and a run against the three SWIFT commands that do the same.

python run_swift.py benchmark startup outputs/first
python run_swift.py benchmark pipeline outputs/first
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workflows.experiment import METHODS, ROOT, load_experiment
from workflows.machine import find_machine, fit_to_machine
from workflows.models import ready_model
from workflows.run_folder import RunFolder, finished_stages, write_json
from workflows.screen import Screen
from workflows.statistics import ratio

BEFORE_THE_MODEL = ("prepare", "tokens", "baselines", "audit")


def benchmark_startup(run: RunFolder, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds of commands that load no model; the limit is an empty Python."""
    ours = [sys.executable, str(ROOT / "run_swift.py")]
    commands = {
        "help": [*ours, "--help"],
        "list": [*ours, "list", "datasets"],
        "score": [*ours, "score", str(run.path)],
        "empty python": [sys.executable, "-c", ""],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with screen.progress("benchmark", total=repeats * len(commands)) as bar:
        for _ in range(repeats):
            for name, command in commands.items():
                seconds[name].append(_timed(command))
                bar.update()
    ratios = {f"{name} / empty python": ratio(seconds[name], seconds["empty python"]) for name in commands}
    return {"seconds": seconds, "ratios": ratios}


def benchmark_pipeline(run: RunFolder, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds of a run from its prepared data to its report, and of `swift infer`, `swift sft`, `swift infer`
    with the same preset on the same data.
    """
    seconds: dict[str, list[float]] = {"ours": [], "swift": []}
    with screen.progress("benchmark", total=2 * repeats) as bar:
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                seconds["ours"].append(_timed_run(run, RunFolder(Path(folder) / "run")))
                bar.update()
                seconds["swift"].append(_timed_swift(run, Path(folder)))
                bar.update()
    return {"seconds": seconds, "ratios": {"ours / SWIFT": ratio(seconds["ours"], seconds["swift"])}}


def _timed_run(run: RunFolder, copy: RunFolder) -> float:
    """Seconds of `run` on a copy in which only what comes before the model is done."""
    shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns("sft", "training.json", "tuned.jsonl"))
    copy.predictions("zero_shot").unlink()
    done = finished_stages(run)
    write_json(copy.stages, {name: done[name] for name in BEFORE_THE_MODEL if name in done})
    return _timed([sys.executable, str(ROOT / "run_swift.py"), "run", str(copy.path)])


def _timed_swift(run: RunFolder, folder: Path) -> float:
    """Seconds of the three plain SWIFT commands."""
    experiment = ready_model(load_experiment(run.experiment))
    fitted = fit_to_machine(experiment.arguments, experiment.pinned, find_machine())
    swift = str(Path(sys.executable).parent / "swift")
    model = [f"--{name}={value}" for name, value in experiment.model.arguments.items()]
    model += [f"--torch_dtype={fitted['torch_dtype']}"]
    decoding = [
        "--max_new_tokens=5",
        "--temperature=0",
        "--stream=false",
        f"--val_dataset={run.split('test')}",
    ]
    needed = [f"--{name}={fitted[name]}" for name in ("bf16", "fp16", "use_cpu") if name in fitted]
    overrides = [f"--{name}={value}" for name, value in experiment.overrides.items()]
    total = _timed([swift, "infer", *model, *decoding, f"--result_path={folder / 'before.jsonl'}"])
    total += _timed(
        [
            *(swift, "sft", str(METHODS / f"{experiment.method}.yaml"), *model, *needed, *overrides),
            *(f"--dataset={run.split('train')}", f"--val_dataset={run.split('val')}"),
            *(f"--output_dir={folder / 'sft'}", "--add_version=false"),
        ]
    )
    adapter = max((folder / "sft").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    with_adapter = [f"--adapters={adapter}", f"--result_path={folder / 'after.jsonl'}"]
    return total + _timed([swift, "infer", *model, *decoding, *with_adapter])


def _timed(command: list[str]) -> float:
    """Seconds of a command; RuntimeError with the end of its output where it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds
