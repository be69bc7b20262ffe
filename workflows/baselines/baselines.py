"""The door of the baselines: what any tuned model must beat, on the same rows.

Majority class (or set of labels, or the mean), and TF-IDF over character n-grams with logistic regression (or
ridge regression), its strength chosen on the validation set.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix as Matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from workflows.core.files import read_jsonl, write_jsonl
from workflows.experiment.cards import Task
from workflows.experiment.job import Job

# Characters up to three: Chinese words are mostly two, and no segmenter is needed.
NGRAMS = (1, 3)
STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # inverse regularisation, C
THRESHOLD = 0.5  # of a label's probability where a row may have several

# By system: for each test row its answer as a data file's `label` has it, and the labels' probabilities.
Baselines = dict[str, list[tuple[Any, list[float] | None]]]


def run_baselines(job: Job) -> dict[str, Any]:
    """Read train, val and test; write predictions/majority.jsonl (mean.jsonl where rows have a number) and
    tfidf.jsonl.  Returns the seconds.
    """
    start = time.monotonic()
    run, experiment = job.run, job.experiment
    train, val, test = (read_jsonl(run.split(name)) for name in ("train", "val", "test"))
    vectorizer = character_ngrams(NGRAMS, len(train))
    features = vectorizer.fit_transform(row["review"] for row in train)
    others = [vectorizer.transform(row["review"] for row in rows) for rows in (val, test)]
    gold = [[row["label"] for row in rows] for rows in (train, val)]
    names = [label.name for label in experiment.labels]
    baselines: dict[Task, Callable[..., Baselines]] = {
        "single_label": single_label_baselines,
        "multi_label": multi_label_baselines,
        "regression": regression_baselines,
    }
    found = baselines[experiment.dataset.task](features, *others, *gold, len(names))
    for system, answers in found.items():
        rows = [
            {
                "id": row["id"],
                "text": row["review"],
                "gold": experiment.named(row["label"]),
                "output": None,
                "prediction": experiment.named(said),
                "probabilities": None if shares is None else dict(zip(names, shares, strict=True)),
                "label_mass": None,
            }
            for row, (said, shares) in zip(test, answers, strict=True)
        ]
        write_jsonl(run.predictions(system), rows)
    return {"seconds": {"tfidf": {"fitting": round(time.monotonic() - start, 2)}}}


def single_label_baselines(
    train: Matrix, val: Matrix, test: Matrix, gold: list[int], val_gold: list[int], label_count: int
) -> Baselines:
    """Majority class, and logistic regression; a label that training lacks gets the probability 0."""
    counts = np.bincount(gold, minlength=label_count)
    probabilities = np.zeros((test.shape[0], label_count))
    if len(set(gold)) == 1:
        probabilities[:, gold[0]] = 1.0
    else:
        models = _fit(lambda strength: LogisticRegression(C=strength, max_iter=300), train, gold)
        best = max(models, key=lambda model: model.score(val, val_gold))
        probabilities[:, best.classes_] = best.predict_proba(test)
    shares = {"majority": np.tile(counts / counts.sum(), (test.shape[0], 1)), "tfidf": probabilities}
    return {system: [(int(row.argmax()), row.tolist()) for row in each] for system, each in shares.items()}


def multi_label_baselines(
    train: Matrix,
    val: Matrix,
    test: Matrix,
    gold: list[list[int]],
    val_gold: list[list[int]],
    label_count: int,
) -> Baselines:
    """The most frequent set of labels, and one logistic regression a label; C by micro F1 on validation."""
    hot, val_hot = (
        np.array([[label in row for label in range(label_count)] for row in rows])
        for rows in (gold, val_gold)
    )
    most_frequent = list(Counter(map(tuple, gold)).most_common(1)[0][0])
    models = _fit(
        lambda strength: OneVsRestClassifier(LogisticRegression(C=strength, max_iter=300)), train, hot
    )
    best = max(
        models, key=lambda model: f1_score(val_hot, model.predict(val), average="micro", zero_division=0)
    )
    shares = best.predict_proba(test)
    return {
        "majority": [(most_frequent, hot.mean(axis=0).tolist())] * test.shape[0],
        "tfidf": [(np.flatnonzero(row >= THRESHOLD).tolist(), row.tolist()) for row in shares],
    }


def regression_baselines(
    train: Matrix, val: Matrix, test: Matrix, gold: list[float], val_gold: list[float], label_count: int
) -> Baselines:
    """The mean, and ridge regression, its strength by R² on validation."""
    models = _fit(lambda strength: Ridge(alpha=1 / strength), train, gold)
    best = max(models, key=lambda model: model.score(val, val_gold))
    return {
        "mean": [(float(np.mean(gold)), None)] * test.shape[0],
        "tfidf": [(value, None) for value in best.predict(test).tolist()],
    }


def _fit(make: Callable[[float], Any], features: Matrix, gold: Any) -> list[Any]:
    """A model of each of STRENGTHS; one that has not converged loses on validation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [make(strength).fit(features, gold) for strength in STRENGTHS]


def character_ngrams(ngrams: tuple[int, int], rows: int) -> TfidfVectorizer:
    """TF-IDF over character n-grams for training on so many rows; of 50 and more, once-seen n-grams go."""
    return TfidfVectorizer(
        analyzer="char", ngram_range=ngrams, min_df=2 if rows >= 50 else 1, sublinear_tf=True
    )
