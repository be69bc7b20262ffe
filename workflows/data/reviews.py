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
from workflows.core.tables import Table, read_chunks
from workflows.data.labels import LabelValue, indices_of, name_label_value, stratify, value_reader
from workflows.experiment.cards import DatasetCard, Layout
from workflows.experiment.labels import INVISIBLE, labels_flag, normalise_label

# The test set is kept whole where a text stands in several splits: the copy in training goes.
KEEP_ORDER = ("test", "val", "train")
KEPT, UNKNOWN_LABEL = "", "unknown label"
CONFLICT, DUPLICATE = "conflicting labels", "duplicate"
DROPPED, NEAR_COPY = "dropped by hand", "near copy of a test row"
EMPTY_TEXT, EMPTY_LABEL, NOT_UNICODE = "empty text", "empty label", "not valid Unicode"
NEUTRAL, UNLABELLED = "neutral label", "unlabelled"
REASONS = (
    *(KEPT, EMPTY_TEXT, EMPTY_LABEL, NOT_UNICODE, NEUTRAL, UNLABELLED, UNKNOWN_LABEL),
    *(CONFLICT, DUPLICATE, DROPPED, NEAR_COPY),
)
CODES = {reason: code for code, reason in enumerate(REASONS)}
DIGEST_BYTES = 16  # of a text; two texts out of a billion share theirs with a probability below 1e-20
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
    path: Path
    layout: Layout
    number: int  # of the first of these rows; 1 is the file's first
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
        reasons = (
            self.reasons
            if split is None
            else self.reasons[self.places[split].start : self.places[split].stop]
        )
        counts = np.bincount(reasons, minlength=len(REASONS)).tolist()
        named = Counter(dict(zip(REASONS[1:], counts[1:], strict=True)))
        return {reason: count for reason, count in named.most_common() if count}

    def count_labels(self, at: np.ndarray) -> dict[str, int]:
        """How many of the rows `at` have each label, in index order."""
        counts = dict.fromkeys((label.name for label in self.card.labels), 0)
        rows = np.bincount(self.labels[at], minlength=len(self.meanings)).tolist()
        for meaning, count in zip(self.meanings, rows, strict=True):
            for index in indices_of(meaning):
                counts[self.card.labels[index].name] += count
        return counts

    def describe_numbers(self, at: np.ndarray) -> dict[str, float] | None:
        """Mean, standard deviation, minimum and maximum of the rows `at` of a regression; else None."""
        if self.card.task != "regression":
            return None
        numbers = np.array(self.meanings, dtype=float)[self.labels[at]]
        return {
            "mean": float(numbers.mean()),
            "sd": float(numbers.std()),
            "min": float(numbers.min()),
            "max": float(numbers.max()),
        }

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
        first = int(self.originals[place])
        if reason == DUPLICATE:
            return f"same text and label as {self.id(first)}"
        if reason == CONFLICT:
            names = [
                name_label_value(self.meanings[self.labels[row]], self.card)
                for row in (first, self.opponents[place])
            ]
            return f"{names[0]} in {self.id(first)}, {names[1]} in {self.id(int(self.opponents[place]))}"
        return self.details.get(place, "")


class UnknownLabels(UserError):
    """Label values that the card does not know; `rows` says which rows have them."""

    def __init__(self, message: str, rows: ReviewTable) -> None:
        super().__init__(message)
        self.rows = rows


def choose_layout(card: DatasetCard, path: Path, columns: list[str]) -> Layout:
    """The card's first layout whose columns the file has; a UserError lists the columns found and what to
    give.
    """
    for layout in card.layouts:
        if layout.text in columns and layout.label in columns:
            return layout
    wanted = " or ".join(f"{layout.text}, {layout.label}" for layout in card.layouts)
    raise UserError(
        f"{path}: columns {wanted} are wanted, the file has {', '.join(map(repr, columns))}. "
        "Name them with --text-column and --label-column."
    )


def strip_text(text: str) -> str:
    """A text without blanks and invisible marks at its ends."""
    return text.strip().strip(INVISIBLE).strip()


