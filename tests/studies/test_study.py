"""A whole study on the embedded model: killed, gone on with, and read from its raw predictions."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.experiment.cards import ROOT
from workflows.experiment.options import DEFAULTS
from workflows.studies.card import load_study
from workflows.studies.runs import find_runs

CARD = """
question: {en: "Which is better on few rows?", zh: 行数很少时哪个更好？}
options: {method: probe, test_samples: 40}
sizes: [16, 32]
draws: 2
arms: {tfidf: {}, probe: {}}
compare: [[probe, tfidf]]
"""


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, out = tmp_path / "few.yaml", tmp_path / "outputs" / "studies" / "few"
    card.write_text(CARD, encoding="utf-8")
    study = ["study", str(card), "--output", str(out)]
    planned = command(*study, "--plan").stdout
    assert "4 runs; those that are left take 0.0 h, without 4 of whose kind none is finished yet" in planned
    assert not out.exists()
    with subprocess.Popen(
        [sys.executable, "run_swift.py", *study],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
    ) as started:
        assert started.stdout is not None
        for line in started.stdout:
            if line.startswith("run 3 of 4"):
                started.kill()
    assert started.returncode == -signal.SIGKILL
    assert len(list(out.glob("runs/*/report.html"))) == 2
    done = command(*study)
    assert done.returncode == 0, done.stderr
    assert "study few: 4 runs, 2 of them finished" in done.stdout
    assert re.search(
        r"run 2 of 2: demo-tiny-probe, 32 training rows, \d+ s a run so far, about 0 min left", done.stdout
    )
    assert "2 draws are too few to ever tell who is ahead" in done.stdout
    assert "answers nothing about a real Qwen" in done.stdout
    found = read_json(out / "study.json")
    (panel,) = found["panels"]
    assert panel["labels"] == {"16": {"train": 16, "val": 3}, "32": {"train": 32, "val": 5}}
    for arm, points in panel["arms"].items():
        for point in points:
            runs = [RunFolder(out / run) for run in point["runs"]]
            answers = [read_jsonl(run.predictions(arm)) for run in runs]
            right = [sum(row["prediction"] == row["gold"] for row in rows) / 40 for rows in answers]
            assert point["accuracies"] == right
    small, large = ([RunFolder(out / run) for run in point["runs"]] for point in panel["arms"]["tfidf"])
    assert len({run.split("test").read_bytes() for run in small + large}) == 1
    for split in ("train", "val"):
        ids = [
            [{row["id"] for row in read_jsonl(run.split(split))} for run in runs] for runs in (small, large)
        ]
        assert all(smaller < larger for smaller, larger in zip(*ids, strict=True))
    page = (out / "report.html").read_text(encoding="utf-8")
    for run in small + large:
        assert f'href="runs/{run.path.name}/report.html"' in page
    assert f"python run_swift.py {' '.join(study)}" in page
    assert "4 runs, 4 of them finished" in command(*study).stdout
    # Another study finds them, once they are where runs are.
    other = load_study(str(card), DEFAULTS, False, None)
    assert not any(run.is_done for _, run in find_runs(other, tmp_path / "other"))
    monkeypatch.setattr("workflows.studies.runs.OUTPUTS", tmp_path / "outputs")
    assert all(run.is_done for _, run in find_runs(other, tmp_path / "other"))
