"""Repeats a run from its experiment.yaml and says, stage by stage, what came out equal.

python run_swift.py reproduce outputs/RUN
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl, sha256, write_json
from workflows.core.run_folder import RunFolder, discard_if_unstarted, finished_stages, locked
from workflows.core.screen import Screen
from workflows.core.texts import number
from workflows.experiment.experiment import load_experiment
from workflows.pipeline.run import run_stages, start_run
from workflows.pipeline.stages import STAGES

# What the two environments may differ in without anything that is computed being other.
HARMLESS = {"git_commit", "platform", "memory", "reason"}
EVERYTHING = "everything can be equal, to the last bit: a CPU, and nothing else is other than it was"
ON_A_GPU = (
    "data, splits, token counts and baselines can be equal, to the last byte; answers, losses and weights "
    "are only close: some kernels of a GPU add up in no fixed order"
)
ELSEWHERE = (
    "data, splits and token counts can be equal, to the last byte; what is computed is only close on other "
    "hardware, in another dtype, or with other versions"
)
CLOCKS = ("speed", "runtime", "per_second", "memory", "elapsed", "remaining", "time")


def reproduce(original: RunFolder, screen: Screen) -> tuple[RunFolder, dict[str, Any]]:
    """Run the experiment of `original` anew, beside it; return the new run and, stage by stage, what differs.

    The answer is also written to reproduction.json of the new run. Raises UserError where `original` is not
    finished.
    """
    original = RunFolder(original.path.resolve())
    experiment = load_experiment(original.experiment)
    finished = finished_stages(original)
    names = tuple(stage.name for stage in STAGES if stage.name in finished)
    if "score" not in names:
        raise UserError(f"{original.path}: is not finished; finish it first: run {original.path}")
    run = start_run(experiment, _folder(original), screen)
    with locked(run):
        try:
            run_stages(run, experiment, names, screen)
        except UserError:
            discard_if_unstarted(run)
            raise
    differences: dict[str, list[str]] = {}
    for name in names:
        if name in COMPARED:
            differences[name] = COMPARED[name](original, run)
    changed = _environments(original, run)
    # A run of baselines alone asks for no device.
    device = read_json(run.environment)["machine"]["device"] if run.environment.exists() else "cpu"
    result = {
        "original": str(original.path),
        "equal": not any(differences.values()),
        "stages": differences,
        "environment": [f"{name}: {before}, now {after}" for name, (before, after) in changed.items()],
        "can_be_equal": can_be_equal(set(changed), device),
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


def _folder(original: RunFolder) -> Path:
    """A folder beside the original: the unfinished repetition where there is one, else a new one."""
    for again in count(1):
        folder = original.path.with_name(f"{original.path.name}-again-{again}")
        if not (folder / "reproduction.json").exists():
            return folder
    raise AssertionError


def _data(a: RunFolder, b: RunFolder) -> list[str]:
    before, after = read_json(a.manifest)["sha256"], read_json(b.manifest)["sha256"]
    return [f"{name} differs" for name in before if before[name] != after.get(name)]


def _same_files(*paths: Callable[[RunFolder], Path]) -> Callable[[RunFolder, RunFolder], list[str]]:
    def compared(a: RunFolder, b: RunFolder) -> list[str]:
        pairs = [(path(a), path(b)) for path in paths]
        return [f"{one.name} differs" for one, other in pairs if _hash(one) != _hash(other)]

    return compared


def _hash(path: Path) -> str | None:
    return sha256(path) if path.exists() else None


def _predictions(*systems: str) -> Callable[[RunFolder, RunFolder], list[str]]:
    def compared(a: RunFolder, b: RunFolder) -> list[str]:
        found = []
        for system in systems:
            if not a.predictions(system).exists():
                continue
            before, after = read_jsonl(a.predictions(system)), read_jsonl(b.predictions(system))
            if before == after:
                continue
            if [row["id"] for row in before] != [row["id"] for row in after]:
                found.append(f"{system}: other test rows")
                continue
            pairs = list(zip(before, after, strict=True))
            labels = sum(x["prediction"] != y["prediction"] for x, y in pairs)
            shares = max(
                (
                    abs(x["probabilities"][name] - y["probabilities"][name])
                    for x, y in pairs
                    for name in x["probabilities"] or ()
                ),
                default=0.0,
            )
            found.append(
                f"{system}: {labels} of {len(pairs)} predictions differ; probabilities by {shares:.1e} "
                "at most"
            )
        return found

    return compared


def _training(a: RunFolder, b: RunFolder) -> list[str]:
    before, after = read_json(a.training), read_json(b.training)
    found = []
    histories = [[_without_clocks(entry) for entry in each["log_history"]] for each in (before, after)]
    if histories[0] != histories[1]:
        losses = [{e["step"]: e["loss"] for e in history if "loss" in e} for history in histories]
        apart = max((abs(losses[0][step] - losses[1].get(step, 0.0)) for step in losses[0]), default=0.0)
        found.append(f"logged figures differ; training losses by {apart:.1e} at most")
    if before["checkpoint"] != after["checkpoint"]:
        found.append(f"kept {after['checkpoint']} instead of {before['checkpoint']}")
        return found
    weights = sorted((a.sft / before["checkpoint"]).glob("*.safetensors"))
    if not weights:
        found.append(f"the original's {before['checkpoint']} is gone: its weights cannot be compared")
    for path in weights:
        if sha256(path) != sha256(b.sft / after["checkpoint"] / path.name):
            found.append(f"{path.name} differs")
    return found


def _without_clocks(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if not any(clock in name for clock in CLOCKS)}


def _scores(a: RunFolder, b: RunFolder) -> list[str]:
    before, after = (read_json(run.scores)["systems"] for run in (a, b))
    found = []
    for system, figures in after.items():
        changed = [
            f"{name} {number(before[system][name], 4)}, now {number(value, 4)}"
            for name, value in figures.items()
            if isinstance(value, float) and value != before[system][name]
        ]
        if figures != before[system]:
            found.append(f"{system}: {'; '.join(changed) or 'other figures'}")
    return found


def _environments(a: RunFolder, b: RunFolder) -> dict[str, tuple[str | None, str]]:
    """What the two environments do not have in common, before and now: versions, device, commit."""

    def flat(run: RunFolder) -> dict[str, str]:
        content = read_json(run.environment) if run.environment.exists() else {}
        nested = {
            name: str(value)
            for part in ("packages", "machine")
            for name, value in content.get(part, {}).items()
        }
        return nested | {name: str(content.get(name)) for name in ("python", "platform", "git_commit")}

    before, after = flat(a), flat(b)
    return {name: (before.get(name), after[name]) for name in after if before.get(name) != after[name]}


COMPARED: dict[str, Callable[[RunFolder, RunFolder], list[str]]] = {
    "prepare": _data,
    "tokens": _same_files(lambda run: run.tokens),
    "baselines": _predictions("majority", "mean", "tfidf"),
    "audit": _same_files(lambda run: run.audit_summary),  # it has the hash of audit.csv, which may be edited
    "zero_shot": _predictions("zero_shot"),
    "derive": _same_files(
        lambda run: run.derived, lambda run: run.derived_val, lambda run: run.derived_rejected
    ),
    "train": _training,
    "tuned": _predictions("tuned"),
    "score": _scores,
}
