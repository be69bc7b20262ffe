"""The catalogue of texts: nothing missing, unused, or in one language alone; how its places are filled."""

import ast
from collections.abc import Iterator
from string import Formatter

import pytest
import yaml

from workflows.core.run_folder import SPLITS
from workflows.core.texts import CATALOGUE, Text, in_both_languages, text, texts
from workflows.data.reviews import KEPT, REASONS, UNKNOWN_LABEL
from workflows.experiment.cards import DATASETS, ROOT, load_dataset_card, names_of
from workflows.serving.predict import NO_LABEL

ENTRIES = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
TEXTS = {key: each for key, each in ENTRIES.items() if set(each) == {"en", "zh"}}
NAMES = texts("systems_in_a_sentence")
GROUPS = {key: each for key, each in ENTRIES.items() if key not in TEXTS}


def _places(pattern: str) -> set[str]:
    return {place for _, place, _, _ in Formatter().parse(pattern) if place is not None}


def _uses(function: str) -> Iterator[tuple[str, str, set[str] | None]]:
    """(file and line, key, names of the values) of each call; None for values that are not written out."""
    for path in sorted((ROOT / "workflows").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
                names = [keyword.arg for keyword in node.keywords]
                given = None if None in names else {str(name) for name in names}
                key = node.args[0]
                for each in (key.body, key.orelse) if isinstance(key, ast.IfExp) else (key,):
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    assert isinstance(each, ast.Constant), (
                        f"{where}: write the key out, so that it can be found"
                    )
                    yield where, str(each.value), given


def test_each_text_is_there_in_both_languages_with_the_same_places() -> None:
    every = {
        **TEXTS,
        **{f"{name}: {key}": each for name, group in GROUPS.items() for key, each in group.items()},
    }
    for key, each in every.items():
        assert set(each) == {"en", "zh"}, key
        assert all(isinstance(said, str) and said.strip() for said in each.values()), key
        assert _places(each["en"]) == _places(each["zh"]), key


def test_each_text_is_used_and_each_that_is_used_is_there() -> None:
    used = list(_uses("text"))
    assert {key for _, key, _ in used} == set(TEXTS)
    assert {key for _, key, _ in _uses("texts")} == set(GROUPS)
    for where, key, given in used:
        if given is not None:
            assert _places(TEXTS[key]["en"]) <= given, f"{where}: {key}"


def test_what_the_program_names_has_a_text() -> None:
    cards = {name: load_dataset_card(name).title for name in names_of(DATASETS)}
    assert {name: said.en for name, said in texts("data_titles").items()}.items() <= cards.items()
    assert list(texts("splits")) == list(SPLITS)
    reasons = {*REASONS, NO_LABEL} - {KEPT, UNKNOWN_LABEL}  # that one stops the run
    assert set(texts("rejection_reasons")) == reasons


@pytest.mark.parametrize(
    ("a", "b", "en", "zh"),
    [
        (
            NAMES["zero_shot"],
            NAMES["tuned"],
            "The tuned model beat the untuned model (p).",
            "微调后的模型优于微调前的模型（p）。",
        ),
        (
            NAMES["tfidf"],
            NAMES["tuned"],
            "The tuned model beat TF-IDF (p).",
            "微调后的模型优于字符 TF-IDF（p）。",
        ),
        ("first", "second", "second beat first (p).", "second 优于 first（p）。"),
        ("旧版", "new-2", "new-2 beat 旧版 (p).", "new-2 优于旧版（p）。"),
    ],
)
def test_names_stand_in_a_sentence_of_either_language(a: Text | str, b: Text | str, en: str, zh: str) -> None:
    assert text("b_beat_a", a=a, b=b, figures="p") == Text(en, zh)


def test_figures_are_written_as_the_catalogue_says() -> None:
    assert text("test_rows", count=12345) == Text("12,345 test rows", "12,345 条测试数据")
    with pytest.raises(KeyError, match="count"):
        text("test_rows")


def test_a_line_of_the_screen_has_both_languages_unless_they_share_a_word() -> None:
    shown = {name: in_both_languages(each) for name, each in texts("metrics").items()}
    assert (shown["accuracy"], shown["macro_f1"], shown["mae"]) == ("accuracy 准确率", "macro F1", "MAE")
