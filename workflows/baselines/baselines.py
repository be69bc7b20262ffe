"""The door of the baselines: what any tuned model must beat, on the same rows.

Majority class, and TF-IDF over character n-grams with logistic regression (C chosen on the validation set).
"""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from workflows.experiment import Experiment
from workflows.run_folder import RunFolder, read_jsonl, write_jsonl

BASELINES = ("majority", "tfidf")
# Characters up to three: Chinese words are mostly two, and no segmenter is needed.
NGRAMS = (1, 3)
STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # inverse regularisation, C


def run_baselines(run: RunFolder, experiment: Experiment) -> None:
    """Read train, val and test; write predictions/majority.jsonl and predictions/tfidf.jsonl."""
    train, val, test = (read_jsonl(run.split(name)) for name in ("train", "val", "test"))
    names = [label.name for label in experiment.labels]
    counts = np.bincount([row["label"] for row in train], minlength=len(names))
    _write(run, "majority", test, names, np.tile(counts / counts.sum(), (len(test), 1)))
    _write(run, "tfidf", test, names, _tfidf_probabilities(train, val, test, len(names)))


def _tfidf_probabilities(
    train: list[dict], val: list[dict], test: list[dict], label_count: int
) -> np.ndarray:
    """Probabilities of shape (test rows, labels); a label that training lacks gets 0."""
    vectorizer = character_ngrams(NGRAMS, len(train))
    features = vectorizer.fit_transform(row["review"] for row in train)
    labels = np.array([row["label"] for row in train])
    val_features = vectorizer.transform(row["review"] for row in val)
    val_labels = np.array([row["label"] for row in val])
    probabilities = np.zeros((len(test), label_count))
    if len(set(labels)) == 1:
        probabilities[:, labels[0]] = 1.0
        return probabilities
    models = []
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # a weak C that has not converged loses on validation
            models.append(LogisticRegression(C=strength, max_iter=300).fit(features, labels))
    best = max(models, key=lambda model: model.score(val_features, val_labels))
    probabilities[:, best.classes_] = best.predict_proba(vectorizer.transform(row["review"] for row in test))
    return probabilities


def character_ngrams(ngrams: tuple[int, int], rows: int) -> TfidfVectorizer:
    """TF-IDF over character n-grams for training on so many rows; of 50 and more, once-seen n-grams go."""
    return TfidfVectorizer(
        analyzer="char", ngram_range=ngrams, min_df=2 if rows >= 50 else 1, sublinear_tf=True
    )


def _write(
    run: RunFolder, system: str, test: list[dict], names: list[str], probabilities: np.ndarray
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "id": row["id"],
            "text": row["review"],
            "gold": names[row["label"]],
            "output": None,
            "prediction": names[int(shares.argmax())],
            "probabilities": dict(zip(names, map(float, shares), strict=True)),
            "label_mass": None,
        }
        for row, shares in zip(test, probabilities, strict=True)
    ]
    write_jsonl(run.predictions(system), rows)
