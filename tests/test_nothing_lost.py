"""What a run is after kills, on a full disk, with torn checkpoints, and where memory runs out."""

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.conftest import GPU_HERE, Command
from tests.kill_runs import Killer, differences, kill_all
from workflows.core.files import read_json, write_json
from workflows.core.run_folder import RunFolder
from workflows.core.texts import text

pytestmark = pytest.mark.slow


@pytest.mark.skipif(GPU_HERE, reason="CUDA does not outlive the fork in which a command is killed")
def test_commands_killed_again_and_again_end_as_if_left_alone(command: Command, tmp_path: Path) -> None:
    seed = random.randrange(1000)
    print(f"seed {seed}")  # shown where it fails; python -m tests.kill_runs --seed repeats it
    alone, killed = Killer(tmp_path / "alone", command), Killer(tmp_path / "killed", command)
    kill_all(alone, killed, 24, random.Random(seed), by_clock=False)
    print(killed.killed)
    assert len(killed.killed) >= 20
    assert {each.split(":")[0] for each in killed.killed} == {"study", "run", "predict", "serve"}
    assert differences(alone.folder, killed.folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_and_one_that_may_not_be_written_are_one_line_and_no_loss(
    command: Command, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "disk" / "run")
    checkpoints = "max_steps=4", "save_steps=2", "eval_steps=2"
    few = [part for each in checkpoints for part in ("--set", each)]
    with _disk(tmp_path / "disk", "1500k") as resize:
        whole = command(
            "prepare", "--train-samples", 96, "--test-samples", 20, *few, "--run-folder", run.path
        )
        assert whole.returncode == 0, whole.stderr
        full = command("train", run.path)  # its second checkpoint does not fit
        assert full.returncode == 2
        assert re.search(r"error: no space is left: .* has 0 MB free; free some; ", full.stderr)
        assert "Traceback" not in full.stderr
        resize("size=9m")
        done = command("train", run.path)
        assert done.returncode == 0, done.stderr
        assert "checkpoint-4 is left out: " in done.stdout
        assert "going on from checkpoint-2" in done.stdout
        resize("ro")
        refused = command("score", run.path)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert "Read-only file system; " in refused.stderr


@contextmanager
def _disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A disk in memory; what it yields changes its options."""

    def mount(*options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["mount", *options], capture_output=True, text=True, check=False)

    folder.mkdir()
    mounted = mount("-t", "tmpfs", "-o", f"size={size}", "none", str(folder))
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr}")
    try:
        yield lambda option: mount("-o", f"remount,{option}", str(folder)).check_returncode()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_report_says_where_memory_ran_out(
    command: Command, demo_run: tuple[RunFolder, str], tmp_path: Path
) -> None:
    run = RunFolder(shutil.copytree(demo_run[0].path, tmp_path / "run"))
    stages = read_json(run.stages)
    del stages["report"]
    stages["train"]["told"] = [asdict(text("memory_ran_out_in_a_step", tokens=512))]
    write_json(run.stages, stages)
    assert command("report", run.path).returncode == 0
    page = run.report_page.read_text(encoding="utf-8")
    assert "raining: memory ran out, so 512 tokens at most are computed at a time" in page
    assert "内存不足，此后每次最多计算 512 个 token" in page
