"""Raw rows become reviews: texts stripped, labels read, and every row that is not kept rejected with its
reason.

Rows read = reviews kept + rows rejected, always.  In memory a row is some numbers; whoever needs its text
reads the files again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from workflows.core.errors import UserError
from workflows.core.statistics import describe_lengths
from workflows.core.tables import (
    NO_HEADER,
    NotText,
    Table,
    as_unicode,
    name_columns,
    read_chunks,
    shorten,
)
from workflows.data.labels import LabelValue, indices_of, name_label_value, stratify, value_reader
from workflows.experiment.cards import DatasetCard, Layout
from workflows.experiment.labels import INVISIBLE, can_be_named, labels_flag, normalise_label

# The test set is kept whole where a text stands in several splits: the copy in training goes.
KEEP_ORDER = ("test", "val", "train")
KEPT, UNKNOWN_LABEL = "", "unknown label"
CONFLICT, DUPLICATE = "conflicting labels", "duplicate"
DROPPED, NEAR_COPY = "dropped by hand", "near copy of a test row"
SAME_TEXT = "same text as a test row"  # of another data set
EMPTY_TEXT, EMPTY_LABEL, NOT_UNICODE = "empty text", "empty label", "not valid Unicode"
NOT_TEXT = "not a text"  # but a number, a truth value, a list, an object
NEUTRAL, UNLABELLED = "neutral label", "unlabelled"
REASONS = (
    *(KEPT, EMPTY_TEXT, EMPTY_LABEL, NOT_UNICODE, NEUTRAL, UNLABELLED, UNKNOWN_LABEL),
    *(CONFLICT, DUPLICATE, DROPPED, NEAR_COPY, SAME_TEXT, NOT_TEXT),
)
CODES = {reason: code for code, reason in enumerate(REASONS)}
DIGEST_BYTES = 8  # of a text; any two of five million texts share theirs with a probability below 1e-6
VALUES_TOLD_APART = 1000  # of unknown labels: the column may be none of labels


@dataclass(frozen=True)
class Review:
    """One kept row; `id` is <split of the source>:<row number>."""

    id: str
    text: str
    label: LabelValue  # index into the card's labels; several; or a number


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows as their file has them."""

    split: str  # of the source: train, val or test
    start: int  # place of the first of these rows
    texts: list[str]
    labels: list[str]


