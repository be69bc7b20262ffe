"""Scores of numbers against direct computation; what may be said of two systems' errors."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr, wilcoxon

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
    assert pair["wilcoxon_p"] == pytest.approx(wilcoxon(apart).pvalue)
    assert pair["mae_difference"] == pytest.approx(apart.mean())
    assert pair["ci95"][0] < apart.mean() < pair["ci95"][1]
    assert pair["a_closer"] + pair["b_closer"] == 200
    said = conclude(pair, A, B, ROWS)
    assert "The tuned model is closer to the gold numbers than TF-IDF (MAE -0.0" in said.en
    assert "微调后的模型比词袋 TF-IDF 更接近真实值" in said.zh
    same = compare_errors({"a": errors["mean"], "b": errors["mean"]})[0]
    assert (same["wilcoxon_p"], same["ci95"]) == (1.0, None)
    assert "200 test rows cannot tell the errors" in conclude(same, A, B, ROWS).en
