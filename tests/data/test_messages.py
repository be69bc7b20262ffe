"""What the model reads: the source systems' prompts, and reviews that are only text."""

import json
from dataclasses import replace
from typing import Literal

import pytest

from workflows.data.messages import join_label_words, line_writer, write_row
from workflows.data.reviews import Review
from workflows.experiment import Label, load_dataset_card, load_prompt

LABELS = (Label("negative", "负面"), Label("positive", "正面"))
REVIEW = Review("train:7", "早餐太差{labels}，房间{review}本身很好", 1)


def test_the_question_reads_as_the_course_asked_it() -> None:
    row = write_row(Review("train:1", "很好", 1), load_prompt("zh-question"), LABELS, "messages")
    assert row["messages"] == [
        {"role": "user", "content": "评论内容: 很好 这条评论是正面还是负面？"},
        {"role": "assistant", "content": "正面"},
    ]
    assert (row["id"], row["label"], row["review"]) == ("train:1", 1, "很好")


def test_the_jd_prompt_reads_as_swift_wrote_it() -> None:
    prompt = load_prompt("en-category")
    labels = tuple(Label(name, prompt.label_words[name]) for name in ("negative", "positive"))
    row = write_row(Review("train:1", "很好", 0), prompt, labels, "query-response")
    assert (
        row["query"]
        == "Task: Sentiment Classification\nSentence: 很好\nCategory: negative, positive\nOutput:"
    )
    assert row["response"] == "negative"


@pytest.mark.parametrize("name", ["zh-question", "zh-continue", "en-category"])
def test_braces_in_a_review_stay_text(name: str) -> None:
    row = write_row(REVIEW, load_prompt(name), LABELS, "query-response")
    assert REVIEW.text in row["query"]


@pytest.mark.parametrize("format", ["messages", "query-response"])
@pytest.mark.parametrize("text", [REVIEW.text, '他说"好"\\n\n\t\x01\u2028 {id} \\u0000id 😋', "\0id\0review"])
def test_lines_are_what_json_makes_of_the_rows(
    text: str, format: Literal["messages", "query-response"]
) -> None:
    prompt = load_prompt("zh-question")
    for own in (
        prompt,
        replace(prompt, system="{labels}？{review}"),
        replace(prompt, user="{review}、{review}"),
    ):
        write_line = line_writer(own, LABELS, format, [*range(len(LABELS))])
        for label in (0, 1):
            row = write_row(Review("val:12", text, label), own, LABELS, format)
            assert write_line("val:12", text, label) == json.dumps(row, ensure_ascii=False) + "\n"


def test_three_labels_are_joined_as_chinese_does() -> None:
    labels = tuple(Label(words, words) for words in ("差评", "中评", "好评"))
    assert join_label_words(load_prompt("zh-question"), labels) == "好评、中评还是差评"


def test_every_data_set_has_words_that_its_labels_are_told_apart_by() -> None:
    for name in ("chnsenticorp", "jd", "dianping", "waimai", "demo"):
        words = [label.words for label in load_dataset_card(name).labels]
        assert len(words) == len(set(words)) == 2
