"""Labels corrected by hand: a table like audit.csv, whose column `correction` has the right labels."""

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from workflows.core.errors import UserError
from workflows.core.table_writers import as_read
from workflows.core.tables import read_table
from workflows.data.reviews import CODES, DROPPED, KEPT, ReviewTable, read_texts, strip_text
from workflows.experiment.cards import Label

COLUMNS = ("id", "text", "correction")
DROP = "drop"


def apply_corrections(
    rows: ReviewTable, labels: tuple[Label, ...], path: Path, bar: tqdm
) -> tuple[list[dict[str, Any]], list[int]]:
    """Correct the labels of `rows` by the table `path`; the lines of corrections.jsonl: what changed, by id
    and text, with the label before and after, null where the row is dropped; and the places of these rows,
    which `drop_corrected` takes out.

    A correction is a label's name or words, or `drop`; rows without one stay as they are.  Raises UserError
    for a row that the data do not have, and for a label that is not known.
    """
    frame = read_table(path)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}; corrections are made in audit.csv.")
    meaning = {text: index for index, label in enumerate(labels) for text in (label.words, label.name)}
    frame["id"], frame["correction"] = frame["id"].str.strip(), frame["correction"].str.strip()
    asked = frame.loc[frame["correction"] != "", list(COLUMNS)]
    places = {id: rows.place(id) for id in asked["id"]}
    known = sorted({place for place in places.values() if place is not None})
    texts = read_texts(rows, np.array(known, dtype=np.int64), bar)
    corrections: list[dict[str, Any]] = []
    dropped: list[int] = []
    seen: set[str] = set()
    for index, id, text, wanted in asked.itertuples():
        place, where = places[id], f"{path}, row {index + 1} below the header"
        if id in seen:
            raise UserError(f"{where}: {id} is corrected twice; leave one row of it.")
        if place is None or _bare(texts[place]) not in (_bare(text), _bare(as_read(text))):
            raise UserError(
                f"{where}: no review {id} with this text is used here; these corrections are of another data "
                "set, or of other rows of it, or the text was changed when the table was saved: save it as "
                "CSV UTF-8 or XLSX."
            )
        if wanted not in meaning and wanted.casefold() != DROP:
            raise UserError(f"{where}: correction {wanted!r} is none of {', '.join(meaning)}, {DROP}.")
        seen.add(id)
        before, after = int(rows.labels[place]), meaning.get(wanted)
        if after == before:
            continue
        named_after = None if after is None else labels[after].name
        changed = {"id": id, "text": texts[place], "before": labels[before].name, "after": named_after}
        corrections.append(changed)
        if after is None:
            dropped.append(place)
        else:
            rows.labels[place] = after
    return corrections, dropped


def drop_corrected(rows: ReviewTable, dropped: list[int], path: Path) -> None:
    """Take out the rows that `apply_corrections` found marked in `path`."""
    for place in dropped:
        if rows.reasons[place] == CODES[KEPT]:
            rows.reject(place, DROPPED, path.name)


def _bare(text: str) -> str:
    """A text as compared: spreadsheets change blanks and line ends; rejected rows have what files have."""
    return "".join(strip_text(text).split())
