"""How preparing data grows with the data: time and memory for n, 2n and 4n rows.

python run_swift.py benchmark data --rows 100000
"""

import csv
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.screen import Screen
from workflows.core.statistics import ratio
from workflows.experiment.cards import DATASETS, ROOT

SIZES = {"1x": 1, "2x": 2, "4x": 4}


def benchmark_data(rows: int, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds and peak memory of the stage `prepare` for tables of `rows`, twice and four times as many rows.

    The rows are the embedded reviews, each numbered, so that no two are the same.
    """
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    peaks: defaultdict[str, list[int]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        screen.progress("benchmark", total=repeats * len(SIZES)) as bar,
    ):
        for name, factor in SIZES.items():
            _write_table(Path(folder) / f"{name}.csv", rows * factor)
        for repeat in range(repeats):
            for name in SIZES:
                run = RunFolder(Path(folder) / f"{name}-{repeat}")
                stage = _prepare(Path(folder) / f"{name}.csv", run)
                seconds[name].append(stage["seconds"])
                peaks[name].append(stage["peak_memory_bytes"]["ram"])
                bar.update()
    return {
        "rows": rows,
        "seconds": dict(seconds),
        "ratios": {f"{name} / 1x": ratio(seconds[name], seconds["1x"]) for name in ("2x", "4x")},
        "rows_per_second": median(rows * SIZES["4x"] / each for each in seconds["4x"]),
        "peak_memory_bytes": {name: max(each) for name, each in peaks.items()},
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


def _prepare(table: Path, run: RunFolder) -> dict[str, Any]:
    """The record of the stage, run in a process of its own; RuntimeError with its output where it fails."""
    command = [
        sys.executable,
        str(ROOT / "run_swift.py"),
        "prepare",
        "--dataset",
        "demo",
        "--keep-near-copies",
    ]
    files = ["--data-file", str(table), "--run-folder", str(run.path)]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"preparing {table.name} failed:\n{done.stderr[-2000:]}")
    return finished_stages(run)["prepare"]
