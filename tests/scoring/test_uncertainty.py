"""Intervals and tests against direct computation; the verdict says no more than they do."""

import math
from math import comb

import numpy as np
import pytest
from sklearn.metrics import f1_score

from workflows.scoring.labels import f1_interval
from workflows.scoring.uncertainty import compare_systems, rows_to_tell


def _right(only_a: int, only_b: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * neither
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * neither
    return np.array(a), np.array(b)


def _macro_f1_interval(gold: np.ndarray, predicted: np.ndarray, label_count: int) -> list[float] | None:
    """Of label numbers, where `label_count` stands for an unreadable output."""
    names = np.arange(label_count)
    return f1_interval(gold[:, None] == names, predicted[:, None] == names)


def test_pairs_are_compared_by_the_exact_binomial_and_corrected_after_holm() -> None:
    tfidf, tuned = _right(only_a=3, only_b=13, both=80, neither=4)
    pairs = compare_systems({"majority": np.zeros(100, bool), "tfidf": tfidf, "tuned": tuned})
    pair = next(pair for pair in pairs if (pair["a"], pair["b"]) == ("tfidf", "tuned"))
    exact = 2 * sum(comb(16, k) for k in range(4)) / 2**16
    assert pair["mcnemar_p"] == pytest.approx(exact)
    assert pair["holm_p"] == pytest.approx(exact)  # the largest of three is multiplied by one
    assert pair["accuracy_difference"] == pytest.approx(0.10)
    low, high = pair["ci95"]
    # Agresti and Min: half a row more in each cell.
    half = 1.959964 * math.sqrt(17 - 10**2 / 102) / 102
    assert (low, high) == (pytest.approx(10 / 102 - half), pytest.approx(10 / 102 + half))
    smallest = min(pairs, key=lambda pair: pair["mcnemar_p"])
    assert smallest["holm_p"] == pytest.approx(3 * smallest["mcnemar_p"])


def test_rows_to_tell_grow_with_the_square_of_the_difference() -> None:
    assert rows_to_tell(5, 5, 100) is None
    needed = rows_to_tell(10, 20, 100)
    # Connor's formula, with z of 1.95996 and 0.84162.
    expected = ((1.95996 * math.sqrt(0.3) + 0.84162 * math.sqrt(0.3 - 0.01)) / 0.1) ** 2
    assert needed == math.ceil(expected)


def test_macro_f1_interval_is_seeded_and_holds_the_score() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 300)
    predicted = np.where(rng.random(300) < 0.8, gold, 3)  # the others are unreadable
    interval = _macro_f1_interval(gold, predicted, 3)
    assert interval is not None
    score = f1_score(gold, predicted, labels=[0, 1, 2], average="macro")
    assert interval[0] < score < interval[1]
    assert interval[1] - interval[0] < 0.15
    assert interval == _macro_f1_interval(gold, predicted, 3)
    narrower = _macro_f1_interval(np.tile(gold, 9), np.tile(predicted, 9), 3)
    assert narrower is not None
    assert narrower[1] - narrower[0] < (interval[1] - interval[0]) / 2


def test_a_label_of_three_rows_does_not_widen_the_interval_where_no_row_of_it_is_drawn() -> None:
    gold = np.repeat([0, 1, 2], [30, 27, 3])
    predicted = gold.copy()
    predicted[[0, 30]] = 1, 0  # two wrong rows, none of the small label
    interval = _macro_f1_interval(gold, predicted, 3)
    assert interval is not None
    # A twentieth of the resamples has no row of label 2, and the others all of its rows right.
    rng = np.random.default_rng(1)
    drawn = []
    for at in rng.integers(0, 60, (1000, 60)):
        there = np.unique(gold[at])
        drawn.append(f1_score(gold[at], predicted[at], labels=there, average="macro"))
    assert interval == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)


def test_no_spread_gives_no_interval() -> None:
    gold = np.array([0, 1] * 20)
    assert _macro_f1_interval(gold, gold, 2) is None
    assert _macro_f1_interval(gold[:1], gold[:1], 2) is None
