"""Answers become predictions: joined to the test rows by id, read as labels, with probabilities."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, root_mean_squared_error

from workflows.core.errors import UserError
from workflows.core.rows import Rows
from workflows.experiment.cards import THRESHOLD, Label
from workflows.experiment.experiment import Experiment
from workflows.inference.reading import read_label

DIVERGED = "its training has diverged. Take a smaller learning_rate or another dtype."


def match_answers(test: Rows, answers: Rows, figures: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(test row, its answer), joined by id; `figures`: the key of the answers' numbers.

    Raises RuntimeError where the ids are not the same, UserError where a number is none.
    """
    by_id = {answer["id"]: answer for answer in answers}
    ids = {row["id"] for row in test}
    if ids != set(by_id) or len(by_id) < len(answers):
        missing, strange = sorted(ids - set(by_id)), sorted(set(by_id) - ids)
        raise RuntimeError(
            f"{len(answers)} answers for {len(test)} test rows: missing {missing[:5]}, not asked for "
            f"{strange[:5]}."
        )
    lost = [id for id, answer in by_id.items() if not np.isfinite(answer[figures]).all()]
    if lost:
        raise UserError(
            f"the model gives no probabilities for {len(lost)} of {len(test)} test rows (not a number), "
            f"{lost[0]} first: {DIVERGED}"
        )
    return ((row, by_id[row["id"]]) for row in test)


def join_answers(test: Rows, answers: Rows, labels: tuple[Label, ...]) -> Rows:
    """One prediction row a test row, of what the model wrote.

    `probabilities` are the labels' shares of what the model gives to any of them; `label_mass` is that sum.
    """
    names = [label.name for label in labels]
    predictions = []
    for row, answer in match_answers(test, answers, "log_probabilities"):
        logs = np.array(answer["log_probabilities"])
        predictions.append(
            {
                "id": row["id"],
                "text": row["review"],
                "gold": names[row["label"]],
                "output": answer["output"],
                "prediction": read_label(answer["output"], labels),
                "probabilities": dict(zip(names, softmax(logs).tolist(), strict=True)),
                "label_mass": float(np.exp(logs).sum()),
            }
        )
    return predictions


def join_scores(test: Rows, answers: Rows, experiment: Experiment) -> Rows:
    """One prediction row a test row, of what a head said; `scores` are its raw outputs, one list a window.

    Where a text was read in windows, their probabilities (or numbers) are averaged.  Probabilities: softmax
    over the labels, or a sigmoid of each where a row may have several; None for a regression.  A head writes
    nothing that could miss the labels, so `label_mass` is None.
    """
    names = [label.name for label in experiment.labels]
    task = experiment.dataset.task
    predictions = []
    for row, answer in match_answers(test, answers, "scores"):
        scores, said = np.array(answer["scores"]), answer["answer"]
        if task == "regression":
            shares, likeliest = None, float(scores.mean())
        elif task == "multi_label":
            shares = expit(scores).mean(axis=0)
            likeliest = np.flatnonzero(shares >= THRESHOLD).tolist()
        else:
            shares = softmax(scores, axis=1).mean(axis=0)
            likeliest = int(shares.argmax())
        said = likeliest if said is None else said
        by_label = None if shares is None else dict(zip(names, shares.tolist(), strict=True))
        predictions.append(
            {
                "id": row["id"],
                "text": row["review"],
                "gold": experiment.named(row["label"]),
                "output": experiment.written(said),
                "prediction": experiment.named(said),
                "probabilities": by_label,
                "label_mass": None,
                "scores": answer["scores"],
            }
        )
    return predictions


def answer_loss(rows: Rows, answers: Rows, lengths: list[int]) -> float:
    """Mean cross-entropy of the right answers' tokens, as training has it; `lengths`: tokens of each label's
    answer.
    """
    matched = list(match_answers(rows, answers, "log_probabilities"))
    logs = sum(answer["log_probabilities"][row["label"]] for row, answer in matched)
    return -logs / sum(lengths[row["label"]] for row in rows)


def head_loss(predictions: Rows, task: str) -> float:
    """The head's loss on predictions with their gold labels: squared error, or cross-entropy."""
    if task == "regression":
        return float(np.mean([(row["prediction"] - row["gold"]) ** 2 for row in predictions]))
    if task == "multi_label":
        right = [
            share if name in row["gold"] else 1 - share
            for row in predictions
            for name, share in row["probabilities"].items()
        ]
    else:
        right = [row["probabilities"][row["gold"]] for row in predictions]
    return float(-np.log(np.maximum(right, np.finfo(np.float32).tiny)).mean())


def validation_figures(predictions: Rows, task: str) -> dict[str, float]:
    """What training is watched by beside the loss: accuracy and macro F1, or the errors of a regression."""
    gold = [row["gold"] for row in predictions]
    predicted = [row["prediction"] for row in predictions]
    if task == "regression":
        return {
            "mae": float(mean_absolute_error(gold, predicted)),
            "rmse": float(root_mean_squared_error(gold, predicted)),
        }
    if task == "multi_label":
        names = list(predictions[0]["probabilities"])
        gold = [[name in row for name in names] for row in gold]
        predicted = [[name in row for name in names] for row in predicted]
        present = [index for index in range(len(names)) if any(row[index] for row in gold)]
    else:
        predicted = [name or "" for name in predicted]
        present = sorted(set(gold))
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "macro_f1": float(f1_score(gold, predicted, labels=present, average="macro", zero_division=0)),
    }
