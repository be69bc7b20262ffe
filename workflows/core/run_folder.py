"""Where a run's files lie, how they are written whole, and which stages are done.

A stage writes to a temporary name and renames at the end, so a file that exists is complete.  `stages.json`
keeps, for each finished stage, the fingerprint of what went into it: a stage whose fingerprint still fits is
not run again.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from workflows.core.errors import UserError
from workflows.core.files import read_json, write_json

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
    def probe(self) -> Path:
        """What the probe was fitted to, or why it was not."""
        return self.path / "probe" / "probe.json"

    @property
    def probe_weights(self) -> Path:
        """The probe's regressions, one a layer."""
        return self.path / "probe" / "probe.safetensors"

    @property
    def out_of_fold(self) -> Path:
        """Each labelled row's label probabilities by a probe that did not see it."""
        return self.path / "probe" / "out_of_fold.jsonl"

    @property
    def threshold(self) -> Path:
        """What zero_shot_threshold adds to the untuned model's log-odds."""
        return self.path / "predictions" / "threshold.json"

    @property
    def derived(self) -> Path:
        """The training rows that a method made of train.jsonl; they are used in its place."""
        return self.path / "data" / "derived.jsonl"

    @property
    def derived_val(self) -> Path:
        """The validation rows, where a method needs more of them than val.jsonl has."""
        return self.path / "data" / "derived_val.jsonl"

    @property
    def derived_summary(self) -> Path:
        """How the derived rows were made: counts, settings, where it comes from."""
        return self.path / "data" / "derived.json"

    @property
    def derived_rejected(self) -> Path:
        """What did not become a derived row, with reasons."""
        return self.path / "data" / "derived_rejected.jsonl"

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


def checkpoint_of(run: RunFolder) -> Path:
    """The folder of the checkpoint that a run's training kept: an adapter, or (full tuning) a whole model."""
    return run.sft / read_json(run.training)["checkpoint"]


def finished_stages(run: RunFolder) -> dict[str, dict[str, Any]]:
    """For each finished stage its fingerprint, seconds and finishing time."""
    return read_json(run.stages) if run.stages.exists() else {}


def mark_finished(run: RunFolder, stage: str, record: dict[str, Any]) -> None:
    """Record that `stage` is done."""
    write_json(run.stages, {**finished_stages(run), stage: record})


def discard_if_unstarted(run: RunFolder) -> None:
    """Remove a run folder that holds no stage's files yet, so that a refused start leaves nothing behind."""
    if {path.name for path in run.path.iterdir()} <= {run.experiment.name, ".lock", "logs"}:
        shutil.rmtree(run.path)


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Hold the run folder for this process; a UserError where another process holds it."""
    run.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.path / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{run.path}: another command is working on this run; wait for it, or stop it."
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(run: RunFolder) -> bool:
    """Whether a process holds the run folder."""
    try:
        with locked(run):
            return False
    except UserError:
        return True