@dataclass(frozen=True)
class ReviewTable:
    """What is known of each row of a data set; a row's place is its index in the arrays.

    A later stage may change `labels`, and reject more rows.
    """

    tables: dict[str, Table]
    layouts: dict[str, Layout]
    card: DatasetCard
    places: dict[str, range]  # of the rows of each split of the source
    reasons: np.ndarray  # int8, index into REASONS
    labels: np.ndarray  # int32, index into `meanings`, of kept rows
    meanings: list[LabelValue]  # of one label a row: the labels' indices, in order
    lengths: np.ndarray  # int32, characters of the stripped text
    originals: np.ndarray  # int32, place of the first row with the same text
    opponents: np.ndarray  # int32, place of the last row with the same text and another label than the first
    details: dict[int, str] = field(default_factory=dict)  # why a row was rejected later

    def kept(self, split: str) -> np.ndarray:
        """Places of the kept rows of a split of the source, in file order."""
        span = self.places[split]
        return span.start + np.flatnonzero(self.reasons[span.start : span.stop] == CODES[KEPT])

    def count_rejected(self, split: str | None = None) -> dict[str, int]:
        """How many rows, of one split of the source or of all, were rejected for which reason; most first."""
        span = range(len(self.reasons)) if split is None else self.places[split]
        counts = np.bincount(self.reasons[span.start : span.stop], minlength=len(REASONS)).tolist()
        rejected = Counter(dict(zip(REASONS[1:], counts[1:], strict=True)))
        return {reason: count for reason, count in rejected.most_common() if count}

    def describe(self, at: np.ndarray) -> dict[str, Any]:
        """How many of the rows `at` there are, and of each label; their numbers in a regression; their
        lengths.
        """
        labels = dict.fromkeys((label.name for label in self.card.labels), 0)
        rows = np.bincount(self.labels[at], minlength=len(self.meanings)).tolist()
        for meaning, count in zip(self.meanings, rows, strict=True):
            for index in indices_of(meaning):
                labels[self.card.labels[index].name] += count
        numbers = None
        if self.card.task == "regression":
            values = np.array(self.meanings, dtype=float)[self.labels[at]]
            figures = {"mean": values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()}
            numbers = {name: float(figure) for name, figure in figures.items()}
        lengths = describe_lengths(self.lengths[at])
        return {"rows": len(at), "labels": labels, "numbers": numbers, "characters": lengths}

    def strata(self) -> np.ndarray:
        """For each row the group of which every split and sample gets its share."""
        return stratify(self.meanings, self.labels, np.flatnonzero(self.reasons == CODES[KEPT]))

    def id(self, place: int) -> str:
        """The id of a review."""
        split = next(split for split, span in self.places.items() if place in span)
        return f"{split}:{place - self.places[split].start + 1}"

    def place(self, id: str) -> int | None:
        """The place of the kept row with this id; None where there is none."""
        split, _, number = id.partition(":")
        if split not in self.places or not number.isdecimal():
            return None
        place = self.places[split].start + int(number) - 1
        known = place in self.places[split] and self.id(place) == id and self.reasons[place] == CODES[KEPT]
        return place if known else None

    def reject(self, place: int, reason: str, detail: str) -> None:
        """Take out a row that was kept until now."""
        self.reasons[place] = CODES[reason]
        self.details[place] = detail

    def detail(self, place: int) -> str:
        """What more there is to say of why a row was rejected."""
        reason = REASONS[self.reasons[place]]
        first, other = int(self.originals[place]), int(self.opponents[place])
        if reason == DUPLICATE:
            return f"same text and label as {self.id(first)}"
        if reason == CONFLICT:
            named = [
                (name_label_value(self.meanings[self.labels[row]], self.card), row) for row in (first, other)
            ]
            return ", ".join(f"{name} in {self.id(row)}" for name, row in named)
        return self.details.get(place, "")

    def read(self) -> Iterator[Chunk]:
        """The rows once more, as their files have them, by split and row."""
        return _read_rows(self.tables, self.card, self.layouts, self.places, sorted(self.tables))


class UnknownLabels(UserError):
    """Label values that the card does not know; `rows` says which rows have them."""

    def __init__(self, message: str, rows: ReviewTable) -> None:
        super().__init__(message)
        self.rows = rows


def choose_layout(card: DatasetCard, path: Path, columns: list[str], alone: bool) -> Layout:
    """The card's first layout whose columns the file has; a UserError lists the columns found and what to
    give.  `alone`: whether the data set has no other file.
    """
    for layout in card.layouts:
        if layout.text in columns and layout.label in columns:
            return layout
    wanted = " or ".join(f"{layout.text}, {layout.label}" for layout in card.layouts)
    raise UserError(
        f"{path}: columns {wanted} are wanted, the file has {name_columns(columns)}. Name them with "
        "--text-column and --label-column"
        + ("" if alone else ", which hold for all files of the data set, or rename them in this one")
        + f". {NO_HEADER}"
    )


def strip_text(text: str) -> str:
    """A text without blanks and invisible marks at its ends."""
    return text.strip().strip(INVISIBLE).strip()


def why_no_review(cell: str) -> str:
    """The reason why a cell is no review; none ("") where it is one."""
    if isinstance(cell, NotText):
        return NOT_TEXT
    if not strip_text(cell):
        return EMPTY_TEXT
    return KEPT if as_unicode(cell) == cell else NOT_UNICODE


def _read_rows(
    tables: dict[str, Table],
    card: DatasetCard,
    layouts: dict[str, Layout],
    places: dict[str, range],
    order: Iterable[str],
) -> Iterator[Chunk]:
    """The rows of the splits in `order`; what is not known of a file yet joins `layouts` and `places`."""
    for split in order:
        table, layout = tables[split], layouts.get(split)
        first = start = places[split].start if split in places else sum(map(len, places.values()))
        for frame in read_chunks(table, None if layout is None else [layout.text, layout.label]):
            layout = layouts[split] = layout or choose_layout(
                card, table.path, list(frame.columns), len(tables) == 1
            )
            # A key may be missing in all rows of a chunk of JSONL.
            wanted = frame.reindex(columns=[layout.text, layout.label], fill_value="")
            yield Chunk(split, start, wanted[layout.text].tolist(), wanted[layout.label].tolist())
            start += len(frame)
        places[split] = range(first, start)


