"""What an untuned model's label probabilities say: its likelier label, and that label by a fitted threshold.

The threshold is Platt's (1999, Probabilistic outputs for support vector machines), for any number of labels:
one bias a label, and one factor, on the log probabilities.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from workflows.core.rows import Row, Rows

LEAST_SHARE = 1e-12  # of a label whose probability is 0 in float64


def likelier_label(row: Row) -> Row:
    """A prediction row whose answer is the label with the largest probability, whatever was written."""
    shares = row["probabilities"]
    return {**row, "output": None, "prediction": max(shares, key=shares.get)}


def fit_threshold(rows: Rows) -> dict[str, Any]:
    """{"factor", "biases": by label name}: those that make the gold labels of `rows` (predictions) likeliest.

    The first label's bias is 0: only differences between them matter.
    """
    names = list(rows[0]["probabilities"])
    logs = np.log([[max(row["probabilities"][name], LEAST_SHARE) for name in names] for row in rows])
    gold = np.array([names.index(row["gold"]) for row in rows])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        factor, biases = parameters[0], np.concatenate([[0.0], parameters[1:]])
        scores = factor * logs + biases
        off = softmax(scores, axis=1)
        off[np.arange(len(gold)), gold] -= 1
        slope = np.concatenate([[(off * logs).sum()], off.sum(axis=0)[1:]])
        return -log_softmax(scores, axis=1)[np.arange(len(gold)), gold].mean(), slope / len(gold)

    found = minimize(loss, np.concatenate([[1.0], np.zeros(len(names) - 1)]), jac=True, method="L-BFGS-B").x
    return {"factor": float(found[0]), "biases": dict(zip(names, [0.0, *found[1:].tolist()], strict=True))}


def shifted(row: Row, threshold: dict[str, Any]) -> Row:
    """A prediction row as `fit_threshold` reads its probabilities."""
    names = list(row["probabilities"])
    scores = [
        threshold["factor"] * np.log(max(row["probabilities"][name], LEAST_SHARE)) + threshold["biases"][name]
        for name in names
    ]
    shares = dict(zip(names, softmax(scores).tolist(), strict=True))
    return likelier_label({**row, "probabilities": shares})
