"""What an explanation says is what the system answers without each part."""

import html
import os

import pytest

from tests.conftest import Command
from workflows.core.files import read_jsonl, write_jsonl
from workflows.core.run_folder import RunFolder
from workflows.reporting.files import read_files
from workflows.serving import explain as module
from workflows.serving.explain import clauses_of, explain, log_odds, render, words_of
from workflows.serving.systems import System, open_system

TEXT = "房间很大，但是隔音太差，早餐也不好吃。"


@pytest.fixture(scope="module")
def tuned(demo_run: tuple[RunFolder, str]) -> System:
    return open_system(demo_run[0].path)


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        (TEXT, ["房间很大，", "但是隔音太差，", "早餐也不好吃。"]),
        ("他说：“太差了！”再也不来", ["他说：“太差了！”", "再也不来"]),
        ("good, but... slow", ["good, ", "but... ", "slow"]),
        ("！！！", ["！！！"]),
        ("很好", ["很好"]),
        ("3.5星，1,000元,太贵.", ["3.5星，", "1,000元,", "太贵."]),
        ("第一行\n第二行", ["第一行\n", "第二行"]),
    ],
)
def test_clauses_end_at_their_marks_and_lose_nothing(text: str, clauses: list[str]) -> None:
    found = clauses_of(text)
    assert [part for _, part in found] == clauses
    assert all(text[start : start + len(part)] == part for start, part in found)


def test_words_stand_where_they_are() -> None:
    found = words_of(TEXT)
    assert [word for _, word in found][:3] == ["房间", "很大", "但是"]
    assert all(TEXT[start : start + len(word)] == word for start, word in found)
    assert "，" not in [word for _, word in found]


def test_a_weight_is_what_the_label_loses_without_the_part(tuned: System) -> None:
    (found,) = explain(tuned, [TEXT])
    whole, *without = tuned.answer([TEXT, *(TEXT.replace(part.text, "") for part in found.clauses)])
    assert found.label == whole["prediction"]
    odds = log_odds(whole["probabilities"], found.label)
    assert found.log_odds == pytest.approx(odds, abs=1e-3)
    for part, said in zip(found.clauses, without, strict=True):
        assert part.weight == pytest.approx(odds - log_odds(said["probabilities"], found.label), abs=1e-3)
    assert found.sums[0] == pytest.approx(sum(part.weight for part in found.clauses))
    lines = list(render(found))
    assert f"its clauses add up to {found.sums[0]:+.2f}" in lines[-1]
    assert [line.split()[-1] for line in lines[3:6]] == ["房间很大，", "但是隔音太差，", "早餐也不好吃。"]


def test_parts_of_a_text_that_the_model_is_sure_of_are_told_apart() -> None:
    """1 - 1e-20 is 1 to a computer, but the other label's share is not 0."""
    sure, surer = ({"negative": 1.0, "positive": share} for share in (1e-20, 1e-30))
    assert log_odds(surer, "negative") - log_odds(sure, "negative") == pytest.approx(23.026, abs=1e-3)
    assert log_odds({"a": 0.5, "b": 0.25, "c": 0.25}, "a") == 0
    assert log_odds({"a": 0.0, "b": 1.0}, "a") < -700


def test_a_single_word_is_all_there_is(tuned: System) -> None:
    (found,) = explain(tuned, ["差"])
    assert [part.weight for part in (*found.clauses, *found.words)] == [found.log_odds] * 2
    assert any("without it nothing is left" in line for line in render(found))
    assert explain(tuned, []) == []


def test_parts_beyond_the_bound_are_counted(tuned: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PARTS", 2)
    (found,) = explain(tuned, [TEXT])
    assert (len(found.clauses), len(found.words)) == (2, 2)
    assert found.left_out == 1 + len(words_of(TEXT)) - 2
    assert f"{found.left_out} parts behind the first 2 of a kind were not tried" in list(render(found))[-1]


def test_the_command_says_it_and_refuses_what_it_cannot(
    command: Command, demo_run: tuple[RunFolder, str], tuned: System
) -> None:
    done = command("explain", demo_run[0].path, "--text", TEXT)
    assert done.returncode == 0, done.stderr
    (found,) = explain(tuned, [TEXT])
    assert f"{found.label}, probability {found.probability:.3f}" in done.stdout
    assert "jieba" not in done.stderr
    for arguments, message in (
        (["--text", " \u200b"], "explain: empty text: ' \\u200b'; give a review."),
        (["--text", os.fsdecode("房间".encode("gbk"))], "explain: not valid Unicode: "),
        ([], "explain: give --text TEXT, or --mistakes."),
        (["--mistakes", "--system", "tfidf"], "explain --mistakes: is about the report's own system; "),
    ):
        refused = command("explain", demo_run[0].path, *arguments)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert refused.stderr.startswith(f"error: {message}")


def test_the_report_says_which_clause_carried_a_mistake(command: Command, own_run: RunFolder) -> None:
    before = own_run.report_page.read_text(encoding="utf-8")
    done = command("explain", own_run.path, "--mistakes")
    assert done.returncode == 0, done.stderr
    rows = read_jsonl(own_run.explained)
    assert all(row["clause"] in row["text"] for row in rows)
    wrong = [row for row in read_jsonl(own_run.predictions("tuned")) if row["prediction"] != row["gold"]]
    assert {row["id"] for row in rows} <= {row["id"] for row in wrong}
    assert len(rows) == min(len(wrong), 20)
    page = own_run.report_page.read_text(encoding="utf-8")
    assert "起决定作用的分句" in page
    assert "起决定作用的分句" not in before
    assert all(f"{row['clause']} ({row['weight']:+.2f})" in html.unescape(page) for row in rows)
    assert {*read_files(own_run).explained} == {row["id"] for row in rows}
    others = [{**row, "label_mass": 0.5} for row in read_jsonl(own_run.predictions("tuned"))]
    write_jsonl(own_run.predictions("tuned"), others)  # another model's
    assert read_files(own_run).explained == {}
