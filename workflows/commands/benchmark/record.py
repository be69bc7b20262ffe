"""What a benchmark leaves: its figures as JSON, and as a table for a README."""

from pathlib import Path
from statistics import median
from typing import Any

from workflows.core.files import open_whole, write_json


def record_benchmark(folder: Path, kind: str, figures: dict[str, Any]) -> list[str]:
    """Write benchmark.json and benchmark.md into `folder`; return the lines to show."""
    write_json(folder / "benchmark.json", figures)
    known = [str(figures[key]) for key in ("dataset", "model", "device", "torch_dtype") if key in figures]
    ratios = {
        name: f"{each['median']:.2f} ({each['low']:.2f} – {each['high']:.2f})"
        for name, each in figures["ratios"].items()
    }
    rows = [
        (", ".join([f"benchmark {kind}", *known]), "median (of repeats)"),
        ("---", "---"),
        *ratios.items(),
    ]
    with open_whole(folder / "benchmark.md") as file:
        file.writelines(f"| {name} | {value} |\n" for name, value in rows)
    times = [
        f"  {name:14} {median(seconds):8.2f} s (median of {len(seconds)})"
        for name, seconds in figures["seconds"].items()
    ]
    return [", ".join(known), *times, *(f"  {name}: {value}" for name, value in ratios.items())]
