"""How long commands take that load no model.

python run_swift.py benchmark startup outputs/first
"""

import subprocess
import sys
import time
from typing import Any

from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.core.statistics import ratio
from workflows.experiment.cards import ROOT


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
                seconds[name].append(timed(command))
                bar.update()
    ratios = {f"{name} / empty python": ratio(seconds[name], seconds["empty python"]) for name in commands}
    return {"seconds": seconds, "ratios": ratios}


def timed(command: list[str]) -> float:
    """Seconds of a command; RuntimeError with the end of its output where it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds
