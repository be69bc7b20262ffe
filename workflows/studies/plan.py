"""What a study will take, from those of its runs that are finished."""

import shlex
from collections import defaultdict
from collections.abc import Collection
from statistics import mean

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from workflows.core.run_folder import finished_stages
from workflows.core.screen import as_text
from workflows.experiment.cards import COMMAND
from workflows.experiment.options import flags_of
from workflows.studies.card import Size
from workflows.studies.runs import Kind, Run


def expected_seconds(runs: Collection[Run]) -> dict[tuple[Kind, Size], float]:
    """What a run of each kind and size takes: the mean of those that are finished, or, by a straight line,
    what those of other sizes say; without those whose kind has none.
    """
    known: dict[Kind, dict[Size, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if (took := run.seconds) is not None:
            known[run.kind][run.size].append(took)
    expected: dict[tuple[Kind, Size], float] = {}
    for run in runs:
        means = {size: mean(took) for size, took in known[run.kind].items()}
        rows = [size for size in means if size != "all"]
        if run.size in means:
            expected[run.kind, run.size] = means[run.size]
        elif rows and run.size != "all":
            line = np.polyfit(rows, [means[size] for size in rows], min(1, len(rows) - 1))
            expected[run.kind, run.size] = max(min(means.values()), float(np.polyval(line, run.size)))
    return expected


def render_plan(runs: Collection[Run]) -> str:
    """Runs, rows, time and memory, a line for each kind of run and size; ? where no run of the kind is
    finished.
    """
    names = ("training rows", "runs", "finished", "s a run", "h left", "memory, GB")
    table = Table("run", *(Column(name, justify="right") for name in names), box=SIMPLE_HEAD)
    expected, hours, unknown = expected_seconds(runs), 0.0, 0
    groups: dict[tuple[Kind, Size], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.kind, run.size].append(run)
    for (kind, size), group in sorted(groups.items(), key=lambda each: each[0][0]):
        left = sum(not run.is_done for run in group)
        stages = [record for run in group for record in finished_stages(run.folder).values()]
        peaks = [max(record["peak_memory_bytes"].values()) / 1e9 for record in stages]
        seconds = expected.get((kind, size))
        took = ["?", "?"] if seconds is None else [f"{seconds:.0f}", f"{left * seconds / 3600:.2f}"]
        hours, unknown = hours + left * (seconds or 0) / 3600, unknown + left * (seconds is None)
        counts = f"{len(group)}", f"{len(group) - left}"
        table.add_row(kind[0], str(size), *counts, *took, f"{max(peaks):.1f}" if peaks else "?")
    lines = [as_text(table), f"{len(runs)} runs; those that are left take {hours:.1f} h"]
    if unknown:
        lines[-1] += f", without {unknown} of whose kind none is finished yet"
        largest = max(runs, key=lambda run: (run.experiment.tunes, run.size != "all" and run.size))
        lines.append(
            f"a single run of them: {COMMAND} plan {shlex.join(flags_of(largest.experiment.options))}"
        )
    return "\n".join(lines)
