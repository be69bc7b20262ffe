"""Repeats a run from its experiment.yaml and says, stage by stage, what came out equal.

python run_swift.py reproduce outputs/RUN
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl, sha256, write_json
from workflows.core.rows import Row
from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.screen import Screen
from workflows.core.texts import number
from workflows.pipeline.run import do_stages, is_scored, open_run, start_run
from workflows.pipeline.stages import STAGES, UNTUNED

# What the two environments may differ in without anything that is computed being other.
HARMLESS = {"git_commit", "platform", "memory", "reason"}
EVERYTHING = (
    "everything can be equal, to the last bit: a CPU, and nothing that is recorded is other than it was; "
    "last digits may differ with the number of threads or processes, or where runs of a study shared what "
    "the frozen model read"
)
ON_A_GPU = (
    "data, splits, token counts and baselines can be equal, to the last byte; answers, losses and weights "
    "are only close: some kernels of a GPU add up in no fixed order"
)
ELSEWHERE = (
    "data, splits and token counts can be equal, to the last byte; what is computed is only close on other "
    "hardware, in another dtype, or with other versions"
)
OTHER_FILES = "nothing is sure to be equal: a file that was read is another now"
CLOCKS = ("speed", "runtime", "per_second", "memory", "elapsed", "remaining", "time")


def reproduce(folder: Path, screen: Screen) -> tuple[RunFolder, dict[str, Any]]:
    """Run the experiment of the run `folder` anew, beside it; return the new run and, stage by stage, what
    differs.

    The answer is also written to reproduction.json of the new run. Raises UserError where `folder` is no
    finished run.
    """
    original, experiment = open_run(folder.resolve())
    finished = finished_stages(original)
    names = tuple(stage.name for stage in STAGES if stage.name in finished)
    if not is_scored(original):
        raise UserError(f"{original.path}: is not finished; finish it first: run {original.path}")
    beside = (original.path.with_name(f"{original.path.name}-again-{again}") for again in count(1))
    unfinished = next(folder for folder in beside if not (folder / "reproduction.json").exists())
    run = start_run(experiment, unfinished, screen)
    do_stages(run, experiment, names, screen)
    differences = {name: COMPARED[name](original, run) for name in names if name in COMPARED}
    before, after = _environment(original), _environment(run)
    changed = [name for name in after if before.get(name) != after[name]]
    result = {
        "original": str(original.path),
        "equal": not any(differences.values()),
        "stages": differences,
        "environment": [f"{name}: {before.get(name)}, now {after[name]}" for name in changed],
        "can_be_equal": OTHER_FILES
        if _other_files(original, run)
        else can_be_equal(set(changed), after.get("device", "cpu")),
    }
    write_json(run.path / "reproduction.json", result)
    return run, result


def can_be_equal(changed: set[str], device: str) -> str:
    """What of a run can come out equal on `device` (cuda or cpu), where the environments' entries `changed`
    are not the same.
    """
    if changed - HARMLESS:
        return ELSEWHERE
    return ON_A_GPU if device == "cuda" else EVERYTHING


def _data(a: RunFolder, b: RunFolder) -> list[str]:
    before, after = read_json(a.manifest)["sha256"], read_json(b.manifest)["sha256"]
    return [*_other_files(a, b), *(f"{name} differs" for name in before if before[name] != after.get(name))]


def _other_files(a: RunFolder, b: RunFolder) -> list[str]:
    """The files that were read, and are others now."""
    before, after = (_hashes(read_json(run.manifest)) for run in (a, b))
    return [f"{what}: are of another file now" for what in before if before[what] != after.get(what)]


def _hashes(manifest: dict[str, Any]) -> dict[str, str | None]:
    """The hashes of the files that a run read, by what they were read for."""
    return {
        **{f"{split} rows": each["sha256"] for split, each in manifest["files"].items()},
        "corrections": manifest["corrections"]["sha256"],
    }


def _files(*pairs: tuple[Path, Path]) -> list[str]:
    """Which files are not the same; one that is missing is other than one that is there."""
    return [f"{one.name} differs" for one, other in pairs if _hash(one) != _hash(other)]


def _hash(path: Path) -> str | None:
    return sha256(path) if path.exists() else None


def _predictions(a: RunFolder, b: RunFolder, *systems: str) -> list[str]:
    found = []
    for system in systems:
        paths = a.predictions(system), b.predictions(system)
        if not paths[0].exists() or not _files(paths):
            continue
        before, after = ({row["id"]: row["prediction"] for row in read_jsonl(path)} for path in paths)
        other = sum(id not in after or after[id] != prediction for id, prediction in before.items())
        apart = largest_difference(a, b, system)
        numbers = any(isinstance(each, int | float) for each in before.values())
        found.append(
            f"{system}: {other} of {len(before)} predictions differ; "
            f"{'numbers' if numbers else 'probabilities'} by {apart:.1e} at most"
        )
    return found


def largest_difference(a: RunFolder, b: RunFolder, system: str) -> float:
    """By how much a label's probability, or a predicted number, differs at most between two runs' predictions
    by `system` of the same rows; nan where one is no number.
    """
    there = {row["id"]: _numbers(row) for row in read_jsonl(b.predictions(system))}
    differences = [
        abs(share - there[row["id"]].get(name, np.nan))
        for row in read_jsonl(a.predictions(system))
        for name, share in _numbers(row).items()
        if row["id"] in there
    ]
    return float(np.max(differences, initial=0.0))


def _numbers(row: Row) -> dict[str, float]:
    """The probabilities of a row's labels, or the number that was predicted."""
    if row["probabilities"]:
        return row["probabilities"]
    predicted = row["prediction"]
    return {"": predicted} if isinstance(predicted, int | float) else {}


