"""Raw rows become reviews: texts stripped, labels read, and every row that is not kept rejected with its
reason.

Rows read = reviews kept + rows rejected, always.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace

from workflows.data.tables import Table
from workflows.errors import UserError
from workflows.experiment import DatasetCard, Layout

# The test set is kept whole where a text stands in several splits: the copy in training goes.
KEEP_ORDER = ("test", "val", "train")
INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"  # marks that str.strip leaves, though nobody sees them
WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")


@dataclass(frozen=True)
class Review:
    """One kept row; `id` is <split of the source>:<row number>."""

    id: str
    text: str
    label: int  # index into the card's labels


@dataclass(frozen=True)
class Rejected:
    """One row that was read and not kept."""

    source: str  # the split of the source: train, val or test
    file: str
    row: int
    reason: str
    detail: str
    text: str
    label: str


class UnknownLabels(UserError):
    """Label values that the card does not know; `rejected` lists their rows."""

    def __init__(self, message: str, rejected: list[Rejected]) -> None:
        super().__init__(message)
        self.rejected = rejected


def choose_layout(card: DatasetCard, table: Table) -> Layout:
    """The card's first layout whose columns the file has; a UserError lists the columns found and what to
    give.
    """
    columns = list(table.frame.columns)
    for layout in card.layouts:
        if layout.text in columns and layout.label in columns:
            return layout
    wanted = " or ".join(f"{layout.text}, {layout.label}" for layout in card.layouts)
    raise UserError(
        f"{table.path}: columns {wanted} are wanted, the file has {', '.join(map(repr, columns))}. "
        "Name them with --text-column and --label-column."
    )


def normalise_label(value: str) -> str:
    """A label value as compared: stripped, and 1.0 as 1."""
    value = value.strip().strip(INVISIBLE).strip()
    whole = WHOLE_NUMBER.fullmatch(value)
    return whole.group(1) if whole else value


def labels_flag(mapping: str) -> str:
    """--labels with `mapping`, written so that a value like -1 is not taken for a flag."""
    return f"--labels={mapping}" if mapping.startswith("-") else f"--labels {mapping}"


def clean(
    tables: dict[str, Table], card: DatasetCard, neutral: str | None = None
) -> tuple[dict[str, list[Review]], list[Rejected]]:
    """Reviews of each split of the source, and the rejected rows, in file order.

    `neutral`: the label name that neutral values count as; None rejects them.
    Raises UnknownLabels where a label value has no meaning, so that no class is lost silently.
    """
    layouts = {split: choose_layout(card, table) for split, table in tables.items()}
    readable: list[tuple[str, Review, Rejected]] = []  # (split, review, the row as it would be rejected)
    rejected: list[Rejected] = []
    first_copy: dict[str, Review] = {}  # text -> the copy that is kept
    conflicts: dict[str, str] = {}  # text -> which rows say what
    for split in (split for split in KEEP_ORDER if split in tables):
        table, layout = tables[split], layouts[split]
        meaning = _meaning_of_values(card, layout, neutral)
        pairs = zip(table.frame[layout.text], table.frame[layout.label], strict=True)
        for number, (raw_text, raw_label) in enumerate(pairs, start=1):
            text = raw_text.strip().strip(INVISIBLE).strip()
            reason, label = _judge(text, normalise_label(raw_label), layout, meaning)
            row = Rejected(split, table.path.name, number, reason, "", raw_text, raw_label)
            if reason:
                rejected.append(row)
                continue
            review = Review(f"{split}:{number}", text, label)
            readable.append((split, review, row))
            first = first_copy.setdefault(text, review)
            if first.label != label:
                names = card.labels[first.label].name, card.labels[label].name
                conflicts[text] = f"{names[0]} in {first.id}, {names[1]} in {review.id}"
    unknown = [row for row in rejected if row.reason == "unknown label"]
    if unknown:
        raise UnknownLabels(_unknown_message(layouts[unknown[0].source], unknown), rejected)
    kept: dict[str, list[Review]] = {split: [] for split in tables}
    for split, review, row in readable:
        original = first_copy[review.text]
        if review.text in conflicts:
            rejected.append(replace(row, reason="conflicting labels", detail=conflicts[review.text]))
        elif original != review:
            rejected.append(replace(row, reason="duplicate", detail=f"same text and label as {original.id}"))
        else:
            kept[split].append(review)
    rejected.sort(key=lambda row: (row.source, row.row))
    return kept, rejected


def reject(id: str, tables: dict[str, Table], card: DatasetCard, reason: str, detail: str) -> Rejected:
    """The row of the review `id`, which was kept until now, as a rejected one."""
    split, number = id.split(":")
    layout = choose_layout(card, tables[split])
    row = tables[split].frame.iloc[int(number) - 1]
    file = tables[split].path.name
    return Rejected(split, file, int(number), reason, detail, str(row[layout.text]), str(row[layout.label]))


def _meaning_of_values(card: DatasetCard, layout: Layout, neutral: str | None) -> dict[str, int]:
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
    return meaning


def _judge(text: str, value: str, layout: Layout, meaning: dict[str, int]) -> tuple[str, int]:
    """The reason to reject a row ("" to keep it) and its label index."""
    if not text:
        return "empty text", -1
    if not value:
        return "empty label", -1
    if value in meaning:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, from a JSON escape
            return "not valid Unicode", -1
        return "", meaning[value]
    if value in layout.neutral:
        return "neutral label", -1
    if value in layout.unlabelled:
        return "unlabelled", -1
    return "unknown label", -1


def _unknown_message(layout: Layout, unknown: list[Rejected]) -> str:
    first = unknown[0]
    value = normalise_label(first.label)
    mapping = [f"{known}={name}" for name, values in layout.values.items() for known in values]
    counts = Counter(normalise_label(row.label) for row in unknown)
    listed = ", ".join(f"{other!r} in {count} row(s)" for other, count in counts.most_common(5))
    return (
        f"{first.file}, row {first.row}: label {value!r} is none of {', '.join(layout.values)} "
        f"(known values: {', '.join(known.split('=')[0] for known in mapping)}; not known: {listed}). "
        "Say what it means, or leave such rows out by an empty name: "
        f"{labels_flag(','.join([*mapping, f'{value}=']))}"
    )


def count_labels(reviews: list[Review], card: DatasetCard) -> dict[str, int]:
    """How many reviews each label has, in index order."""
    counts = Counter(review.label for review in reviews)
    return {label.name: counts[index] for index, label in enumerate(card.labels)}
