"""How long the rows are in tokens, as SWIFT's template encodes them, and which are longer than max_length.

SWIFT leaves such training rows out with a log line only, so this says before training which they are.
"""

from typing import Any

import numpy as np
from tqdm import tqdm

from workflows.core.files import read_jsonl, write_json
from workflows.core.rows import conversation
from workflows.core.run_folder import SPLITS
from workflows.core.screen import Screen
from workflows.core.statistics import describe_lengths
from workflows.experiment.job import Job
from workflows.model.arguments import build_sft_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import Machine, machine_of

LONGEST = 64  # lengths that are listed: those of the widest batch
BINS = 30  # of the histograms
FATE = {"delete": "left out", "left": "cut at the beginning", "right": "cut at the end", "split": "split"}


def row_lengths(template: Any, rows: list[dict[str, Any]], bar: tqdm) -> list[int]:
    """Tokens of each row of a data file, as a template in training mode encodes it; moves `bar` on."""
    lengths = []
    for row in rows:
        lengths.append(len(template.encode({"messages": conversation(row)})["input_ids"]))
        bar.update()
    return lengths


def count_derived_tokens(job: Job, machine: Machine, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What tokens.json says of a split, of training rows that a method made."""
    template = build_sft_arguments(job.run, with_local_model(job.experiment), machine).get_template()
    max_length, template.max_length = template.max_length, None
    template.set_mode("train")
    return _describe(_measure(template, rows, "derived rows", job.screen), max_length)


def _measure(template: Any, rows: list[dict[str, Any]], name: str, screen: Screen) -> dict[str, int]:
    """The length of each row, by id."""
    with screen.progress(f"{name}: counting tokens", total=len(rows)) as bar:
        return dict(zip((row["id"] for row in rows), row_lengths(template, rows, bar), strict=True))


def _describe(lengths: dict[str, int], max_length: int | None) -> dict[str, Any]:
    over = [id for id, length in lengths.items() if max_length is not None and length > max_length]
    return {
        "rows": len(lengths),
        "longest": sorted(lengths.values(), reverse=True)[:LONGEST],
        **describe_lengths(list(lengths.values())),
        "over_max_length": {"rows": len(over), "ids": over},
    }


def count_tokens(job: Job) -> dict[str, Any]:
    """Read train, val and test; write data/tokens.json and return its content.

    Lengths are in tokens and include prompt, chat marks and answer. Raises UserError where the model cannot
    be had, or SWIFT refuses an argument.
    """
    run = job.run
    arguments = build_sft_arguments(run, with_local_model(job.experiment), machine_of(job))
    template = arguments.get_template()
    max_length, template.max_length = template.max_length, None
    template.set_mode("train")
    splits: dict[str, Any] = {}
    every: dict[str, list[int]] = {}
    for name in SPLITS:
        rows = read_jsonl(run.split(name))
        lengths = _measure(template, rows, name, job.screen)
        every[name] = list(lengths.values())
        splits[name] = _describe(lengths, max_length)
    edges = np.histogram_bin_edges([length for lengths in every.values() for length in lengths], bins=BINS)
    for name in SPLITS:
        splits[name]["histogram"] = np.histogram(every[name], edges)[0].tolist()
    summary = {
        "max_length": max_length,
        "longer_training_rows_are": FATE.get(arguments.truncation_strategy, arguments.truncation_strategy),
        "histogram_edges": edges.tolist(),
        "splits": splits,
    }
    write_json(run.tokens, summary)
    return summary
