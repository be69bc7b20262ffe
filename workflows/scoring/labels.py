"""Precision, recall and F1: of each label, averaged over all labels, and how sure the averages are.

Gold labels and predictions are tables of bool, (rows, labels).  A row may have several labels; an unreadable
output has none.
"""

from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from workflows.core.statistics import bootstrap_interval, wilson_interval


def measure_sets(rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """The metrics of one system where a row may have several labels; `names`: label names in index order.

    `accuracy` is the share of rows whose whole set is right.
    """
    gold, predicted = (
        np.array([[name in row[key] for name in names] for row in rows]) for key in ("gold", "prediction")
    )
    right = int((gold == predicted).all(axis=1).sum())
    return {
        "accuracy": right / len(rows),
        "accuracy_interval": wilson_interval(right, len(rows)),
        **averages(gold, predicted),
        "micro_f1_interval": f1_interval(gold, predicted, micro=True),
        "macro_f1_interval": f1_interval(gold, predicted),
        "per_class": per_class(gold, predicted, names),
    }


def averages(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1, each micro, macro and weighted.

    Macro averages are over the labels that the test set has: one that it lacks cannot be got right.
    """
    figures: dict[str, float] = {}
    for average in ("micro", "macro", "weighted"):
        over = np.flatnonzero(gold.any(axis=0)) if average == "macro" else None
        three = precision_recall_fscore_support(
            gold, predicted, labels=over, average=average, zero_division=0
        )[:3]
        for name, value in zip(("precision", "recall", "f1"), three, strict=True):
            figures[f"{average}_{name}"] = float(value)
    return figures


def per_class(gold: np.ndarray, predicted: np.ndarray, names: list[str]) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each label, each with its 95 % interval, and the label's rows.

    Wilson's intervals, of the shares of right rows among those predicted, those that have the label, and for
    F1 either: F* = F1 / (2 - F1) (Hand, Christen and Kirielle 2021).  None of no rows.
    """
    figures = precision_recall_fscore_support(gold, predicted, average=None, zero_division=0)
    right = (gold & predicted).sum(0)
    among = predicted.sum(0), gold.sum(0), (gold | predicted).sum(0)
    found: dict[str, dict[str, Any]] = {}
    for name, *values, rows, hits, said, there, either in zip(names, *figures, right, *among, strict=True):
        found[name] = {
            **dict(zip(("precision", "recall", "f1"), map(float, values), strict=True)),
            "rows": int(rows),
        }
        for figure, of in (("precision", said), ("recall", there), ("f1", either)):
            interval = wilson_interval(int(hits), int(of)) if of else None
            if figure == "f1" and interval is not None:
                interval = [2 * bound / (1 + bound) for bound in interval]
            found[name][f"{figure}_interval"] = interval
    return found


def f1_interval(gold: np.ndarray, predicted: np.ndarray, micro: bool = False) -> list[float] | None:
    """95 % bootstrap interval over rows of the F1 averaged as in `averages`, macro or micro, seeded.

    So a macro average is over the labels that the drawn rows have: of one with few rows some draws have none.
    """
    hits, either, there = gold & predicted, gold.astype(int) + predicted, gold
    if micro:  # as of one label
        hits, either, there = (each.sum(1, keepdims=True) for each in (hits, either, there))
    counts = np.hstack([hits, either, there]).astype(float)

    def f1(at: np.ndarray) -> float:
        hits, either, there = np.split(np.bincount(at, minlength=len(counts)) @ counts, 3)
        of_each = np.divide(2 * hits, either, out=np.zeros(len(hits)), where=either > 0)[there > 0]
        return float(of_each.mean()) if len(of_each) else 0.0

    return bootstrap_interval(f1, len(counts))
