"""The project in Python: the same runs, the same answers, and what scikit-learn expects of a classifier."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score
from sklearn.utils.estimator_checks import parametrize_with_checks

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


@parametrize_with_checks([ReviewClassifier()])
def test_scikit_learns_own_checks_pass(estimator: ReviewClassifier, check: object) -> None:
    """Those for estimators of texts: numbers in two dimensions are nothing that it reads."""
    assert callable(check)
    check(estimator)


def test_a_result_shows_the_scores_and_the_figures(demo_run: Demo) -> None:
    result = Result(demo_run[0].path)
    systems = read_json(demo_run[0].scores)["systems"]
    assert result.scores["accuracy"].to_dict() == {name: each["accuracy"] for name, each in systems.items()}
    page = result._repr_html_()
    assert "微调后" in page
    assert f"{systems['tuned']['accuracy']:.3f}" in page
    assert page.count("<svg") == 2


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
