"""Figures that more than one stage needs: 95 % intervals, and how lengths are summed up."""

import math
import warnings
from collections.abc import Callable
from statistics import median
from typing import Literal

import numpy as np
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap, norm, rankdata

SEED = 42
RESAMPLES = 2000
BCA_ROWS = 2000  # BCa leaves each row out once: beyond this many the correction is small and the cost is not
BATCH_CELLS = 4_000_000  # resampled row numbers held in memory at a time


def wilson_interval(hits: int, rows: int) -> list[float]:
    """Of the share `hits` of `rows` (Wilson 1927)."""
    interval = binomtest(hits, rows).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def auroc_interval(gold: np.ndarray, scores: np.ndarray) -> list[float] | None:
    """95 % interval of the AUROC (DeLong et al. 1988, by midranks as Sun and Xu 2014).

    `gold`: bool, (rows,); `scores`: (rows,). None where a class has fewer than two rows, or no spread shows.
    """
    positive, negative = scores[gold], scores[~gold]
    m, n = len(positive), len(negative)
    if min(m, n) < 2:
        return None
    ranks = rankdata(np.concatenate([positive, negative]))
    wins_of_positive = (ranks[:m] - rankdata(positive)) / n  # share of negatives below each positive
    wins_of_negative = 1 - (ranks[m:] - rankdata(negative)) / m
    variance = wins_of_positive.var(ddof=1) / m + wins_of_negative.var(ddof=1) / n
    if variance == 0:
        return None
    area, half = float(wins_of_positive.mean()), float(norm.ppf(0.975)) * math.sqrt(variance)
    return [max(0.0, area - half), min(1.0, area + half)]


def bootstrap_interval(statistic: Callable[[np.ndarray], float], rows: int) -> list[float] | None:
    """95 % bootstrap interval over rows of a figure, seeded; `statistic` takes row numbers, drawn anew.

    BCa (Efron 1987); the percentile interval above 2,000 rows, or where BCa is not defined; None where
    resampling shows no spread at all, as for a system that gets every row right: that is no proof of
    certainty.
    """
    if rows < 2:
        return None
    methods: tuple[Literal["BCa", "percentile"], ...] = ("BCa", "percentile")
    for method in methods if rows <= BCA_ROWS else methods[1:]:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", DegenerateDataWarning)
            drawn = bootstrap(
                (np.arange(rows),),
                statistic,
                vectorized=False,
                n_resamples=RESAMPLES,
                batch=max(1, BATCH_CELLS // rows),
                method=method,
                rng=np.random.default_rng(SEED),
            ).confidence_interval
        if drawn.low < drawn.high:  # false for nan
            return [float(drawn.low), float(drawn.high)]
    return None


def describe_lengths(lengths: list[int] | np.ndarray) -> dict[str, float]:
    """Mean, median, 90th and 99th percentile and maximum of some lengths."""
    median, p90, p99 = np.percentile(lengths, [50, 90, 99])
    return {
        "mean": float(np.mean(lengths)),
        "median": float(median),
        "p90": float(p90),
        "p99": float(p99),
        "max": int(np.max(lengths)),
    }


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """The ratio of the medians of two series of times, and the smallest and largest ratio of a repeat."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": median(above) / median(below), "low": min(each), "high": max(each)}
