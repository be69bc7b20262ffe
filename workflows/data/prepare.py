"""The door of the data stage: from a data set's files to SWIFT's files."""

from collections import Counter
from pathlib import Path
from typing import Any

from workflows.data.corrections import Correction, apply_corrections
from workflows.data.health import measure_drift
from workflows.data.messages import write_row
from workflows.data.near_copies import SIMILARITY, find_near_copies
from workflows.data.reviews import Rejected, Review, UnknownLabels, clean, count_labels, reject
from workflows.data.sources import find_files
from workflows.data.splits import sample_splits, split_reviews
from workflows.data.tables import Table, read_table
from workflows.errors import UserError
from workflows.experiment import Experiment
from workflows.run_folder import SPLITS, RunFolder, sha256, write_json, write_jsonl
from workflows.statistics import describe_lengths


def prepare(run: RunFolder, experiment: Experiment) -> dict[str, Any]:
    """Write train.jsonl, val.jsonl, test.jsonl, rejected.jsonl and manifest.json; return the manifest.

    Raises UserError where no source can be reached, a file cannot be read, a label has no meaning (the rows
    are then listed in rejected.jsonl), or too few rows remain.
    """
    card, options = experiment.dataset, experiment.data
    files, origin = find_files(card, options)
    tables = {split: read_table(path) for split, path in files.items()}
    try:
        source, rejected = clean(tables, card, options.neutral)
    except UnknownLabels as error:
        write_jsonl(run.rejected, map(_as_row, error.rejected))
        raise UserError(f"{error} All rejected rows are listed in {run.rejected}.") from error
    for split, reviews in source.items():
        if not reviews:
            raise UserError(
                f"{files[split]}: no usable row is left ({_counted(tables[split], rejected, split)})."
            )
    share = experiment.arguments.get("split_dataset_ratio")
    if share is not None and not 0 < float(share) < 1:
        raise UserError(
            f"split_dataset_ratio {share}: the validation set's share of the training rows, above 0, below 1."
        )
    splits = split_reviews(source, options, None if share is None else float(share))
    # After the split, so that rows stay where they are and runs can be compared.
    corrections: list[Correction] = []
    if options.corrections is not None:
        splits, corrections = apply_corrections(splits, experiment.labels, Path(options.corrections))
        dropped = {correction.id for correction in corrections if correction.after is None}
        detail = Path(options.corrections).name
        rejected += [reject(id, tables, card, "dropped by hand", detail) for id in sorted(dropped)]
    if not all(splits.values()) or len({review.label for review in splits["train"]}) < 2:
        raise UserError(f"{options.corrections}: leaves a split without rows, or training with one label.")
    near_copies, removed = _take_out_near_copies(splits, options.keep_near_copies)
    rejected += [
        reject(id, tables, card, "near copy of a test row", detail) for id, detail in removed.items()
    ]
    rejected.sort(key=lambda row: (row.source, row.row))
    read = sum(len(table.frame) for table in tables.values())
    kept = sum(map(len, splits.values()))
    drift = measure_drift(splits["train"], splits["test"], options.data_seed)
    splits = sample_splits(splits, options)
    used = sum(map(len, splits.values()))
    for name in SPLITS:
        rows = (
            write_row(review, experiment.prompt, experiment.labels, options.format) for review in splits[name]
        )
        write_jsonl(run.split(name), rows)
    write_jsonl(run.rejected, map(_as_row, rejected))
    write_jsonl(run.corrections, (row.named(experiment.labels) for row in corrections))
    manifest = {
        "dataset": card.name,
        "from": origin,
        "files": {split: _describe(table) for split, table in tables.items()},
        "rows": {"read": read, "kept": kept, "rejected": len(rejected)},
        "rejected": dict(Counter(row.reason for row in rejected).most_common()),
        "split": options.split,
        "data_seed": options.data_seed,
        "corrections": {
            "file": options.corrections,
            "sha256": None if options.corrections is None else sha256(Path(options.corrections)),
            "relabelled": sum(row.after is not None for row in corrections),
            "dropped": sum(row.after is None for row in corrections),
        },
        "splits": {
            name: {
                "rows": len(splits[name]),
                "labels": count_labels(splits[name], card),
                "characters": describe_lengths([len(review.text) for review in splits[name]]),
            }
            for name in SPLITS
        },
        "near_copies": near_copies,
        "drift": drift,
        "left_out_by_sampling": kept - used,
        "labels": [vars(label) for label in experiment.labels],
        "prompt": experiment.prompt.name,
        "format": options.format,
        "sha256": {
            path.name: sha256(path) for path in (*map(run.split, SPLITS), run.rejected, run.corrections)
        },
    }
    write_json(run.manifest, manifest)
    return manifest


def _take_out_near_copies(
    splits: dict[str, list[Review]], keep: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """What the manifest says of near copies, and for each id taken out of training which test row it is like.

    Changes `splits`.
    """
    copies = find_near_copies(splits["train"], splits["test"])
    counts = {
        "similarity": SIMILARITY,
        "train_in_test": len(copies),
        "removed_from_train": 0 if keep else len(copies),
        "val_in_test": len(find_near_copies(splits["val"], splits["test"])),
        "val_in_train": len(find_near_copies(splits["val"], splits["train"])),
    }
    if keep:
        return counts, {}
    splits["train"] = [review for review in splits["train"] if review.id not in copies]
    if len({review.label for review in splits["train"]}) < 2:
        raise UserError(
            f"without the {len(copies)} training rows that the test set has in nearly the same words, "
            "one label at most is left in training; check the data, or keep them with --keep-near-copies."
        )
    return counts, {id: f"similarity {alike:.2f} to {other}" for id, (other, alike) in copies.items()}


def _describe(table: Table) -> dict[str, Any]:
    return {
        "path": str(table.path),
        "format": table.format,
        "encoding": table.encoding,
        "rows": len(table.frame),
        "sha256": sha256(table.path),
    }


def _counted(table: Table, rejected: list[Rejected], split: str) -> str:
    reasons = Counter(row.reason for row in rejected if row.source == split)
    return (
        f"{len(table.frame)} read; rejected: "
        f"{', '.join(f'{n} {reason}' for reason, n in reasons.most_common())}"
    )


def _as_row(row: Rejected) -> dict[str, Any]:
    """A line of rejected.jsonl; half surrogates become ?, which UTF-8 can hold."""
    texts = {key: value for key, value in vars(row).items() if isinstance(value, str)}
    return {
        **vars(row),
        **{key: text.encode("utf-8", "replace").decode("utf-8") for key, text in texts.items()},
    }
