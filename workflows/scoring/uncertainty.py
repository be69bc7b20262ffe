"""How sure scores are: paired tests between systems, and the sentence that may be drawn from them.

All systems answer the same rows, so they are compared pair by pair on those rows, not interval against
interval.
"""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from workflows.core.statistics import bootstrap_interval, sign_flip_p
from workflows.core.texts import Text, p_value, text

SIGNIFICANCE = 0.05
POWER = 0.80  # of the test whose size `rows_to_tell` gives


def compare_systems(right: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every pair of systems on the same rows; `right` says for each system which rows it got right, (rows,)
    of bool.

    Exact McNemar test; p corrected for the number of pairs after Holm; the difference in accuracy with the
    95 % interval of Agresti and Min (2005) for paired shares, which holds for small sets too.
    """
    pairs = _compare(right, _compare_right, "mcnemar_p")
    for pair in pairs:
        rows = len(right[pair["a"]])
        # At the strictest level that Holm's correction may ask of a pair.
        needed = rows_to_tell(pair["only_a_right"], pair["only_b_right"], rows, SIGNIFICANCE / len(pairs))
        told = pair["holm_p"] < SIGNIFICANCE
        pair["rows_to_tell"] = needed if told or needed is None else max(needed, rows + 1)
    return pairs


def compare_errors(errors: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every pair of systems on the same rows; `errors`: each system's absolute errors, (rows,).

    The difference of the mean absolute errors with a 95 % bootstrap interval over rows; a
    permutation test of that difference, p corrected for the number of pairs after Holm.
    """
    return _compare(errors, _compare_distances, "permutation_p")


def _compare(
    answers: dict[str, np.ndarray], compare: Callable[[np.ndarray, np.ndarray], dict[str, Any]], p: str
) -> list[dict[str, Any]]:
    pairs = [{"a": a, "b": b, **compare(answers[a], answers[b])} for a, b in combinations(answers, 2)]
    corrected = multipletests([pair[p] for pair in pairs], method="holm")[1] if pairs else []
    return [{**pair, "holm_p": float(holm)} for pair, holm in zip(pairs, corrected, strict=True)]


def _compare_right(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    only_a, only_b, rows = int((a & ~b).sum()), int((b & ~a).sum()), len(a)
    # Agresti and Min: Wald's interval with half a row added to each of the four cells.
    x, y, n = only_a + 0.5, only_b + 0.5, rows + 2
    half = float(norm.ppf(0.975)) * math.sqrt(x + y - (y - x) ** 2 / n) / n
    return {
        "accuracy_difference": (only_b - only_a) / rows,
        "ci95": [max(-1.0, (y - x) / n - half), min(1.0, (y - x) / n + half)],
        "only_a_right": only_a,
        "only_b_right": only_b,
        "mcnemar_p": float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue),
    }


def _compare_distances(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    apart = b - a
    return {
        "mae_difference": float(apart.mean()),
        "ci95": bootstrap_interval(lambda at: float(apart[at].mean()), len(apart)),
        "a_closer": int((apart > 0).sum()),
        "b_closer": int((apart < 0).sum()),
        "permutation_p": sign_flip_p(apart),
    }


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


def conclude(pair: dict[str, Any], a: Text | str, b: Text | str, rows: Text) -> Text:
    """What one pair of `compare_systems` or `compare_errors` allows to say of its systems, called `a` and
    `b`; `rows` says how many rows of what they answered.
    """
    errors, told = "mae_difference" in pair, pair["holm_p"] < SIGNIFICANCE
    difference = pair["mae_difference" if errors else "accuracy_difference"]
    interval = "" if pair["ci95"] is None else ", 95 % {:+.3f} … {:+.3f}".format(*pair["ci95"])
    figures = f"{'MAE ' if errors else ''}{difference:+.3f}{interval}, p {p_value(pair['holm_p'])}"
    said: dict[str, Any] = {"a": a, "b": b, "rows": rows, "figures": figures}
    if not told and pair["ci95"] is not None and not pair["ci95"][0] <= 0 <= pair["ci95"][1]:
        said["figures"] = text("interval_of_one_pair", figures=figures)
    if told and errors:
        return text("b_is_closer_than_a" if difference < 0 else "b_is_further_than_a", **said)
    if told:
        return text("b_beat_a" if difference > 0 else "b_is_worse_than_a", **said)
    if errors:
        return text("errors_cannot_be_told_apart", **said)
    if pair["rows_to_tell"] is None:
        return text("no_difference_seen", **said)
    return text("more_rows_would_tell", needed=two_digits_up(pair["rows_to_tell"]), **said)


def two_digits_up(count: int) -> int:
    """A count rounded up to two significant digits: it is an estimate."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit
