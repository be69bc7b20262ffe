"""Where a run's files lie, how they are written whole, and which stages are done.

A stage writes to a temporary name and renames at the end, so a file that exists is complete.  `stages.json`
keeps, for each finished stage, the fingerprint of what went into it: a stage whose fingerprint still fits is
not run again.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

from workflows.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of one run; nothing is read or written on construction."""

    path: Path

    @property
    def experiment(self) -> Path:
        """Everything needed to repeat the run."""
        return self.path / "experiment.yaml"

    @property
    def environment(self) -> Path:
        """Versions, hardware and git commit when a model was first loaded on this machine."""
        return self.path / "environment.json"

    @property
    def stages(self) -> Path:
        """The finished stages: fingerprint and seconds of each."""
        return self.path / "stages.json"

    def split(self, name: str) -> Path:
        """SWIFT's data file of the split `name`: train, val or test."""
        return self.path / "data" / f"{name}.jsonl"

    @property
    def rejected(self) -> Path:
        """Every row that was read and not kept, with its reason."""
        return self.path / "data" / "rejected.jsonl"

    @property
    def manifest(self) -> Path:
        """Counts, sources and hashes of the data."""
        return self.path / "data" / "manifest.json"

    @property
    def tokens(self) -> Path:
        """Lengths of the rows in tokens, and which are longer than max_length."""
        return self.path / "data" / "tokens.json"

    @property
    def corrections(self) -> Path:
        """Labels that --apply changed, where it was given."""
        return self.path / "data" / "corrections.jsonl"

    @property
    def audit(self) -> Path:
        """Likely wrong labels, a table to correct by hand."""
        return self.path / "audit.csv"

    @property
    def audit_summary(self) -> Path:
        """How many labels are likely wrong."""
        return self.path / "audit.json"

    @property
    def material(self) -> Path:
        """The training rows that a method made of train.jsonl; they are used in its place."""
        return self.path / "data" / "material.jsonl"

    @property
    def material_val(self) -> Path:
        """The validation rows, where a method needs more of them than val.jsonl has."""
        return self.path / "data" / "material_val.jsonl"

    @property
    def material_summary(self) -> Path:
        """How the material was made: counts, settings, where it comes from."""
        return self.path / "data" / "material.json"

    @property
    def material_rejected(self) -> Path:
        """What did not become material, with reasons."""
        return self.path / "data" / "material_rejected.jsonl"

    @property
    def sft(self) -> Path:
        """SWIFT's own output: checkpoints, args.json, logging.jsonl."""
        return self.path / "sft"

    @property
    def training(self) -> Path:
        """What training gave: checkpoint, rows used, losses."""
        return self.path / "training.json"

    def predictions(self, system: str) -> Path:
        """One row a test review, by the system `system`."""
        return self.path / "predictions" / f"{system}.jsonl"

    @property
    def scores(self) -> Path:
        """Metrics of every system."""
        return self.path / "scores.json"

    @property
    def report_page(self) -> Path:
        """The report as one HTML page."""
        return self.path / "report.html"

    @property
    def report_markdown(self) -> Path:
        """The report as Markdown."""
        return self.path / "report.md"

    @property
    def figures(self) -> Path:
        """The report's figures, as SVG and PNG."""
        return self.path / "figures"

    def log(self, stage: str) -> Path:
        """What SWIFT printed during `stage`."""
        return self.path / "logs" / f"{stage}.log"


@contextmanager
def open_whole(path: Path) -> Iterator[TextIO]:
    """Open `path` for writing UTF-8 text under a temporary name; rename it at the end, remove it on an
    error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class HashedFile:
    """A file of UTF-8 text that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def write(self, text: str) -> None:
        """Append `text`."""
        data = text.encode("utf-8")
        self._digest.update(data)
        self._file.write(data)

    def sha256(self) -> str:
        """The SHA-256 of what was written, in hexadecimal."""
        return self._digest.hexdigest()


@contextmanager
def open_hashed(path: Path) -> Iterator[HashedFile]:
    """As `open_whole`, for a file whose hash is wanted."""
    with open_whole(path) as file:
        yield HashedFile(file.buffer)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; what is not a finite number becomes null."""
    with open_whole(path) as file:
        json.dump(_finite(content), file, ensure_ascii=False, indent=2, allow_nan=False)
        file.write("\n")


def _finite(content: Any) -> Any:
    """`content` without the numbers that JSON has no word for, such as the loss of a diverged training."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with open_whole(path) as file:
        file.writelines(map(json_line, rows))


def json_line(row: dict[str, Any]) -> str:
    """A row as a line of a JSONL file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def conversation(row: dict[str, Any]) -> list[dict[str, str]]:
    """The turns of a row of a data file, whichever of SWIFT's formats it is in."""
    if "messages" in row:
        return row["messages"]
    return [
        *([{"role": "system", "content": row["system"]}] if "system" in row else []),
        {"role": "user", "content": row["query"]},
        *([{"role": "assistant", "content": row["response"]}] if "response" in row else []),
    ]


def question(row: dict[str, Any]) -> list[dict[str, str]]:
    """The turns of a row of a data file without the answer: what the model is asked."""
    return [turn for turn in conversation(row) if turn["role"] != "assistant"]


def checkpoint_of(run: RunFolder) -> Path:
    """The folder of the checkpoint that a run's training kept: an adapter, or (full tuning) a whole model."""
    return run.sft / read_json(run.training)["checkpoint"]


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(content: Any) -> str:
    """A short hash of anything that JSON can hold."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def finished_stages(run: RunFolder) -> dict[str, dict[str, Any]]:
    """For each finished stage its fingerprint, seconds and finishing time."""
    return read_json(run.stages) if run.stages.exists() else {}


def mark_finished(run: RunFolder, stage: str, record: dict[str, Any]) -> None:
    """Record that `stage` is done."""
    write_json(run.stages, {**finished_stages(run), stage: record})


def remove_if_barren(run: RunFolder) -> None:
    """Remove a run folder that holds no stage's files yet, so that a refused start leaves nothing behind."""
    if {path.name for path in run.path.iterdir()} <= {run.experiment.name, ".lock", "logs"}:
        shutil.rmtree(run.path)


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Hold the run folder for this process; a UserError where another process holds it."""
    run.path.mkdir(parents=True, exist_ok=True)
    with open(run.path / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{run.path}: another command is working on this run; wait for it, or stop it."
            ) from error
        yield


def is_locked(run: RunFolder) -> bool:
    """Whether a process holds the run folder."""
    try:
        with locked(run):
            return False
    except UserError:
        return True