def read_rows(
    tables: dict[str, Table], layouts: dict[str, Layout], card: DatasetCard, order: Iterable[str]
) -> Iterator[Chunk]:
    """The rows of the splits in `order`, as their files have them.

    `layouts`: of the files that were read before; those of the others are added to it.
    """
    for split in (split for split in order if split in tables):
        table, layout, number = tables[split], layouts.get(split), 1
        for frame in read_chunks(table, None if layout is None else [layout.text, layout.label]):
            layout = layout or choose_layout(card, table.path, list(frame.columns))
            layouts[split] = layout
            # A key may be missing in all rows of a chunk of JSONL.
            wanted = frame.reindex(columns=[layout.text, layout.label], fill_value="")
            texts, labels = wanted[layout.text].tolist(), wanted[layout.label].tolist()
            yield Chunk(split, table.path, layout, number, texts, labels)
            number += len(frame)


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
    first_unknown: tuple[Chunk, int] | None = None
    for chunk in read_rows(tables, layouts, card, KEEP_ORDER):
        texts = [strip_text(text) for text in chunk.texts]
        reasons, labels = _judge_labels(chunk, card, neutral, meanings)
        lengths = np.fromiter(map(len, texts), np.int32, len(texts))
        encoded, valid = _encode(texts)
        reasons[(reasons == CODES[KEPT]) & ~valid] = CODES[NOT_UNICODE]
        reasons[lengths == 0] = CODES[EMPTY_TEXT]
        parts.append((reasons, labels, lengths, _digest(encoded)))
        for row in np.flatnonzero(reasons == CODES[UNKNOWN_LABEL]).tolist():
            first_unknown = first_unknown or (chunk, row)
            value = normalise_label(chunk.labels[row])
            if value in unknown or len(unknown) < VALUES_TOLD_APART:
                unknown[value] += 1
        start = places[chunk.split].start if chunk.split in places else sum(map(len, places.values()))
        places[chunk.split] = range(start, start + chunk.number - 1 + len(texts))
        bar.update(len(texts))
    reasons, labels, lengths, digests = (np.concatenate(each) for each in zip(*parts, strict=True))
    parts.clear()
    originals, opponents = _find_copies(digests, labels, np.flatnonzero(reasons == CODES[KEPT]))
    rows = ReviewTable(
        tables, layouts, card, places, reasons, labels, list(meanings), lengths, originals, opponents
    )
    if first_unknown is not None:
        raise UnknownLabels(_unknown_message(*first_unknown, unknown), rows)
    copies = (originals >= 0) & (originals != np.arange(len(originals)))
    reasons[copies] = CODES[DUPLICATE]
    reasons[opponents >= 0] = CODES[CONFLICT]
    return rows


def read_again(rows: ReviewTable, order: Iterable[str]) -> Iterator[Chunk]:
    """The rows of the splits in `order` once more."""
    return read_rows(rows.tables, rows.layouts, rows.card, order)


def read_texts(rows: ReviewTable, places: np.ndarray, bar: tqdm) -> dict[int, str]:
    """The stripped texts of the rows at `places` (sorted); one more reading of the files."""
    texts: dict[int, str] = {}
    for chunk in read_again(rows, KEEP_ORDER):
        texts |= texts_within(rows, chunk, places)
        bar.update(len(chunk.texts))
    return texts


def texts_within(rows: ReviewTable, chunk: Chunk, places: np.ndarray) -> dict[int, str]:
    """The stripped texts of those rows at `places` (sorted) that stand in `chunk`."""
    start = first_place(rows, chunk)
    low, high = np.searchsorted(places, [start, start + len(chunk.texts)])
    return {place: strip_text(chunk.texts[place - start]) for place in places[low:high].tolist()}


def first_place(rows: ReviewTable, chunk: Chunk) -> int:
    """The place of a chunk's first row."""
    return rows.places[chunk.split].start + chunk.number - 1


def rejected_row(rows: ReviewTable, chunk: Chunk, row: int) -> dict[str, Any]:
    """A line of rejected.jsonl: the row numbered `row` in the chunk, as the file has it.

    Half surrogates become ?, which UTF-8 can hold.
    """
    place = first_place(rows, chunk) + row
    return {
        "source": chunk.split,
        "file": chunk.path.name,
        "row": chunk.number + row,
        "reason": REASONS[rows.reasons[place]],
        "detail": rows.detail(place),
        "text": chunk.texts[row].encode("utf-8", "replace").decode("utf-8"),
        "label": chunk.labels[row].encode("utf-8", "replace").decode("utf-8"),
    }


