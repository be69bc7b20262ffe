"""Which benchmark is which, and what each leaves; one that needs a model is imported only when it is asked
for.
"""

from pathlib import Path
from statistics import median
from typing import Any

from workflows.commands.benchmark.without_model import benchmark_data, benchmark_startup
from workflows.core.errors import UserError
from workflows.core.files import open_whole, write_json
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen, as_typed
from workflows.pipeline.run import open_finished, timed_folder


def benchmark(
    kind: str,
    folder: Path | None,
    rows: int | None,
    steps: int,
    repeats: int,
    output: Path | None,
    screen: Screen,
) -> None:
    """Time what was asked for, show the ratios, and write them into `output` or a new folder: benchmark.json
    with all figures, and benchmark.md, a table for a README.

    `folder`: a finished run, but for `data`. Raises UserError where there is none, or one too many.
    """
    if (folder is None) != (kind == "data"):
        raise UserError("benchmark data takes no run folder, every other benchmark takes one.")
    run = None if folder is None else open_finished(folder)
    written = output or timed_folder(f"benchmark-{kind}")
    written.mkdir(parents=True, exist_ok=True)
    with screen.output_to(written / "benchmark.log"):
        figures = _measure(kind, run, rows, steps, repeats, screen)
    write_json(written / "benchmark.json", figures)
    known = [str(figures[key]) for key in ("dataset", "model", "device", "torch_dtype") if key in figures]
    known += [f"{figures[what]:,} {what}" for what in ("rows", "steps") if what in figures]
    ratios = {
        name: f"{each['median']:.2f} ({each['low']:.2f} – {each['high']:.2f})"
        for name, each in figures["ratios"].items()
    }
    title = (", ".join([f"benchmark {kind}", *known]), "median (of repeats)")
    with open_whole(written / "benchmark.md") as file:
        file.writelines(f"| {name} | {value} |\n" for name, value in (title, ("---", "---"), *ratios.items()))
    screen.say(", ".join(known))
    for name, each in figures["seconds"].items():
        screen.say(f"  {name:14} {median(each):8.2f} s (median of {len(each)})")
    for name, value in ratios.items():
        screen.say(f"  {name}: {value}")
    if "milliseconds_of_one_text" in figures:
        screen.say(f"  one text: {figures['milliseconds_of_one_text']:.1f} ms (median)")
    screen.say(f"benchmark: {as_typed(written / 'benchmark.json')}")


def _measure(
    kind: str, run: RunFolder | None, rows: int | None, steps: int, repeats: int, screen: Screen
) -> dict[str, Any]:
    if run is None:
        return benchmark_data(rows or 100_000, repeats, screen)
    if kind == "startup":
        return benchmark_startup(run, repeats, screen)
    from workflows.commands.benchmark.benchmark import (
        benchmark_inference,
        benchmark_pipeline,
        benchmark_training,
    )

    if kind == "serving":
        from workflows.commands.benchmark.serving import benchmark_serving

        return benchmark_serving(run, rows or 2000, repeats, screen)
    if kind == "pipeline":
        return benchmark_pipeline(run, repeats, screen)
    if kind == "inference":
        return benchmark_inference(run, rows or 200, repeats, screen)
    return benchmark_training(run, steps, repeats, screen)
