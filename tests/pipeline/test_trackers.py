"""TensorBoard, MLflow and SwanLab get losses and scores of a run, in one tracked run; one that could not work
is refused before anything starts.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.conftest import Command, make_experiment
from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.permissions import permitted
from workflows.core.run_folder import RunFolder
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.pipeline.trackers import score_and_track, tracked


@pytest.mark.parametrize(
    ("named", "missing", "offline", "said"),
    [
        ("wandb", "", False, "report_to=wandb: no such tracker; take tensorboard, mlflow, swanlab, or none"),
        ("mlflow", "mlflow", False, 'report_to=mlflow: not installed here: pip install "mlflow>=3"'),
        ("tensorboard,swanlab", "swanlab", False, "report_to=swanlab: not installed here"),
        ("mlflow", "", True, "report_to=mlflow: tracker.example is another machine; leave out --offline"),
        ("swanlab", "", True, "leave out --offline, or set SWANLAB_MODE=offline"),
        ("swanlab", "", False, "report_to=swanlab: needs your key: set SWANLAB_API_KEY"),
    ],
)
def test_a_tracker_that_could_not_work_is_refused_before_anything_starts(
    named: str, missing: str, offline: bool, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if named in ("mlflow", "swanlab") and not missing:
        pytest.importorskip(named, reason="an extra, which a run needs only where report_to names it")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:a-password@tracker.example:5000")
    for name in ("SWANLAB_API_KEY", "SWANLAB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWANLAB_SAVE_DIR", str(tmp_path))  # where a login would be
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    with permitted(True, ()) if offline else nullcontext(), pytest.raises(UserError) as refused:
        make_experiment("--set", f"report_to={named}")
    assert said in str(refused.value)
    assert "a-password" not in str(refused.value)


def test_losses_and_scores_of_several_runs_go_to_the_events_of_each(command: Command, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small = [
        "--train-samples",
        "64",
        "--test-samples",
        "40",
        "--set",
        "max_steps=2",
        "--set",
        "logging_steps=1",
    ]
    run = RunFolder(tmp_path / "run")
    stages = (
        ["prepare", *small, "--set", "report_to=tensorboard", "--run-folder", run.path],
        ["train", run.path],
    )
    for arguments in (*stages, ["score", run.path]):
        done = command(*arguments, "--offline")
        assert done.returncode == 0, done.stderr[-3000:]
    events = EventAccumulator(str(run.sft / "runs")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    _is_of(read_json(run.scores), {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]})
    (table,) = events.Tensors("test/text_summary")
    assert "多数类" in table.tensor_proto.string_val[0].decode()


def _is_of(scores: dict[str, object], figures: dict[str, float]) -> None:
    """Each system's accuracy with its interval, and the number of test rows, are those of scores.json."""
    assert figures["test/rows"] == scores["test_rows"]
    systems = scores["systems"]
    assert isinstance(systems, dict) and "tfidf" in systems
    for system, each in systems.items():
        names = [f"test/{system}/accuracy{end}" for end in ("", "_low", "_high")]
        assert [figures[name] for name in names] == pytest.approx(
            [each["accuracy"], *each["accuracy_interval"]]
        )


def _reporting_to(name: str) -> Experiment:
    return make_experiment("--set", f"report_to={name}")


def test_mlflow_has_the_losses_and_later_the_scores_in_one_run(
    own_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="an extra, which a run needs only where report_to names it")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes ten seconds to be made
    experiment = _reporting_to("mlflow")
    with tracked(own_run, experiment):
        assert mlflow.active_run() is not None  # transformers' callback logs to it
        mlflow.log_metric("loss", 0.5, step=1)
    assert mlflow.active_run() is None
    scores = score_and_track(Job(own_run, experiment))
    (found,) = mlflow.MlflowClient().search_runs(["0"])
    assert found.info.run_id == read_json(own_run.tracked)["mlflow"]
    assert (found.info.status, found.data.metrics.pop("loss")) == ("FINISHED", 0.5)
    assert found.data.params["run.dataset"] == "demo"
    _is_of(scores, found.data.metrics)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "other").as_uri())
    with pytest.raises(UserError, match=r"report_to=mlflow: .* Is it set as it was when the run began"):
        score_and_track(Job(own_run, experiment))


def test_swanlab_keeps_the_scores_here_under_the_id_of_the_losses(
    own_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swanlab = pytest.importorskip(
        "swanlab", reason="an extra, which a run needs only where report_to names it"
    )
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_API_KEY", "a-key-for-the-test")
    experiment = _reporting_to("swanlab")
    with tracked(own_run, experiment):
        assert swanlab.get_run().id == read_json(own_run.tracked)["swanlab"]
    assert not swanlab.has_run()
    score_and_track(Job(own_run, experiment))
    pieces = [*(own_run.sft / "swanlog").glob("run-*")]
    assert {path.name.rpartition("-")[2] for path in pieces} == {read_json(own_run.tracked)["swanlab"]}
    written = b"".join(path.read_bytes() for path in (own_run.sft / "swanlog").rglob("*") if path.is_file())
    assert b"test/tuned/accuracy_low" in written
    assert "微调后".encode() in written
    assert b"a-key-for-the-test" not in written
