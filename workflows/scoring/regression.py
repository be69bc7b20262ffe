"""Scores where a row has a number: how far predictions are from it, and whether they are in its order."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import ConstantInputWarning, spearmanr

from workflows.core.statistics import bootstrap_interval


def measure_numbers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """RMSE, MAE and Spearman's rank correlation of one system, with 95 % bootstrap intervals over rows.

    The correlation is None where all predictions (or all gold numbers) are the same.
    """
    gold, predicted = (np.array([row[key] for row in rows], dtype=float) for key in ("gold", "prediction"))
    errors = predicted - gold
    statistics = {
        "rmse": lambda at: float(np.sqrt((errors[at] ** 2).mean())),
        "mae": lambda at: float(np.abs(errors[at]).mean()),
        "spearman": lambda at: float(spearmanr(gold[at], predicted[at]).statistic),
    }
    figures: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        for name, statistic in statistics.items():
            value = statistic(np.arange(len(rows)))
            told = not np.isnan(value)
            figures[name] = value if told else None
            # Rows that are all drawn alike have no rank correlation; where all rows are, nothing is told.
            drawn = partial(_or_zero, statistic)
            figures[f"{name}_interval"] = bootstrap_interval(drawn, len(rows)) if told else None
    return figures


def _or_zero(statistic: Callable[[np.ndarray], float], at: np.ndarray) -> float:
    return float(np.nan_to_num(statistic(at)))
