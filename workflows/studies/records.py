"""What study.json keeps of a run: enough to answer with, where the run folder itself is not.

So a study may be spread over machines, or over the hours of a free one whose disk is lost: the runs that
another study.json holds are not done again (`--known-runs`).
"""

import math
from base64 import b64decode, b64encode
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from workflows.core.errors import UserError
from workflows.core.files import fingerprint, read_json, read_jsonl
from workflows.core.run_folder import RunFolder, finished_stages
from workflows.experiment.experiment import Experiment, save_experiment

FORMAT = 2  # of the records; 1 had TF-IDF with ties to the strongest regularisation
Record = dict[str, Any]


def key_of(experiment: Experiment) -> str:
    """What a run is known by on every machine: its name and a hash of its experiment, in which files and
    folders count by their names alone.
    """
    content = yaml.safe_load(save_experiment(experiment))
    return f"{experiment.name}-{fingerprint(without_folders(content))}"


def without_folders(content: Any) -> Any:
    """`content` with the name alone of each absolute path in it, which differs between machines."""
    if isinstance(content, dict):
        return {name: without_folders(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_folders(value) for value in content]
    return Path(content).name if isinstance(content, str) and Path(content).is_absolute() else content


def record_of(run: RunFolder, stages: tuple[str, ...]) -> Record:
    """The record of a run that has done `stages`."""
    right: dict[str, str] = {}
    tested: list[tuple[str, str]] = []
    for path in sorted((run.path / "predictions").glob("[!.]*.jsonl")):
        rows = read_jsonl(path)
        tested = [(row["text"], row["gold"]) for row in rows]
        right[path.stem] = _packed([row["prediction"] == row["gold"] for row in rows])
    splits, done = read_json(run.manifest)["splits"], finished_stages(run)
    return {
        "labels": {split: splits[split]["rows"] for split in ("train", "val")},
        "test_rows": len(tested),
        "tested": fingerprint(tested),  # texts and gold labels, in order
        "right": right,
        "stages": " ".join(stages),
        "seconds": round(sum(done[name]["seconds"] for name in stages if name in done), 1),
        "peak_memory_bytes": max(
            (max(each["peak_memory_bytes"].values()) for each in done.values()), default=0
        ),
        "environment": _environment(run),
    }


def _environment(run: RunFolder) -> dict[str, Any] | None:
    """Versions, device and commit; None of a run that loaded no model."""
    if not run.environment.exists():
        return None
    content = read_json(run.environment)
    device = {"device": content["machine"]["name"], "torch_dtype": content["machine"]["torch_dtype"]}
    return {name: content[name] for name in ("python", "packages", "git_commit")} | device


def _packed(right: list[bool]) -> str:
    """A bit for each test row, whether it was got right, in base64."""
    return b64encode(np.packbits(right).tobytes()).decode("ascii")


def right_rows(record: Record, system: str) -> np.ndarray | None:
    """Whether a system got each test row right, bool, (test rows,); None where it has no answers."""
    if system not in record["right"]:
        return None
    bits = np.frombuffer(b64decode(record["right"][system]), dtype=np.uint8)
    return np.unpackbits(bits, count=record["test_rows"]).astype(bool)


def read_known_runs(paths: tuple[Path, ...]) -> dict[str, Record]:
    """The records of other study.json files, by key; a UserError where a file is none."""
    known: dict[str, Record] = {}
    for path in paths:
        try:
            found = read_json(path)
            if found["format"] != FORMAT:
                raise UserError(
                    f"--known-runs {path}: is of format {found['format']}, this version reads {FORMAT}."
                )
            environments = found["environments"]
            for key, stored in found["runs"].items():
                record = _checked({**stored, "environment": environments.get(stored["environment"])})
                known[key] = _together(known[key], record) if key in known else record
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = error.__cause__ or error  # what `read_json` says of damaged files is of a run's own
            raise UserError(
                f"--known-runs {path}: is no study.json ({type(why).__name__}: {why})."
            ) from error
    return known


def _together(one: Record, other: Record) -> Record:
    """Two records of a run, of which each may have stages that the other has not; the later one where they
    are of other rows.
    """
    less, more = sorted([one, other], key=lambda record: len(stages_of(record)))
    if (one["tested"], one["labels"]) != (other["tested"], other["labels"]):
        return other
    both = stages_of(less) | stages_of(more)
    # What both took is counted once, as the one that did more has it.
    return more | {"right": {**less["right"], **more["right"]}, "stages": " ".join(sorted(both))}


def stages_of(record: Record) -> set[str]:
    """The stages that a run had done."""
    return {*record["stages"].split()}


def refuse_to_lose(path: Path, kept: Collection[str], names: dict[str, str]) -> None:
    """Raise UserError where the study.json `path`, which is to be written anew, holds runs that are not among
    `kept`, by their keys, and whose folders are not here, as those of other machines, or are none of this
    command's `names`, by key: those of files that lay in another place.
    """
    try:
        found = read_json(path)
        here = set[str]()
        for key, folder in found["folders"].items():
            at = Path(folder)
            moved = key in names and at.parent == Path("runs") and at.name != names[key]
            if (path.parent / at).exists() and not moved:
                here.add(key)
        lost = found["runs"].keys() - here - {*kept}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # none is there, or nothing that can be read
    if lost:
        raise UserError(
            f"{path}: holds {len(lost)} runs of other machines, or of files that lay in another place, which "
            f"this command would drop from it; keep them by --known-runs {path} and as many draws, or move "
            "the file away."
        )


def _checked(record: Record) -> Record:
    """A record of another file, whose parts are there and fit together.

    Raises KeyError, TypeError, AttributeError or ValueError where they do not.
    """
    record["tested"], record["stages"].split(), record["seconds"] + record["peak_memory_bytes"]
    rows = record["test_rows"]
    for system in record["right"]:
        if len(b64decode(record["right"][system])) != math.ceil(rows / 8):
            raise ValueError(f"{system}: not of {rows} test rows")
    return record | {"labels": {split: record["labels"][split] for split in ("train", "val")}}


def as_stored(records: dict[str, Record]) -> dict[str, Any]:
    """The part of study.json that `read_known_runs` reads; an environment that runs share is there once."""
    environments = {fingerprint(each["environment"]): each["environment"] for each in records.values()}
    runs = {key: {**each, "environment": fingerprint(each["environment"])} for key, each in records.items()}
    return {"format": FORMAT, "runs": runs, "environments": environments}
