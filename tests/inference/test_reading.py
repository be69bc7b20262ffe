"""Outputs of real models are read as a person would read them."""

import pytest

from workflows.experiment.cards import Label
from workflows.inference.reading import read_label

TWO = (Label("negative", "负面"), Label("positive", "正面"))
NESTED = (Label("bad", "不满意"), Label("good", "满意"), Label("best", "满意极了"))
ENGLISH = (Label("negative", "negative"), Label("positive", "positive"))


@pytest.mark.parametrize(
    ("output", "labels", "name"),
    [
        ("正面", TWO, "positive"),
        ("这条评论是正面的", TWO, "positive"),
        (" 负面，因为正面的话不多", TWO, "negative"),
        ("这条评论", TWO, None),
        ("", TWO, None),
        ("不满意", NESTED, "bad"),
        ("满意极了！", NESTED, "best"),
        ("我满意", NESTED, "good"),
        (" Positive.", ENGLISH, "positive"),
    ],
)
def test_first_label_words_count(output: str, labels: tuple[Label, ...], name: str | None) -> None:
    assert read_label(output, labels) == name


def test_words_with_marks_of_regular_expressions_are_words() -> None:
    labels = (Label("low", "1+"), Label("high", "(5)"))
    assert read_label("给(5)分", labels) == "high"
    assert read_label("111", labels) is None
