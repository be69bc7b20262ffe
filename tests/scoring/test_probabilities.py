"""Ranking and calibration figures, worked out by other means."""

from typing import Any

import numpy as np
import pytest

from workflows.core.statistics import auroc_interval
from workflows.scoring.probabilities import calibrated_ece, measure_probabilities

TWO = ["negative", "positive"]


def _row(gold: str, shares: dict[str, float], prediction: str | None = None) -> dict[str, Any]:
    best = max(shares, key=lambda name: shares[name])
    return {
        "gold": gold,
        "probabilities": shares,
        "prediction": prediction or best,
        "label_mass": 0.5,
        "output": "",
    }


def _two(gold: int, positive: float) -> dict[str, Any]:
    return _row(TWO[gold], {"negative": 1 - positive, "positive": positive})


def test_figures_of_two_labels_by_hand() -> None:
    rows = [_two(1, 0.9), _two(1, 0.6), _two(0, 0.7), _two(0, 0.2)]
    figures = measure_probabilities(rows, TWO)
    assert figures["auroc"] == pytest.approx(3 / 4)  # of four pairs, 0.6 < 0.7 is out of order
    assert figures["per_label"]["positive"]["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures["brier"] == pytest.approx((0.01 + 0.16 + 0.49 + 0.04) / 4)
    # Confidences 0.9, 0.6, 0.7 (wrong) and 0.8 fall into bins of their own, of fifteen.
    assert figures["ece"] == pytest.approx((0.1 + 0.4 + 0.7 + 0.2) / 4)
    assert sum(bin["rows"] for bin in figures["reliability"]) == 4
    assert figures["mean_label_mass"] == 0.5
    assert figures["disagreements"] == 0


def test_a_greedy_answer_that_is_not_the_likeliest_label_is_counted() -> None:
    rows = [_row("positive", {"negative": 0.8, "positive": 0.2}, prediction="positive"), _two(0, 0.1)]
    assert measure_probabilities(rows, TWO)["disagreements"] == 1
    rows[0]["prediction"] = None  # unreadable: nothing to agree with
    assert measure_probabilities(rows, TWO)["disagreements"] == 0


def test_three_labels_of_which_one_is_absent_and_of_which_one_is_alone() -> None:
    names = ["bad", "fair", "good"]
    rng = np.random.default_rng(0)
    rows = [
        _row(names[2 * (i % 2)], dict(zip(names, rng.dirichlet([1.0, 1.0, 1.0]), strict=True)))
        for i in range(60)
    ]
    figures = measure_probabilities(rows, names)
    assert set(figures["per_label"]) == {"bad", "good"}
    apart = [
        (a["probabilities"]["good"] > b["probabilities"]["good"])
        for a in rows
        if a["gold"] == "good"
        for b in rows
        if b["gold"] == "bad"
    ]
    assert figures["per_label"]["good"]["auroc"] == pytest.approx(np.mean(apart))
    shares = np.array([[row["probabilities"][name] for name in names] for row in rows])
    hot = np.array([[row["gold"] == name for name in names] for row in rows])
    assert figures["brier"] == pytest.approx(((shares - hot) ** 2).sum(1).mean())
    assert figures["brier_interval"][0] < figures["brier"] < figures["brier_interval"][1]
    alone = measure_probabilities(rows[::2], names)
    assert (alone["auroc"], alone["average_precision"], alone["per_label"]) == (None, None, {})


def test_a_brier_score_without_spread_has_no_interval() -> None:
    assert measure_probabilities([_two(1, 1.0), _two(0, 0.0)] * 10, TWO)["brier_interval"] is None
    thirds = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}  # equal but for rounding
    alike = [_row(name, thirds) for name in "abc" * 10]
    assert measure_probabilities(alike, [*"abc"])["brier_interval"] is None
    low, high = measure_probabilities([_two(1, 0.1), _two(0, 0.95)], TWO)["brier_interval"]
    assert (low, high) == (pytest.approx(0.27, abs=0.01), 1.0)  # of two rows hardly anything is known


def test_the_auroc_interval_agrees_with_resampling() -> None:
    rng = np.random.default_rng(3)
    gold = rng.random(400) < 0.4
    scores = rng.normal(size=400) + gold * 1.2
    interval = auroc_interval(gold, scores)
    assert interval is not None
    drawn = []
    for _ in range(2000):
        at = rng.integers(0, 400, 400)
        a, b = scores[at][gold[at]], scores[at][~gold[at]]
        drawn.append((a[:, None] > b[None, :]).mean())
    assert interval == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    assert auroc_interval(np.array([True, False]), np.array([0.2, 0.1])) is None


def test_an_ece_is_put_beside_that_of_a_calibrated_system() -> None:
    rng = np.random.default_rng(5)
    surely = np.repeat([0.9, 0.6], 50)
    # One bin each: the ECE is the sum of how far two shares of 50 rows are from what was to be expected.
    hits = rng.binomial(50, [0.9, 0.6], size=(20_000, 2))
    expected = np.quantile(np.abs(hits - [45, 30]).sum(1) / 100, 0.95)
    assert calibrated_ece(surely) == pytest.approx(expected, abs=0.005)
    rows = [_two(int(rng.random() < share), share) for share in rng.random(400)]
    honest = measure_probabilities(rows, TWO)
    assert honest["ece"] < honest["ece_if_calibrated"] < 0.15
    bold = [{**row, "probabilities": dict(zip(TWO, _bolder(row), strict=True))} for row in rows]
    boasting = measure_probabilities(bold, TWO)
    assert boasting["ece"] > 2 * boasting["ece_if_calibrated"]


def _bolder(row: dict[str, Any]) -> tuple[float, float]:
    positive = 0.99 if row["probabilities"]["positive"] > 0.5 else 0.01
    return 1 - positive, positive
