"""Texts in both languages: what systems and splits are called, and how figures are written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Both:
    """A text in English and Chinese."""

    en: str
    zh: str


Text = Both | str  # a str is the same in both languages: data, names, figures


def in_language(text: Text, language: str) -> str:
    """A text of either kind in `en` or `zh`."""
    return text if isinstance(text, str) else text.zh if language == "zh" else text.en


# In the order in which tables show them.
SYSTEMS = {
    "majority": Both("baseline: majority", "多数类"),
    "mean": Both("baseline: mean", "均值"),
    "tfidf": Both("baseline: TF-IDF", "词袋"),
    "zero_shot": Both("before tuning", "微调前"),
    "tuned": Both("after tuning", "微调后"),
}
SPLIT_NAMES = {
    "train": Both("training", "训练"),
    "val": Both("validation", "验证"),
    "test": Both("test", "测试"),
}


def number(value: float | None, digits: int = 3) -> str:
    """A figure to `digits` places, or a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def with_signed_interval(value: float, bounds: list[float] | None) -> str:
    """A difference and its interval in brackets, with their signs."""
    return f"{value:+.3f}" + ("" if bounds is None else f" ({bounds[0]:+.3f} … {bounds[1]:+.3f})")


def with_interval(value: float | None, bounds: list[float] | None) -> str:
    """A figure and its interval in brackets."""
    return number(value) if bounds is None else f"{number(value)} ({bounds[0]:.3f} – {bounds[1]:.3f})"


def blank(neighbour: str) -> str:
    """The blank that sets a Latin name off from Chinese text; nothing beside a Chinese character."""
    return " " * neighbour.isascii()


def p_value(p: float) -> str:
    """A p-value with its sign, as it stands in a sentence."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def label_text(label: str | list[str] | float) -> str:
    """A gold label or a prediction as a table shows it: a name, several, or a number."""
    if isinstance(label, float):
        return f"{label:g}" if label.is_integer() else f"{label:.3f}"
    return label if isinstance(label, str) else "、".join(label) or "∅"
