"""The systems of a finished run, ready to answer any text: its tuned model, the untouched one, the probe,
TF-IDF.

Whoever serves answers opens them here; the model is read once, by the fast scorer's one pass over each text.

Not covered: SWIFT's own engines, which `run --engine` has.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from safetensors.numpy import load_file
from swift.infer_engine import RequestConfig
from swift.pipelines.utils import prepare_model_template

from workflows.baselines.baselines import fit_baselines, join_said
from workflows.core.errors import UserError
from workflows.core.files import fingerprint, read_json, read_jsonl
from workflows.core.rows import Row, Rows
from workflows.core.run_folder import RunFolder, checkpoint_of, finished_stages
from workflows.data.examples import choose_examples
from workflows.data.messages import write_row
from workflows.data.reviews import Review, strip_text
from workflows.experiment.cards import COMMAND, MAX_NEW_TOKENS
from workflows.experiment.experiment import Experiment, load_experiment
from workflows.inference.features import Frame, read_features
from workflows.inference.head import score_rows
from workflows.inference.infer import answer_batches, merge_adapter
from workflows.inference.predictions import join_answers, join_scores
from workflows.inference.regressions import outputs_of
from workflows.inference.scorer import prompt_tokens
from workflows.model.arguments import build_infer_arguments
from workflows.model.folder import with_local_model
from workflows.model.loaded import LoadedModel
from workflows.model.machine import find_machine

UNKNOWN_GOLD: dict[str, Any] = {"single_label": 0, "multi_label": [], "regression": 0.0}

Answer = Row  # as in predictions/*.jsonl, without `id` and `gold`
Batches = Iterator[Rows]  # prediction rows, in the order in which they are answered
Worn = Callable[[], AbstractContextManager[Any]]  # a context that gives the model, ready to answer


@dataclass(frozen=True)
class System:
    """One system of one run."""

    run: RunFolder
    experiment: Experiment
    name: str
    answer_rows: Callable[[Rows], Batches]  # of rows of a data file
    examples: tuple[Review, ...] = ()  # the training rows that a prompt with examples chooses from

    def answers(self, texts: list[str]) -> Iterator[list[tuple[int, Answer]]]:
        """(position in `texts`, answer), batch by batch, in the order in which they are answered.

        Each text is stripped as the training rows were; none may be empty then.
        """
        if not texts:
            return
        experiment = self.experiment
        gold = UNKNOWN_GOLD[experiment.dataset.task]
        reviews = [Review(str(at), strip_text(text), gold) for at, text in enumerate(texts)]
        shown = choose_examples(reviews, [*self.examples], experiment.prompt, experiment.data.data_seed)
        rows = [
            write_row(review, experiment.prompt, experiment.labels, "messages", examples, answered=False)
            for review, examples in zip(reviews, shown, strict=True)
        ]
        for batch in self.answer_rows(rows):
            yield [(int(row.pop("id")), {k: v for k, v in row.items() if k != "gold"}) for row in batch]

    def words(self, said: Answer) -> str:
        """An answer as the tuned model writes it, also of a system that writes nothing."""
        if said["output"] is not None:
            return said["output"]
        words = {label.name: label.words for label in self.experiment.labels}
        prediction = said["prediction"]
        names = prediction if isinstance(prediction, list) else [prediction]
        return "、".join(words.get(name, str(name)) for name in names)

    def answer(self, texts: list[str]) -> list[Answer]:
        """The answer to each text, in their order."""
        found = dict(each for batch in self.answers(texts) for each in batch)
        return [found[at] for at in range(len(texts))]


@dataclass
class Models:
    """Models in memory.  Adapters of one base share its weights, so none is merged into them."""

    bases: dict[str, LoadedModel] = field(default_factory=dict)
    adapted: dict[str, PeftModel] = field(default_factory=dict)

    def load(self, arguments: Any, adapter: Path | None) -> tuple[Any, Any, Worn]:
        """Model, template, and what makes the model wear the adapter for a while (None: none of its own)."""
        base = fingerprint([arguments.model, arguments.task_type, arguments.num_labels])
        with self.bases.setdefault(base, LoadedModel()).reused():
            model, template = prepare_model_template(arguments)
        if adapter is not None and base not in self.adapted:
            self.adapted[base] = PeftModel.from_pretrained(model, adapter, adapter_name=str(adapter))
        elif adapter is not None:
            self.adapted[base].load_adapter(adapter, str(adapter))

        @contextmanager
        def worn() -> Iterator[Any]:
            adapted = self.adapted.get(base)  # asked late: another run may have put an adapter on the model
            if adapted is None:
                yield model
            elif adapter is None:
                with adapted.disable_adapter():
                    yield adapted
            else:
                adapted.set_adapter(str(adapter))
                yield adapted

        return model, template, worn


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
        made_by = {"tuned": "tuned", "zero_shot": "prepare", "probe": "probe", "tfidf": "prepare"}[name]
        done = finished_stages(run)
        _check(folder, name != "tuned" or experiment.tunes, "its method tunes no model; take another system")
        _check(folder, made_by in done, f"{name} is not finished; finish it first: {COMMAND} run {folder}")
        _check(folder, name != "zero_shot" or not experiment.has_head, "an untrained head knows nothing")
    if name == "tfidf":
        vectorizer, baselines = fit_baselines(run, experiment)

        def by_tfidf(rows: Rows) -> Batches:
            yield join_said(
                rows, baselines[name](vectorizer.transform(row["review"] for row in rows)), experiment
            )

        return System(run, experiment, name, by_tfidf)
    train: tuple[Review, ...] = ()
    if experiment.prompt.shots:
        train = tuple(
            Review(row["id"], row["review"], row["label"]) for row in read_jsonl(run.split("train"))
        )
    checkpoint = checkpoint_of(run) if name == "tuned" and not exported else None
    if checkpoint is not None and not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: is gone; train again: {COMMAND} run {folder}")
    model, template, worn = _load(experiment, checkpoint, models)
    answer = _by_probe(run, experiment) if name == "probe" else _by_model(experiment)

    def by_model(rows: Rows) -> Batches:
        with worn() as dressed:
            yield from answer(dressed, template, rows)

    return System(run, experiment, name, by_model, train)


def _check(folder: Path, fits: bool, else_said: str) -> None:
    if not fits:
        raise UserError(f"{folder}: {else_said}.")


def _load(experiment: Experiment, checkpoint: Path | None, models: Models | None) -> tuple[Any, Any, Worn]:
    """Model, template, and a context in which the model is ready to answer."""
    ready, machine, nowhere = with_local_model(experiment), find_machine(), Path(os.devnull)
    is_adapter = checkpoint is not None and (checkpoint / "adapter_config.json").exists()
    beside = models is not None and is_adapter  # the model wears it beside others
    arguments = build_infer_arguments(ready, machine, nowhere, nowhere, None if beside else checkpoint)
    if models is not None:
        return models.load(arguments, checkpoint if is_adapter else None)
    with LoadedModel().reused():  # as a run loads it
        model, template = prepare_model_template(arguments)
    merged = merge_adapter(model)
    return merged, template, lambda: nullcontext(merged)


def _by_model(experiment: Experiment) -> Callable[[Any, Any, Rows], Batches]:
    """What the model says, in words or by its head."""
    request = RequestConfig(max_tokens=MAX_NEW_TOKENS, temperature=0)

    def answer(model: Any, template: Any, rows: Rows) -> Batches:
        by_id = {row["id"]: row for row in rows}
        if experiment.has_head:
            for batch in score_rows(model, template, rows, experiment.tuning.window):
                yield join_scores([by_id[each["id"]] for each in batch], batch, experiment)
            return
        ended = experiment.ends_after_label
        for batch in answer_batches(model, template, rows, experiment.labels, request, ended=ended):
            yield join_answers([by_id[each["id"]] for each in batch], batch, experiment.labels)

    return answer


def _by_probe(run: RunFolder, experiment: Experiment) -> Callable[[Any, Any, Rows], Batches]:
    """What the probe says; a UserError where it was not fitted."""
    fitted = read_json(run.probe)
    if fitted["missing"] is not None:
        raise UserError(f"{run.path}: has no probe: {fitted['missing']['en']}")
    weights, frame = load_file(run.probe_weights), Frame(**fitted["frame"])

    def answer(model: Any, template: Any, rows: Rows) -> Batches:
        prompts = [prompt_tokens(template, row) for row in rows]
        for batch in read_features(model, prompts, frame):
            outputs = outputs_of(weights, np.array([features for _, features in batch])).tolist()
            asked = [rows[at] for at, _ in batch]
            said = [
                {"id": row["id"], "answer": None, "scores": [output]}
                for row, output in zip(asked, outputs, strict=True)
            ]
            yield [{**row, "output": None} for row in join_scores(asked, said, experiment)]

    return answer
