"""What a label column's values mean: one label, several in one cell, or a number; by the data set's task."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from workflows.core.errors import UserError
from workflows.experiment.cards import DatasetCard, Layout
from workflows.experiment.labels import FULL_WIDTH, normalise_label

LabelValue = int | tuple[int, ...] | float  # a label's index, those of several in index order, or a number
STRATA = 5  # of numbers, equally full
BOOLEANS = (("1", "True"), ("1", "true"), ("1", "TRUE"), ("0", "False"), ("0", "false"), ("0", "FALSE"))


def value_reader(
    card: DatasetCard, layout: Layout, neutral: str | None
) -> Callable[[str], LabelValue | None]:
    """A function from a normalised, not empty value to its meaning; None for a value that has none.

    `neutral`: the label name that neutral values count as.  Several labels stand in one cell, with the
    layout's `separator` between them; one that is named twice counts once.
    """
    names = [label.name for label in card.labels]
    meaning = {
        normalise_label(value): names.index(name) for name, group in layout.values.items() for value in group
    }
    if neutral is not None:
        if neutral not in names:
            raise UserError(f"--neutral {neutral}: no such label; the labels are {', '.join(names)}.")
        if not layout.neutral:
            raise UserError(
                f"--neutral: data set {card.name} names no neutral label value in column {layout.label}."
            )
        meaning |= {value: names.index(neutral) for value in layout.neutral}

    # Beside the card's own values: its labels' names and words, and true and false for 1 and 0.
    also = {text: index for index, label in enumerate(card.labels) for text in (label.words, label.name)}
    if {"0", "1"} <= meaning.keys():
        also |= {text: meaning[value] for value, text in BOOLEANS}
    others = {*meaning, *layout.neutral, *layout.unlabelled}
    meaning |= {text: index for text, index in also.items() if text not in others}

    def several(value: str) -> LabelValue | None:
        parts = [normalise_label(part) for part in value.split(layout.separator.translate(FULL_WIDTH))]
        known = {meaning[part] for part in parts if part in meaning}
        return tuple(sorted(known)) if known and all(part in meaning for part in parts if part) else None

    def number(value: str) -> LabelValue | None:
        try:
            found = float(value)
        except ValueError:
            return None
        left_out = {*layout.neutral, *layout.unlabelled}
        return found if math.isfinite(found) and value not in left_out else None

    if card.task == "regression":
        return number
    return meaning.get if card.task == "single_label" else several


def gold_reader(card: DatasetCard, column: str, neutral: str | None) -> Callable[[str], str | None]:
    """A function from a cell of `column` to the name of its one label, None where it has no meaning: that of
    the card's layout with this label column, else what all layouts take it for.
    """
    own = [layout for layout in card.layouts if layout.label == column] or card.layouts
    readers = [value_reader(card, layout, neutral if layout.neutral else None) for layout in own]

    def read(cell: str) -> str | None:
        value = normalise_label(cell)
        found = {index for reader in readers if isinstance(index := reader(value), int)}
        return card.labels[found.pop()].name if len(found) == 1 else None

    return read


def name_label_value(meaning: LabelValue, card: DatasetCard) -> str:
    """A meaning as a person reads it."""
    if isinstance(meaning, float):
        return f"{meaning:g}"
    return "、".join(card.labels[index].name for index in indices_of(meaning))


def indices_of(meaning: LabelValue) -> tuple[int, ...]:
    """The labels that a row has, by index; none where it has a number."""
    if isinstance(meaning, float):
        return ()
    return (meaning,) if isinstance(meaning, int) else meaning


def stratify(meanings: list[LabelValue], codes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """For each row the group of which every split gets its share; of the rows that are not `at`, any.

    `codes`: each row's index into `meanings`.  Groups: a row's label; of several the one that fewest rows
    have; of numbers STRATA ranges.
    """
    if all(isinstance(meaning, int) for meaning in meanings):
        return codes
    rows = np.bincount(codes[at], minlength=len(meanings)).tolist()
    if all(isinstance(meaning, float) for meaning in meanings):
        numbers = np.array(meanings)
        edges = np.quantile(numbers[codes[at]], np.arange(1, STRATA) / STRATA)
        return np.searchsorted(np.unique(edges), numbers, side="right")[codes]
    counts: Counter[int] = Counter()
    for meaning, count in zip(meanings, rows, strict=True):
        counts.update(dict.fromkeys(indices_of(meaning), count))
    rarest = [min(indices_of(meaning), key=lambda label: (counts[label], label)) for meaning in meanings]
    return np.array(rarest)[codes]
