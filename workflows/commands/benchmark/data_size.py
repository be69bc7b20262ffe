"""How preparing data grows with the data: time and memory for n, 2n and 4n rows.

python run_swift.py benchmark data --rows 100000
"""

import csv
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from workflows.commands.benchmark.startup import OURS, run_command
from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.screen import Screen
from workflows.core.statistics import ratio
from workflows.experiment.cards import DATASETS

SIZES = {"1x": 1, "2x": 2, "4x": 4}


def benchmark_data(rows: int, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds and peak memory of the stage `prepare` for tables of `rows`, twice and four times as many rows.

    The rows are the embedded reviews, each numbered, so that no two are the same.
    """
    stages: dict[str, list[dict[str, Any]]] = {name: [] for name in SIZES}
    with (
        tempfile.TemporaryDirectory() as temporary,
        screen.progress("benchmark", repeats * len(SIZES)) as bar,
    ):
        folder = Path(temporary)
        for name, factor in SIZES.items():
            _write_table(folder / f"{name}.csv", rows * factor)
        for repeat in range(repeats):
            for name in SIZES:
                table, run = folder / f"{name}.csv", RunFolder(folder / f"{name}-{repeat}")
                files = ["--data-file", str(table), "--run-folder", str(run.path)]
                run_command([*OURS, "prepare", "--dataset", "demo", "--keep-near-copies", *files])
                stages[name].append(finished_stages(run)["prepare"])
                bar.update()
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
