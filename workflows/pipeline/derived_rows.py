"""The door of the stage `material`: training rows that a method makes of train.jsonl, and where they come
from.

    dpo           each row also gets the answer that is to become less probable
    distill       each row also gets the teacher's label probabilities
    cot           answers also get a reasoning that the untuned model wrote
    pseudo-label  unlabelled reviews join the rows

What needs a model, or the data stage, is done by functions that are passed in.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import read_jsonl, sha256, write_json, write_jsonl
from workflows.core.rows import conversation
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.experiment.cards import Label
from workflows.experiment.experiment import Experiment, load_experiment
from workflows.experiment.recipes import Distillation, Preference, PseudoLabels, Reasoning
from workflows.pipeline.pseudo_labels import judge_pseudo_labels
from workflows.pipeline.reasonings import choose_rows, questions, with_reasonings

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Tools:
    """What other stages lend."""

    # (name, experiment, rows of a data file, checkpoint) -> rows of predictions/*.jsonl
    ask: Callable[[str, Experiment, Rows, Path | None], Rows]
    # (rows with "id" and "messages", max_new_tokens) -> the untuned model's texts by id
    write: Callable[[Rows, int], dict[str, str]]
    # (row with "id", "review" and "label", experiment) -> the row of a data file with that one's prompt
    rewrite: Callable[[dict[str, Any], Experiment], dict[str, Any]]
    read_unlabelled: Callable[[], tuple[Rows, Rows]]  # usable rows of a data file, and rejected ones
    count_tokens: Callable[[Rows], Any]  # -> what tokens.json says of a split


def make_material(run: RunFolder, experiment: Experiment, tools: Tools) -> dict[str, Any]:
    """Read train.jsonl and val.jsonl; write material.jsonl, material_rejected.jsonl, material.json (for DPO
    material_val.jsonl too) into data/; return the content of material.json.

    Raises UserError where the run that the method starts from has seen this run's validation or test rows.
    """
    recipe = experiment.recipe
    train, val = (list(map(as_messages, read_jsonl(run.split(name)))) for name in ("train", "val"))
    labels, seed = experiment.labels, experiment.data.data_seed
    rejected: Rows = []
    counts: dict[str, int] = {}
    if experiment.tuning.from_run is not None:
        refuse_seen_rows(run, RunFolder(Path(experiment.tuning.from_run)))
    if isinstance(recipe, Preference):
        rows = with_rejected(train, labels, seed)
        write_jsonl(run.material_val, with_rejected(val, labels, seed))
    elif isinstance(recipe, Distillation):
        rows = with_teacher(train, experiment, tools)
        names = [label.name for label in labels]
        best = [max(row["teacher"], key=row["teacher"].get) for row in rows]
        agrees = sum(names[row["label"]] == name for row, name in zip(rows, best, strict=True))
        counts = {"teacher_agrees_with_gold": agrees}
    elif isinstance(recipe, Reasoning):
        chosen = choose_rows(train, recipe.samples, seed)
        texts = tools.write(questions(chosen, recipe, labels), recipe.max_new_tokens)
        rows, rejected = with_reasonings(train, texts, recipe, labels)
        counts = {"asked": len(chosen), "with_reasoning": len(chosen) - len(rejected)}
    elif isinstance(recipe, PseudoLabels):
        found, rejected = tools.read_unlabelled()
        kept, refused = with_pseudo_labels(found, experiment, recipe, tools)
        counts = {"unlabelled": len(found) + len(rejected), "pseudo_labelled": len(kept)}
        rows, rejected = [*train, *kept], [*rejected, *refused]
    summary = {
        "method": experiment.tuning.method,
        "recipe": asdict(recipe) if recipe is not None else None,
        "model": experiment.model.name,
        "rows": {"train": len(train), **counts, "material": len(rows)},
        "rejected": dict(Counter(row["reason"] for row in rejected).most_common()),
        **describe_sources(experiment),
        "tokens": tools.count_tokens(rows),
    }
    write_jsonl(run.material_rejected, rejected)
    write_jsonl(run.material, rows)
    write_json(run.material_summary, summary)
    return summary


def describe_sources(experiment: Experiment) -> dict[str, Any]:
    """What the material is made from beside the run's own rows, with hashes.

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
        raise UserError(f"{path}: there is no such file any more; the material is made from it.")
    return sha256(path)


def refuse_seen_rows(run: RunFolder, source: RunFolder) -> None:
    """Raise UserError where `source` was trained on texts of this run's validation or test set."""
    trained = source.material if source.material.exists() else source.split("train")
    texts = {row["review"] for row in read_jsonl(trained)}
    for name in ("val", "test"):
        rows = read_jsonl(run.split(name))
        seen = sum(row["review"] in texts for row in rows)
        if seen:
            raise UserError(
                f"--from-run {source.path}: was trained on {seen} of the {len(rows)} {name} rows of this "
                "run; take the same data set, --split and --data-seed for both."
            )


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


def with_teacher(rows: Rows, experiment: Experiment, tools: Tools) -> Rows:
    """The rows with `teacher`: what the tuned model of --from-run gives each label, by name.

    The teacher is asked with its own prompt.
    """
    source = RunFolder(Path(str(experiment.tuning.from_run)))
    teacher = load_experiment(source.experiment)
    asked = [tools.rewrite(row, teacher) for row in rows]
    answers = tools.ask("teacher", teacher, asked, checkpoint_of(source))
    return [{**row, "teacher": answer["probabilities"]} for row, answer in zip(rows, answers, strict=True)]


def with_pseudo_labels(
    rows: Rows, experiment: Experiment, recipe: PseudoLabels, tools: Tools
) -> tuple[Rows, Rows]:
    """Data-file rows of those reviews that get a pseudo-label, with `confidence`; and the rejected ones."""
    source = RunFolder(Path(str(experiment.tuning.from_run)))
    origin = load_experiment(source.experiment)
    base = tools.ask("base", origin, rows, None)
    tuned = tools.ask("tuned", origin, rows, checkpoint_of(source))
    kept, rejected = judge_pseudo_labels(base, tuned, experiment.labels, recipe.threshold)
    return [
        {**tools.rewrite(row, experiment), "pseudo_label": True, "confidence": row["confidence"]}
        for row in kept
    ], rejected
