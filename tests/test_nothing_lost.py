"""What a run is after kills, on a full disk, with torn checkpoints, and where memory runs out."""

import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import GPU_HERE, Command
from tests.kill_runs import ORDER, Killer, differences, kill_all
from workflows.core.files import read_jsonl
from workflows.core.run_folder import RunFolder

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


@pytest.mark.skipif(GPU_HERE, reason="the limit is on this process's memory, not on a GPU's")
def test_answers_short_of_memory_take_fewer_rows_at_a_time_which_screen_and_report_say(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run = tmp_path / "long.csv", RunFolder(tmp_path / "run")
    rows = [
        f"{i}号店的菜很好吃，{'服务也热情，下次还会再来。' * 20},{('差评', '好评')[i % 2]}\n"
        for i in range(60)
    ]
    file.write_text("text,label\n" + "".join(rows), encoding="utf-8")
    flags = ["--data-file", file, "--text-column", "text", "--label-column", "label", "--labels", "差评,好评"]
    flags += ["--keep-near-copies", "--set", "max_steps=1", "--run-folder", run.path]
    assert command("prepare", *flags).returncode == 0
    monkeypatch.setenv(ORDER, json.dumps({"memory": 50 << 20, "once": ".features-"}))
    answered = command("infer", run.path)
    assert answered.returncode == 0, answered.stderr
    assert "rows at most are read at a time from here on" in answered.stdout
    assert len(read_jsonl(run.predictions("zero_shot"))) == len(read_jsonl(run.split("test")))
    monkeypatch.delenv(ORDER)
    assert command("run", run.path).returncode == 0
    page = run.report_markdown.read_text(encoding="utf-8")
    assert re.search(r"rozen probe: memory ran out, so \d+ rows", page)
    assert "内存不足，此后每次最多" in page
