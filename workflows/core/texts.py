"""What is said to people in English and Chinese: the catalogue texts.yaml, and how figures are written."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

CATALOGUE = Path(__file__).with_name("texts.yaml")
LANGUAGES = ("en", "zh")
JOINT = "\0"  # where words and values are joined
SCRIPTS_MEET = re.compile(rf"(?<=[一-鿿]){JOINT}(?=[!-~])|(?<=[!-~]){JOINT}(?=[一-鿿])")


@dataclass(frozen=True)
class Text:
    """The same in English and Chinese.  A plain str beside it is one of data: a name, a figure, a review."""

    en: str
    zh: str


def text(key: str, **values: Text | str | float) -> Text:
    """The text `key` of the catalogue, its places filled with `values` as `str.format` fills them.

    A value that is a Text stands in each language in its own words.  A sentence (it ends with a full stop)
    opens with a capital, unless it opens with data; where Chinese and Latin letters meet at a place, a
    Chinese sentence has a blank.  Raises KeyError where the catalogue lacks the key, or `values` a place.
    """
    pattern = _catalogue()[key]
    return Text(_fill(pattern["en"], "en", values), _fill(pattern["zh"], "zh", values))


def texts(group: str) -> dict[str, Text]:
    """A list of the catalogue, such as `systems` or `metrics`: name to text, in the order of tables."""
    return {name: Text(**each) for name, each in _catalogue()[group].items()}


def in_language(said: Text | str, language: str) -> str:
    """A text in `en` or `zh`; data are the same in both."""
    return said if isinstance(said, str) else said.zh if language == "zh" else said.en


def in_both_languages(said: Text | str) -> str:
    """English and Chinese in one line of the screen; English alone where they share a word, as `macro F1`."""
    if isinstance(said, str):
        return said
    return said.en if set(said.en.split()) & set(said.zh.split()) else f"{said.en} {said.zh}"


def one_after_another(parts: Iterable[Text], en: str = " ", zh: str = "") -> Text:
    """The parts, such as sentences, as one text; `en` and `zh` stand between them."""
    parts = list(parts)
    return Text(en.join(each.en for each in parts), zh.join(each.zh for each in parts))


@cache
def _catalogue() -> dict[str, Any]:
    with open(CATALOGUE, encoding="utf-8") as file:
        return dict(yaml.safe_load(file))


def _fill(pattern: str, language: str, values: Mapping[str, Text | str | float]) -> str:
    is_sentence = pattern.endswith((".", "。"))
    pieces: list[str] = []
    for words, place, form, _ in Formatter().parse(pattern):
        pieces.append(words)
        if place is not None:
            value = values[place]
            shown = in_language(value, language) if isinstance(value, Text) else format(value, form or "")
            opens = is_sentence and isinstance(value, Text) and not any(pieces)
            pieces.append(shown[:1].upper() + shown[1:] if opens else shown)
    filled = JOINT.join(filter(None, pieces))
    if is_sentence and language == "zh":
        filled = SCRIPTS_MEET.sub(" ", filled)
    return filled.replace(JOINT, "")


def number(value: float | None, digits: int = 3) -> str:
    """A figure to `digits` places, or a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def with_interval(value: float | None, bounds: list[float] | None) -> str:
    """A figure and its interval in brackets."""
    return number(value) if bounds is None else f"{number(value)} ({bounds[0]:.3f} – {bounds[1]:.3f})"


def p_value(p: float) -> str:
    """A p-value with its sign, as it stands in a sentence."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def label_text(label: str | list[str] | float) -> str:
    """A gold label or a prediction as a table shows it: a name, several, or a number."""
    if isinstance(label, float):
        return f"{label:g}" if label.is_integer() else f"{label:.3f}"
    return label if isinstance(label, str) else "、".join(label) or "∅"
