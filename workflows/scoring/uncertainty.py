"""How sure scores are: intervals, paired tests between systems, and the sentence that may be drawn from them.

All systems answer the same rows, so they are compared pair by pair on those rows, not interval against
interval.
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from workflows.core.statistics import bootstrap_interval
from workflows.core.texts import Text, one_after_another, p_value, text

SIGNIFICANCE = 0.05
POWER = 0.80  # of the test whose size `rows_to_tell` gives


def macro_f1_interval(gold: np.ndarray, predicted: np.ndarray, label_count: int) -> list[float] | None:
    """95 % bootstrap interval of macro F1 over rows, seeded.

    `gold`: label indices of shape (rows,); `predicted`: the same, with `label_count` for unreadable outputs.
    """

    present = np.unique(gold)  # macro averages are over the labels that the test set has

    def macro_f1(rows: np.ndarray) -> float:
        counts = np.bincount(
            gold[rows] * (label_count + 1) + predicted[rows], minlength=label_count * (label_count + 1)
        )
        table = counts.reshape(label_count, label_count + 1)
        right = np.diag(table)
        either = table.sum(axis=1) + table[:, :label_count].sum(axis=0)
        f1 = np.divide(2 * right, either, out=np.zeros(label_count), where=either > 0)
        return float(f1[present].mean())

    return bootstrap_interval(macro_f1, len(gold))


def compare_systems(right: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every pair of systems on the same rows; `right` says for each system which rows it got right, (rows,)
    of bool.

    Exact McNemar test; p corrected for the number of pairs after Holm; the difference in accuracy with the
    95 % interval of Agresti and Min (2005) for paired shares, which holds for small sets too.
    """
    pairs: list[dict[str, Any]] = []
    for a, b in combinations(right, 2):
        only_a, only_b = int(np.sum(right[a] & ~right[b])), int(np.sum(right[b] & ~right[a]))
        rows = len(right[a])
        low, high = _paired_interval(only_a, only_b, rows)
        pairs.append(
            {
                "a": a,
                "b": b,
                "accuracy_difference": (only_b - only_a) / rows,
                "ci95": [low, high],
                "only_a_right": only_a,
                "only_b_right": only_b,
                "mcnemar_p": float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue),
            }
        )
    if pairs:
        corrected = multipletests([pair["mcnemar_p"] for pair in pairs], method="holm")[1]
        for pair, p in zip(pairs, corrected, strict=True):
            pair["holm_p"] = float(p)
            rows = len(right[pair["a"]])
            # At the strictest level that Holm's correction may ask of a pair.
            needed = rows_to_tell(pair["only_a_right"], pair["only_b_right"], rows, SIGNIFICANCE / len(pairs))
            told = pair["holm_p"] < SIGNIFICANCE
            pair["rows_to_tell"] = needed if told or needed is None else max(needed, rows + 1)
    return pairs


def _paired_interval(only_a: int, only_b: int, rows: int) -> tuple[float, float]:
    """95 % interval of accuracy(b) - accuracy(a): Wald's with half a row added to each of the four cells."""
    a, b, n = only_a + 0.5, only_b + 0.5, rows + 2
    difference = (b - a) / n
    half = float(norm.ppf(0.975)) * math.sqrt(a + b - (b - a) ** 2 / n) / n
    return max(-1.0, difference - half), min(1.0, difference + half)


def rows_to_tell(only_a: int, only_b: int, rows: int, level: float = SIGNIFICANCE) -> int | None:
    """How many rows would show the observed difference with power 0.8 at `level`; None where there is none.

    McNemar's test, Connor (1987): discordant share and difference as observed.
    """
    difference, discordant = abs(only_b - only_a) / rows, (only_a + only_b) / rows
    if difference == 0:
        return None
    z_alpha, z_power = norm.ppf(1 - level / 2), norm.ppf(POWER)
    spread = z_alpha * math.sqrt(discordant) + z_power * math.sqrt(discordant - difference**2)
    return math.ceil((spread / difference) ** 2)


def verdict(
    comparisons: list[dict[str, Any]], rows: int, conclude: Callable[[dict[str, Any], Text, Text, Text], Text]
) -> dict[str, str]:
    """What may be concluded of the tuned model, in English and Chinese: against zero-shot, where there is
    one, and against TF-IDF; `conclude` says it of one pair.
    """
    names = {"zero_shot": text("the_untuned_model"), "tfidf": text("tfidf_in_a_sentence")}
    pairs = [pair for other in names for pair in comparisons if (pair["a"], pair["b"]) == (other, "tuned")]
    tuned, test_rows = text("the_tuned_model"), text("test_rows", count=rows)
    return asdict(one_after_another(conclude(pair, names[pair["a"]], tuned, test_rows) for pair in pairs))


def conclude(pair: dict[str, Any], a: Text | str, b: Text | str, rows: Text) -> Text:
    """What one pair of `compare_systems` allows to say of its systems, called `a` and `b`; `rows` says how
    many rows of what they answered.
    """
    difference, (low, high), p = pair["accuracy_difference"], pair["ci95"], pair["holm_p"]
    figures = f"{difference:+.3f}, 95 % {low:+.3f} … {high:+.3f}, p {p_value(p)}"
    if p < SIGNIFICANCE:
        return text("b_beat_a" if difference > 0 else "b_is_worse_than_a", a=a, b=b, figures=figures)
    if pair["rows_to_tell"] is None:
        return text("no_difference_seen", a=a, b=b, rows=rows, figures=figures)
    needed = _two_digits_up(pair["rows_to_tell"])
    return text("more_rows_would_tell", a=a, b=b, rows=rows, figures=figures, needed=needed)


def _two_digits_up(count: int) -> int:
    """A count rounded up to two significant digits: it is an estimate."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit
