"""Whether training and test rows differ, found out before anything is trained on them."""

import random
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency, ks_2samp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from workflows.core.statistics import auroc_interval

DRIFT_ROWS = 1000  # of each split, enough to tell an AUROC of 0.5 from one of 0.53
FEWEST_ROWS = 20  # of each split, below which drift is not judged
FOLDS = 5


def sample_for_drift(train: np.ndarray, test: np.ndarray, seed: int) -> list[np.ndarray]:
    """Of each, equally many rows, whose texts `measure_drift` compares; none where there are too few."""
    size = min(len(train), len(test), DRIFT_ROWS)
    if size < FEWEST_ROWS:
        return [train[:0], test[:0]]
    rng = random.Random(seed)
    return [side[rng.sample(range(len(side)), size)] for side in (train, test)]


def measure_drift(
    labels: list[np.ndarray], lengths: list[np.ndarray], texts: list[list[str]]
) -> dict[str, Any] | None:
    """Whether test reviews come from elsewhere than training reviews; None where there are too few to say.

    Each argument has two entries, of the training and of the test rows; `texts` are of samples of equal size.

    Labels: chi-squared test on the label counts.  Lengths: Kolmogorov-Smirnov test on the characters.  Texts:
    AUROC of a classifier that must tell the two sets apart, on rows that it was not trained on (Lopez-Paz and
    Oquab 2017, Revisiting Classifier Two-Sample Tests): 0.5 where there is no difference.
    """
    size = len(texts[0])
    if size < FEWEST_ROWS:
        return None
    found = np.unique(np.concatenate(labels))
    counts = [[int((side == label).sum()) for label in found] for side in labels]
    is_test = np.repeat([False, True], size)
    model = make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 2)), LogisticRegression(C=4.0))
    scores = cross_val_predict(model, [*texts[0], *texts[1]], is_test, cv=FOLDS, method="predict_proba")[:, 1]
    return {
        "labels_p": float(chi2_contingency(counts).pvalue) if len(found) > 1 else None,
        "lengths_p": float(ks_2samp(*lengths).pvalue),
        "texts": {
            "auroc": float(roc_auc_score(is_test, scores)),
            "interval": auroc_interval(is_test, scores),
            "rows": 2 * size,
        },
    }
