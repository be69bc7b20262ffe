"""Test rows of another data set (`--test-dataset`): prepared as data of their own, then taken in place of the
target's.

Training and validation rows stay the target's, without near copies of its own test rows too: where none has
the text of a new test row either, they are those of the run that is tested on its own.
"""

from typing import Any

import numpy as np
from tqdm import tqdm

from workflows.core.files import read_json, read_jsonl
from workflows.core.rows import Rows
from workflows.core.run_folder import RunFolder
from workflows.data.mix import joining_experiment
from workflows.data.reviews import SAME_TEXT, ReviewTable, texts_within
from workflows.data.splits import Splits
from workflows.experiment.cards import DatasetCard
from workflows.experiment.experiment import Experiment
from workflows.experiment.options import DataOptions


def tested_run(run: RunFolder, dataset: DatasetCard) -> RunFolder:
    """Where the other data set's own files lie."""
    return RunFolder(run.path / "data" / "tested" / dataset.name)


def tested_experiment(experiment: Experiment, dataset: DatasetCard) -> Experiment:
    """The experiment whose test rows are taken: the other data set, cut as the target."""
    options = experiment.data
    data = DataOptions(
        data_dir=options.data_dir,
        split=options.split,
        data_seed=options.data_seed,
        test_samples=options.test_samples,
        format=options.format,
    )
    return joining_experiment(experiment, dataset, data)


def read_tested(run: RunFolder, dataset: DatasetCard) -> Rows:
    """The other data set's test rows, with ids that say where they are from."""
    rows = read_jsonl(tested_run(run, dataset).split("test"))
    return [{**row, "id": f"{dataset.name}/{row['id']}"} for row in rows]


def describe_tested(run: RunFolder, dataset: DatasetCard) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the manifest says of the other data set, and of its test rows."""
    manifest = read_json(tested_run(run, dataset).manifest)
    said = {name: manifest[name] for name in ("dataset", "from", "rows", "rejected")}
    return said, manifest["splits"]["test"]


def reject_same_texts(rows: ReviewTable, splits: Splits, tested: Rows, bar: tqdm) -> None:
    """Reject training and validation rows that have the text of a test row; one more reading of the files."""
    ids = {row["review"]: row["id"] for row in tested}
    at = np.sort(np.concatenate([splits["train"], splits["val"]]))
    for chunk in rows.read():
        for place, text in texts_within(chunk, at).items():
            if text in ids:
                rows.reject(place, SAME_TEXT, f"same text as {ids[text]}")
        bar.update(len(chunk.texts))
