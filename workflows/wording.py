"""Texts in both languages: what systems and splits are called, and how figures are written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Both:
    """A text in English and Chinese."""

    en: str
    zh: str

    def in_language(self, language: str) -> str:
        """The text in `en` or `zh`."""
        return self.zh if language == "zh" else self.en


# In the order in which tables show them.
SYSTEMS = {
    "majority": Both("baseline: majority", "多数类基线"),
    "tfidf": Both("baseline: TF-IDF", "词袋基线"),
    "zero_shot": Both("before tuning", "微调前"),
    "tuned": Both("after tuning", "微调后"),
}
SPLIT_NAMES = {"train": Both("training", "训练"), "val": Both("validation", "验证"), "test": Both("test", "测试")}


def number(value: float | None, digits: int = 3) -> str:
    """A figure to `digits` places, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def with_interval(value: float | None, bounds: list[float] | None) -> str:
    """A figure and its interval in brackets."""
    return number(value) if bounds is None else f"{number(value)} [{bounds[0]:.3f}, {bounds[1]:.3f}]"
