"""Precision, recall and F1 over all labels, in the three ways of averaging them."""

from typing import Any

from sklearn.metrics import precision_recall_fscore_support


def averages(gold: Any, predicted: Any, labels: Any, present: Any) -> dict[str, float]:
    """Precision, recall and F1, each micro, macro and weighted, over `labels`.

    `gold`, `predicted`: label names, (rows,), where an unreadable output is none of `labels`; or, where a row
    may have several, which it has, (rows, labels).  Macro averages are over `present`, the labels that the
    test set has: one that it lacks cannot be got right.
    """
    figures: dict[str, float] = {}
    for average, over in (("micro", labels), ("macro", present), ("weighted", labels)):
        three = precision_recall_fscore_support(
            gold, predicted, labels=over, average=average, zero_division=0
        )[:3]
        figures |= {
            f"{average}_{key}": float(value)
            for key, value in zip(("precision", "recall", "f1"), three, strict=True)
        }
    return figures
