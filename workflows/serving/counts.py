"""What is counted of answers: how many have which label, and how many are right."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from workflows.core.files import read_jsonl
from workflows.core.statistics import wilson_interval
from workflows.core.texts import with_interval
from workflows.data.labels import gold_reader
from workflows.data.splits import sample_rows
from workflows.serving.systems import Answer, System

MOST_LABELS = 20  # that are counted one by one: of numbers there may be as many as rows
VALIDATION_ROWS = 1000  # at most, on which --min-confidence is tried


class Counts:
    """What is counted while rows are written; `label_column`: the gold label, to be scored."""

    def __init__(self, system: System, label_column: str | None) -> None:
        self.label_column, self.rows = label_column, 0
        self.reasons: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.right = self.scored = self.strange = 0
        self.read_gold: Callable[[str], str | None] = lambda cell: None
        if label_column is not None:
            asked = system.experiment
            self.read_gold = gold_reader(asked.dataset, label_column, asked.data.neutral)

    def add(self, chunk: pd.DataFrame, said: list[Answer | None], new: pd.DataFrame) -> None:
        """Count rows, the answers to them, and the columns that these have added."""
        self.rows += len(chunk)
        for label, reason in zip(new["prediction"], new["reason"], strict=True):
            (self.reasons if reason else self.labels)[reason or ("∅" if label == "" else label)] += 1
        if self.label_column is None:
            return
        golds = chunk[self.label_column]
        for gold, answer, label in zip(golds, said, new["prediction"], strict=True):
            known = self.read_gold(gold)
            if known is None:
                self.strange += 1
            # An output that names no label is wrong; one that is withheld for its confidence is not counted.
            elif label or (answer is not None and answer["prediction"] is None):
                self.scored += 1
                self.right += known == label

    def summary(self) -> dict[str, Any]:
        """The counts; `scores` where there are gold labels."""
        counted = {"rows": self.rows, "labels": self.labels, "without_label": self.reasons}
        if self.label_column is None:
            return counted
        scores = {"rows": self.scored, "right": self.right, "without_known_gold": self.strange}
        return counted | {"scores": scores}


def render_counts(counts: dict[str, Any], label_column: str | None) -> str:
    """The summary of `Counts` as lines of the screen."""
    labels = sorted(counts["labels"].items())
    shown = [f"{label} {count:,}" for label, count in labels[:MOST_LABELS]]
    if labels[MOST_LABELS:]:
        shown.append(f"{len(labels) - MOST_LABELS:,} other answers")
    without = ", ".join(f"{count:,} {reason}" for reason, count in counts["without_label"].items())
    said = f"{counts['rows']:,} rows: " + (", ".join(shown) or "none has a label")
    lines = [said + (f"; without a label: {without}" if without else "")]
    if "scores" in counts:
        scores = counts["scores"]
        said = "no row could be scored"
        if scores["rows"]:
            said = f"accuracy on {scores['rows']:,} rows: {_share(scores['right'], scores['rows'])}"
        strange = scores["without_known_gold"]
        lines.append(said + (f"; {strange:,} rows have another value in {label_column!r}" if strange else ""))
    return "\n".join(lines)


def render_trial(system: System, least: float) -> str:
    """What `try_confidence` found, or why nobody knows."""
    unknown = "how accurate the answers are that are given is not known"
    if system.name == "probe":
        return f"the probe was fitted to the validation rows, too: {unknown}"
    trial = try_confidence(system, least)
    if trial is None:
        return f"there are no validation rows here: {unknown}"
    answered, rows = trial["answered"], trial["rows"]
    said = f"on {rows:,} validation rows: {answered / rows:.1%} have a confidence of {least:g} or more"
    if answered:
        said += f"; accuracy of those {_share(trial['right_of_answered'], answered)}"
    return f"{said}, of all {_share(trial['right_of_all'], rows)}"


def try_confidence(system: System, least: float) -> dict[str, Any] | None:
    """How many validation rows have an answer of this confidence, and how accurate those are and all are;
    None of an exported folder, which has no such rows.
    """
    if not system.run.split("val").exists():
        return None
    rows = sample_rows(read_jsonl(system.run.split("val")), VALIDATION_ROWS, 42)
    said = system.answer([row["review"] for row in rows])
    gold = [system.experiment.named(row["label"]) for row in rows]
    right = np.array([each["prediction"] == label for each, label in zip(said, gold, strict=True)])
    sure = np.array([each["prediction"] is not None and confidence(each) >= least for each in said])
    return {
        "rows": len(rows),
        "answered": int(sure.sum()),
        "right_of_answered": int(right[sure].sum()),
        "right_of_all": int(right.sum()),
    }


def confidence(said: Answer) -> float:
    """The probability of the label that was given."""
    return float(said["probabilities"][said["prediction"]])


def _share(part: int, whole: int) -> str:
    return with_interval(part / whole, wilson_interval(part, whole))
