"""The door of scoring: predictions become metrics, and metrics the table on the screen.

An output in which no label's words stand counts as wrong, and is counted.
"""

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, matthews_corrcoef

from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl, sha256, write_json
from workflows.core.statistics import wilson_interval
from workflows.core.texts import text, texts
from workflows.core.unusual import say_unread, say_unusual
from workflows.experiment.cards import Task
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.scoring.labels import averages, f1_interval, measure_sets, per_class
from workflows.scoring.probabilities import measure_probabilities
from workflows.scoring.regression import measure_numbers
from workflows.scoring.uncertainty import compare_errors, compare_systems
from workflows.scoring.verdict import unbeaten, verdict

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
    unusual = [*say_unusual(read_json(run.manifest)), *say_unread(systems, len(test))]
    probe = read_json(run.probe) if run.probe.exists() else {"missing": None, "rows": None}
    scores = {
        "experiment": {
            "dataset": experiment.dataset.name,
            **({} if experiment.tested is None else {"test_dataset": experiment.tested.name}),
            "model": experiment.model.name,
            "method": experiment.method,
            "prompt": experiment.prompt.name,
            "seed": experiment.tuning.seed,
            "data_seed": experiment.data.data_seed,
        },
        "task": task,
        "reading": asdict(
            texts("how_a_head_is_read")[task] if experiment.has_head else text("outputs_are_read_by_words")
        ),
        **({"unusual": [*map(asdict, unusual)]} if unusual else {}),
        "test_rows": len(test),
        "test_sha256": sha256(run.split("test")),
        "systems": systems,
        "comparisons": comparisons,
        "missing": {} if probe["missing"] is None else {"probe": probe["missing"]},
        "fitted_to": probe["rows"],  # what is fitted without tuning
        "cheapest": next(iter(unbeaten(comparisons)), None),
        "verdict": verdict(comparisons, len(test)),
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


def measure(rows: list[dict[str, Any]], names: list[str], words: dict[str, str]) -> dict[str, Any]:
    """The metrics of one system.

    `rows`: predictions; `names`: label names in index order; `words`: each label's words, for the strict
    reading.
    """
    gold = [row["gold"] for row in rows]
    predicted = [row["prediction"] or UNREADABLE for row in rows]
    tables = np.array(gold)[:, None] == names, np.array(predicted)[:, None] == names
    right = sum(a == b for a, b in zip(gold, predicted, strict=True))
    # A system that writes nothing has no output: it can be neither strict nor unreadable.
    strict = [row["output"].strip() == words[row["gold"]] for row in rows if row["output"] is not None]
    unread = Counter(row["output"] for row in rows if row["prediction"] is None)
    every = [*names, UNREADABLE]
    return {
        "accuracy": right / len(rows),
        "accuracy_interval": wilson_interval(right, len(rows)),
        **averages(*tables),
        "macro_f1_interval": f1_interval(*tables),
        "matthews": float(matthews_corrcoef(gold, predicted)),
        "strict_accuracy": sum(strict) / len(rows) if strict else None,
        "unparsed": unread.total(),
        "unparsed_most_frequent": [{"output": text, "rows": count} for text, count in unread.most_common(5)],
        "probabilities": measure_probabilities(rows, names),
        "per_class": per_class(*tables, names),
        "confusion": {
            "gold": names,
            "predicted": every,
            "counts": confusion_matrix(gold, predicted, labels=every)[: len(names)].tolist(),
        },
    }
