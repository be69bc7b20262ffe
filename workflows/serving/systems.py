"""The systems of a finished run, ready to answer any text: its tuned model, the untouched one, the probe,
TF-IDF.

Whoever serves answers opens them here; the model is read once, by the fast scorer's one pass over each text.
TF-IDF loads neither torch nor SWIFT.

Not covered: SWIFT's own engines, which `run --engine` has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflows.baselines.baselines import fit_baselines, join_said
from workflows.core.errors import UserError
from workflows.core.files import read_jsonl
from workflows.core.rows import Row, Rows
from workflows.core.run_folder import RunFolder, checkpoint_of, finished_stages
from workflows.data.examples import Chooser, example_chooser
from workflows.data.messages import write_row
from workflows.data.reviews import Review, strip_text
from workflows.experiment.cards import COMMAND
from workflows.experiment.experiment import Experiment, load_experiment

if TYPE_CHECKING:
    from workflows.serving.models import Models

UNKNOWN_GOLD: dict[str, Any] = {"single_label": 0, "multi_label": [], "regression": 0.0}

Answer = Row  # as in predictions/*.jsonl, without `id` and `gold`
Batches = Iterator[Rows]  # prediction rows, in the order in which they are answered


@dataclass(frozen=True)
class System:
    """One system of one run."""

    run: RunFolder
    experiment: Experiment
    name: str
    answer_rows: Callable[[Rows], Batches]  # of rows of a data file
    choose: Chooser  # of the training rows those that a prompt with examples shows

    def answers(self, texts: list[str]) -> Iterator[list[tuple[int, Answer]]]:
        """(position in `texts`, answer), batch by batch, in the order in which they are answered.

        Each text is stripped as the training rows were; none may be empty then.
        """
        if not texts:
            return
        experiment = self.experiment
        gold = UNKNOWN_GOLD[experiment.dataset.task]
        reviews = [Review(str(at), strip_text(text), gold) for at, text in enumerate(texts)]
        rows = [
            write_row(review, experiment.prompt, experiment.labels, "messages", examples, answered=False)
            for review, examples in zip(reviews, self.choose(reviews), strict=True)
        ]
        for batch in self.answer_rows(rows):
            yield [(int(row.pop("id")), {k: v for k, v in row.items() if k != "gold"}) for row in batch]

    def words(self, said: Answer) -> str:
        """An answer in a label's words: as the tuned model writes it, without the reasons that follow there;
        also of a system that writes nothing.
        """
        words, prediction = {label.name: label.words for label in self.experiment.labels}, said["prediction"]
        if said["output"] is not None and (prediction is None or self.experiment.ends_after_label):
            return said["output"]
        names = prediction if isinstance(prediction, list) else [prediction]
        return "、".join(words.get(name, str(name)) for name in names)

    def answer(self, texts: list[str]) -> list[Answer]:
        """The answer to each text, in their order."""
        found = dict(each for batch in self.answers(texts) for each in batch)
        return [found[at] for at in range(len(texts))]


def made_system(experiment: Experiment) -> str:
    """The system that a run makes: its tuned model, or its probe where it tunes none."""
    return "tuned" if experiment.tunes else "probe"


def open_made(folder: Path, models: Models | None = None) -> System:
    """The system that the finished run `folder` made, as `open_system` opens it; raises as that does."""
    return open_system(folder, made_system(load_experiment(RunFolder(folder).experiment)), models)


def open_system(folder: Path, name: str = "tuned", models: Models | None = None) -> System:
    """A system of the finished run `folder`, or the tuned model of a folder that `export` wrote.

    `models`: where several systems share what they load; None: the adapter is merged, which answers fastest.
    Raises UserError where there is no such run or system, or its model cannot be had.
    """
    run = RunFolder(folder)
    exported = run.exported.exists()
    experiment = load_experiment(run.experiment)
    if exported:
        _check(folder, name == "tuned", f"an exported folder has no {name}, only tuned")
        model = {**experiment.model.arguments, "model": str(folder.resolve())}
        experiment = replace(experiment, model=replace(experiment.model, arguments=model))
        _check(folder, experiment.prompt.shots == 0, "its prompt shows training rows; name the run itself")
    else:
        made_by = {"tuned": "tuned", "zero_shot": "prepare", "probe": "probe", "tfidf": "prepare"}
        _check(folder, name in made_by, f"{name} answers no new texts; take one of {', '.join(made_by)}")
        done, no_probe = finished_stages(run), name == "probe" and experiment.for_encoders
        _check(folder, not no_probe, "an encoder has no probe; take another system")
        _check(folder, name != "tuned" or experiment.tunes, "its method tunes no model; take another system")
        there = made_by[name] in done and (name != "tuned" or run.training.exists())
        _check(folder, there, f"{name} is not finished; finish it first: {COMMAND} run {folder}")
        _check(folder, name != "zero_shot" or not experiment.has_head, "an untrained head knows nothing")
    needed = ("train", "val") if name == "tfidf" else ("train",) if experiment.prompt.shots else ()
    for split in needed:
        said = f"data/{split}.jsonl is missing, which {name} needs; take a copy with its rows"
        _check(folder, run.split(split).exists(), said)
    train: list[Review] = []
    if experiment.prompt.shots:
        train = [Review(row["id"], row["review"], row["label"]) for row in read_jsonl(run.split("train"))]
    choose = example_chooser(train, experiment.prompt, experiment.data.data_seed)
    if name == "tfidf":
        vectorizer, baselines = fit_baselines(run, experiment)

        def by_tfidf(rows: Rows) -> Batches:
            yield join_said(
                rows, baselines[name](vectorizer.transform(row["review"] for row in rows)), experiment
            )

        return System(run, experiment, name, by_tfidf, choose)
    checkpoint = checkpoint_of(run) if name == "tuned" and not exported else None
    from workflows.serving.models import by_model, by_probe, load_model

    model, template, worn = load_model(experiment, checkpoint, models)
    answer = by_probe(run, experiment) if name == "probe" else by_model(experiment)

    def answer_rows(rows: Rows) -> Batches:
        with worn() as dressed:
            yield from answer(dressed, template, rows)

    return System(run, experiment, name, answer_rows, choose)


def _check(folder: Path, fits: bool, else_said: str) -> None:
    if not fits:
        raise UserError(f"{folder}: {else_said}.")
