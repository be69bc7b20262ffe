"""The door of the audit: which rows are likely to have a wrong label.

Each row's label is judged by a classifier that was not trained on that row (out-of-fold): TF-IDF or, where
the run has it for every row, the probe, whichever is right more often.  What it says is ranked by cleanlab's
confident learning (Northcutt et al. 2021). With 5 % of the labels flipped, the first 5 % of
the ranking hold about three fifths of the flipped ones.
"""

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from workflows.baselines.baselines import character_ngrams
from workflows.core.files import open_whole, read_json, read_jsonl, sha256, write_json
from workflows.core.rows import Rows
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.core.table_writers import write_csv
from workflows.experiment.job import Job

# Measured beside (1, 3) and C = 1: as good a ranking in half the time.
NGRAMS, STRENGTH, FOLDS, SEED = (1, 2), 4.0, 5, 42
WORST = 20  # repeated in audit.json, where no spreadsheet changes them
COLUMNS = ("id", "split", "text", "label", "suggested", "quality", "correction")


def audit(job: Job) -> dict[str, Any]:
    """Read train, val and test; write audit.csv, the rows that cleanlab takes for mislabelled, worst first,
    and audit.json; return the latter's content.

    `quality` is the probability that the classifier gives to the label as it is. `correction` is to be filled
    by hand; the corrections that this run took come first, filled, so that the table holds all of them. Where
    a label has fewer than five rows nothing is judged: `likely_wrong` is None. An audit.csv that was edited
    is kept, so that no work is lost, and the summary says so.
    """
    run, experiment = job.run, job.experiment
    written = read_json(run.audit_summary)["sha256"] if run.audit_summary.exists() else None
    names = [label.name for label in experiment.labels]
    rows = [{**row, "split": split} for split in SPLITS for row in read_jsonl(run.split(split))]
    labels = np.array([row["label"] for row in rows])
    judges = {"tfidf": out_of_fold(rows, labels, len(names)), "probe": _said_by_the_probe(run, rows, names)}
    right = {
        judge: float((shares.argmax(1) == labels).mean())
        for judge, shares in judges.items()
        if shares is not None
    }
    judge = max(right, key=right.__getitem__, default=None)
    shares = judges[judge] if judge else None
    ranked = rank(labels, shares) if shares is not None else []
    # Rows of other data sets have ids with their names; --apply takes those of this one alone.
    own = ["/" not in row["id"] for row in rows]
    order = [index for index in ranked if own[index]]
    earlier = list(_corrected(run, rows))
    taken = {row[0] for row in earlier}
    suspects: list[tuple[str, ...]] = []
    for index in (index for index in order if rows[index]["id"] not in taken):
        row, share = rows[index], shares[index]  # type: ignore[index]  # no shares, no order
        suggested, quality = names[int(share.argmax())], f"{share[row['label']]:.4f}"
        suspects.append((row["id"], row["split"], row["review"], names[row["label"]], suggested, quality, ""))
    text = io.StringIO("\ufeff")  # spreadsheets take the file for UTF-8 by this mark
    text.seek(1)
    write_csv(text, [COLUMNS, *earlier, *suspects])
    there = sha256(run.audit) if run.audit.exists() else None
    now = hashlib.sha256(text.getvalue().encode("utf-8")).hexdigest()
    edited = there not in (None, written, now)  # now: written by a call that was stopped right after it
    summary = {
        "rows": sum(own),
        "likely_wrong": None if shares is None else len(order),
        "by_split": {split: sum(rows[index]["split"] == split for index in order) for split in SPLITS},
        "judged_by": judge,
        "out_of_fold_accuracy": right,
        "worst": [dict(zip(COLUMNS, suspect, strict=True)) for suspect in suspects[:WORST]],
        "sha256": written if edited else now,
        **({"edited": True} if edited else {}),
    }
    if not all(own):
        summary["others"] = {"rows": len(rows) - sum(own), "likely_wrong": len(ranked) - len(order)}
    if experiment.data.flip_labels:
        flipped, listed = {row["id"] for row in read_jsonl(run.flipped)}, {suspect[0] for suspect in suspects}
        summary["flipped"] = {"rows": len(flipped), "likely_wrong": len(flipped & listed)}
    if not edited:
        with open_whole(run.audit) as file:
            file.write(text.getvalue())
    write_json(run.audit_summary, summary)
    return summary


def _corrected(run: RunFolder, rows: Rows) -> Iterator[tuple[str, ...]]:
    """The lines of audit.csv for what this run's --apply changed, also of rows that its sample left out."""
    found = {row["id"]: (row["split"], row["review"]) for row in rows}
    for row in read_jsonl(run.corrections) if run.corrections.exists() else []:
        split, text = found.get(row["id"], ("", ""))
        text = row.get("text", text)  # an older version kept none
        if text:
            yield row["id"], split, text, row["before"], "", "", row["after"] or "drop"


def _said_by_the_probe(run: RunFolder, rows: Rows, names: list[str]) -> np.ndarray | None:
    """Label probabilities of each row from a probe that did not see it, (rows, labels); None where the run
    has none for every row.
    """
    paths = (run.out_of_fold, run.predictions("probe"))
    if not all(path.exists() for path in paths):
        return None
    said = {(row["id"], row["text"]): row["probabilities"] for path in paths for row in read_jsonl(path)}
    keys = [(row["id"], row["review"]) for row in rows]
    if any(key not in said for key in keys):
        return None
    return np.array([[said[key][name] for name in names] for key in keys])


def rank(labels: np.ndarray, shares: np.ndarray) -> list[int]:
    """Rows that cleanlab takes for mislabelled, worst first."""
    return find_label_issues(labels, shares, return_indices_ranked_by="self_confidence").tolist()


def out_of_fold(rows: list[dict[str, Any]], labels: np.ndarray, label_count: int) -> np.ndarray | None:
    """Label probabilities of each row from a classifier that did not see it, (rows, labels).

    None where a label has fewer rows than there are folds.
    """
    if np.min(np.bincount(labels, minlength=label_count)) < FOLDS:
        return None
    model = make_pipeline(character_ngrams(NGRAMS, len(rows)), LogisticRegression(C=STRENGTH, max_iter=300))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    texts = [row["review"] for row in rows]
    return cross_val_predict(model, texts, labels, cv=folds, method="predict_proba")
