"""Figures that more than one stage needs: 95 % intervals, a test, and how lengths are summed up."""

import math
import warnings
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Literal

import numpy as np
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap, chi2, norm, permutation_test, rankdata
from scipy.stats import t as student_t

SEED = 42
RESAMPLES = 2000
CROSSED_RESAMPLES = 10_000  # Holm's strictest interval of eight leaves 0.3 % on a side: 31 of them
PERMUTATIONS = 9999
BCA_ROWS = 2000  # BCa leaves each row out once: beyond this many the correction is small and the cost is not
BATCH_CELLS = 4_000_000  # resampled row numbers held in memory at a time
KEPT_ROWS = 2000  # up to so many, what was drawn is kept for the next bootstrap of as many


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


def deviation_interval(deviation: float, count: int) -> list[float]:
    """95 % interval of the standard deviation, above 0, of `count` figures, 2 at least, as if normal
    (chi-square).
    """
    squares = (count - 1) * deviation**2
    return [math.sqrt(squares / float(chi2.isf(tail, count - 1))) for tail in (0.025, 0.975)]


def sign_flip_p(differences: np.ndarray) -> float:
    """How likely a mean at least as far from 0 is where each of the paired `differences`, (rows,), could as
    well have the other sign: a permutation test (Fisher 1935), seeded; exact for few rows.
    """
    if len(differences) < 2 or not differences.any():  # one difference is as likely with the other sign
        return 1.0
    return float(
        permutation_test(
            (differences,),
            lambda values, axis: values.mean(axis=axis),
            permutation_type="samples",
            n_resamples=PERMUTATIONS,
            batch=max(1, BATCH_CELLS // len(differences)),
            vectorized=True,
            rng=np.random.default_rng(SEED),
        ).pvalue
    )


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


@dataclass(frozen=True)
class Resampled:
    """A mean over draws and rows crossed, and how sure it is."""

    mean: float
    drawn: np.ndarray  # the mean of each resample, (resamples,)
    error: float  # the standard error
    too_narrow: float  # by how much the resamples spread less than that, since draws are few: 1 and above
    freedom: float  # the degrees of freedom of `error`
    rows: int


def resample_mean(values: np.ndarray) -> Resampled:
    """The mean of `values`, (draws, rows), by a bootstrap of draws and rows crossed.

    A draw is a training sample with its initialisation; how much a result depends on it is as much a part of
    its uncertainty as the test rows are (Bouthillier et al. 2021, Accounting for Variance in Machine Learning
    Benchmarks).  Of two systems on the same draws and rows, `values` are the differences (Sellam et al. 2022,
    The MultiBERTs: the Multi-Bootstrap).  The bootstrap of n things spreads too little by (n - 1) / n
    (Hesterberg 2015, What Teachers Should Know About the Bootstrap); the degrees of freedom of both sources
    together are Satterthwaite's (1946).
    """
    counts = np.array(values.shape, dtype=float)
    of_each = [values.mean(axis=other) for other in (1, 0)]  # of a draw; of a row
    variances = np.array([np.var(means, ddof=1) / len(means) if len(means) > 1 else 0.0 for means in of_each])
    variance, too_narrow, freedom = float(variances.sum()), 1.0, math.inf
    if variance > 0:
        too_narrow = math.sqrt(variance / (variances * (counts - 1) / counts).sum())
        freedom = float(variance**2 / (variances**2 / np.maximum(counts - 1, 1)).sum())
    drawn = crossed_bootstrap(values)
    return Resampled(float(values.mean()), drawn, math.sqrt(variance), too_narrow, freedom, values.shape[1])


def resampled_interval(found: Resampled, level: float = 0.05) -> list[float]:
    """The middle 1 - `level` of the resamples, widened to what so few draws bear: Student's t in the normal
    distribution's place.

    Where all rows are alike, which is no proof of certainty, by Wilson (1927), of what none of them shows.
    """
    if found.error == 0:
        z_squared = float(chi2.isf(level, 1))
        unseen = z_squared / (found.rows + z_squared)
        return [max(-1.0, found.mean - unseen), min(1.0, found.mean + unseen)]
    quantiles = np.quantile(found.drawn, [level / 2, 1 - level / 2])
    widened = found.too_narrow * student_t.isf(level / 2, found.freedom) / norm.isf(level / 2)
    return [float(found.mean + widened * (quantile - found.mean)) for quantile in quantiles]


def crossed_bootstrap(values: np.ndarray, resamples: int = CROSSED_RESAMPLES) -> np.ndarray:
    """The mean of `values`, (draws, rows), when draws and rows are both drawn anew, with replacement:
    (resamples,), seeded.
    """
    draws, rows = values.shape
    # Whole numbers, which float32 adds up without rounding to 16 million: a mean of 0 is 0, on any machine.
    whole, of_draws = values.astype(np.float32), np.concatenate(_times(draws, resamples, 0))
    of_rows = _times(rows, resamples, 1) if rows <= KEPT_ROWS else _draw_times(rows, resamples, 1)
    sums, done = np.empty(resamples), 0
    for times in of_rows:
        part = slice(done, done := done + len(times))
        sums[part] = np.einsum("br,br->b", of_draws[part] @ whole, times)
    return sums / values.size


@lru_cache(maxsize=4)
def _times(count: int, resamples: int, stream: int) -> list[np.ndarray]:
    return list(_draw_times(count, resamples, stream))


def _draw_times(count: int, resamples: int, stream: int) -> Iterator[np.ndarray]:
    """How often each of `count` things is drawn in each resample, block by block of resamples: (resamples of
    the block, count).
    """
    generator = np.random.default_rng([SEED, stream])
    at_once = max(1, BATCH_CELLS // count)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = generator.integers(count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float32)


def holm_intervals(differences: list[Resampled], comparisons: int) -> list[list[float]]:
    """An interval of each difference, corrected after Holm (1979) for the number of `comparisons` that are
    asked for, these and those not measured yet, as Dror et al. (2018, The Hitchhiker's Guide to Testing
    Statistical Significance in NLP) ask for several.

    The clearest difference gets the widest interval; from the first that contains 0 on, all get as wide a
    one.  So the chance that any of them leaves out 0 where there is no difference is about 5 %.
    """
    intervals: dict[int, list[float]] = {}
    left = comparisons
    for at in sorted(range(len(differences)), key=lambda at: _level_that_holds_zero(differences[at])):
        intervals[at] = resampled_interval(differences[at], 0.05 / left)
        left -= excludes_zero(intervals[at]) != 0
    return [intervals[at] for at in range(len(differences))]


def _level_that_holds_zero(found: Resampled) -> int:
    """The largest level, in millionths, at which the interval holds 0: its p-value."""
    millionths = range(1, 1_000_000)
    return bisect(millionths, 0, key=lambda at: abs(excludes_zero(resampled_interval(found, at / 1_000_000))))


def excludes_zero(interval: list[float]) -> int:
    """1 where all of an interval is above 0, -1 where it is below, 0 where it holds 0.

    To three places, as it is shown: beyond them the bootstrap's own luck decides.
    """
    low, high = (round(end, 3) for end in interval)
    return int(low > 0) - int(high < 0)
