"""The project in Python: run a job, and use what came of it.

from workflows import run, load

result = run(dataset="demo", model="tiny")     # the options of `run`, by their names
result                                         # in a notebook: the table and the figures
load(result.folder).answers(["房间很干净"])      # a DataFrame
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin

from workflows.core.costs import costs_of
from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen, as_typed
from workflows.core.texts import in_language, texts
from workflows.data.reviews import why_no_review
from workflows.experiment.experiment import load_experiment
from workflows.experiment.resolve import options_of, resolve
from workflows.model.folder import check_machine
from workflows.model.gpu import settle_gpu
from workflows.pipeline.run import do_stages, start_run
from workflows.pipeline.stages import STAGES
from workflows.scoring.table import render_scores
from workflows.serving.blocks import answer_texts
from workflows.serving.systems import Answer, System, open_system

FIGURES = ("confusion", "curves")  # of a report, that a notebook shows


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run; a notebook shows its table and figures, a terminal the table."""

    folder: Path

    @property
    def scores(self) -> pd.DataFrame:
        """The figures of each system that have an interval, a row each."""
        systems = read_json(RunFolder(self.folder).scores)["systems"]
        rows = {}
        for name, figures in systems.items():
            rows[name] = {
                figure: value
                for figure, value in figures.items()
                if f"{figure}_interval" in figures or figure.endswith("_interval")
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("system")

    def load(self, system: str = "tuned") -> ReviewClassifier:
        """Its model, ready to answer."""
        return load(self.folder, system)

    def __repr__(self) -> str:
        run = RunFolder(self.folder)
        return f"{render_scores(read_json(run.scores), costs_of(run))}\nrun folder: {as_typed(self.folder)}"

    def _repr_html_(self) -> str:
        run = RunFolder(self.folder)
        titles = {name: in_language(said, "zh") for name, said in texts("systems").items()}
        table = self.scores.rename(index=titles)
        verdict = read_json(run.scores)["verdict"]
        pictures = [run.figures / f"{name}.zh.svg" for name in FIGURES]
        drawn = "".join(_picture(path) for path in pictures if path.exists())
        return (
            f"{table.to_html(float_format='{:.3f}'.format)}<p>{verdict['zh']}<br>{verdict['en']}</p>{drawn}"
        )


def _picture(svg: Path) -> str:
    """As an image: the ids inside two figures of one page would be each other's."""
    return f'<img src="data:image/svg+xml;base64,{b64encode(svg.read_bytes()).decode()}" alt="{svg.stem}">'


def run(run_folder: str | Path | None = None, verbose: bool = False, **options: Any) -> Result:
    """Do a whole run, as the command `run` does: its options by their names, with `_`.

    `run_folder`: where it goes, default a new folder in outputs/.  The same call goes on with an unfinished
    run.  Raises UserError as the command does.
    """
    settle_gpu()
    screen = Screen(verbose)
    experiment = resolve(options_of(options, "run"))
    check_machine(experiment)  # before data is prepared that this machine could not train on
    folder = start_run(experiment, None if run_folder is None else Path(run_folder), screen)
    do_stages(folder, experiment, tuple(stage.name for stage in STAGES), screen)
    return Result(folder.path)


def load(folder: str | Path, system: str = "tuned") -> ReviewClassifier:
    """A finished run, or a folder that `export` wrote, as a classifier of texts; raises UserError as the
    command `predict` does.
    """
    settle_gpu()
    classifier = ReviewClassifier(str(folder), system)
    classifier.fit()
    return classifier


class ReviewClassifier(ClassifierMixin, BaseEstimator):
    """A system of a finished run as scikit-learn's classifiers are: of texts, one label each.

    It was fitted by the run: `fit` loads it, whatever it is given.  Where the model's output names no label,
    its likelier one is the prediction, since a classifier has no other answer.  `predict` and `predict_proba`
    raise ValueError for what is no list of texts, or has an empty one.
    """

    def __init__(self, folder: str = "", system: str = "tuned") -> None:
        self.folder = folder
        self.system = system

    def fit(self, X: Any = None, y: Any = None) -> ReviewClassifier:
        """Load the model."""
        folder = Path(self.folder)
        load_experiment(RunFolder(folder).experiment)  # no log is begun where there is no run
        with Screen().output_to(folder / "logs" / "load.log"):
            opened = open_system(folder, self.system)
        if opened.experiment.dataset.task != "single_label":
            raise UserError(
                f"{as_typed(folder)}: a classifier gives one label a text; use `predict` for others."
            )
        self.opened_: System = opened
        # Sorted, as scikit-learn's own metrics take the columns of `predict_proba` to be.
        self.classes_ = np.array(sorted(label.name for label in opened.experiment.labels))
        return self

    def answers(self, X: Any) -> pd.DataFrame:
        """Each text with its label and the probability of each label; an empty text, or one whose answer
        names no label, has none.
        """
        system, texts = self._opened(), _texts(X)
        nothing: Answer = {"prediction": None, "probabilities": dict.fromkeys(self.classes_, np.nan)}
        said = [each or nothing for each in answer_texts(system, texts)]
        rows = [
            {"text": text, "prediction": each["prediction"], **each["probabilities"]}
            for text, each in zip(texts, said, strict=True)
        ]
        return pd.DataFrame(rows, columns=["text", "prediction", *self.classes_])

    def predict(self, X: Any) -> np.ndarray:
        """The label of each text, (texts,)."""
        said = self._answered(X)
        return np.array([each["prediction"] or _likelier(each) for each in said], dtype=self.classes_.dtype)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probabilities of the labels, (texts, labels), in the order of `classes_`."""
        said = self._answered(X)
        return np.array([[each["probabilities"][name] for name in self.classes_] for each in said])

    def _answered(self, X: Any) -> list[Answer]:
        texts = _texts(X)
        reasons = {at: reason for at, text in enumerate(texts) if (reason := why_no_review(text))}
        if reasons or not texts:
            what = next((f"text {at}: {reason}" for at, reason in reasons.items()), "there are no texts")
            raise ValueError(f"{what}; `answers` gives such a text no label")
        return self._opened().answer(texts)

    def _opened(self) -> System:
        if not hasattr(self, "opened_"):
            self.fit()
        return self.opened_

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which a copy reads from the run."""
        return {name: value for name, value in super().__getstate__().items() if name != "opened_"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        return tags


def _likelier(said: Answer) -> str:
    return max(said["probabilities"], key=said["probabilities"].__getitem__)


def _texts(X: Any) -> list[str]:
    """A list, array or column of texts as a list; a ValueError for anything else."""
    if isinstance(X, str) or getattr(X, "ndim", 1) != 1:
        raise ValueError("give texts in one dimension: a list, or one column of a table")
    texts = [*X]
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {at} is of type {type(text).__name__}, not str")
    return texts
