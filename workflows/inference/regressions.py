"""The regressions of the probe: one a layer on standardised features; the answer is their mean.

Nothing is chosen among layers: single ones differ by a point or two, in an order that changes with the data.
The penalty is fixed too: of five C, 0.003 had the least cross-validated log loss with 32 to 320 labelled rows
of two data sets, but for one case (32 rows of ChnSentiCorp).
"""

import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from workflows.core.files import whole
from workflows.experiment.cards import Gold, Task

STRENGTH = 0.003  # C, the inverse of the L2 penalty
RIDGE_PENALTIES = np.logspace(1, 6, 11)  # of them the one with the least leave-one-out error
FOLDS, SEED = 5, 42

Weights = dict[str, np.ndarray]  # "weight", (layers, outputs, features), and "bias", (layers, outputs)


def fit(features: np.ndarray, gold: list[Gold], task: Task, label_count: int) -> Weights:
    """A regression a layer: logistic for labels (of each for itself, where a row may have several), ridge for
    numbers.

    `features`: (rows, layers, features); `gold`: as a data file's `label` has it, each label in some rows and
    not in others.
    """
    if task == "multi_label":
        held = np.array([[label in row for label in range(label_count)] for row in gold])  # type: ignore
    fitted = []
    for layer in range(features.shape[1]):
        scaler = StandardScaler().fit(features[:, layer])
        scaled = scaler.transform(features[:, layer])
        if task == "regression":
            ridge = RidgeCV(RIDGE_PENALTIES).fit(scaled, gold)
            weight, bias = ridge.coef_[None], np.array([ridge.intercept_])
        elif task == "multi_label":
            each = [_logistic(scaled, held[:, label]) for label in range(label_count)]
            weight, bias = (np.concatenate(part) for part in zip(*each, strict=True))
        else:
            weight, bias = _logistic(scaled, np.array(gold))
            if label_count == 2:  # the log-odds, as one number for each label
                weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight / scaler.scale_
        fitted.append((weight, bias - weight @ scaler.mean_))
    weights, biases = (np.array(part, dtype=np.float32) for part in zip(*fitted, strict=True))
    return {"weight": weights, "bias": biases}


def _logistic(features: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=STRENGTH, max_iter=300).fit(features, gold)
    return model.coef_, model.intercept_


def outputs_of(weights: Weights, features: np.ndarray) -> np.ndarray:
    """The layers' mean output for each row, (rows, outputs): log-odds of the labels, or a number."""
    each = np.einsum("rlf,lof->rlo", features, weights["weight"]) + weights["bias"]
    return each.mean(axis=1)


def out_of_fold(features: np.ndarray, gold: list[int], label_count: int) -> np.ndarray:
    """Each row's outputs from regressions that were not fitted on it, (rows, labels)."""
    labels = np.array(gold)
    outputs = np.zeros((len(gold), label_count))
    for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(labels, labels):
        weights = fit(features[seen], labels[seen].tolist(), "single_label", label_count)
        outputs[unseen] = outputs_of(weights, features[unseen])
    return outputs


def save_weights(weights: Weights, path: Path) -> None:
    """Write the regressions as safetensors, whole or not at all."""
    with whole(path) as part:
        save_file(weights, part)
