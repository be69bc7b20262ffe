"""The door of the data stage: from a data set's files to SWIFT's files.

The files are read twice, in chunks: once to judge the rows, once to write them; between the two, splits and
samples are arrays of places of rows.  A search for near copies and corrections by hand read them once more.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from workflows.core.errors import UserError
from workflows.core.files import json_line, open_whole, sha256, write_json, write_jsonl
from workflows.core.rows import Rows
from workflows.core.run_folder import SPLITS, RunFolder, listed_in
from workflows.core.tables import open_table
from workflows.data.corrections import apply_corrections, drop_corrected
from workflows.data.examples import show_examples
from workflows.data.flips import flip_labels
from workflows.data.health import measure_drift, sample_for_drift
from workflows.data.messages import SPECIAL, line_writer
from workflows.data.mix import add_rows, mixed_experiment, mixed_run
from workflows.data.near_copies import SIMILARITY, find_near_copies
from workflows.data.reviews import (
    CODES,
    KEPT,
    NEAR_COPY,
    ReviewTable,
    UnknownLabels,
    classify_rows,
    read_texts,
    rejected_rows,
    strip_text,
    texts_within,
)
from workflows.data.sources import find_files
from workflows.data.splits import Splits, sample_splits, split_rows
from workflows.data.tested import (
    describe_tested,
    read_tested,
    reject_same_texts,
    tested_experiment,
    tested_run,
)
from workflows.experiment.cards import DatasetCard
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job

# Their texts are in memory, and each takes 60 µs (120 characters, one core): 12 s for that many.
NEAR_COPY_ROWS = 200_000
NO_SPLIT = -1  # rejected, or left out by sampling


def prepare(job: Job) -> dict[str, Any]:
    """Write train.jsonl, val.jsonl, test.jsonl, rejected.jsonl, corrections.jsonl and manifest.json, and with
    --flip-labels flipped.jsonl; return the manifest.

    Raises UserError where no source can be reached, a file cannot be read, a label has no meaning (the rows
    are then listed in rejected.jsonl), or too few rows remain.
    """
    run, experiment, screen = job.run, job.experiment, job.screen
    card, options = experiment.dataset, experiment.data
    files, origin = find_files(card, options)
    tables = {split: open_table(path) for split, path in files.items()}
    try:
        with screen.progress("reading rows", None) as bar:
            rows = classify_rows(tables, card, options.neutral, bar)
    except UnknownLabels as error:
        write_jsonl(run.rejected, rejected_rows(error.rows, error.rows.read()))
        raise UserError(f"{error}{listed_in(run)}") from error
    source = {split: rows.kept(split) for split in tables}
    for split, at in source.items():
        if len(at) == 0:
            rejected = ", ".join(f"{n} {reason}" for reason, n in rows.count_rejected(split).items())
            raise UserError(
                f"{files[split]}: no usable row is left ({len(rows.places[split])} read; "
                f"rejected: {rejected})."
            )
    if options.labels is not None and card.task == "single_label":
        _check_each_label_has_rows(rows, experiment)
    train = source["train"]
    if len(np.unique(rows.labels[train])) < 2:  # of numbers their strata do not tell
        raise UserError(
            f"all {len(train)} training rows have one label: there is nothing to learn. Check --labels."
        )
    share = experiment.arguments.get("split_dataset_ratio")
    strata = rows.strata().copy()  # as the files have them: a corrected label draws no other rows
    splits = split_rows(source, strata, options, None if share is None else float(share))
    _check_labels(rows, splits, f"--split {options.split}")
    # Labels change after the split, and rows are dropped after the samples, so that rows stay where they are
    # and runs can be compared.
    corrections: list[dict[str, Any]] = []
    dropped: list[int] = []
    if options.apply is not None:
        with screen.progress("finding the corrected rows", len(rows.reasons)) as bar:
            corrections, dropped = apply_corrections(rows, experiment.labels, Path(options.apply), bar)
        _check_labels(rows, splits, options.apply)
    tested, sampled = None, options
    if experiment.tested is not None:
        tested = _prepare_tested(job, experiment.tested, rows, splits)
        splits = _without_rejected(rows, splits)
        _check_labels(rows, splits, "leaving out texts of test rows")
        if options.test_samples is not None:  # of the other data set, which may have more
            sampled = replace(options, test_samples=min(options.test_samples, len(splits["test"])))
    whole, searched = splits, "all rows"
    if sum(map(len, splits.values())) > NEAR_COPY_ROWS:
        splits, searched = sample_splits(splits, strata, sampled), "the sample"
    near_copies = _reject_near_copies(job, rows, splits, searched)
    own_near_copies = near_copies.get("removed_from_train", 0)
    if tested is not None:  # beside those of its own: the run that is tested on its own has none of them
        near_copies = _reject_near_copies(job, rows, _without_rejected(rows, splits), searched, tested)
    whole, splits = _without_rejected(rows, whole), _without_rejected(rows, splits)
    _check_labels(rows, splits, "leaving out near copies of test rows (--keep-near-copies keeps them)")
    if searched == "all rows":
        splits = sample_splits(splits, strata, sampled)
    if dropped:
        drop_corrected(rows, dropped, Path(str(options.apply)))
        whole, splits = _without_rejected(rows, whole), _without_rejected(rows, splits)
        _check_labels(rows, splits, str(options.apply))
    read, kept = len(rows.reasons), int((rows.reasons == CODES[KEPT]).sum())
    others = tested or []
    # Of the files' rows, and behind them of another data set's, for the drift; before any label is flipped.
    labels = np.append(rows.strata(), np.array([row["label"] for row in others], strata.dtype))
    lengths = np.append(rows.lengths, np.array([len(row["review"]) for row in others], rows.lengths.dtype))
    flipped: dict[str, list[dict[str, Any]]] = {}
    if options.flip_labels:
        flipped = flip_labels(rows, splits, options)
        _check_labels(rows, splits, f"--flip-labels {options.flip_labels}")
    described = {name: rows.describe(at) for name, at in splits.items()}
    compared = whole["train"], whole["test"]
    left_out = kept - sum(map(len, splits.values()))
    from_elsewhere: dict[str, Any] = {}
    if experiment.tested is not None:
        from_elsewhere, described["test"] = describe_tested(run, experiment.tested)
        from_elsewhere["own_test_rows"] = len(whole["test"])
        from_elsewhere["own_near_copies"] = own_near_copies
        left_out -= len(whole["test"]) - len(splits["test"])
        splits["test"], compared = splits["test"][:0], (whole["train"], read + np.arange(len(others)))
    samples = sample_for_drift(*compared, options.data_seed)
    texts, special = _write_files(job, rows, splits, np.sort(np.concatenate(samples)))
    texts |= {read + place: row["review"] for place, row in enumerate(others)}
    if tested is not None:
        write_jsonl(run.split("test"), tested)
    drift = measure_drift(
        [labels[at] for at in compared],
        [lengths[at] for at in compared],
        [[texts[place] for place in at.tolist()] for at in samples],
    )
    for mix in experiment.mixed:
        wanted = max(1, round(mix.ratio * len(splits["train"])))
        other = mixed_experiment(experiment, mix, wanted)
        _prepare_other(job, f"--mix {mix.dataset.name}={mix.ratio}", mixed_run(run, mix), other)
    mixed = add_rows(run, experiment.mixed, screen) if experiment.mixed else {}
    if experiment.prompt.shots:
        show_examples(run, experiment, screen)
    write_jsonl(run.corrections, corrections)
    listed = [run.corrections]
    if flipped:
        write_jsonl(run.flipped, [row for each in flipped.values() for row in each])
        listed.append(run.flipped)
    manifest = {
        "dataset": card.name,
        **({} if options.data_file is None else {"data_title": experiment.data_title}),
        "from": origin,
        "files": {
            split: {
                "path": str(table.path),
                "format": table.format,
                "encoding": table.encoding,
                "rows": len(rows.places[split]),
                "sha256": table.sha256,
            }
            for split, table in tables.items()
        },
        "rows": {"read": read, "kept": kept, "rejected": read - kept},
        "rejected": rows.count_rejected(),
        "split": options.split,
        "data_seed": options.data_seed,
        "corrections": {
            "file": options.apply,
            "sha256": None if options.apply is None else sha256(Path(options.apply)),
            "relabelled": sum(row["after"] is not None for row in corrections),
            "dropped": sum(row["after"] is None for row in corrections),
        },
        "splits": described,
        "near_copies": near_copies,
        "drift": drift,
        "left_out_by_sampling": left_out,
        "mixed": mixed,
        **({"tested": from_elsewhere} if from_elsewhere else {}),
        **({"special_tokens": special} if special else {}),
        **({"flipped": {name: len(each) for name, each in flipped.items()}} if flipped else {}),
        "labels": [vars(label) for label in experiment.labels],
        "prompt": experiment.prompt.name,
        "format": options.format,
        "sha256": {path.name: sha256(path) for path in (*_data_files(run), *listed)},
    }
    write_json(run.manifest, manifest)
    return manifest


def _check_each_label_has_rows(rows: ReviewTable, experiment: Experiment) -> None:
    """Raise UserError where --labels names a label that no row has: nothing could be learned of it."""
    there = {*rows.labels[rows.reasons == CODES[KEPT]].tolist()}
    for at, label in enumerate(experiment.labels):
        if at not in there:
            raise UserError(f"--labels: no usable row has the label {label.name}; leave it out.")


def _check_labels(rows: ReviewTable, splits: Splits, cause: str) -> None:
    """Raise UserError where `cause` left nothing to learn from or to measure on."""
    for name, at in splits.items():
        if len(at) == 0:
            raise UserError(f"{cause}: leaves no row in {name}; give more rows.")
    if len(np.unique(rows.labels[splits["train"]])) < 2:
        raise UserError(
            f"{cause}: leaves one label alone in the {len(splits['train'])} training rows; give more rows of "
            "each label."
        )


def _without_rejected(rows: ReviewTable, splits: Splits) -> Splits:
    return {name: at[rows.reasons[at] == CODES[KEPT]] for name, at in splits.items()}


def _reject_near_copies(
    job: Job, rows: ReviewTable, splits: Splits, searched: str, tested: Rows | None = None
) -> dict[str, Any]:
    """Reject training rows that stand in the test set in nearly the same words, unless --keep-near-copies;
    what the manifest says of near copies: `searched` is null where there are too many rows to search.

    `tested`: the test rows where they are another data set's.
    """
    own = SPLITS if tested is None else SPLITS[:2]
    at = np.sort(np.concatenate([splits[name] for name in own]))
    if len(at) + len(tested or ()) > NEAR_COPY_ROWS:
        return {"searched": None, "similarity": SIMILARITY}
    with job.screen.progress("reading texts", len(rows.reasons)) as bar:
        texts = read_texts(rows, at, bar)
    of = {name: [texts[place] for place in splits[name].tolist()] for name in own}
    test = of["test"] if tested is None else [row["review"] for row in tested]
    with job.screen.progress("searching near copies", len(of["train"]) + len(of["val"])) as bar:
        found = find_near_copies(of["train"], of["val"], test, bar)
    removed = {} if job.experiment.data.keep_near_copies else found.train_in_test
    for position, (other, alike) in removed.items():
        test_row = rows.id(int(splits["test"][other])) if tested is None else tested[other]["id"]
        rows.reject(int(splits["train"][position]), NEAR_COPY, f"similarity {alike:.2f} to {test_row}")
    return {
        "searched": searched,
        "similarity": SIMILARITY,
        "train_in_test": len(found.train_in_test),
        "removed_from_train": len(removed),
        "val_in_test": len(found.val_in_test),
        "val_in_train": len(found.val_in_train),
    }


def _prepare_other(job: Job, flag: str, run: RunFolder, experiment: Experiment) -> None:
    """Prepare a data set that `flag` lets join, as a run of its own inside this one."""
    try:
        prepare(replace(job, run=run, experiment=experiment))
    except UserError as error:
        said = str(error).replace("--train-samples", "rows wanted:")
        # Of a data set that joins, --data-file is not read.
        said = said.replace("the file with --data-file FILE, or with", "with")
        if flag.startswith("--mix") and ("there are only" in said or "--balance:" in said):
            said += " Take a smaller ratio, or fewer rows of this one by --train-samples."
        raise UserError(f"{flag}: {said}") from error


def _prepare_tested(job: Job, dataset: DatasetCard, rows: ReviewTable, splits: Splits) -> Rows:
    """Prepare the data set whose test rows are taken; return these, and reject those of `rows` that have the
    text of one.
    """
    other, where = tested_experiment(job.experiment, dataset), tested_run(job.run, dataset)
    _prepare_other(job, f"--test-dataset {dataset.name}", where, other)
    tested = read_tested(job.run, dataset)
    with job.screen.progress("looking for texts of test rows", len(rows.reasons)) as bar:
        reject_same_texts(rows, splits, tested, bar)
    return tested


def _data_files(run: RunFolder) -> list[Path]:
    return [*map(run.split, SPLITS), run.rejected]


def _write_files(
    job: Job, rows: ReviewTable, splits: Splits, wanted: np.ndarray
) -> tuple[dict[int, str], dict[str, int]]:
    """Write the rows of the splits and the rejected ones; in passing, the texts of the rows at `wanted`, and
    by split how many rows hold what would be a special token of a model.
    """
    experiment = job.experiment
    write_line = line_writer(
        experiment.prompt,
        experiment.labels,
        experiment.data.format,
        rows.meanings,
        answered=not experiment.has_head,
    )
    split_of = np.full(len(rows.reasons), NO_SPLIT, dtype=np.int8)  # index into SPLITS
    for index, name in enumerate(SPLITS):
        split_of[splits[name]] = index
    texts: dict[int, str] = {}
    special: Counter[str] = Counter()
    with ExitStack() as stack, job.screen.progress("writing rows", len(split_of)) as bar:
        *files, rejected = (stack.enter_context(open_whole(path)) for path in _data_files(job.run))
        for chunk in rows.read():
            end = chunk.start + len(chunk.texts)
            labels, first = rows.labels[chunk.start : end].tolist(), rows.places[chunk.split].start
            for row, index in enumerate(split_of[chunk.start : end].tolist()):
                if index != NO_SPLIT:
                    id, text = f"{chunk.split}:{chunk.start + row - first + 1}", strip_text(chunk.texts[row])
                    files[index].write(write_line(id, text, labels[row]))
                    special[SPLITS[index]] += SPECIAL.search(text) is not None
            rejected.writelines(map(json_line, rejected_rows(rows, [chunk])))
            texts |= texts_within(chunk, wanted)
            bar.update(len(chunk.texts))
    return texts, {name: count for name, count in special.items() if count}
