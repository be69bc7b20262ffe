"""How long commands take that load no model; and how works are timed in turn.

python run_swift.py benchmark startup outputs/first
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.core.statistics import ratio
from workflows.experiment.cards import ROOT

OURS = [sys.executable, str(ROOT / "run_swift.py")]


def benchmark_startup(run: RunFolder, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds of commands that load no model; the limit is an empty Python."""
    commands = {
        "help": [*OURS, "--help"],
        "list": [*OURS, "list", "datasets"],
        "score": [*OURS, "score", str(run.path)],
        "empty python": [sys.executable, "-c", ""],
    }
    works = {name: partial(run_command, command) for name, command in commands.items()}
    seconds = in_turn(works, repeats, screen)
    ratios = {f"{name} / empty python": ratio(seconds[name], seconds["empty python"]) for name in commands}
    return {"seconds": seconds, "ratios": ratios}


def in_turn(works: Mapping[str, Callable[[], None]], repeats: int, screen: Screen) -> dict[str, list[float]]:
    """Seconds of each of `works`, `repeats` times, one after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with screen.progress("benchmark", total=repeats * len(works)) as bar:
        for _ in range(repeats):
            for name, work in works.items():
                start = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - start)
                bar.update()
    return seconds


def run_command(command: list[str]) -> None:
    """Run a command; RuntimeError with the end of its output where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
