"""Reviews without labels, for pseudo-labels: read, cleaned, and kept apart from every split of the run.

Not covered: near copies among the unlabelled reviews themselves, or of training rows; exact copies go.
"""

from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.rows import Rows
from workflows.core.run_folder import SPLITS
from workflows.core.screen import Screen
from workflows.core.tables import as_unicode, name_columns, read_table
from workflows.data.near_copies import find_near_copies
from workflows.data.reviews import Review, strip_text, why_no_review
from workflows.experiment.cards import DatasetCard


def read_unlabelled(
    path: Path, card: DatasetCard, splits: dict[str, Rows], screen: Screen
) -> tuple[list[Review], Rows]:
    """The usable reviews of a table (ids unlabelled:<row>, label 0), and the rejected rows with reasons.

    The text column is the first of the data set's that the file has.  `splits`: the run's rows by split.
    Raises UserError where the file cannot be read, or has no such column.
    """
    frame = read_table(path)
    columns = [layout.text for layout in card.layouts]
    column = next((name for name in columns if name in frame.columns), None)
    if column is None:
        raise UserError(
            f"--unlabelled {path}: column {' or '.join(columns)} is wanted, the file has "
            f"{name_columns(frame.columns)}. Rename the column with the reviews to {columns[0]} in that file."
        )
    places = {row["review"]: split for split in SPLITS for row in splits[split]}
    kept: list[Review] = []
    rejected: Rows = []
    for number, raw in enumerate(frame[column], start=1):
        id, text = f"unlabelled:{number}", strip_text(raw)
        place = places.get(text)
        reason = why_no_review(raw)
        if not reason and place is not None:
            reason = "duplicate" if place in ("train", "unlabelled") else f"stands in {place}"
        if reason:
            rejected.append({"id": id, "review": as_unicode(text), "reason": reason})
        else:
            places[text] = "unlabelled"
            kept.append(Review(id, text, 0))
    held_out = [row["review"] for split in ("val", "test") for row in splits[split]]
    with screen.progress("unlabelled: looking for near copies", total=len(kept)) as bar:
        copies = find_near_copies([review.text for review in kept], [], held_out, bar).train_in_test
    near = "near copy of a validation or test row"
    rejected += [{"id": kept[at].id, "review": kept[at].text, "reason": near} for at in copies]
    return [review for position, review in enumerate(kept) if position not in copies], rejected
