"""How good label probabilities are: ranking (AUROC, average precision) and calibration (Brier, ECE).

They are measured on the labels' shares of the model's probability, whatever the greedy answer was; rows where
the two name different labels are counted.
"""

import math
from typing import Any

import numpy as np
from scipy.stats import t as student_t
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from workflows.core.statistics import BATCH_CELLS, RESAMPLES, SEED, auroc_interval, wilson_interval

BINS = 15  # of confidence, equally wide (Guo et al. 2017, On Calibration of Modern Neural Networks)


def measure_probabilities(rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """The figures of one system; `rows`: its predictions, all with probabilities; `names` in index order.

    AUROC and average precision are of each label against the rest, averaged over the labels that the test
    set has; None where it has one label only.
    """
    shares = np.array([[row["probabilities"][name] for name in names] for row in rows])
    gold = np.array([names.index(row["gold"]) for row in rows])
    present = np.unique(gold)
    per_label: dict[str, dict[str, Any]] = {
        names[label]: {
            "auroc": float(roc_auc_score(gold == label, shares[:, label])),
            "auroc_interval": auroc_interval(gold == label, shares[:, label]),
            "average_precision": float(average_precision_score(gold == label, shares[:, label])),
        }
        for label in (present if len(present) > 1 else [])
    }
    brier = ((shares - np.eye(len(names))[gold]) ** 2).sum(1) / (2 if len(names) == 2 else 1)
    spread = float(brier.std(ddof=1)) if len(rows) > 1 else 0.0  # none: that is no proof of certainty
    half = float(student_t.isf(0.025, max(1, len(rows) - 1))) * spread / math.sqrt(len(rows))
    best = shares.argmax(1)
    masses = [row["label_mass"] for row in rows if row["label_mass"] is not None]
    bins = reliability_bins(shares.max(1), best == gold)
    return {
        "auroc": _mean([figures["auroc"] for figures in per_label.values()]),
        "average_precision": _mean([figures["average_precision"] for figures in per_label.values()]),
        "per_label": per_label,
        # As scikit-learn scales it: 0 to 1 for two labels, 0 to 2 for more.
        "brier": float(brier_score_loss(gold, shares, labels=range(len(names)))),
        "brier_interval": None
        if math.isclose(spread, 0, abs_tol=1e-9)  # equal but for rounding
        else [max(0.0, brier.mean() - half), min(1.0 if len(names) == 2 else 2.0, brier.mean() + half)],
        "ece": sum(abs(bin["accuracy"] - bin["confidence"]) * bin["rows"] for bin in bins) / len(rows),
        "ece_if_calibrated": calibrated_ece(shares.max(1)),
        "reliability": bins,
        "mean_label_mass": _mean(masses),
        "disagreements": sum(
            row["prediction"] is not None and row["prediction"] != names[label]
            for row, label in zip(rows, best, strict=True)
        ),
    }


def reliability_bins(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Rows by how sure the system was of its most likely label, and how often it was right there.

    Bins of equal width, the upper bound included; empty ones are left out.
    """
    at = _bins_of(confidence)
    bins = []
    for index in np.unique(at):
        inside = at == index
        count, hits = int(inside.sum()), int(right[inside].sum())
        bins.append(
            {
                "from": float(index / BINS),
                "to": float((index + 1) / BINS),
                "rows": count,
                "confidence": float(confidence[inside].mean()),
                "accuracy": hits / count,
                "accuracy_interval": wilson_interval(hits, count),
            }
        )
    return bins


def calibrated_ece(confidence: np.ndarray) -> float:
    """What the ECE of a perfectly calibrated system with this `confidence`, (rows,), stays under in 95 of 100
    test sets: few rows alone make it larger than 0 (Bröcker and Smith 2007, Increasing the Reliability of
    Reliability Diagrams).  Seeded.
    """
    confidence = np.sort(confidence)
    begins = np.unique(_bins_of(confidence), return_index=True)[1]
    generator, at_once = np.random.default_rng(SEED), max(1, BATCH_CELLS // len(confidence))
    drawn = []
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        right = generator.random((size, len(confidence))) < confidence
        drawn.append(np.abs(np.add.reduceat(right - confidence, begins, axis=1)).sum(1) / len(confidence))
    return float(np.quantile(np.concatenate(drawn), 0.95))


def _bins_of(confidence: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