def rejected_rows(rows: ReviewTable) -> Iterator[dict[str, Any]]:
    """All lines of rejected.jsonl, by split and row; one more reading of the files."""
    for chunk in read_again(rows, sorted(rows.tables)):
        start = first_place(rows, chunk)
        reasons = rows.reasons[start : start + len(chunk.texts)]
        yield from (rejected_row(rows, chunk, row) for row in np.flatnonzero(reasons != CODES[KEPT]).tolist())


def _judge_labels(
    chunk: Chunk, card: DatasetCard, neutral: str | None, meanings: dict[LabelValue, int]
) -> tuple[np.ndarray, np.ndarray]:
    """For each row, by its label alone, index into REASONS and into `meanings` (-1 where it has none), which
    grows where rows have several labels or numbers.
    """
    codes, values = pd.factorize(np.array(chunk.labels, dtype=object))
    read = value_reader(card, chunk.layout, neutral, normalise_label)
    reasons: list[int] = []
    labels: list[int] = []
    for value in map(normalise_label, values):
        meaning = read(value) if value else None
        reasons.append(CODES[KEPT] if meaning is not None else _why_not(value, chunk.layout))
        labels.append(-1 if meaning is None else meanings.setdefault(meaning, len(meanings)))
    return np.array(reasons, dtype=np.int8)[codes], np.array(labels, dtype=np.int32)[codes]


def _why_not(value: str, layout: Layout) -> int:
    if not value:
        return CODES[EMPTY_LABEL]
    if value in layout.neutral:
        return CODES[NEUTRAL]
    return CODES[UNLABELLED if value in layout.unlabelled else UNKNOWN_LABEL]


def _encode(texts: list[str]) -> tuple[list[bytes], np.ndarray]:
    """The texts in UTF-8, and which of them it can hold: those without half of a surrogate pair, which a JSON
    escape can bring.
    """
    try:
        return [text.encode("utf-8") for text in texts], np.ones(len(texts), dtype=bool)
    except UnicodeEncodeError:
        encoded = [text.encode("utf-8", "replace") for text in texts]
        same = [text == data.decode("utf-8") for text, data in zip(texts, encoded, strict=True)]
        return encoded, np.array(same)


def _digest(texts: list[bytes]) -> np.ndarray:
    """(texts, 2) numbers that are the same for the same texts alone."""
    digests = [blake2b(text, digest_size=DIGEST_BYTES).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)


def _find_copies(digests: np.ndarray, labels: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row at `at` the first row with the same text, and the last of those with another label than
    that one; -1 where there is none.
    """
    originals, opponents = np.full((2, len(labels)), -1, dtype=np.int32)
    if len(at) == 0:
        return originals, opponents
    # Equal texts come together, in the order of their places.
    order = at[np.lexsort((digests[at, 0], digests[at, 1]))].astype(np.int32)
    ordered = digests[order]
    is_first = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    starts = np.flatnonzero(is_first)
    group = np.cumsum(is_first, dtype=np.int32) - 1
    originals[order] = order[starts][group]
    differ = labels[order] != labels[originals[order]]
    opponents[order] = np.maximum.reduceat(np.where(differ, order, np.int32(-1)), starts)[group]
    return originals, opponents


def _unknown_message(chunk: Chunk, row: int, counts: Counter[str]) -> str:
    value = normalise_label(chunk.labels[row])
    values = chunk.layout.values
    mapping = [f"{known}={name}" for name, group in values.items() for known in group]
    listed = ", ".join(f"{other!r} in {count} row(s)" for other, count in counts.most_common(5))
    if not mapping:
        return (
            f"{chunk.path.name}, row {chunk.number + row}: label {value!r} is no number (not known: "
            f"{listed}). Mend such rows, or name the value in the card's `unlabelled`, which leaves them out."
        )
    return (
        f"{chunk.path.name}, row {chunk.number + row}: label {value!r} is none of {', '.join(values)} "
        f"(known values: {', '.join(known.split('=')[0] for known in mapping)}; not known: {listed}). "
        "Say what it means, or leave such rows out by an empty name: "
        f"{labels_flag(','.join([*mapping, f'{value}=']))}"
    )
