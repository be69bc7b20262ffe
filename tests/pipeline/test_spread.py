"""A stage shared by several processes, on one machine and as on two: what one process learns and answers."""

import math
import re
import socket
import subprocess
from pathlib import Path
from threading import Event

import psutil
import pytest

from tests.conftest import PATIENCE, free_port, make_experiment, run_command, start_command
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.experiment.options import ProcessOptions
from workflows.model.machine import Machine
from workflows.pipeline.spread import check_processes
from workflows.tuning.train import share_batch

# Odd numbers, which two processes cannot halve.
SMALL = (
    *("--train-samples", 45, "--test-samples", 21, "--probe-rows", 15, "--eval-rows", 5),
    *("--set", "max_steps=16", "--set", "save_steps=4", "--set", "eval_steps=4", "--set", "logging_steps=1"),
)


def _losses(run: RunFolder) -> list[float]:
    history = read_json(run.training)["log_history"]
    return [entry[name] for entry in history for name in ("loss", "eval_loss") if name in entry]


def _workers(command: "subprocess.Popen[str]") -> list[psutil.Process]:
    children = psutil.Process(command.pid).children(recursive=True)
    return [each for each in children if "workflows.pipeline.rank" in each.cmdline() and not each.children()]


def _kill_one_after_a_checkpoint(command: "subprocess.Popen[str]", run: RunFolder) -> list[psutil.Process]:
    """Kill one of the processes at work; all that there were."""
    while not (run.sft / "checkpoint-4" / "trainer_state.json").exists():
        assert command.poll() is None, "the training ended before its first checkpoint"
        Event().wait(0.02)
    workers = _workers(command)
    workers[-1].kill()
    return workers


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """What one process makes."""
    run = RunFolder(tmp_path_factory.mktemp("alone") / "run")
    for command in (("prepare", "--run-folder", run.path, *SMALL), ("train", run.path), ("infer", run.path)):
        done = run_command(*command)
        assert done.returncode == 0, done.stderr
    return run


def test_several_processes_learn_and_answer_as_one_does(alone: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run_command("prepare", "--run-folder", run.path, *SMALL).returncode == 0

    # One of two dies: the other ends too, and the same command goes on from the checkpoint.
    with start_command("train", run.path, "--nproc", 2) as command:
        workers = _kill_one_after_a_checkpoint(command, run)
        assert command.wait(PATIENCE) == 1
    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)
    done = run_command("train", run.path, "--nproc", 2)
    assert done.returncode == 0, done.stderr
    assert re.search(r"going on from checkpoint-\d+", done.stdout + done.stderr)
    assert _losses(run) == pytest.approx(_losses(alone), abs=1e-3)

    # As on two machines: the second only helps.
    machines = ("--nnodes", 2, "--master-port", free_port())
    with start_command("infer", run.path, *machines, "--node-rank", 1) as helper:
        done = run_command("infer", run.path, *machines)
        log = run.log("tuned") if run.log("tuned").exists() else run.log("zero_shot")
        assert done.returncode == 0, done.stderr + log.read_text(encoding="utf-8")
        assert helper.wait(PATIENCE) == 0
    for system in ("zero_shot", "tuned"):
        answers, expected = (read_jsonl(each.predictions(system)) for each in (run, alone))
        kept = ("id", "gold", "output", "prediction")
        assert [{k: row[k] for k in kept} for row in answers] == [
            {k: row[k] for k in kept} for row in expected
        ]
    assert not [*(run.path / "predictions").glob(".*")]
    assert read_json(run.threshold)["rows"] == read_json(alone.threshold)["rows"]


