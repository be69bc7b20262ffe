"""What becomes a training row, and what does not, with the reason; no model is needed for that."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import make_experiment
from workflows.core.errors import UserError
from workflows.core.files import read_jsonl, write_json, write_jsonl
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.data.unlabelled import read_unlabelled
from workflows.experiment.cards import Label, load_dataset_card
from workflows.experiment.experiment import save_experiment
from workflows.experiment.recipes import Reasoning
from workflows.pipeline.derived_rows import refuse_seen_rows, with_rejected
from workflows.pipeline.pseudo_labels import judge_pseudo_labels
from workflows.pipeline.reasonings import choose_rows, questions, with_reasonings
from workflows.pipeline.run import start_run

LABELS = (Label("negative", "负面"), Label("neutral", "中性"), Label("positive", "正面"))
RECIPE = Reasoning("cot", prompt="{review} 是{label}，为什么？", min_characters=8, max_characters=40)


def _row(id: str, review: str, label: int) -> dict[str, object]:
    answer = {"role": "assistant", "content": LABELS[label].words}
    return {
        "id": id,
        "review": review,
        "label": label,
        "messages": [{"role": "user", "content": review}, answer],
    }


def test_a_rejected_answer_is_another_label_and_the_same_each_time() -> None:
    rows = [_row(str(i), f"评论{i}", i % 3) for i in range(60)]
    made = with_rejected(rows, LABELS, seed=42)
    assert made == with_rejected(rows, LABELS, seed=42) != with_rejected(rows, LABELS, seed=1)
    for row in made:
        wrong = [label.words for index, label in enumerate(LABELS) if index != row["label"]]
        assert row["rejected_response"] in wrong
    assert {row["rejected_response"] for row in made if row["label"] == 0} == {"中性", "正面"}


def test_each_reasoning_is_kept_or_rejected_with_its_reason() -> None:
    good = "这条评论是正面的，因为味道好、送得快。"
    texts = {
        "kept": good,
        "again": good.replace("，", ", "),
        "short": "正面，好吃",
        "long": "正面" + "好吃" * 30,
        "silent": "味道好，送得快，下次还会再来的。",
        "other": "这条评论是负面的而不是正面的，因为太慢。",
        "copied": "正面！包装很好，味道也很好，送餐的小哥态度很好",
    }
    reviews = {"copied": "包装很好，味道也很好，送餐的小哥态度很好。"}
    rows = [_row(id, reviews.get(id, "味道不错"), 2) for id in [*texts, "not asked"]]
    made, rejected = with_reasonings(rows, texts, RECIPE, LABELS)
    assert [row["id"] for row in made] == [row["id"] for row in rows]
    assert made[0]["messages"][-1]["content"] == f"正面\n{good}"
    assert all(row["messages"][-1]["content"] == "正面" for row in made[1:])
    assert {row["id"]: row["reason"] for row in rejected} == {
        "again": "copy of another reasoning",
        "short": "too short",
        "long": "too long",
        "silent": "does not say the label",
        "other": "names another label",
        "copied": "copy of the review",
    }


def test_the_model_is_asked_for_a_seeded_sample_and_told_the_label() -> None:
    rows = [_row(str(i), "{label}真好" + str(i), 2) for i in range(20)]
    assert choose_rows(rows, None, 42) == rows
    chosen = choose_rows(rows, 5, 42)
    assert chosen == choose_rows(rows, 5, 42) != choose_rows(rows, 5, 1)
    assert len(chosen) == 5
    asked = questions(rows[:1], RECIPE, LABELS)
    assert asked == [{"id": "0", "messages": [{"role": "user", "content": "{label}真好0 是正面，为什么？"}]}]


def test_pseudo_labels_need_two_models_that_agree_and_one_that_is_sure() -> None:
    def answer(id: str, prediction: str | None, sure: float) -> dict[str, object]:
        shares = {"negative": sure, "positive": 1 - sure, "neutral": 0.0}
        return {"id": id, "text": f"评论{id}", "prediction": prediction, "probabilities": shares}

    base = [answer(id, said, 0.5) for id, said in zip("abcde", ["negative"] * 3 + [None, None], strict=True)]
    tuned = [
        answer("a", "negative", 0.95),
        answer("b", "negative", 0.89),
        answer("c", "positive", 0.01),
        answer("d", "negative", 0.99),
        answer("e", None, 0.99),
    ]
    kept, rejected = judge_pseudo_labels(base, tuned, LABELS, 0.9)
    assert kept == [{"id": "a", "review": "评论a", "label": 0, "confidence": 0.95}]
    reasons = {"b": "low confidence", "c": "models disagree", "d": "models disagree", "e": "models disagree"}
    assert {row["id"]: row["reason"] for row in rejected} == reasons


def test_a_file_of_unlabelled_reviews_that_is_not_there_is_missed_at_once(tmp_path: Path) -> None:
    """The stage that reads it comes after minutes with a model."""
    ordinary = make_experiment()
    tuning = replace(ordinary.tuning, unlabelled=str(tmp_path / "nowhere.csv"))
    with pytest.raises(UserError, match=r"nowhere\.csv: there is no such file"):
        start_run(replace(ordinary, tuning=tuning), tmp_path / "run", Screen())
    assert not (tmp_path / "run").exists()


def test_unlabelled_reviews_that_stand_in_a_split_stay_out(
    tmp_path: Path, demo_rows: list[dict[str, str]]
) -> None:
    texts = [row["text"] for row in demo_rows[:9]]
    splits = {
        name: [{"id": f"{name}:{i}", "review": text} for i, text in enumerate(texts[start : start + 3])]
        for start, name in ((0, "train"), (3, "val"), (6, "test"))
    }
    news = [row["text"] for row in demo_rows[100:110]]
    near = texts[6].replace("，", "、") + "！"
    lines = [*news, news[0], texts[0], texts[3], texts[7], near, "  "]
    file = tmp_path / "more.csv"
    file.write_text("text\n" + "\n".join(f'"{line}"' for line in lines), encoding="utf-8")
    kept, rejected = read_unlabelled(file, load_dataset_card("demo"), splits, Screen())
    assert [review.text for review in kept] == news
    assert {row["id"]: row["reason"] for row in rejected} == {
        "unlabelled:11": "duplicate",
        "unlabelled:12": "duplicate",
        "unlabelled:13": "stands in val",
        "unlabelled:14": "stands in test",
        "unlabelled:15": "near copy of a validation or test row",
        "unlabelled:16": "empty text",
    }
    with pytest.raises(UserError, match=r"column sentence is wanted, the file has 'text'"):
        read_unlabelled(file, load_dataset_card("jd"), splits, Screen())


def test_a_source_that_was_trained_on_the_test_rows_is_refused(tmp_path: Path) -> None:
    run, source = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "source")
    write_jsonl(run.split("val"), [_row("v", "还行", 1)])
    write_jsonl(run.split("test"), [_row("a", "很好", 2), _row("b", "很差", 0)])
    write_jsonl(source.split("train"), [_row("c", "一般", 1)])
    _asks(source)
    refuse_seen_rows(run, source)
    write_jsonl(source.derived, [_row("c", "一般", 1), _row("x", "很差", 0)])
    with pytest.raises(UserError, match="was trained on 1 of the 2 test rows"):
        refuse_seen_rows(run, source)


def test_what_a_source_went_on_from_may_not_have_seen_the_test_rows_either(tmp_path: Path) -> None:
    run, first, second = (RunFolder(tmp_path / name) for name in ("run", "first", "second"))
    for name, rows in (("val", [_row("v", "还行", 1)]), ("test", [_row("a", "很好", 2)])):
        write_jsonl(run.split(name), rows)
    write_jsonl(first.split("train"), [_row("a", "很好", 2)])
    _asks(first)
    write_json(first.stages, {"tuned": {}})
    write_json(first.training, {"checkpoint": "checkpoint-1"})
    (first.sft / "checkpoint-1").mkdir(parents=True)
    write_jsonl(second.derived, [_row("c", "一般", 1)])
    _asks(second, "--method", "dpo", "--from-run", str(first.path))
    with pytest.raises(UserError, match="was trained on 1 of the 1 test rows"):
        refuse_seen_rows(run, second)
    first.split("train").unlink()
    for name in ("val", "test"):
        write_jsonl(second.split(name), [_row("v", "还行", 1), *read_jsonl(run.split(name))])
    refuse_seen_rows(run, second)  # the second has looked for the same rows while the first was there
    write_jsonl(second.split("test"), [_row("v", "还行", 1)])
    with pytest.raises(UserError, match="is gone, so nobody can say whether test rows were trained on"):
        refuse_seen_rows(run, second)


def _asks(run: RunFolder, *flags: str) -> None:
    run.experiment.write_text(save_experiment(make_experiment(*flags)), encoding="utf-8")
