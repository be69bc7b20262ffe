"""Labels corrected by hand: a table like audit.csv, whose column `correction` has the right labels."""

from dataclasses import dataclass, replace
from pathlib import Path

from workflows.data.reviews import Review
from workflows.data.tables import read_table
from workflows.errors import UserError
from workflows.experiment import Label

COLUMNS = ("id", "text", "correction")
DROP = "drop"


@dataclass(frozen=True)
class Correction:
    """One corrected row: the label index before and after, or None where the row is dropped."""

    id: str
    before: int
    after: int | None

    def named(self, labels: tuple[Label, ...]) -> dict[str, str | None]:
        """As corrections.jsonl has it."""
        after = None if self.after is None else labels[self.after].name
        return {"id": self.id, "before": labels[self.before].name, "after": after}


def apply_corrections(
    splits: dict[str, list[Review]], labels: tuple[Label, ...], path: Path
) -> tuple[dict[str, list[Review]], list[Correction]]:
    """The reviews with the corrections of `path` applied, and the corrections that changed something.

    A correction is a label's name or words, or `drop`; rows without one stay as they are.  Raises UserError
    for a row that the data do not have, and for a label that is not known.
    """
    frame = read_table(path).frame
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}; corrections are made in audit.csv.")
    meaning = {text: index for index, label in enumerate(labels) for text in (label.words, label.name)}
    reviews = {review.id: review for rows in splits.values() for review in rows}
    corrections: dict[str, Correction] = {}
    seen: set[str] = set()
    for number, (id, text, cell) in enumerate(frame[list(COLUMNS)].itertuples(index=False), start=1):
        wanted = cell.strip()
        if not wanted:
            continue
        review = reviews.get(id.strip())
        if review is None or _bare(review.text) != _bare(text):
            raise UserError(
                f"{path}, row {number}: no review {id} with this text is used here; these corrections are of "
                "another data set, or of other rows of it."
            )
        if wanted not in meaning and wanted.casefold() != DROP:
            raise UserError(
                f"{path}, row {number}: correction {wanted!r} is none of {', '.join(meaning)}, {DROP}."
            )
        if review.id in seen:
            raise UserError(f"{path}, row {number}: {review.id} is corrected twice; leave one row of it.")
        seen.add(review.id)
        after = meaning.get(wanted)
        if after != review.label:
            corrections[review.id] = Correction(review.id, review.label, after)

    def corrected(review: Review) -> Review | None:
        if review.id not in corrections:
            return review
        after = corrections[review.id].after
        return None if after is None else replace(review, label=after)

    changed = {split: [row for row in map(corrected, rows) if row] for split, rows in splits.items()}
    return changed, list(corrections.values())


def _bare(text: str) -> str:
    """A text as compared: spreadsheets change blanks and line ends."""
    return "".join(text.split())
