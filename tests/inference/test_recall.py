"""What runs of a study share of a frozen model: read once, and what a run alone would read."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_experiment
from workflows.core.files import read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.data.prepare import prepare
from workflows.experiment.job import Job
from workflows.inference.probe import probe
from workflows.model.loaded import LoadedModel


def _probe(folder: Path, seed: int, features: Path | None) -> list[dict[str, Any]]:
    flags = "--train-samples", 40, "--sample-seed", seed, "--test-samples", 30, "--method", "probe"
    job = Job(RunFolder(folder), make_experiment(*flags), base=LoadedModel(), features=features)
    prepare(job)
    probe(job)
    return read_jsonl(job.run.predictions("probe"))


def _texts(folder: Path, *splits: str) -> set[str]:
    run = RunFolder(folder)
    return {row["review"] for split in splits for row in read_jsonl(run.split(split))}


@pytest.mark.slow
def test_a_prompt_is_read_once_for_all_runs(tmp_path: Path) -> None:
    shared = tmp_path / "features"
    _probe(tmp_path / "first", 1, shared)
    (kept,) = shared.iterdir()
    first = _texts(tmp_path / "first", "train", "val", "test")
    size = kept.stat().st_size
    with open(kept, "ab") as file:
        file.write(b"torn")  # as a kill leaves it
    together = _probe(tmp_path / "second", 2, shared)
    new = _texts(tmp_path / "second", "train", "val", "test") - first
    assert 0 < len(new) <= 46  # no test row
    assert kept.stat().st_size == size / len(first) * (len(first) + len(new))
    alone = _probe(tmp_path / "alone", 2, None)
    assert [row["id"] for row in together] == [row["id"] for row in alone]
    for shares, own in zip(together, alone, strict=True):
        assert shares["probabilities"] == pytest.approx(own["probabilities"], abs=1e-4)
