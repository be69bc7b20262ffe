"""Scores, worked out by hand for a few rows."""

from typing import Any

import pytest

from workflows.core.unusual import say_unread
from workflows.scoring.score import measure

NAMES = ["bad", "fair", "good"]
WORDS = {"bad": "差评", "fair": "中评", "good": "好评"}


def _row(gold: str, prediction: str | None, output: str | None) -> dict[str, Any]:
    shares = dict.fromkeys(NAMES, 1 / 3)
    return {
        "gold": gold,
        "prediction": prediction,
        "output": output,
        "probabilities": shares,
        "label_mass": None,
    }


def test_unreadable_outputs_are_wrong_and_counted() -> None:
    rows = [
        _row("bad", "bad", "差评"),
        _row("bad", None, "不知道"),
        _row("good", "good", " 好评\n"),
        _row("good", "bad", "差评"),
        _row("good", "good", "是好评"),
    ]
    figures = measure(rows, NAMES, WORDS)
    assert figures["accuracy"] == pytest.approx(3 / 5)
    assert figures["strict_accuracy"] == pytest.approx(2 / 5)
    assert figures["unparsed"] == 1
    assert figures["unparsed_most_frequent"] == [{"output": "不知道", "rows": 1}]
    assert (figures["micro_precision"], figures["micro_recall"]) == (
        pytest.approx(3 / 4),
        pytest.approx(3 / 5),
    )
    half = pytest.approx([0.0945, 0.9055], abs=1e-4)  # Wilson's interval for 1 of 2, from its formula
    third = pytest.approx([2 * 0.0615 / 1.0615, 2 * 0.7923 / 1.7923], abs=2e-4)  # for 1 of 3, as F1
    assert figures["per_class"]["bad"] == {
        **{"precision": 1 / 2, "precision_interval": half, "recall": 1 / 2, "recall_interval": half},
        **{"f1": pytest.approx(1 / 2), "f1_interval": third, "rows": 2},
    }
    fair = figures["per_class"]["fair"]
    assert (fair["rows"], fair["recall_interval"], fair["f1_interval"]) == (0, None, None)
    # "fair" is not in the test set: nobody can get it right, and it takes nothing from the average.
    assert figures["macro_f1"] == pytest.approx((1 / 2 + 4 / 5) / 2)
    assert figures["weighted_f1"] == pytest.approx((2 * 1 / 2 + 3 * 4 / 5) / 5)
    assert figures["confusion"]["counts"] == [[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 2, 0]]
    low, high = figures["accuracy_interval"]
    # Wilson's interval for 3 of 5, from its formula.
    assert (low, high) == (pytest.approx(0.2307, abs=1e-4), pytest.approx(0.8824, abs=1e-4))


def test_all_outputs_unreadable_gives_zero_not_an_error() -> None:
    figures = measure([_row("good", None, "？"), _row("bad", None, "")], NAMES, WORDS)
    assert (figures["accuracy"], figures["macro_f1"], figures["unparsed"]) == (0.0, 0.0, 2)


def test_a_model_that_did_not_learn_its_words_is_said_to() -> None:
    unread = [_row("good", None, "喜")] * 3
    (said,) = say_unread({"tuned": measure([*unread, _row("bad", "bad", "差评")], NAMES, WORDS)}, 4)
    assert "3 of 4 outputs of the tuned model name no label" in said.en
    assert "4 条输出中有 3 条不含任何标签词" in said.zh
    read = [_row("bad", "bad", "差评")] * 3
    assert [*say_unread({"tuned": measure([*read, *unread], NAMES, WORDS)}, 6)] == []


def test_a_system_without_outputs_has_no_strict_reading() -> None:
    assert measure([_row("good", "good", None)], NAMES, WORDS)["strict_accuracy"] is None


def test_a_class_absent_from_the_test_set_costs_only_who_predicts_it() -> None:
    right = [_row("bad", "bad", None), _row("good", "good", None)] * 20
    assert measure(right, NAMES, WORDS)["macro_f1"] == 1.0
    wrong = [*right[:-1], _row("good", "fair", None)]
    figures = measure(wrong, NAMES, WORDS)
    assert figures["macro_f1"] == pytest.approx((1.0 + 2 * 19 / 39) / 2)
    low, high = figures["macro_f1_interval"]
    assert low < figures["macro_f1"] < high
