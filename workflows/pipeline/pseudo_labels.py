"""Pseudo-labels: for unlabelled reviews on which both models agree and the tuned one is sure."""

from workflows.core.rows import Rows
from workflows.experiment.cards import Label


def judge_pseudo_labels(
    base: Rows, tuned: Rows, labels: tuple[Label, ...], threshold: float
) -> tuple[Rows, Rows]:
    """The kept rows {"id", "review", "label", "confidence"}, and the rejected ones with reasons.

    `base`, `tuned`: what each model says to the same reviews, as rows of predictions/*.jsonl.  `threshold`:
    the least share of the labels' probability, 0 to 1, that the tuned model gives to its own.
    """
    names = [label.name for label in labels]
    kept, rejected = [], []
    for before, after in zip(base, tuned, strict=True):
        name = after["prediction"]
        confidence = after["probabilities"].get(name, 0.0)
        row = {"id": after["id"], "review": after["text"]}
        if name is None or before["prediction"] != name:
            said = {"base": before["prediction"], "tuned": name}
            rejected.append({**row, "reason": "models disagree", **said})
        elif confidence < threshold:
            rejected.append({**row, "reason": "low confidence", "confidence": confidence})
        else:
            kept.append({**row, "label": names.index(name), "confidence": confidence})
    return kept, rejected
