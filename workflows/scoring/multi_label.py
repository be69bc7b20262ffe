"""Scores where a row may have several labels: the whole set right, and each label for itself."""

from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from workflows.core.statistics import bootstrap_interval, wilson_interval
from workflows.scoring.averages import averages


def measure_sets(rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """The metrics of one system; `rows`: predictions; `names`: label names in index order.

    `accuracy` is the share of rows whose whole set is right.  Macro averages are over the labels that the
    test set has.
    """
    gold, predicted = (
        np.array([[name in row[key] for name in names] for row in rows]) for key in ("gold", "prediction")
    )
    right = int((gold == predicted).all(axis=1).sum())
    present = np.flatnonzero(gold.any(axis=0))
    figures: dict[str, Any] = {
        "accuracy": right / len(rows),
        "accuracy_interval": wilson_interval(right, len(rows)),
    }
    figures |= averages(gold, predicted, list(range(len(names))), present)

    def f1(counts: np.ndarray) -> np.ndarray:
        """Of the counts (hits, gold or predicted twice over), (2, …)."""
        return np.divide(2 * counts[0], counts[1], out=np.zeros(counts[1].shape), where=counts[1] > 0)

    counts = np.array([gold & predicted, gold.astype(int) + predicted], dtype=float)  # (2, rows, labels)
    each = precision_recall_fscore_support(gold, predicted, average=None, zero_division=0)
    return {
        **figures,
        "micro_f1_interval": bootstrap_interval(
            lambda at: float(f1(counts[:, at].sum(axis=(1, 2)))), len(rows)
        ),
        "macro_f1_interval": bootstrap_interval(
            lambda at: float(f1(counts[:, at].sum(axis=1))[present].mean()), len(rows)
        ),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
            for name, p, r, f, n in zip(names, *each, strict=True)
        },
    }
