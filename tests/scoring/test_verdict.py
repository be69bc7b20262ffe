"""The sentences of the verdict say what the paired tests say, and no more."""

from typing import Any

import numpy as np
import pytest

from workflows.core.costs import cost_of_the_cheapest
from workflows.core.texts import texts
from workflows.scoring.uncertainty import compare_errors, compare_systems, two_digits_up
from workflows.scoring.verdict import CHEAP_FIRST, unbeaten, verdict


def _right(only_a: int, only_b: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * neither
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * neither
    return np.array(a), np.array(b)


def _with_right(rows: int, *shares: float) -> list[np.ndarray]:
    """Systems that get so much of the first rows right: the better one has all that the worse one has."""
    return [np.arange(rows) < share * rows for share in shares]


@pytest.mark.parametrize(
    ("cells", "english", "chinese"),
    [
        ((2, 5, 30, 3), "40 test rows cannot tell the tuned model from TF-IDF", "40 条测试数据不足以区分"),
        ((3, 3, 30, 4), "no difference was seen", "没有观察到差异"),
        ((5, 60, 300, 35), "The tuned model beat TF-IDF (+0.138", "优于字符"),
        ((60, 5, 300, 35), "The tuned model is worse than TF-IDF (-0.138", "不如字符"),
    ],
)
def test_the_verdict_says_what_the_rows_can_tell(
    cells: tuple[int, int, int, int], english: str, chinese: str
) -> None:
    tfidf, tuned = _right(*cells)
    said = verdict(compare_systems({"tfidf": tfidf, "tuned": tuned}), sum(cells))
    assert english in said["en"]
    assert chinese in said["zh"]
    assert verdict(compare_systems({"tfidf": tfidf}), sum(cells)) == {"en": "", "zh": ""}


def test_an_interval_that_the_corrected_test_does_not_bear_out_is_explained() -> None:
    tfidf, tuned = _right(12, 3, 40, 5)
    alone = verdict(compare_systems({"tfidf": tfidf, "tuned": tuned}), 60)["en"]
    assert "The tuned model is worse than TF-IDF (-0.150, 95 % -0.266 … -0.024, p = 0.035)" in alone
    others = dict(zip(("zero_shot", "probe"), _with_right(60, 0.8, 0.82), strict=True))
    said = verdict(compare_systems({"tfidf": tfidf, **others, "tuned": tuned}), 60)
    assert "60 test rows cannot tell the tuned model from TF-IDF (-0.150, 95 % -0.266 … -0.024" in said["en"]
    assert "p is corrected for all pairs, the interval is of this pair alone" in said["en"]
    assert "p 值按所有比较对校正，区间只针对这一对" in said["zh"]


def test_all_systems_have_a_cost_and_a_name_in_a_sentence() -> None:
    assert set(CHEAP_FIRST) == set(texts("systems")) == set(texts("systems_in_a_sentence"))


def test_the_gain_is_over_the_best_that_the_untuned_model_does() -> None:
    written, likelier, threshold, tuned = _with_right(400, 0.3, 0.76, 0.82, 0.92)
    systems = {"zero_shot": written, "zero_shot_labels": likelier, "zero_shot_threshold": threshold}
    said = verdict(compare_systems({**systems, "tuned": tuned}), 400)
    assert "The tuned model beat the untuned model with a fitted threshold (+0.100" in said["en"]
    assert "+0.620" not in said["en"]
    assert "微调后的模型优于微调前的模型（拟合阈值）" in said["zh"]
    (probe,) = _with_right(400, 0.91)
    beside = verdict(compare_systems({**systems, "probe": probe, "tuned": tuned}), 400)
    assert "400 test rows cannot tell the tuned model from the frozen probe (+0.010" in beside["en"]


def test_the_cheapest_that_nothing_beats_is_named_with_the_rows_that_would_tell() -> None:
    tfidf, probe, tuned = _with_right(400, 0.80, 0.92, 0.93)
    systems = {"tfidf": tfidf, "probe": probe, "tuned": tuned}
    pairs = compare_systems(systems)
    between = next(pair for pair in pairs if (pair["a"], pair["b"]) == ("probe", "tuned"))
    assert between["holm_p"] >= 0.05
    assert unbeaten(pairs) == ["probe", "tuned"]
    said = verdict(pairs, 400)
    p, needed = between["holm_p"], two_digits_up(between["rows_to_tell"])
    assert "the frozen probe costs least; the tuned model is ahead" in said["en"]
    assert f"may be chance (p ≥ {p:.3f}); about {needed:,} would tell." in said["en"]
    assert "冻结探针成本最低" in said["zh"]
    far_better = compare_systems({**systems, "tuned": _with_right(400, 0.99)[0]})
    assert unbeaten(far_better) == ["tuned"]
    assert "The tuned model is the only system that no other beats." in verdict(far_better, 400)["en"]
    best = verdict(compare_systems({**systems, "tuned": _with_right(400, 0.91)[0]}), 400)
    assert "the frozen probe costs least, and none is ahead of it on these rows" in best["en"]


def test_smaller_errors_are_better() -> None:
    draw = np.random.default_rng(0).random(200)
    pairs = compare_errors({"tfidf": draw + 0.5, "probe": draw, "tuned": draw})
    assert unbeaten(pairs) == ["probe", "tuned"]


def test_what_the_cheapest_took_is_said_where_all_of_it_is_known() -> None:
    costs: dict[str, dict[str, Any]] = {
        "probe": {"features": 10.0, "fitting": 1.0, "answering": 5.0, "resumed": False},
        "tuned": {"tuning": 140.0, "answering": 20.0, "resumed": False},
    }
    (said,) = cost_of_the_cheapest("probe", costs)
    assert said.en == "It took 16.0 s, and the tuned model 160.0 s, 10 times as long."
    (said,) = cost_of_the_cheapest("probe", {**costs, "probe": {**costs["probe"], "features": 90.0}})
    assert "1.7 times as long" in said.en
    assert cost_of_the_cheapest("tuned", costs) == cost_of_the_cheapest(None, costs) == []
    costs["tuned"]["resumed"] = True  # then 160 s are only its last session
    assert cost_of_the_cheapest("probe", costs) == []