def classify_rows(tables: dict[str, Table], card: DatasetCard, neutral: str | None, bar: tqdm) -> ReviewTable:
    """Which rows are kept, and why the others are not; one reading of the files.

    `neutral`: the label name that neutral values count as; None rejects them.
    Raises UnknownLabels where a label value has no meaning, so that no class is lost silently.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    one_each = range(len(card.labels)) if card.task == "single_label" else ()
    meanings: dict[LabelValue, int] = {label: label for label in one_each}
    layouts: dict[str, Layout] = {}
    places: dict[str, range] = {}
    unknown: Counter[str] = Counter()
    order = [split for split in KEEP_ORDER if split in tables]
    for chunk in _read_rows(tables, card, layouts, places, order):
        texts = [strip_text(text) for text in chunk.texts]
        reasons, labels = _classify_labels(chunk.labels, card, layouts[chunk.split], neutral, meanings)
        lengths = np.fromiter(map(len, texts), np.int32, len(texts))
        digests = np.frombuffer(b"".join(map(_digest, texts)), dtype=np.uint64)
        reasons[(reasons == CODES[KEPT]) & (digests == 0)] = CODES[NOT_UNICODE]
        reasons[lengths == 0] = CODES[EMPTY_TEXT]
        reasons[[isinstance(text, NotText) for text in chunk.texts]] = CODES[NOT_TEXT]
        parts.append((reasons, labels, lengths, digests))
        for row in np.flatnonzero(reasons == CODES[UNKNOWN_LABEL]).tolist():
            value = normalise_label(chunk.labels[row])
            if value in unknown or len(unknown) < VALUES_TOLD_APART:
                unknown[value] += 1
        bar.update(len(texts))
    reasons, labels, lengths, digests = (np.concatenate(each) for each in zip(*parts, strict=True))
    parts.clear()
    originals, opponents = _find_copies(digests, labels, np.flatnonzero(reasons == CODES[KEPT]))
    rows = ReviewTable(
        tables, layouts, card, places, reasons, labels, list(meanings), lengths, originals, opponents
    )
    if unknown:
        raise UnknownLabels(_unknown_message(rows, unknown, neutral), rows)
    reasons[(originals >= 0) & (originals != np.arange(len(originals)))] = CODES[DUPLICATE]
    reasons[opponents >= 0] = CODES[CONFLICT]
    return rows


def read_texts(rows: ReviewTable, at: np.ndarray, bar: tqdm) -> dict[int, str]:
    """The stripped texts of the rows `at` (sorted places); one more reading of the files."""
    texts: dict[int, str] = {}
    for chunk in rows.read():
        texts |= texts_within(chunk, at)
        bar.update(len(chunk.texts))
    return texts


def texts_within(chunk: Chunk, at: np.ndarray) -> dict[int, str]:
    """The stripped texts of those rows `at` (sorted places) that stand in `chunk`."""
    low, high = np.searchsorted(at, [chunk.start, chunk.start + len(chunk.texts)])
    return {place: strip_text(chunk.texts[place - chunk.start]) for place in at[low:high].tolist()}


def rejected_rows(rows: ReviewTable, chunks: Iterable[Chunk]) -> Iterator[dict[str, Any]]:
    """The lines of rejected.jsonl for some chunks: rows as the file has them.

    Half surrogates become ?, which UTF-8 can hold.
    """
    for chunk in chunks:
        reasons = rows.reasons[chunk.start : chunk.start + len(chunk.texts)]
        for row in np.flatnonzero(reasons != CODES[KEPT]).tolist():
            place = chunk.start + row
            yield {
                "source": chunk.split,
                "file": rows.tables[chunk.split].path.name,
                "row": place - rows.places[chunk.split].start + 1,
                "reason": REASONS[reasons[row]],
                "detail": rows.detail(place),
                "text": as_unicode(chunk.texts[row]),
                "label": as_unicode(chunk.labels[row]),
            }


def _classify_labels(
    cells: list[str],
    card: DatasetCard,
    layout: Layout,
    neutral: str | None,
    meanings: dict[LabelValue, int],
) -> tuple[np.ndarray, np.ndarray]:
    """For each row, by its label alone, index into REASONS and into `meanings` (-1 where it has none), which
    grows where rows have several labels or numbers.
    """
    codes, values = pd.factorize(np.array(cells, dtype=object))
    read = value_reader(card, layout, neutral)
    reasons: list[int] = []
    labels: list[int] = []
    for value in map(normalise_label, values):
        meaning = read(value) if value else None
        reasons.append(CODES[KEPT if meaning is not None else _why_not(value, layout)])
        labels.append(-1 if meaning is None else meanings.setdefault(meaning, len(meanings)))
    return np.array(reasons, dtype=np.int8)[codes], np.array(labels, dtype=np.int32)[codes]


def _why_not(value: str, layout: Layout) -> str:
    if not value:
        return EMPTY_LABEL
    if value in layout.neutral:
        return NEUTRAL
    return UNLABELLED if value in layout.unlabelled else UNKNOWN_LABEL


def _digest(text: str) -> bytes:
    """A hash of a text; zeros where it has half of a surrogate pair, which a JSON escape can bring."""
    try:
        return blake2b(text.encode("utf-8"), digest_size=DIGEST_BYTES).digest()
    except UnicodeEncodeError:
        return bytes(DIGEST_BYTES)


def _find_copies(digests: np.ndarray, labels: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row at `at` the first row with the same text, and the last of those with another label than
    that one; -1 where there is none.
    """
    originals, opponents = np.full((2, len(labels)), -1, dtype=np.int32)
    _, first, text = np.unique(digests[at], return_index=True, return_inverse=True)
    originals[at] = at[first][text]
    differ = labels[at] != labels[originals[at]]
    last = np.full(len(first), -1, dtype=np.int32)
    last[text[differ]] = at[differ]  # of several places of a text the last one stays
    opponents[at] = last[text]
    return originals, opponents


