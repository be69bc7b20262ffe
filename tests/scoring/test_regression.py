"""Scores of numbers against direct computation; what may be said of two systems' errors."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp

from workflows.core.texts import text, texts
from workflows.scoring.regression import measure_numbers
from workflows.scoring.uncertainty import compare_errors, conclude

NAMES = texts("systems_in_a_sentence")
A, B, ROWS = NAMES["tfidf"], NAMES["tuned"], text("test_rows", count=200)


def _rows(gold: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    return [{"gold": g, "prediction": p} for g, p in zip(gold.tolist(), predicted.tolist(), strict=True)]


def test_figures_by_hand_and_by_resampling() -> None:
    figures = measure_numbers(_rows(np.array([1.0, 2.0, 5.0]), np.array([2.0, 2.0, 3.0])))
    assert figures["mae"] == pytest.approx(1.0)
    assert figures["rmse"] == pytest.approx(np.sqrt(5 / 3))
    assert figures["spearman"] == pytest.approx(np.sqrt(3) / 2)  # ranks 1 2 3 against 1.5 1.5 3
    rng = np.random.default_rng(1)
    gold = rng.integers(1, 6, 300).astype(float)
    predicted = gold + rng.normal(size=300)
    figures = measure_numbers(_rows(gold, predicted))
    statistics = {
        "rmse": lambda g, p: np.sqrt(((g - p) ** 2).mean()),
        "mae": lambda g, p: np.abs(g - p).mean(),
        "spearman": lambda g, p: spearmanr(g, p).statistic,
    }
    for name, statistic in statistics.items():
        drawn = [statistic(gold[at], predicted[at]) for at in rng.integers(0, 300, (500, 300))]
        assert figures[f"{name}_interval"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)


def test_a_constant_has_no_rank_correlation() -> None:
    figures = measure_numbers(_rows(np.array([1.0, 2.0, 3.0, 5.0]), np.full(4, 2.5)))
    assert (figures["spearman"], figures["spearman_interval"]) == (None, None)
    assert figures["mae"] == pytest.approx((1.5 + 0.5 + 0.5 + 2.5) / 4)


def test_numbers_that_are_mostly_alike_have_an_interval_of_their_correlation() -> None:
    gold = np.array([5.0] * 24 + [1, 2, 3, 4, 4, 4])  # some resamples have fives alone
    predicted = gold + np.random.default_rng(3).normal(scale=0.5, size=30)
    figures = measure_numbers(_rows(gold, predicted))
    low, high = figures["spearman_interval"]
    assert 0 < low < figures["spearman"] < high


def test_one_row_tells_nothing_of_two_systems() -> None:
    (pair,) = compare_errors({"a": np.array([0.5]), "b": np.array([0.1])})
    assert (pair["permutation_p"], pair["ci95"]) == (1.0, None)


def test_errors_are_compared_row_by_row() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.exponential(size=200)
    errors = {
        "mean": difficulty + 1.0,
        "tfidf": difficulty + 0.2,
        "tuned": difficulty + rng.random(200) * 0.3,
    }
    pairs = {(pair["a"], pair["b"]): pair for pair in compare_errors(errors)}
    pair = pairs["tfidf", "tuned"]
    apart = errors["tuned"] - errors["tfidf"]
    assert pair["permutation_p"] == pytest.approx(ttest_1samp(apart, 0).pvalue, abs=0.001)
    assert pair["mae_difference"] == pytest.approx(apart.mean())
    assert pair["ci95"][0] < apart.mean() < pair["ci95"][1]
    assert pair["a_closer"] + pair["b_closer"] == 200
    said = conclude(pair, A, B, ROWS)
    assert "The tuned model is closer to the gold numbers than TF-IDF (MAE -0.0" in said.en
    assert "微调后的模型比字符 TF-IDF 更接近真实值" in said.zh
    same = compare_errors({"a": errors["mean"], "b": errors["mean"]})[0]
    assert (same["permutation_p"], same["ci95"]) == (1.0, None)
    assert "200 test rows cannot tell the errors" in conclude(same, A, B, ROWS).en


def test_who_is_closer_on_most_rows_but_far_off_on_some_is_not_said_to_be_further() -> None:
    """What is tested is what is said: the mean error, not on how many rows one is closer."""
    errors = {"tfidf": np.full(100, 1.0), "tuned": np.r_[np.full(90, 0.9), np.full(10, 3.0)]}
    errors["tfidf"] += np.linspace(0, 0.01, 100)
    (pair,) = compare_errors(errors)
    assert pair["b_closer"] == 90
    assert pair["mae_difference"] > 0.1
    assert 0.05 < pair["permutation_p"] < 0.3
    assert "200 test rows cannot tell the errors" in conclude(pair, A, B, ROWS).en
    exact = compare_errors({"a": np.zeros(4), "b": np.array([1.0, 2.0, 3.0, 4.0])})[0]
    assert exact["permutation_p"] == 2 / 2**4
