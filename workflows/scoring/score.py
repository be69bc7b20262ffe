"""The door of scoring: predictions become metrics, and metrics the table on the screen.

An output in which no label's words stand counts as wrong, and is counted.
"""

from typing import Any

from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from workflows.errors import UserError
from workflows.experiment import Experiment
from workflows.run_folder import RunFolder, read_jsonl, sha256, write_json

SYSTEMS = ("majority", "tfidf", "zero_shot", "tuned")
UNREADABLE = "(unreadable)"


def score(run: RunFolder, experiment: Experiment) -> dict[str, Any]:
    """Read predictions/*.jsonl, write scores.json and return its content.

    Raises UserError where there is nothing to score, or predictions are not of the test rows.
    """
    names = [label.name for label in experiment.labels]
    words = {label.name: label.words for label in experiment.labels}
    test_ids = [row["id"] for row in read_jsonl(run.split("test"))]
    systems: dict[str, dict[str, Any]] = {}
    for system in SYSTEMS:
        path = run.predictions(system)
        if not path.exists():
            continue
        rows = read_jsonl(path)
        if [row["id"] for row in rows] != test_ids:
            raise UserError(f"{path}: not the rows of {run.split('test')}; delete it and run `infer` again.")
        systems[system] = {**measure(rows, names, words), "sha256": sha256(path)}
    if not systems:
        raise UserError(f"{run.path}: no predictions to score; run `infer` first.")
    scores = {
        "experiment": {
            "dataset": experiment.dataset.name,
            "model": experiment.model.name,
            "method": experiment.method,
            "prompt": experiment.prompt.name,
            "seed": experiment.seed,
            "data_seed": experiment.data.data_seed,
        },
        "reading": "the first label words found in the output; strict: the output is the label's words alone",
        "test_rows": len(test_ids),
        "test_sha256": sha256(run.split("test")),
        "systems": systems,
    }
    write_json(run.scores, scores)
    return scores


def measure(rows: list[dict[str, Any]], names: list[str], words: dict[str, str]) -> dict[str, Any]:
    """The metrics of one system.

    `rows`: predictions; `names`: label names in index order; `words`: each label's words, for the strict
    reading.
    """
    gold = [row["gold"] for row in rows]
    predicted = [row["prediction"] or UNREADABLE for row in rows]
    precision, recall, f1, support = precision_recall_fscore_support(
        gold, predicted, labels=names, zero_division=0
    )
    right = sum(a == b for a, b in zip(gold, predicted, strict=True))
    interval = binomtest(right, len(rows)).proportion_ci(0.95, method="wilson")
    outputs = [row["output"] for row in rows]
    generative = outputs[0] is not None
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "accuracy_interval": [float(interval.low), float(interval.high)],
        "macro_f1": float(f1_score(gold, predicted, labels=names, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(gold, predicted, labels=names, average="weighted", zero_division=0)),
        "strict_accuracy": sum(o.strip() == words[g] for o, g in zip(outputs, gold, strict=True)) / len(rows)
        if generative
        else None,
        "unparsed": predicted.count(UNREADABLE),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
            for name, p, r, f, n in zip(names, precision, recall, f1, support, strict=True)
        },
        "confusion": {
            "gold": names,
            "predicted": [*names, UNREADABLE],
            "counts": confusion_matrix(gold, predicted, labels=[*names, UNREADABLE])[: len(names)].tolist(),
        },
    }
