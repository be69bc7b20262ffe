"""The door of the stage `derive`: training rows that a method makes of train.jsonl, and where they come
from.

    dpo           each row also gets the answer that is to become less probable
    distill       each row also gets the teacher's label probabilities
    cot           answers also get a reasoning that the untuned model wrote
    pseudo-label  unlabelled reviews join the rows
"""

import random
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from workflows.core.costs import costs_of
from workflows.core.errors import UserError
from workflows.core.files import read_jsonl, sha256, write_json, write_jsonl
from workflows.core.rows import Rows, conversation
from workflows.core.run_folder import SPLITS, RunFolder, checkpoint_of
from workflows.data.messages import write_row
from workflows.data.reviews import Review
from workflows.data.splits import sample_rows
from workflows.data.unlabelled import read_unlabelled
from workflows.experiment.cards import Label
from workflows.experiment.experiment import Experiment, load_experiment
from workflows.experiment.job import Job
from workflows.experiment.recipes import Distillation, Preference, PseudoLabels, Reasoning
from workflows.inference.infer import answer_rows
from workflows.inference.write import write_texts
from workflows.model.machine import Machine, machine_of
from workflows.model.tokens import count_derived_tokens
from workflows.pipeline.pseudo_labels import judge_pseudo_labels
from workflows.pipeline.reasonings import choose_rows, questions, with_reasonings


def derive_rows(job: Job) -> dict[str, Any]:
    """Read train.jsonl and val.jsonl; write derived.jsonl, derived_rejected.jsonl, derived.json (for DPO
    derived_val.jsonl too) into data/; return the content of derived.json,
    and the seconds.

    Raises UserError where the run that the method starts from has seen this run's validation or test rows.
    """
    start, run, experiment, machine = time.monotonic(), job.run, job.experiment, machine_of(job)
    recipe, labels, seed = experiment.recipe, experiment.labels, experiment.data.data_seed
    train, val = (list(map(as_messages, read_jsonl(run.split(name)))) for name in ("train", "val"))
    resumed = any(run.derived.parent.glob(f".*-{job.inputs}.*"))
    rejected: Rows = []
    counts: dict[str, int] = {}
    if experiment.tuning.from_run is not None:
        refuse_seen_rows(run, RunFolder(Path(experiment.tuning.from_run)))
    if isinstance(recipe, Preference):
        rows = with_rejected(train, labels, seed)
        looked_at = sample_rows(val, experiment.tuning.eval_rows, seed)
        write_jsonl(run.derived_val, with_rejected(looked_at, labels, seed))
    elif isinstance(recipe, Distillation):
        rows = with_teacher(job, machine, train)
        names = [label.name for label in labels]
        best = [max(row["teacher"], key=row["teacher"].get) for row in rows]
        agrees = sum(names[row["label"]] == name for row, name in zip(rows, best, strict=True))
        counts = {"teacher_agrees_with_gold": agrees}
    elif isinstance(recipe, Reasoning):
        chosen = choose_rows(train, recipe.samples, seed)
        asked = questions(chosen, recipe, labels)
        written = _kept(job, "reasonings")
        texts = write_texts(job, machine, asked, recipe.max_new_tokens, written)
        rows, rejected = with_reasonings(train, texts, recipe, labels)
        counts = {"asked": len(chosen), "with_reasoning": len(chosen) - len(rejected)}
    elif isinstance(recipe, PseudoLabels):
        splits = {name: read_jsonl(run.split(name)) for name in SPLITS}
        file = Path(str(experiment.tuning.unlabelled))
        found, rejected = read_unlabelled(file, experiment.dataset, splits, job.screen)
        kept, refused = with_pseudo_labels(job, machine, recipe, found)
        counts = {"unlabelled": len(found) + len(rejected), "pseudo_labelled": len(kept)}
        rows, rejected = [*train, *kept], [*rejected, *refused]
    summary = {
        "method": experiment.tuning.method,
        "recipe": asdict(recipe) if recipe is not None else None,
        "model": experiment.model.name,
        "rows": {"train": len(train), **counts, "derived": len(rows)},
        "rejected": dict(Counter(row["reason"] for row in rejected).most_common()),
        **describe_sources(experiment),
        "tokens": count_derived_tokens(job, machine, rows),
    }
    write_jsonl(run.derived_rejected, rejected)
    write_jsonl(run.derived, rows)
    write_json(run.derived_summary, summary)
    for path in run.derived.parent.glob(f".*-{job.inputs}.jsonl"):
        path.unlink()  # what a stop would have left for the same command to take up
    seconds = {"tuning": round(time.monotonic() - start, 2), "resumed": resumed}
    if experiment.tuning.from_run is not None:  # what it starts from was tuned first
        before = costs_of(RunFolder(Path(experiment.tuning.from_run))).get("tuned", {"resumed": True})
        seconds["tuning"] += before.get("tuning", 0.0)
        seconds["resumed"] = resumed or before["resumed"]
    return summary | {"seconds": {"tuned": seconds}}


