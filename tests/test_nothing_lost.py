"""What a run is after kills, on a full disk, with torn checkpoints, and where memory runs out."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import httpx
import psutil
import pytest

from run_swift import main
from tests.conftest import GPU_HERE, PATIENCE, Command, free_port, settings
from tests.kill_runs import Killer, differences, kill_all
from workflows.core.files import read_json, read_jsonl, sha256, write_json
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


@pytest.mark.skipif(GPU_HERE, reason="CUDA does not outlive the fork in which a command is killed")
def test_a_server_killed_in_the_middle_of_answers_leaves_the_run_and_says_the_same_again(
    command: Command, demo_run: tuple[RunFolder, str]
) -> None:
    run, _ = demo_run
    before = _hashes(run)
    texts = [row["text"] for row in read_jsonl(run.predictions("tuned"))][:256]
    said = []
    with ThreadPoolExecutor(1) as pool:
        for share in (0.1, 0.4, 0.7):
            address = ("127.0.0.1", free_port())
            ended = pool.submit(command, "serve", run.path, "--port", address[1])
            while not _listeners(address):
                with suppress(NotYet):
                    raise AssertionError(ended.result(timeout=0.1).stderr)
            (server,) = _listeners(address)
            start = time.monotonic()
            said.append(
                httpx.post(
                    f"http://127.0.0.1:{address[1]}/v1/classify", json={"texts": texts}, timeout=PATIENCE
                ).json()
            )
            _kill_while_it_answers(server, address, texts, share * (time.monotonic() - start))
            assert ended.result().returncode == -signal.SIGKILL
    assert len(said[0]["results"]) == len(texts)
    assert said == [said[0]] * 3
    assert _hashes(run) == before


def _hashes(run: RunFolder) -> dict[Path, str]:
    paths = [path for path in run.path.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {path: sha256(path) for path in paths}


def _listeners(address: tuple[str, int]) -> list[psutil.Process]:
    found = psutil.net_connections("tcp4")
    return [psutil.Process(each.pid) for each in found if each.laddr == address and each.status == "LISTEN"]


def _kill_while_it_answers(
    server: psutil.Process, address: tuple[str, int], texts: list[str], seconds: float
) -> None:
    """Kill a server so many seconds after a request, or sooner where that was answered by then."""
    body = json.dumps({"texts": texts}).encode()
    head = (
        "POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    while True:
        with socket.create_connection(address) as asking:
            asking.sendall(head.encode() + body)
            asking.settimeout(seconds)
            try:
                asking.recv(1)
            except TimeoutError:
                server.kill()
                return
        seconds /= 2


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_and_one_that_may_not_be_written_are_one_line_and_no_loss(
    command: Command, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "disk" / "run")
    few = settings("max_steps=4", "save_steps=2", "eval_steps=2")
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
        answered = command("predict", run.path, "--system", "tfidf", "--text", "味道很好")
        assert answered.returncode == 0, answered.stderr


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


@pytest.mark.parametrize(
    "name", ["stages.json", "training.json", "data/test.jsonl", "predictions/tuned.jsonl"]
)
def test_a_damaged_file_of_a_run_is_named(
    own_run: RunFolder, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = own_run.path
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: len(whole) // 2])
    command = ["report" if name == "training.json" else "score", str(run)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"error: {run / name}" in said
    assert "is damaged (" in said
    assert said.count("\n") == 1
    (run / name).write_bytes(whole)
    assert main(command) == 0


def test_the_report_says_where_memory_ran_out(command: Command, own_run: RunFolder) -> None:
    stages = read_json(own_run.stages)
    del stages["report"]
    stages["train"]["told"] = [asdict(text("memory_ran_out_in_a_step", tokens=512))]
    write_json(own_run.stages, stages)
    assert command("report", own_run.path).returncode == 0
    page = own_run.report_page.read_text(encoding="utf-8")
    assert "raining: memory ran out, so 512 tokens at most are computed at a time" in page
    assert "内存不足，此后每次最多计算 512 个 token" in page
