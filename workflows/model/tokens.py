"""How long the rows are in tokens, as SWIFT's template encodes them, and which are longer than max_length, or
than the model can read where nothing is tuned.

SWIFT leaves such training rows out with a log line only, so this says before training which they are.
"""

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import numpy as np
from swift import SftArguments
from tqdm import tqdm

from workflows.core.files import read_jsonl, write_json
from workflows.core.rows import conversation
from workflows.core.run_folder import SPLITS
from workflows.core.statistics import describe_lengths
from workflows.experiment.job import Job
from workflows.model.arguments import build_sft_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import Machine, machine_of

LONGEST = 64  # lengths that are listed: those of the widest batch
BINS = 30  # of the histograms
FATE = {"delete": "left out", "left": "cut at the beginning", "right": "cut at the end", "split": "split"}


def common_beginning(rows: Iterable[list[int]]) -> list[int]:
    """The longest beginning that all `rows` of tokens share."""
    columns = zip(*rows, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def row_lengths(template: Any, rows: list[dict[str, Any]], bar: tqdm) -> list[int]:
    """Tokens of each row of a data file, as a template in training mode encodes it; moves `bar` on."""
    lengths = []
    for row in rows:
        lengths.append(len(template.encode({"messages": conversation(row)})["input_ids"]))
        bar.update()
    return lengths


def _measure(
    job: Job, machine: Machine, parts: dict[str, list[dict[str, Any]]]
) -> tuple[SftArguments, int | None, dict[str, dict[str, int]]]:
    """SWIFT's training arguments, how many tokens of a row are read, and the length of each row by id."""
    arguments = build_sft_arguments(job.run, with_local_model(job.experiment), machine)
    template = arguments.get_template()
    max_length, template.max_length = template.max_length, None
    if not job.experiment.tunes:  # only training reads `max_length`
        max_length = template.model_info.max_model_len
    template.set_mode("train")
    lengths = {}
    for name, rows in parts.items():
        with job.screen.progress(f"{name}: counting tokens", total=len(rows)) as bar:
            ids = [row["id"] for row in rows]
            lengths[name] = dict(zip(ids, row_lengths(template, rows, bar), strict=True))
    return arguments, max_length, lengths


def _describe(lengths: dict[str, int], max_length: int | None) -> dict[str, Any]:
    over = [id for id, length in lengths.items() if max_length is not None and length > max_length]
    return {
        "rows": len(lengths),
        "longest": sorted(lengths.values(), reverse=True)[:LONGEST],
        **describe_lengths(list(lengths.values())),
        "over_max_length": {"rows": len(over), "ids": over},
    }


def count_derived_tokens(job: Job, machine: Machine, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What tokens.json says of a split, of training rows that a method made."""
    _, max_length, lengths = _measure(job, machine, {"derived rows": rows})
    return _describe(lengths["derived rows"], max_length)


def count_tokens(job: Job) -> dict[str, Any]:
    """Read train, val and test; write data/tokens.json and return its content.

    Lengths are in tokens and include prompt, chat marks and answer. Raises UserError where the model cannot
    be had, or SWIFT refuses an argument.
    """
    splits = {name: read_jsonl(job.run.split(name)) for name in SPLITS}
    arguments, max_length, lengths = _measure(job, machine_of(job), splits)
    edges = np.histogram_bin_edges([n for split in lengths.values() for n in split.values()], bins=BINS)
    described = {name: _describe(split, max_length) for name, split in lengths.items()}
    for name, split in lengths.items():
        described[name]["histogram"] = np.histogram([*split.values()], edges)[0].tolist()
    summary = {
        "max_length": max_length,
        "longer_training_rows_are": FATE.get(arguments.truncation_strategy, arguments.truncation_strategy),
        "histogram_edges": edges.tolist(),
        "splits": described,
    }
    write_json(job.run.tokens, summary)
    return summary
