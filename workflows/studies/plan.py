"""What a study will take: from those of its runs that are finished, else by an estimate."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from statistics import mean
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from workflows.core.files import read_json
from workflows.core.run_folder import finished_stages
from workflows.core.screen import as_text
from workflows.experiment.experiment import Experiment
from workflows.studies.card import Size
from workflows.studies.runs import Kind, Run

# Of runs with their stages, in order: each one's rows `train` and `test`, `seconds`, `bytes`, and `why` not.
Estimate = Callable[[Sequence[tuple[Experiment, Sequence[str]]]], list[dict[str, Any]]]


def expected_seconds(runs: Collection[Run]) -> dict[tuple[Kind, Size], float]:
    """What a run of each kind and size takes: the mean of those that were done on this machine, or, by a
    straight line, what those of other sizes say; without those whose kind has none.
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


def render_plan(runs: Sequence[Run], estimate: Estimate) -> str:
    """Runs, rows, time and memory, a line for each kind of run and size.

    What no finished run says, `estimate` does (~), or why it cannot (?).
    """
    expected, done = expected_seconds(runs), {run.name for run in runs if run.is_done}
    left = {run.name: run for run in runs if run.name not in done and not run.without_model}
    asked = [run for run in left.values() if (run.kind, run.size) not in expected]
    estimates = estimate([(run.experiment, run.stages) for run in asked]) if asked else []
    found = dict(zip([run.name for run in asked], estimates, strict=True))
    names = ("training rows", "runs", "finished", "s a run", "h left", "memory, GB")
    table = Table("run", *(Column(name, justify="right") for name in names), box=SIMPLE_HEAD)
    groups: dict[tuple[Kind, Size], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.kind, run.size].append(run)
    alike = Counter((kind[0], kind[2:], size) for kind, size in groups)
    hours, unknown, most = 0.0, 0, 0.0
    for (kind, size), group in sorted(groups.items(), key=lambda each: each[0][0]):
        here, known = [run for run in group if run.name in left], expected.get((kind, size))
        stages = [record for run in group for record in finished_stages(run.folder).values()]
        peaks = [max(record["peak_memory_bytes"].values()) for record in stages]
        seconds = [known] * len(here)
        if known is None:
            seconds = [found[run.name]["seconds"] for run in here]
            peaks += [each for run in here if (each := found[run.name]["bytes"]) is not None]
        sure = [each for each in seconds if each is not None]
        hours, unknown = hours + sum(sure) / 3600, unknown + len(seconds) - len(sure)
        most, mark = max([most, *peaks]), "" if known is not None else "~"
        a_run = [known] if known is not None else sure
        times = (mean(a_run), sum(sure) / 3600) if a_run and len(sure) == len(seconds) else None
        unsaid = "?" if here else "–"  # of what another machine did, nothing is left to know
        took = [unsaid, unsaid] if times is None else [f"{mark}{times[0]:.0f}", f"{mark}{times[1]:.2f}"]
        title = kind[0]
        if alike[kind[0], kind[2:], size] > 1:  # told apart by the arms that have them
            title += f" ({', '.join(dict.fromkeys(arm for run in group for arm in run.arms))})"
        counts = f"{len(group)}", f"{sum(run.name in done for run in group)}"
        table.add_row(title, str(size), *counts, *took, f"{mark}{max(peaks) / 1e9:.1f}" if peaks else unsaid)
    rows = [_rows(run, found.get(run.name, {})) for run in runs]
    trained, tested = [train for train, _ in rows], sorted({test for _, test in rows if test is not None})
    in_all = "?" if None in trained else f"{sum(filter(None, trained)):,}"
    each = " – ".join(f"{rows:,}" for rows in dict.fromkeys([*tested[:1], *tested[-1:]])) or "?"
    mark = "~" if estimates else ""
    time = f"{mark}{hours:.1f} h" if unknown < len(left) or not left else "?"
    if 0 < unknown < len(left):
        time += f", without {unknown} of which it is not known"
    lines = [
        as_text(table),
        f"{len(runs)} runs; training rows in all: {in_all}; tested rows in each run: {each}",
        f"the {len(left)} that are left take: {time}; memory at most: "
        + (f"{mark}{most / 1e9:.1f} GB" if most else "?" if left else "–"),
    ]
    if estimates:
        lines.append("~: estimated by a few steps with few layers; a finished run of the kind goes before it")
    return "\n".join([*lines, *dict.fromkeys(f"?: {each['why']}" for each in estimates if each["why"])])


def _rows(run: Run, estimated: dict[str, Any]) -> tuple[int | None, int | None]:
    """Training rows and test rows of a run, as far as they are known."""
    if run.known is not None:
        return run.known["labels"]["train"], run.known["test_rows"]
    if run.folder.manifest.exists():
        splits = read_json(run.folder.manifest)["splits"]
        return splits["train"]["rows"], splits["test"]["rows"]
    size = None if run.size == "all" else run.size
    return estimated.get("train", size), estimated.get("test")
