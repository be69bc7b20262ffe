"""Labels that are made wrong on purpose (`--flip-labels`): to see which systems suffer, and what the audit
finds.

Rows that --mix adds keep theirs.
"""

import random
from typing import Any

from workflows.data.reviews import ReviewTable
from workflows.data.splits import Splits
from workflows.experiment.options import DataOptions


def flip_labels(rows: ReviewTable, splits: Splits, options: DataOptions) -> dict[str, list[dict[str, Any]]]:
    """Turn --flip-labels of the training and of the validation labels into another one, each as likely; by
    split the lines of flipped.jsonl: id, and label before and after.

    A larger share of the same rows contains the smaller one.
    """
    seed = options.data_seed if options.sample_seed is None else options.sample_seed
    labels = [label.name for label in rows.card.labels]
    rng = random.Random(f"flips by {seed}")
    flipped: dict[str, list[dict[str, Any]]] = {}
    for name in ("train", "val"):
        # Drawn for all rows, whatever the share is.
        order = rng.sample(splits[name].tolist(), len(splits[name]))
        steps = [rng.randrange(1, len(labels)) for _ in order]
        count = round(options.flip_labels * len(order))
        flipped[name] = []
        for place, step in sorted(zip(order[:count], steps[:count], strict=True)):
            before = int(rows.labels[place])
            rows.labels[place] = after = (before + step) % len(labels)
            flipped[name].append({"id": rows.id(place), "before": labels[before], "after": labels[after]})
    return flipped
