"""Training rows of other data sets (`--mix`): prepared as data of their own, then added to train.jsonl.

Validation and test stay the target's alone.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from workflows.core.files import read_json, read_jsonl, write_jsonl
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.core.screen import Screen
from workflows.data.near_copies import find_near_copies
from workflows.experiment.cards import DatasetCard
from workflows.experiment.experiment import Experiment, Mix
from workflows.experiment.options import DataOptions

# The largest distance between the two distributions of length that counts as alike; of thousands of rows the
# test's p alone would call any two data sets different.
ALIKE = 0.2


def mixed_run(run: RunFolder, mix: Mix) -> RunFolder:
    """Where the other data set's own files lie."""
    return RunFolder(run.path / "data" / "mixed" / mix.dataset.name)


def mixed_experiment(experiment: Experiment, mix: Mix, rows: int | None) -> Experiment:
    """The experiment whose training rows are mixed in: `rows` of the other data set, asked as
    the target's.
    """
    options = experiment.data
    data = DataOptions(
        data_dir=options.data_dir,
        data_seed=options.data_seed,
        sample_seed=options.sample_seed,
        format=options.format,
        train_samples=rows,
        balance=options.balance,
    )
    return joining_experiment(experiment, mix.dataset, data)


def joining_experiment(experiment: Experiment, dataset: DatasetCard, data: DataOptions) -> Experiment:
    """The experiment that prepares another data set, whose rows join those of `experiment`."""
    dataset = replace(dataset, labels=experiment.dataset.labels)
    prompt = replace(experiment.prompt, shots=0)  # examples are put in once all training rows are there
    return replace(experiment, dataset=dataset, data=data, prompt=prompt, mixed=(), tested=None)


def add_rows(run: RunFolder, mixes: tuple[Mix, ...], screen: Screen) -> dict[str, Any]:
    """Add the prepared rows of each data set of `mixes` to train.jsonl; what the manifest says of them, by
    name.

    Left out are texts that are in the target's files, and near copies of its validation and test rows.
    """
    splits = {name: read_jsonl(run.split(name)) for name in SPLITS}
    target = [len(row["review"]) for row in splits["train"]]
    held_out = [row["review"] for name in ("val", "test") for row in splits[name]]
    seen = {row["review"]: name for name, rows in splits.items() for row in rows}
    added: list[dict[str, Any]] = []
    described: dict[str, Any] = {}
    for mix in mixes:
        name, other = mix.dataset.name, mixed_run(run, mix)
        rows, manifest = read_jsonl(other.split("train")), read_json(other.manifest)
        with screen.progress(f"searching near copies of {name}", len(rows)) as bar:
            near = find_near_copies([row["review"] for row in rows], [], held_out, bar).train_in_test
        left_out: Counter[str] = Counter()
        used = []
        for position, row in enumerate(rows):
            if row["review"] in seen:
                left_out[f"same text as a row of {seen[row['review']]}"] += 1
            elif position in near:
                left_out["near copy of a validation or test row"] += 1
            else:
                seen[row["review"]] = name
                used.append({**row, "id": f"{name}/{row['id']}"})
        added += used
        described[name] = {
            "ratio": mix.ratio,
            "from": manifest["from"],
            "rows": manifest["rows"],
            "rejected": manifest["rejected"],
            "drawn": len(rows),
            "left_out": dict(left_out),
            "used": len(used),
            "lengths": compare_lengths(target, [len(row["review"]) for row in rows]),
        }
    write_jsonl(run.split("train"), [*splits["train"], *added])
    return described


def compare_lengths(target: list[int], other: list[int]) -> dict[str, Any]:
    """Medians in characters and the two-sample Kolmogorov-Smirnov test; `alike` below a distance of ALIKE.

    Mixing was reported to help where lengths are alike, and to hurt where they are not.
    """
    test = ks_2samp(target, other)
    return {
        "median": float(np.median(target)),
        "median_mixed": float(np.median(other)),
        "ks_distance": float(test.statistic),
        "ks_p": float(test.pvalue),
        "alike": bool(test.statistic < ALIKE),
    }
