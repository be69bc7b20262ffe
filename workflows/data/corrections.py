"""Labels corrected by hand: a table like audit.csv, whose column `correction` has the right labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from workflows.core.errors import UserError
from workflows.core.tables import read_table
from workflows.data.reviews import DROPPED, ReviewTable, read_texts
from workflows.experiment.cards import Label

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
    rows: ReviewTable, labels: tuple[Label, ...], path: Path, bar: tqdm
) -> list[Correction]:
    """Correct `rows` by the table `path`; the corrections that changed something.

    A correction is a label's name or words, or `drop`; rows without one stay as they are.  Raises UserError
    for a row that the data do not have, and for a label that is not known.
    """
    frame = read_table(path)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}; corrections are made in audit.csv.")
    meaning = {text: index for index, label in enumerate(labels) for text in (label.words, label.name)}
    cells = [(id.strip(), text, wanted.strip()) for id, text, wanted in frame[list(COLUMNS)].values.tolist()]
    named = {place for id, _, wanted in cells if wanted and (place := rows.place(id)) is not None}
    texts = read_texts(rows, np.array(sorted(named), dtype=np.int64), bar)
    corrections: list[Correction] = []
    seen: set[str] = set()
    for number, (id, text, wanted) in enumerate(cells, start=1):
        if not wanted:
            continue
        place = rows.place(id)
        if id in seen:
            raise UserError(f"{path}, row {number}: {id} is corrected twice; leave one row of it.")
        if place is None or _bare(texts[place]) != _bare(text):
            raise UserError(
                f"{path}, row {number}: no review {id} with this text is used here; these corrections are of "
                "another data set, or of other rows of it."
            )
        if wanted not in meaning and wanted.casefold() != DROP:
            raise UserError(
                f"{path}, row {number}: correction {wanted!r} is none of {', '.join(meaning)}, {DROP}."
            )
        seen.add(id)
        before, after = int(rows.labels[place]), meaning.get(wanted)
        if after == before:
            continue
        corrections.append(Correction(id, before, after))
        if after is None:
            rows.reject(place, DROPPED, path.name)
        else:
            rows.labels[place] = after
    return corrections


def _bare(text: str) -> str:
    """A text as compared: spreadsheets change blanks and line ends."""
    return "".join(text.split())