@pytest.mark.parametrize(("rows", "batches", "processes", "shared"), [
    (8, 1, 2, (4, 1)), (8, 1, 8, (1, 1)), (4, 4, 8, (2, 1)), (6, 4, 4, (6, 1)), (1, 8, 4, (1, 2)),
])  # fmt: skip
def test_a_step_has_the_rows_that_it_says(
    rows: int, batches: int, processes: int, shared: tuple[int, int]
) -> None:
    named = (f"per_device_train_batch_size={rows}", f"gradient_accumulation_steps={batches}")
    experiment = make_experiment("--set", named[0], "--set", named[1])
    overrides = share_batch(experiment, Machine("cpu", "", "float32", ""), processes).overrides
    found = tuple(int(overrides[each.split("=")[0]]) for each in named)
    assert math.prod(found) * processes == rows * batches
    assert found == shared


def test_what_a_preset_leaves_to_swift_is_shared_as_swift_has_it() -> None:
    experiment = make_experiment("--method", "swift-defaults", "--model", "qwen2.5-0.5b-instruct")
    overrides = share_batch(experiment, Machine("cpu", "", "float32", ""), 2).overrides
    assert overrides["per_device_train_batch_size"] == "1"
    assert overrides["gradient_accumulation_steps"] == "8"  # 16 rows a step


@pytest.mark.parametrize(("flags", "line"), [
    (("--nproc", 3), "3 processes cannot share the 32 rows of a step alike: take another number, or --set "
     "per_device_train_batch_size=33"),
    (("--nnodes", 2, "--node-rank", 2), "--node-rank 2: with --nnodes 2 the last is 1"),
    (("--nproc", 0), "Must be >= 1"),
])  # fmt: skip
def test_what_cannot_be_shared_is_said(tmp_path: Path, flags: tuple[object, ...], line: str) -> None:
    run = RunFolder(tmp_path / "run")
    assert run_command("prepare", "--run-folder", run.path, *SMALL).returncode == 0
    done = run_command("train", run.path, *flags)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_machine_too_many_starts_no_run(tmp_path: Path) -> None:
    done = run_command("run", "--node-rank", 1, "--run-folder", tmp_path / "run")
    assert done.returncode == 2
    assert "--node-rank 1: with --nnodes 1 the last is 0" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_port_that_another_program_holds_is_said(alone: RunFolder) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_command("train", alone.path, "--nnodes", 2, "--master-port", port)
    assert done.returncode == 2
    assert f"--master-port {port}: Address already in use; take another" in done.stderr


def test_machines_must_name_one_folder() -> None:
    done = run_command("run", "--nnodes", 2)
    assert done.returncode == 2
    assert "every machine must name the same run folder" in done.stderr


def test_an_engine_of_swift_answers_in_one_process(tmp_path: Path) -> None:
    experiment = ("--engine", "swift", "--train-samples", 20, "--run-folder", tmp_path / "run")
    assert run_command("prepare", *experiment).returncode == 0
    done = run_command("infer", tmp_path / "run", "--nproc", 2)
    assert done.returncode == 2
    assert "--engine fast only" in done.stderr


@pytest.mark.parametrize("method", ["plain-peft", "adalora"])
def test_a_method_of_one_process_is_refused_to_several(method: str) -> None:
    with pytest.raises(UserError, match=f"--nproc 2 --nnodes 1: method {method} trains in one process"):
        check_processes(make_experiment("--method", method), ProcessOptions(nproc=2), trains=False)


def test_only_a_training_asks_that_a_step_can_be_shared_alike() -> None:
    check_processes(make_experiment(), ProcessOptions(nproc=3), trains=False)
    with pytest.raises(UserError, match=r"3 processes cannot share the \d+ rows of a step alike"):
        check_processes(make_experiment(), ProcessOptions(nproc=3), trains=True)


def test_too_few_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from workflows.model import gpu

    monkeypatch.setattr(gpu, "_visible", ["3", "5"])
    assert gpu.gpus_of_processes(2) == "3,5"
    with pytest.raises(UserError, match=r"--nproc 4: 2 GPU\(s\) are visible"):
        gpu.gpus_of_processes(4)
