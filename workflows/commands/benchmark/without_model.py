"""How long commands take that load no model, and how preparing data grows with the data.

python run_swift.py benchmark startup outputs/first
python run_swift.py benchmark data --rows 100000
"""

import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.screen import Screen
from workflows.core.statistics import ratio
from workflows.experiment.cards import DATASETS, ROOT
from workflows.model.machine import now

OURS = [sys.executable, str(ROOT / "run_swift.py")]
SIZES = {"1x": 1, "2x": 2, "4x": 4}


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


def benchmark_data(rows: int, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds and peak memory of the stage `prepare` for tables of `rows`, twice and four times as many rows.

    The rows are the embedded reviews, each numbered, so that no two are the same.
    """
    stages: dict[str, list[dict[str, Any]]] = {name: [] for name in SIZES}
    with tempfile.TemporaryDirectory() as temporary:

        def prepare(name: str) -> None:
            table, run = Path(temporary, f"{name}.csv"), RunFolder(Path(temporary, f"{name}-run"))
            shutil.rmtree(run.path, ignore_errors=True)
            files = ["--data-file", str(table), "--run-folder", str(run.path)]
            run_command([*OURS, "prepare", "--dataset", "demo", "--keep-near-copies", *files])
            stages[name].append(finished_stages(run)["prepare"])

        for name, factor in SIZES.items():
            _write_table(Path(temporary, f"{name}.csv"), rows * factor)
        in_turn({name: partial(prepare, name) for name in SIZES}, repeats, screen)
    seconds = {name: [stage["seconds"] for stage in each] for name, each in stages.items()}
    return {
        "rows": rows,
        "seconds": seconds,
        "ratios": {f"{name} / 1x": ratio(seconds[name], seconds["1x"]) for name in ("2x", "4x")},
        "rows_per_second": median(rows * SIZES["4x"] / each for each in seconds["4x"]),
        "peak_memory_bytes": {
            name: max(stage["peak_memory_bytes"]["ram"] for stage in each) for name, each in stages.items()
        },
    }


def _write_table(path: Path, rows: int) -> None:
    with open(DATASETS / "demo" / "demo.csv", encoding="utf-8", newline="") as file:
        reviews = [(row["label"], row["text"]) for row in csv.DictReader(file)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "text"])
        for number in range(rows):
            label, text = reviews[number % len(reviews)]
            writer.writerow([label, f"{number}：{text}"])


def in_turn(
    works: Mapping[str, Callable[[], object]], repeats: int, screen: Screen
) -> dict[str, list[float]]:
    """Seconds of each of `works`, `repeats` times, one after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with screen.progress("benchmark", total=repeats * len(works)) as bar:
        for _ in range(repeats):
            for name, work in works.items():
                start = now()
                work()
                seconds[name].append(now() - start)
                bar.update()
    return seconds


def run_command(command: list[str]) -> str:
    """What a command says; RuntimeError with the end of its errors where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout
