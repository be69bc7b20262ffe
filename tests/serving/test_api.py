"""The project in Python: the same runs, the same answers, and what scikit-learn expects of a classifier."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss
from sklearn.utils.estimator_checks import check_estimator

from tests.conftest import Command
from workflows import load, run
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.experiment.cards import ROOT
from workflows.experiment.options import DataOptions, RunOptions, TuningOptions
from workflows.experiment.resolve import options_of
from workflows.serving.api import Result, ReviewClassifier

Demo = tuple[RunFolder, str]


@pytest.fixture(scope="module")
def classifier(demo_run: Demo) -> ReviewClassifier:
    return load(demo_run[0].path)


def test_a_classifier_answers_as_the_run_did(classifier: ReviewClassifier, demo_run: Demo) -> None:
    rows = read_jsonl(demo_run[0].predictions("tuned"))
    texts, gold = [row["text"] for row in rows], [row["gold"] for row in rows]
    assert classifier.predict(texts).tolist() == [row["prediction"] for row in rows]
    scores = read_json(demo_run[0].scores)["systems"]["tuned"]
    assert classifier.score(texts, gold) == pytest.approx(scores["accuracy"])
    shares = classifier.predict_proba(texts)
    assert shares.shape == (len(rows), 2)
    assert accuracy_score(gold, classifier.classes_[shares.argmax(1)]) == pytest.approx(scores["accuracy"])
    found = classifier.answers([texts[0], " "])
    assert found.columns.tolist() == ["text", "prediction", "negative", "positive"]
    assert found["prediction"][0] == rows[0]["prediction"]
    assert found["prediction"].isna().tolist() == [False, True]
    assert np.isnan(found["positive"][1])
    assert clone(classifier).get_params() == {"folder": str(demo_run[0].path), "system": "tuned"}


def _written(rows: Any) -> list[str]:
    return [str(row) for row in np.asarray(rows)]


class _OfNumbers(ReviewClassifier):
    """The classifier, each row of numbers written as a text, each label told by its place in `classes_`."""

    def predict(self, X: Any) -> np.ndarray:
        labels = super().predict(_written(X))
        return np.searchsorted(self.classes_, labels)

    def predict_proba(self, X: Any) -> np.ndarray:
        return super().predict_proba(_written(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = True, False
        return tags


FITTED = "the run fitted it: `fit` loads that, whatever it is given"
TEXTS = "a text has no columns, no NaN, and is neither complex nor sparse"
DOES_NOT_APPLY = {
    **dict.fromkeys(
        [
            *("check_estimators_empty_data_messages", "check_classifiers_one_label", "check_fit1d"),
            *("check_classifiers_classes", "check_classifiers_train", "check_classifiers_regression_target"),
            *("check_supervised_y_no_nan", "check_supervised_y_2d"),
        ],
        FITTED,
    ),
    **dict.fromkeys(
        [
            *("check_n_features_in_after_fitting", "check_n_features_in", "check_fit2d_predict1d"),
            *("check_complex_data", "check_dtype_object", "check_estimators_nan_inf"),
            *("check_estimator_sparse_tag", "check_estimator_sparse_array", "check_estimator_sparse_matrix"),
        ],
        TEXTS,
    ),
}


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_pass_as_far_as_they_apply_to_texts(
    command: Command, demo_run: Demo, tmp_path: Path
) -> None:
    """For an estimator of texts scikit-learn has one check; the others give it rows of numbers."""
    check_estimator(ReviewClassifier(str(demo_run[0].path)), on_skip=None)
    done = command("prepare", "--train-samples", "60", "--run-folder", tmp_path / "run")  # fitted many times
    assert done.returncode == 0, done.stderr
    done = check_estimator(
        _OfNumbers(str(tmp_path / "run"), "tfidf"),
        expected_failed_checks=DOES_NOT_APPLY,
        on_skip=None,
        on_fail=None,
    )
    by_status = {
        status: {each["check_name"] for each in done if each["status"] == status}
        for status in ("failed", "xfail", "passed")
    }
    assert by_status["failed"] == set()
    by_chance = {"check_classifiers_one_label"}  # it is the label that TF-IDF gives to what it does not know
    assert by_status["xfail"] | by_chance == set(DOES_NOT_APPLY)
    assert {"check_estimators_pickle", "check_methods_subset_invariance"} <= by_status["passed"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("房间很干净", "give texts in one dimension"),
        (pd.DataFrame({"review": ["房间很干净"]}), "give texts in one dimension"),
        (["房间很干净", float("nan")], "text 1 is of type float, not str"),
        (["房间很干净", " \u200b"], "text 1: empty text; `answers` gives such a text no label"),
        (["\ud83d好"], "text 0: not valid Unicode"),
        ([], "there are no texts"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(classifier: ReviewClassifier, texts: Any, message: str) -> None:
    for ask in (classifier.predict, classifier.predict_proba):
        with pytest.raises(ValueError, match=message):
            ask(texts)


def test_the_columns_of_probabilities_are_in_scikit_learns_order(
    command: Command, demo_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    """差评 comes first in the data set, and 好评 in the order of characters, which metrics go by."""
    asked = ["--labels", "0=差评,1=好评", "--train-samples", "400", "--run-folder", tmp_path / "run"]
    done = command("prepare", *asked)
    assert done.returncode == 0, done.stderr
    classifier = load(tmp_path / "run", "tfidf")
    assert classifier.classes_.tolist() == ["好评", "差评"]
    texts = [row["text"] for row in demo_rows[:50]]
    gold = [{"0": "差评", "1": "好评"}[row["label"]] for row in demo_rows[:50]]
    said = classifier.answers(texts)
    right = [said[label][at] for at, label in enumerate(gold)]
    assert log_loss(gold, classifier.predict_proba(texts)) == pytest.approx(-np.log(right).mean())


def test_a_result_shows_the_scores_and_the_figures(demo_run: Demo) -> None:
    result = Result(demo_run[0].path)
    systems = read_json(demo_run[0].scores)["systems"]
    assert result.scores["accuracy"].to_dict() == {name: each["accuracy"] for name, each in systems.items()}
    page = result._repr_html_()
    assert "微调后" in page
    assert f"{systems['tuned']['accuracy']:.3f}" in page
    assert page.count('<img src="data:image/svg+xml;base64,') == 2
    assert "after tuning" in repr(result)
    assert repr(result).endswith(f"run folder: {result.folder}")


@pytest.mark.slow
def test_a_run_is_that_of_the_command_line(tmp_path: Path) -> None:
    result = run(tmp_path / "run", dataset="demo", method="probe", train_samples=60, test_samples=20)
    assert list(result.scores.index)[-1] == "probe"
    assert result.load("probe").predict(["房间很干净"]).shape == (1,)
    written = (tmp_path / "run" / "experiment.yaml").read_text(encoding="utf-8")
    command = ["prepare", "--method", "probe", "--dataset", "demo", "--train-samples", "60"]
    subprocess.run(
        [
            sys.executable,
            "run_swift.py",
            *command,
            "--test-samples",
            "20",
            "--run-folder",
            tmp_path / "other",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "other" / "experiment.yaml").read_text(encoding="utf-8") == written


def test_options_are_known_by_their_names() -> None:
    found = options_of({"dataset": "demo", "seed": 7, "lang": "en"}, "run")
    assert found == RunOptions(DataOptions(dataset="demo"), TuningOptions(seed=7), "en")
    with pytest.raises(UserError, match=r"run: datset is no option of `run`\. Did you mean dataset"):
        options_of({"datset": "demo"}, "run")
    with pytest.raises(UserError, match=r"run: data\.train_samples"):
        options_of({"train_samples": "many"}, "run")


def test_the_package_alone_loads_neither_torch_nor_swift() -> None:
    code = "import sys, workflows; print({'torch', 'swift', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