def _unknown_message(rows: ReviewTable, counts: Counter[str], neutral: str | None) -> str:
    split, _, number = rows.id(int(np.argmax(rows.reasons == CODES[UNKNOWN_LABEL]))).partition(":")
    value, layout = next(iter(counts)), rows.layouts[split]
    values, left_out = layout.values, [*layout.neutral, *layout.unlabelled]
    if neutral is not None:
        values = {**values, neutral: (*values[neutral], *layout.neutral)}
        left_out = [*layout.unlabelled]
    table = rows.tables[split]
    row = f"row {number}" if table.format in ("jsonl", "parquet") else f"row {number} below the header"
    where = f"{table.path.name}, {row}: label {shorten(value)}"
    mapping = [f"{known}={name}" for name, group in values.items() for known in group]
    listed = ", ".join(f"{shorten(other)} in {count} row(s)" for other, count in counts.most_common(5))
    if not mapping:
        return (
            f"{where} is no number (not known: {listed}). Mend such rows, or name the value in the card's "
            "`unlabelled`, which leaves them out."
        )
    asked = [other for other, _ in counts.most_common(5)]
    if not all(map(can_be_named, asked)):
        wanted = (
            "Mend such rows; or, where the column holds no labels, name the right one with --label-column."
        )
    else:
        used = mapping if (rows.labels >= 0).any() else []  # values that no row has would only confuse
        empty = [f"{other}=" for other in (*(left_out if used else []), *asked)]
        flag = labels_flag(",".join([*used, *empty]))
        wanted = "Write the label's name behind each `=`; an empty name leaves such rows out"
        # They may be the card's, and the file one of other labels: 1 of 5 stars is no good review.
        wanted += "; look whether those that are filled in are right for this file" if used else ""
        wanted += f": {flag}"
        wanted += "" if neutral is None else " (without --neutral)"
    known = ", ".join(value for group in values.values() for value in group)
    known += f"; left out: {', '.join(left_out)}" if left_out else ""
    return f"{where} is none of {', '.join(values)} (known values: {known}; not known: {listed}). {wanted}"
