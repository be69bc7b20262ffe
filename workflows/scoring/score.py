"""The door of scoring: predictions become metrics, and metrics the table on the screen.

An output in which no label's words stand counts as wrong, and is counted.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from workflows.core.errors import UserError
from workflows.core.files import read_jsonl, sha256, write_json
from workflows.core.statistics import wilson_interval
from workflows.core.texts import Text, text, texts
from workflows.experiment.cards import Task
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.scoring.averages import averages
from workflows.scoring.multi_label import measure_sets
from workflows.scoring.probabilities import measure_probabilities
from workflows.scoring.regression import compare_errors, conclude_errors, measure_numbers
from workflows.scoring.uncertainty import compare_systems, conclude, macro_f1_interval, verdict

UNREADABLE = "(unreadable)"


def score(job: Job) -> dict[str, Any]:
    """Read predictions/*.jsonl, write scores.json and return its content.

    Raises UserError where there is nothing to score, or predictions are not of the test rows.
    """
    run, experiment = job.run, job.experiment
    task = experiment.dataset.task
    rows = read_jsonl(run.split("test"))
    test = [(row["id"], row["review"], experiment.named(row["label"])) for row in rows]
    systems: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    for system in texts("systems"):
        path = run.predictions(system)
        if not path.exists():
            continue
        rows = read_jsonl(path)
        if [(row["id"], row["text"], row["gold"]) for row in rows] != test:
            raise UserError(f"{path}: not the rows of {run.split('test')}; run `run {run.path}` to renew it.")
        systems[system] = {**measure_system(rows, experiment), "sha256": sha256(path)}
        answers[system] = rows
    if not systems:
        raise UserError(f"{run.path}: no predictions to score; run `infer` first.")
    comparisons = compare_answers(answers, task)
    scores = {
        "experiment": {
            "dataset": experiment.dataset.name,
            "model": experiment.model.name,
            "method": experiment.tuning.method,
            "prompt": experiment.prompt.name,
            "seed": experiment.tuning.seed,
            "data_seed": experiment.data.data_seed,
        },
        "task": task,
        "reading": asdict(
            texts("how_a_head_is_read")[task] if experiment.has_head else text("outputs_are_read_by_words")
        ),
        "test_rows": len(test),
        "test_sha256": sha256(run.split("test")),
        "systems": systems,
        "comparisons": comparisons,
        "verdict": verdict(comparisons, len(test), conclude_pair(task)),
    }
    write_json(run.scores, scores)
    return scores


def measure_system(rows: list[dict[str, Any]], experiment: Experiment) -> dict[str, Any]:
    """The metrics of one system's predictions, by the data set's task."""
    names = [label.name for label in experiment.labels]
    if experiment.dataset.task == "regression":
        return measure_numbers(rows)
    if experiment.dataset.task == "multi_label":
        return measure_sets(rows, names)
    return measure(rows, names, {label.name: label.words for label in experiment.labels})


def compare_answers(answers: dict[str, list[dict[str, Any]]], task: Task) -> list[dict[str, Any]]:
    """Every pair of systems, by their predictions on the same rows."""
    if task == "regression":
        return compare_errors(
            {
                name: np.array([abs(row["prediction"] - row["gold"]) for row in each])
                for name, each in answers.items()
            }
        )
    return compare_systems(
        {name: np.array([row["gold"] == row["prediction"] for row in each]) for name, each in answers.items()}
    )


def conclude_pair(task: Task) -> Callable[[dict[str, Any], Text | str, Text | str, Text], Text]:
    """What puts a pair of `compare_answers` into words."""
    return conclude_errors if task == "regression" else conclude


def measure(rows: list[dict[str, Any]], names: list[str], words: dict[str, str]) -> dict[str, Any]:
    """The metrics of one system.

    `rows`: predictions; `names`: label names in index order; `words`: each label's words, for the strict
    reading.
    """
    gold = [row["gold"] for row in rows]
    predicted = [row["prediction"] or UNREADABLE for row in rows]
    every = [*names, UNREADABLE]
    precision, recall, f1, support = precision_recall_fscore_support(
        gold, predicted, labels=names, zero_division=0
    )
    right = sum(a == b for a, b in zip(gold, predicted, strict=True))
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "accuracy_interval": wilson_interval(right, len(rows)),
        **averages(gold, predicted, names, [name for name in names if name in set(gold)]),
        "macro_f1_interval": macro_f1_interval(
            np.array([every.index(name) for name in gold]),
            np.array([every.index(name) for name in predicted]),
            len(names),
        ),
        "matthews": float(matthews_corrcoef(gold, predicted)),
        **_outputs(rows, words),
        "probabilities": measure_probabilities(rows, names),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
            for name, p, r, f, n in zip(names, precision, recall, f1, support, strict=True)
        },
        "confusion": {
            "gold": names,
            "predicted": every,
            "counts": confusion_matrix(gold, predicted, labels=every)[: len(names)].tolist(),
        },
    }


def _outputs(rows: list[dict[str, Any]], words: dict[str, str]) -> dict[str, Any]:
    """How the outputs were read; for a system that writes none, no strict accuracy."""
    unread = Counter(row["output"] for row in rows if row["prediction"] is None)
    writes = rows[0]["output"] is not None
    strict = sum(row["output"].strip() == words[row["gold"]] for row in rows) / len(rows) if writes else None
    return {
        "strict_accuracy": strict,
        "unparsed": unread.total(),
        "unparsed_most_frequent": [{"output": text, "rows": count} for text, count in unread.most_common(5)],
    }