def _training(a: RunFolder, b: RunFolder) -> list[str]:
    before, after = read_json(a.training), read_json(b.training)
    found = []
    if _without_clocks(before) != _without_clocks(after):
        losses, now = (
            {entry["step"]: entry["loss"] for entry in each["log_history"] if "loss" in entry}
            for each in (before, after)
        )
        both = [(loss, now.get(step)) for step, loss in losses.items()]
        apart = max((abs(a - b) for a, b in both if None not in (a, b)), default=0.0)
        found.append(f"logged figures differ; training losses by {apart:.1e} at most")
    if before["checkpoint"] != after["checkpoint"]:
        return [*found, f"kept {after['checkpoint']} instead of {before['checkpoint']}"]
    weights = sorted((a.sft / before["checkpoint"]).glob("*.safetensors"))
    if not weights:
        found.append(f"the original's {before['checkpoint']} is gone: its weights cannot be compared")
    there = b.sft / after["checkpoint"]
    return found + [f"{path.name} differs" for path in weights if sha256(path) != sha256(there / path.name)]


def _without_clocks(training: dict[str, Any]) -> list[dict[str, Any]]:
    """What was logged, but for times and memory."""
    return [
        {name: value for name, value in entry.items() if not any(clock in name for clock in CLOCKS)}
        for entry in training["log_history"]
    ]


def _scores(a: RunFolder, b: RunFolder) -> list[str]:
    before, after = (read_json(run.scores)["systems"] for run in (a, b))
    found = []
    for system, figures in after.items():
        was = before.get(system, {})
        changed = [
            f"{name} {number(was.get(name), 4)}, now {number(value, 4)}"
            for name, value in figures.items()
            if isinstance(value, float) and value != was.get(name)
        ]
        if figures != was:
            found.append(f"{system}: {'; '.join(changed) or 'other figures'}")
    return found


def _environment(run: RunFolder) -> dict[str, str]:
    """Versions, device and commit; of a run of baselines alone, which asks for no device, nothing."""
    if not run.environment.exists():
        return {}
    content = read_json(run.environment)
    rest = {name: content[name] for name in ("python", "platform", "git_commit")}
    return {name: str(value) for name, value in (content["packages"] | content["machine"] | rest).items()}


COMPARED: dict[str, Callable[[RunFolder, RunFolder], list[str]]] = {
    "prepare": _data,
    "tokens": lambda a, b: _files((a.tokens, b.tokens)),
    "baselines": lambda a, b: _predictions(a, b, "majority", "mean", "tfidf"),
    "probe": lambda a, b: [
        *_files((a.probe, b.probe), (a.probe_weights, b.probe_weights)),
        *_predictions(a, b, "probe"),
    ],
    # It has the hash of audit.csv, which may be edited.
    "audit": lambda a, b: _files((a.audit_summary, b.audit_summary)),
    "zero_shot": lambda a, b: _predictions(a, b, *UNTUNED),
    "derive": lambda a, b: _files(
        (a.derived, b.derived), (a.derived_val, b.derived_val), (a.derived_rejected, b.derived_rejected)
    ),
    "train": _training,
    "tuned": lambda a, b: _predictions(a, b, "tuned"),
    "score": _scores,
}
