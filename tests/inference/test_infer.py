"""Answers reach their rows by id, and a run with too few or too many answers fails."""

from pathlib import Path
from typing import Any

import pytest

from workflows.core.errors import UserError
from workflows.experiment.cards import Label
from workflows.inference.infer import _is_begun
from workflows.inference.predictions import join_answers

LABELS = (Label("negative", "负面"), Label("positive", "正面"))
TEST = [
    {"id": "train:5", "review": "很好", "label": 1},
    {"id": "train:2", "review": "很差", "label": 0},
]


def _answer(id: str, output: str, *logs: float) -> dict[str, Any]:
    return {"id": id, "output": output, "log_probabilities": list(logs)}


def test_answers_in_another_order_reach_their_rows() -> None:
    answers = [_answer("train:2", "负面", -0.5, -1.5), _answer("train:5", "我说不好", -800.0, -801.0)]
    rows = join_answers(TEST, answers, LABELS)
    assert [(row["id"], row["gold"], row["prediction"]) for row in rows] == [
        ("train:5", "positive", None),
        ("train:2", "negative", "negative"),
    ]
    # Shares of the labels, also where both are too improbable for a floating-point number.
    for row in rows:
        assert row["probabilities"] == {
            "negative": pytest.approx(0.7310586),
            "positive": pytest.approx(0.2689414),
        }
    assert rows[0]["label_mass"] == 0.0
    assert rows[1]["label_mass"] == pytest.approx(0.6065307 + 0.2231302)


@pytest.mark.parametrize("left", [".tuned-1a.jsonl", ".tuned-1a.swift.jsonl", ".tuned-1a.1.part.jsonl"])
def test_answers_of_an_engine_or_a_process_count_as_begun(tmp_path: Path, left: str) -> None:
    (tmp_path / ".tuned-2b.jsonl").touch()
    assert not _is_begun(tmp_path / ".tuned-1a.jsonl")
    (tmp_path / left).touch()
    assert _is_begun(tmp_path / ".tuned-1a.jsonl")


def test_a_diverged_model_is_one_line() -> None:
    answers = [_answer("train:2", "", float("nan"), float("nan")), _answer("train:5", "正面", -1.0, -2.0)]
    with pytest.raises(UserError, match=r"1 of 2 test rows \(not a number\), train:2 first.*learning_rate"):
        join_answers(TEST, answers, LABELS)


@pytest.mark.parametrize("ids", [["train:2"], ["train:2", "train:5", "train:9"], ["train:2", "train:5"] * 2])
def test_other_answers_than_one_for_each_test_row_fail(ids: list[str]) -> None:
    with pytest.raises(RuntimeError, match=f"{len(ids)} answers for 2 test rows"):
        join_answers(TEST, [_answer(id, "正面", -1.0, -1.0) for id in ids], LABELS)
