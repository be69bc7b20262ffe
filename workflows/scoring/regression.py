"""Scores where a row has a number: how far predictions are from it, and whether they are in its order.

All systems answer the same rows, so their absolute errors are compared row by row.
"""

import warnings
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import ConstantInputWarning, spearmanr, wilcoxon
from statsmodels.stats.multitest import multipletests

from workflows.core.statistics import bootstrap_interval
from workflows.core.texts import Text, p_value, text
from workflows.scoring.uncertainty import SIGNIFICANCE


def measure_numbers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """RMSE, MAE and Spearman's rank correlation of one system, with 95 % bootstrap intervals over rows.

    The correlation is None where all predictions (or all gold numbers) are the same.
    """
    gold, predicted = (np.array([row[key] for row in rows], dtype=float) for key in ("gold", "prediction"))
    errors = predicted - gold
    statistics = {
        "rmse": lambda at: float(np.sqrt((errors[at] ** 2).mean())),
        "mae": lambda at: float(np.abs(errors[at]).mean()),
        "spearman": lambda at: _spearman(gold[at], predicted[at]),
    }
    every = np.arange(len(rows))
    figures: dict[str, Any] = {}
    for name, statistic in statistics.items():
        value = statistic(every)
        figures[name] = None if np.isnan(value) else value
        figures[f"{name}_interval"] = None if np.isnan(value) else bootstrap_interval(statistic, len(rows))
    return figures


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(a, b).statistic)


def compare_errors(errors: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every pair of systems on the same rows; `errors`: each system's absolute errors, (rows,).

    The difference of the mean absolute errors with a 95 % bootstrap interval over rows; Wilcoxon's
    signed-rank test, p corrected for the number of pairs after Holm.
    """
    pairs: list[dict[str, Any]] = []
    for a, b in combinations(errors, 2):
        apart = errors[b] - errors[a]

        def mean(at: np.ndarray, apart: np.ndarray = apart) -> float:
            return float(apart[at].mean())

        pairs.append(
            {
                "a": a,
                "b": b,
                "mae_difference": float(apart.mean()),
                "ci95": bootstrap_interval(mean, len(apart)),
                "a_closer": int((apart > 0).sum()),
                "b_closer": int((apart < 0).sum()),
                "wilcoxon_p": float(wilcoxon(apart).pvalue) if apart.any() else 1.0,
            }
        )
    if pairs:
        corrected = multipletests([pair["wilcoxon_p"] for pair in pairs], method="holm")[1]
        for pair, p in zip(pairs, corrected, strict=True):
            pair["holm_p"] = float(p)
    return pairs


def conclude_errors(pair: dict[str, Any], a: Text | str, b: Text | str, rows: Text) -> Text:
    """What one pair of `compare_errors` allows to say of its systems, called `a` and `b`; `rows` says how
    many rows of what they answered.
    """
    interval = "" if pair["ci95"] is None else f", 95 % {pair['ci95'][0]:+.3f} … {pair['ci95'][1]:+.3f}"
    figures = f"MAE {pair['mae_difference']:+.3f}{interval}, p {p_value(pair['holm_p'])}"
    if pair["holm_p"] >= SIGNIFICANCE:
        return text("errors_cannot_be_told_apart", a=a, b=b, rows=rows, figures=figures)
    closer = pair["mae_difference"] < 0
    return text("b_is_closer_than_a" if closer else "b_is_further_than_a", a=a, b=b, figures=figures)
