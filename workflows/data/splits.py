"""Cuts rows into training, validation and test sets, and takes samples of them; every choice is seeded.

A source's own test set stays the test set.  Else `standard` is 80/10/10, stratified; `course` does what the
code of the course experiment did: 20 % test, then 10 % of the rest validation (72/8/20), not stratified.
"""

import math
import random
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from workflows.core.errors import UserError
from workflows.experiment.options import DataOptions

Splits = dict[str, np.ndarray]  # places of rows, in file order


def split_rows(
    source: Splits, labels: np.ndarray, options: DataOptions, validation_share: float | None
) -> Splits:
    """The splits train, val and test, from what the source has of them.

    `labels`: of the row at each place.  `validation_share`: of the rows that are not test rows, above 0 and
    below 1; None for a tenth of all rows where the test set is cut here, a tenth of the training rows where
    the source has one.  Raises UserError where there are too few rows.
    """
    train, seed = source["train"], options.data_seed
    if options.split == "course":
        if "test" in source or "val" in source:
            raise UserError(
                "--split course cuts one file; this source has a test or validation set of its own. Name one "
                "file by --data-dir or --data-file, or take --split standard."
            )
        rest, test = _cut(train, labels, 0.2, seed, stratified=False)
        rest, val = _cut(rest, labels, 0.1, seed, stratified=False)
        return {"train": rest, "val": val, "test": test}
    if "test" in source:
        rest, test, default_share = train, source["test"], 1 / 10
    else:
        rest, test = _cut(train, labels, 0.1, seed)
        default_share = 1 / 9
    if "val" in source:
        return {"train": rest, "val": source["val"], "test": test}
    share = default_share if validation_share is None else validation_share
    rest, val = _cut(rest, labels, share, seed)
    return {"train": rest, "val": val, "test": test}


def sample_splits(splits: Splits, labels: np.ndarray, options: DataOptions) -> Splits:
    """The splits with --train-samples, --balance and --test-samples applied.

    Training rows are a stratified sample, or, with `balance`, equally many of each label; validation rows
    shrink by the same factor, so that evaluating keeps its share of the time.  With --sample-seed a
    larger sample contains the smaller one of the same seed, in training and in validation.
    """
    train, val, test = splits["train"], splits["val"], splits["test"]
    for flag, wanted, rows in (
        ("--train-samples", options.train_samples, train),
        ("--test-samples", options.test_samples, test),
    ):
        if wanted is not None and wanted > len(rows):
            raise UserError(f"{flag} {wanted}: there are only {len(rows)} such rows.")
        if wanted is not None and wanted < (kinds := len(np.unique(labels[rows]))):
            raise UserError(f"{flag} {wanted}: takes a row of each of the {kinds} labels at least.")
    nested = options.sample_seed is not None
    seed = options.data_seed if options.sample_seed is None else options.sample_seed
    sampled = _sample(train, labels, options.train_samples, seed, options.balance, nested)
    if len(sampled) < len(train):
        size = max(len(np.unique(labels[val])), math.ceil(len(val) * len(sampled) / len(train)))
        val = _sample(val, labels, size, seed, nested=nested)
    return {
        "train": sampled,
        "val": val,
        "test": _sample(test, labels, options.test_samples, options.data_seed),
    }


def sample_rows(rows: list[dict[str, Any]], size: int, seed: int) -> list[dict[str, Any]]:
    """At most `size` rows of a data file, in file order, with the labels' shares kept where each
    row has one label; the same for the same seed.
    """
    strata = np.array([row["label"] if isinstance(row["label"], int) else -1 for row in rows])
    return [rows[at] for at in _sample(np.arange(len(rows)), strata, size, seed)]


def _cut(
    rows: np.ndarray, labels: np.ndarray, share: float, seed: int, stratified: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(rest, cut off), each in file order; as scikit-learn cuts them, so that published splits can be met."""
    own = labels[rows]
    counts = np.unique(own, return_counts=True)[1]
    size = max(math.ceil(len(rows) * share), len(counts))
    try:
        rest, cut = train_test_split(
            rows, test_size=size, random_state=seed, stratify=own if stratified else None
        )
    except ValueError as error:  # fewer than two of a label, or nothing left
        raise UserError(
            f"{len(rows)} usable rows, {np.min(counts)} of the rarest label, are too few to cut {size} of "
            "them off for validation or test. Give more rows of each label: three at the very least."
        ) from error
    return np.sort(rest), np.sort(cut)


def _sample(
    rows: np.ndarray,
    labels: np.ndarray,
    size: int | None,
    seed: int,
    balanced: bool = False,
    nested: bool = False,
) -> np.ndarray:
    """`size` rows in file order, with the labels' shares kept or equal; None takes all that can be taken.

    `nested`: a larger sample of the same rows and seed contains this one.
    """
    own = labels[rows]
    found, first = np.unique(own, return_index=True)
    by_label = {label: rows[own == label] for label in found[np.argsort(first)].tolist()}
    rarest = min(map(len, by_label.values()))
    if balanced:
        size = rarest * len(by_label) if size is None else size
    if size is None or (size >= len(rows) and not balanced):
        return rows
    if size < len(by_label):
        raise UserError(f"a sample of {size} row(s) cannot hold {len(by_label)} labels.")
    shares = {label: 1 / len(by_label) if balanced else len(at) / len(rows) for label, at in by_label.items()}
    quotas = _growing_quotas(shares, size) if nested else _nearest_quotas(shares, size)
    chosen: list[np.ndarray] = []
    rng = random.Random(seed)
    for label, at in sorted(by_label.items()):
        if quotas[label] > len(at):
            raise UserError(
                f"--balance: {quotas[label]} rows of each label are wanted, and one label has {len(at)}: at "
                f"most {rarest * len(by_label)} rows in all can be balanced."
            )
        drawn = rng.sample(range(len(at)), len(at) if nested else quotas[label])
        chosen.append(at[drawn[: quotas[label]]])
    return np.sort(np.concatenate(chosen))


def _nearest_quotas(shares: dict[int, float], size: int) -> dict[int, int]:
    """How many of `size` rows each label has: nearest to its share, one at least."""
    quotas = {label: max(1, math.floor(size * share)) for label, share in shares.items()}
    # The rows that rounding down left over go to the labels that lost most by it.
    losers = sorted(shares, key=lambda label: (quotas[label] - size * shares[label], label))
    for label in losers[: max(0, size - sum(quotas.values()))]:
        quotas[label] += 1
    while sum(quotas.values()) > size:  # one row at least of each label was more than the sample holds
        quotas[max(quotas, key=lambda label: quotas[label])] -= 1
    return quotas


def _growing_quotas(shares: dict[int, float], size: int) -> dict[int, int]:
    """The same, but no label has fewer where `size` is larger, which nearest shares do not promise of three
    labels and more: row after row goes to the label that is furthest behind (Webster's method).
    """
    quotas = dict.fromkeys(shares, 1)
    for _ in range(size - len(shares)):
        quotas[max(shares, key=lambda label: shares[label] / (quotas[label] + 0.5))] += 1
    return quotas
