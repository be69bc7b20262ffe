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
from workflows.core.rows import Rows
from workflows.core.run_folder import RunFolder
from workflows.experiment.cards import THRESHOLD, Task
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job

# Characters up to three: Chinese words are mostly two, and no segmenter is needed.
NGRAMS = (1, 3)
STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # inverse regularisation, C

# What a baseline says of features: for each row its answer as a data file's `label` has it, and the labels'
# probabilities.
Said = list[tuple[Any, list[float] | None]]
Baselines = dict[str, Callable[[Matrix], Said]]  # by system


def run_baselines(job: Job) -> dict[str, Any]:
    """Read train, val and test; write predictions/majority.jsonl (mean.jsonl where rows have a number) and
    tfidf.jsonl.  Returns the seconds.
    """
    start = time.monotonic()
    run, experiment = job.run, job.experiment
    test, (vectorizer, baselines) = read_jsonl(run.split("test")), fit_baselines(run, experiment)
    features = vectorizer.transform(row["review"] for row in test)
    for system, answer in baselines.items():
        write_jsonl(run.predictions(system), join_said(test, answer(features), experiment))
    return {"seconds": {"tfidf": {"fitting": round(time.monotonic() - start, 2)}}}


def fit_baselines(run: RunFolder, experiment: Experiment) -> tuple[TfidfVectorizer, Baselines]:
    """The baselines of a run's training and validation rows, and what makes their features of texts."""
    train, val = (read_jsonl(run.split(name)) for name in ("train", "val"))
    vectorizer = character_ngrams(NGRAMS, len(train))
    features = vectorizer.fit_transform(row["review"] for row in train)
    of_val = vectorizer.transform(row["review"] for row in val)
    gold = [[row["label"] for row in rows] for rows in (train, val)]
    fits: dict[Task, Callable[..., Baselines]] = {
        "single_label": single_label_baselines,
        "multi_label": multi_label_baselines,
        "regression": regression_baselines,
    }
    return vectorizer, fits[experiment.dataset.task](features, of_val, *gold, len(experiment.labels))


def join_said(rows: Rows, said: Said, experiment: Experiment) -> Rows:
    """One prediction row a row of a data file, of what a baseline said of it."""
    names = [label.name for label in experiment.labels]
    return [
        {
            "id": row["id"],
            "text": row["review"],
            "gold": experiment.named(row["label"]),
            "output": None,
            "prediction": experiment.named(answer),
            "probabilities": None if shares is None else dict(zip(names, shares, strict=True)),
            "label_mass": None,
        }
        for row, (answer, shares) in zip(rows, said, strict=True)
    ]


def single_label_baselines(
    train: Matrix, val: Matrix, gold: list[int], val_gold: list[int], label_count: int
) -> Baselines:
    """Majority class, and logistic regression; a label that training lacks gets the probability 0."""
    counts = np.bincount(gold, minlength=label_count)
    best = None
    if len(set(gold)) > 1:
        models = _fit(lambda strength: LogisticRegression(C=strength, max_iter=300), train, gold)
        best = _best(models, lambda model: model.score(val, val_gold))

    def tfidf(features: Matrix) -> Said:
        probabilities = np.zeros((features.shape[0], label_count))
        if best is None:
            probabilities[:, gold[0]] = 1.0
        else:
            probabilities[:, best.classes_] = best.predict_proba(features)
        return [(int(row.argmax()), row.tolist()) for row in probabilities]

    majority = int(counts.argmax()), (counts / counts.sum()).tolist()
    return {"majority": lambda features: [majority] * features.shape[0], "tfidf": tfidf}


def multi_label_baselines(
    train: Matrix, val: Matrix, gold: list[list[int]], val_gold: list[list[int]], label_count: int
) -> Baselines:
    """The most frequent set of labels, and one logistic regression a label; C by micro F1 on validation."""
    hot, val_hot = (
        np.array([[label in row for label in range(label_count)] for row in rows])
        for rows in (gold, val_gold)
    )
    most_frequent = list(Counter(map(tuple, gold)).most_common(1)[0][0]), hot.mean(axis=0).tolist()
    models = _fit(
        lambda strength: OneVsRestClassifier(LogisticRegression(C=strength, max_iter=300)), train, hot
    )
    best = _best(
        models, lambda model: f1_score(val_hot, model.predict(val), average="micro", zero_division=0)
    )

    def tfidf(features: Matrix) -> Said:
        shares = best.predict_proba(features)
        return [(np.flatnonzero(row >= THRESHOLD).tolist(), row.tolist()) for row in shares]

    return {"majority": lambda features: [most_frequent] * features.shape[0], "tfidf": tfidf}


def regression_baselines(
    train: Matrix, val: Matrix, gold: list[float], val_gold: list[float], label_count: int
) -> Baselines:
    """The mean, and ridge regression, its strength by R² on validation."""
    models = _fit(lambda strength: Ridge(alpha=1 / strength), train, gold)
    best = _best(models, lambda model: model.score(val, val_gold))
    mean = float(np.mean(gold)), None
    return {
        "mean": lambda features: [mean] * features.shape[0],
        "tfidf": lambda features: [(value, None) for value in best.predict(features).tolist()],
    }


def _fit(make: Callable[[float], Any], features: Matrix, gold: Any) -> list[Any]:
    """A model of each of STRENGTHS; one that has not converged loses on validation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [make(strength).fit(features, gold) for strength in STRENGTHS]


def _best(models: list[Any], measure: Callable[[Any], float]) -> Any:
    """The model of `_fit` that is best by `measure`; of several the least regularised: where rows are so few
    that validation cannot tell them apart, the others say little but the most frequent label.
    """
    return max(reversed(models), key=measure)


def character_ngrams(ngrams: tuple[int, int], rows: int) -> TfidfVectorizer:
    """TF-IDF over character n-grams for training on so many rows; of 50 and more, once-seen n-grams go."""
    return TfidfVectorizer(
        analyzer="char", ngram_range=ngrams, min_df=2 if rows >= 50 else 1, sublinear_tf=True
    )
