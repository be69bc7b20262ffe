"""Scores of rows with several labels, by hand for a few and by direct resampling for many."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from workflows.scoring.labels import measure_sets

NAMES = ["taste", "price", "service", "never"]


def _row(gold: list[str], prediction: list[str]) -> dict[str, Any]:
    return {"gold": gold, "prediction": prediction}


def test_figures_by_hand() -> None:
    rows = [
        _row(["taste", "price"], ["taste", "price"]),
        _row(["taste"], ["taste", "service"]),
        _row(["service"], []),
        _row(["price"], ["price"]),
    ]
    figures = measure_sets(rows, NAMES)
    assert figures["accuracy"] == 2 / 4  # whole sets
    assert (figures["micro_precision"], figures["micro_recall"]) == (4 / 5, 4 / 5)
    of_label = {
        label: [each[key] for key in ("precision", "recall", "f1", "rows")]
        for label, each in figures["per_class"].items()
    }
    assert (of_label["taste"], of_label["service"]) == ([1, 1, 1, 2], [0, 0, 0, 1])
    assert figures["macro_f1"] == pytest.approx((1 + 1 + 0) / 3)  # "never" cannot be got right
    assert figures["accuracy_interval"][0] < 0.5 < figures["accuracy_interval"][1]


def test_f1_intervals_are_those_of_resampled_rows() -> None:
    rng = np.random.default_rng(5)
    gold = rng.random((400, 3)) < [0.5, 0.3, 0.15]
    predicted = gold ^ (rng.random((400, 3)) < 0.1)
    sets = [[[NAMES[i] for i in np.flatnonzero(row)] for row in each] for each in (gold, predicted)]
    figures = measure_sets([_row(*pair) for pair in zip(*sets, strict=True)], NAMES[:3])
    for average in ("micro", "macro"):
        drawn = []
        for _ in range(500):
            at = rng.integers(0, 400, 400)
            drawn.append(f1_score(gold[at], predicted[at], average=average))
        assert figures[f"{average}_f1"] == pytest.approx(f1_score(gold, predicted, average=average))
        assert figures[f"{average}_f1_interval"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)


def test_all_right_has_no_f1_interval() -> None:
    figures = measure_sets([_row(["taste"], ["taste"]), _row(["price"], ["price"])] * 10, NAMES)
    assert (figures["accuracy"], figures["macro_f1"], figures["macro_f1_interval"]) == (1.0, 1.0, None)
