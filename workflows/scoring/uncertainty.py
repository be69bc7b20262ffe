"""How sure scores are: intervals, paired tests between systems, and the sentence that may be drawn from them.

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

from workflows.core.statistics import bootstrap_interval
from workflows.core.texts import Both, blank, p_value

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
    comparisons: list[dict[str, Any]], rows: int, conclude: Callable[[dict[str, Any], Both, Both, int], Both]
) -> dict[str, str]:
    """What may be concluded of the tuned model, in English and Chinese: against zero-shot, where there is
    one, and against TF-IDF; `conclude` says it of one pair.
    """
    names = {"zero_shot": Both("the untuned model", "微调前的模型"), "tfidf": Both("TF-IDF", "词袋 TF-IDF")}
    tuned = Both("the tuned model", "微调后的模型")
    pairs = [pair for other in names for pair in comparisons if (pair["a"], pair["b"]) == (other, "tuned")]
    sentences = [conclude(pair, names[pair["a"]], tuned, rows) for pair in pairs]
    return {"en": " ".join(each.en for each in sentences), "zh": "".join(each.zh for each in sentences)}


TEST_ROWS = Both("test rows", "行测试数据")


def conclude(pair: dict[str, Any], a: Both, b: Both, rows: int, of: Both = TEST_ROWS) -> Both:
    """What one pair of `compare_systems` allows to say of its systems, called `a` and `b`, on `rows` of what
    `of` says.
    """
    difference, (low, high), p = pair["accuracy_difference"], pair["ci95"], pair["holm_p"]
    figures = f"{difference:+.3f}, 95 % {low:+.3f} … {high:+.3f}, p {p_value(p)}"
    before, after, between = blank(a.zh[0]), blank(b.zh[-1]), blank(b.zh[0])
    if p < SIGNIFICANCE:
        better = difference > 0
        name = f"T{b.en[1:]}" if b.en.startswith("the ") else b.en  # names of runs stay as they are
        return Both(
            f"{name} {'beat' if better else 'is worse than'} {a.en} ({figures}).",
            f"{b.zh}{after}{'优于' if better else '不如'}{before}{a.zh}（{figures}）。",
        )
    needed = None if pair["rows_to_tell"] is None else _two_digits_up(pair["rows_to_tell"])
    more = f"about {needed:,} rows would" if needed else "no difference was seen"
    zh_more = f"约需 {needed:,} 行才能判断" if needed else "没有观察到差异"
    return Both(
        f"{rows:,} {of.en} cannot tell {b.en} from {a.en} ({figures}); {more}.",
        f"{rows:,} {of.zh}不足以区分{between}{b.zh}{after}与{before}{a.zh}（{figures}）；{zh_more}。",
    )


def _two_digits_up(count: int) -> int:
    """A count rounded up to two significant digits: it is an estimate."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit
