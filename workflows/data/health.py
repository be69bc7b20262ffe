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

from workflows.data.reviews import Review
from workflows.statistics import auroc_interval

DRIFT_ROWS = 1000  # of each split, enough to tell an AUROC of 0.5 from one of 0.53
FEWEST_ROWS = 20  # of each split, below which drift is not judged
FOLDS = 5


def measure_drift(train: list[Review], test: list[Review], seed: int) -> dict[str, Any] | None:
    """Whether test reviews come from elsewhere than training reviews; None where there are too few to say.

    Labels: chi-squared test on the label counts.  Lengths: Kolmogorov-Smirnov test on the characters.  Texts:
    AUROC of a classifier that must tell the two sets apart, on rows that it was not trained on (Lopez-Paz and
    Oquab 2017, Revisiting Classifier Two-Sample Tests): 0.5 where there is no difference.
    """
    if min(len(train), len(test)) < FEWEST_ROWS:
        return None
    rng = random.Random(seed)
    labels = sorted({review.label for review in [*train, *test]})
    counts = [[sum(review.label == label for review in side) for label in labels] for side in (train, test)]
    lengths = ks_2samp(*([len(review.text) for review in side] for side in (train, test)))
    size = min(len(train), len(test), DRIFT_ROWS)
    texts = [review.text for side in (train, test) for review in rng.sample(side, size)]
    is_test = np.repeat([False, True], size)
    model = make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 2)), LogisticRegression(C=4.0))
    scores = cross_val_predict(model, texts, is_test, cv=FOLDS, method="predict_proba")[:, 1]
    return {
        "labels_p": float(chi2_contingency(counts).pvalue) if len(labels) > 1 else None,
        "lengths_p": float(lengths.pvalue),
        "texts": {
            "auroc": float(roc_auc_score(is_test, scores)),
            "interval": auroc_interval(is_test, scores),
            "rows": 2 * size,
        },
    }