def _kept(job: Job, name: str) -> Path:
    """The file that keeps answers until the stage is done."""
    return job.run.derived.parent / f".{name}-{job.inputs}.jsonl"


def describe_sources(experiment: Experiment) -> dict[str, Any]:
    """What the derived rows are made from beside the run's own rows, with hashes.

    Raises UserError where a source is there no more.
    """
    sources: dict[str, Any] = {}
    if experiment.tuning.from_run is not None:
        training = RunFolder(Path(experiment.tuning.from_run)).training
        sources["from_run"] = {"folder": experiment.tuning.from_run, "training_sha256": _hash(training)}
    if experiment.tuning.unlabelled is not None:
        path = Path(experiment.tuning.unlabelled)
        sources["unlabelled"] = {"file": str(path), "sha256": _hash(path)}
    return sources


def _hash(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file any more; the training rows are made from it.")
    return sha256(path)


def refuse_seen_rows(run: RunFolder, source: RunFolder) -> None:
    """Raise UserError where `source`, or a run that its model began with, was trained on texts of this run's
    validation or test set.
    """
    texts: set[str] = set()
    begun: RunFolder | None = source
    while begun is not None:
        trained = begun.derived if begun.derived.exists() else begun.split("train")
        if not trained.exists():
            if begun is source or not _are_tested_by(source, run):  # who has checked them against that run
                raise UserError(f"{trained}: is gone, so nobody can say whether test rows were trained on.")
            break
        texts |= {row["review"] for row in read_jsonl(trained)}
        before = load_experiment(begun.experiment)
        earlier = before.tuning.from_run if isinstance(before.recipe, Preference) else None
        begun = None if earlier is None else RunFolder(Path(earlier))
    for name in ("val", "test"):
        rows = read_jsonl(run.split(name))
        seen = sum(row["review"] in texts for row in rows)
        if seen:
            raise UserError(
                f"--from-run {source.path}: was trained on {seen} of the {len(rows)} {name} rows of this "
                "run; take the same data set, --split and --data-seed for both."
            )


def _are_tested_by(source: RunFolder, run: RunFolder) -> bool:
    """Whether all validation and test rows of `run` are such rows of `source`, too."""
    own, others = (
        {row["review"] for name in ("val", "test") for row in read_jsonl(each.split(name))}
        for each in (run, source)
    )
    return own <= others


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a data file in SWIFT's messages format, whichever it is in."""
    return {**{name: row[name] for name in ("id", "label", "review")}, "messages": conversation(row)}


def with_rejected(rows: Rows, labels: tuple[Label, ...], seed: int) -> Rows:
    """The rows with `rejected_response`: another label's words, drawn by `seed`."""
    draw = random.Random(seed)
    made = []
    for row in rows:
        wrong = draw.choice([label for index, label in enumerate(labels) if index != row["label"]])
        made.append({**row, "rejected_response": wrong.words})
    return made


def with_teacher(job: Job, machine: Machine, rows: Rows) -> Rows:
    """The rows with `teacher`: what the tuned model of --from-run gives each label, by name.

    The teacher is asked with its own prompt.
    """
    source = RunFolder(Path(str(job.experiment.tuning.from_run)))
    teacher = replace(job, experiment=load_experiment(source.experiment))
    asked = [rewritten(row, job.experiment, teacher.experiment) for row in rows]
    answers = answer_rows(teacher, machine, "teacher", asked, checkpoint_of(source), _kept(job, "teacher"))
    return [{**row, "teacher": answer["probabilities"]} for row, answer in zip(rows, answers, strict=True)]


def with_pseudo_labels(
    job: Job, machine: Machine, recipe: PseudoLabels, reviews: list[Review]
) -> tuple[Rows, Rows]:
    """Data-file rows of those reviews that get a pseudo-label, with `confidence`; and the rejected ones."""
    experiment = job.experiment
    source = RunFolder(Path(str(experiment.tuning.from_run)))
    origin = replace(job, experiment=load_experiment(source.experiment))
    rows = [write_row(each, experiment.prompt, experiment.labels, "messages") for each in reviews]
    base = answer_rows(origin, machine, "base", rows, None, _kept(job, "base"))
    tuned = answer_rows(origin, machine, "tuned", rows, checkpoint_of(source), _kept(job, "tuned"))
    kept, rejected = judge_pseudo_labels(base, tuned, experiment.labels, recipe.threshold)
    return [
        {
            **rewritten(row, experiment, experiment),
            "pseudo_label": True,
            "confidence": row["confidence"],
        }
        for row in kept
    ], rejected


def rewritten(row: dict[str, Any], experiment: Experiment, other: Experiment) -> dict[str, Any]:
    """A row of this experiment's data files as the `other` one would write it, with its prompt and words."""
    name = experiment.labels[row["label"]].name
    label = [each.name for each in other.labels].index(name)
    return write_row(Review(row["id"], row["review"], label), other.prompt, other.labels, "messages")
