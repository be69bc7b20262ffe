"""Which stages of a run count as done, after a start that failed in the middle."""

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import make_experiment
from workflows.core.errors import UserError
from workflows.core.files import read_json, sha256
from workflows.core.run_folder import RunFolder, locked
from workflows.core.screen import Screen
from workflows.experiment.cards import METHODS
from workflows.pipeline.run import do_stages, open_run, start_run


def test_a_run_that_was_killed_before_it_described_itself_begins_anew(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / f".experiment.yaml.{_ended_process()}.part").write_text("options:", encoding="utf-8")
    start_run(make_experiment(), run.path, Screen())
    joined = run.path / "data" / "mixed" / "waimai" / "data" / f".train.jsonl.{_ended_process()}.part"
    joined.parent.mkdir(parents=True)
    joined.touch()
    with locked(run):
        pass
    assert not joined.exists()
    shutil.rmtree(run.path / "data")
    assert [path.name for path in run.path.iterdir() if path.name != ".lock"] == ["experiment.yaml"]


def test_an_unfinished_run_is_found_by_a_name_with_brackets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.pipeline.run.OUTPUTS", tmp_path / "outputs")
    preset = shutil.copy(METHODS / "probe.yaml", tmp_path / "probe[1].yaml")
    experiment = make_experiment("--method", preset)
    assert "[1]" in experiment.name
    first = start_run(experiment, None, Screen())
    assert start_run(experiment, None, Screen()).path == first.path


def test_a_run_that_was_there_before_a_refusal_stays(tmp_path: Path) -> None:
    start_run(make_experiment(), tmp_path / "run", Screen())  # and stopped before it had prepared
    run, experiment = open_run(tmp_path / "run")
    with pytest.raises(UserError, match="run `prepare"):
        do_stages(run, experiment, ("baselines",), Screen())
    assert run.experiment.exists()


def _ended_process() -> int:
    with subprocess.Popen(["true"]) as process:
        return process.pid


def test_a_stage_that_failed_halfway_is_not_done_with_what_went_in_before(
    shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open(shared_data / "waimai_10k.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    few, many = ([rows[0], *rows[1 : size + 1], *rows[-size:]] for size in (30, 120))
    table, run = tmp_path / "reviews.csv", RunFolder(tmp_path / "run")

    def prepare(content: list[list[str]]) -> str:
        with open(table, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(content)
        do_stages(run, experiment, ("prepare",), Screen())
        return capfd.readouterr().out

    asked = ["--text-column", "review", "--label-column", "label", "--labels", "0=negative,1=positive"]
    # Of many rows it asks for more than demo has.
    experiment = make_experiment("--data-file", table, *asked, "--mix", "demo=20")
    prepare(few)
    manifest = read_json(run.manifest)
    with pytest.raises(UserError, match="--mix demo=20"):
        prepare(many)
    assert sha256(run.split("test")) != manifest["sha256"]["test.jsonl"]  # there are files of the many rows
    capfd.readouterr()
    assert "done before" not in prepare(few)
    assert sha256(run.split("test")) == manifest["sha256"]["test.jsonl"]
    assert "prepare: done before" in prepare(few)
    assert "prepare: again, the data files changed" in prepare(few[:-2])
