"""Which benchmark is which: each is imported only when it is asked for."""

from pathlib import Path
from typing import Any

from workflows.commands.benchmark.record import record_benchmark
from workflows.core.errors import UserError
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen, shown
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
    """Time what was asked for, show the ratios, and write them into `output` or a new folder.

    `folder`: a finished run, but for `data`. Raises UserError where there is none, or one too many.
    """
    if (folder is None) != (kind == "data"):
        raise UserError("benchmark data takes no run folder, every other benchmark takes one.")
    run = None if folder is None else open_finished(folder)
    written = output or timed_folder(f"benchmark-{kind}")
    written.mkdir(parents=True, exist_ok=True)
    with screen.output_to(written / "benchmark.log"):
        figures = _measure(kind, run, rows, steps, repeats, screen)
    for line in record_benchmark(written, kind, figures):
        screen.say(line)
    screen.say(f"benchmark: {shown(written / 'benchmark.json')}")


def _measure(
    kind: str, run: RunFolder | None, rows: int | None, steps: int, repeats: int, screen: Screen
) -> dict[str, Any]:
    if run is None:
        from workflows.commands.benchmark.data_size import benchmark_data

        return benchmark_data(rows or 100_000, repeats, screen)
    if kind == "startup":
        from workflows.commands.benchmark.startup import benchmark_startup

        return benchmark_startup(run, repeats, screen)
    if kind == "pipeline":
        from workflows.commands.benchmark.against_swift import benchmark_pipeline

        return benchmark_pipeline(run, repeats, screen)
    from workflows.commands.benchmark.benchmark import benchmark_inference, benchmark_training

    if kind == "inference":
        return benchmark_inference(run, rows or 200, repeats, screen)
    return benchmark_training(run, steps, repeats, screen)
