"""What many tests share: real reviews, a command line to run, a finished run to look at."""

import csv
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from run_swift import app
from tests.fake_hub import FakeHub, serve_hub
from tests.forks import PATIENCE
from workflows.core.run_folder import RunFolder
from workflows.experiment.cards import ROOT
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.experiment.options import NEW_RUN, RunOptions
from workflows.experiment.resolve import resolve

# Two processes of tests share two cores: see pyproject.toml.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED_DATA = ROOT.parent / "shared" / "data"
TINY = ROOT / "workflows" / "tiny" / "model"
GPU_HERE = any(Path("/dev").glob("nvidia[0-9]*"))
Command = Callable[..., "subprocess.CompletedProcess[str]"]
# Files that take longest: they go first, so that no process works on one alone at the end.
LONGEST = (
    *("test_readme", "test_methods", "test_spread", "test_study", "test_missing_models"),
    *("test_nothing_lost", "test_end_to_end", "test_search", "test_cluster", "test_offline"),
    *("test_notebook", "test_app", "test_swift_datasets", "test_head", "test_bad_input"),
    *("test_server", "test_benchmark", "test_export", "test_qwen3_5", "test_full"),
    *("test_pieces", "test_reproduce", "test_plan"),
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what looks at the finished run; the longest files come first."""
    order = {f"{name}.py": at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        if isinstance(item, pytest.Function) and "demo_run" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real reviews beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real reviews are not here: {SHARED_DATA}")
    return SHARED_DATA


def read_demo_rows() -> list[dict[str, str]]:
    """The embedded reviews: label, text, domain."""
    with open(ROOT / "datasets" / "demo" / "demo.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def demo_rows() -> list[dict[str, str]]:
    return read_demo_rows()


@cache
def _forks() -> "subprocess.Popen[str]":
    """The process that runs commands in forks of itself; it ends with this one, which holds its input."""
    command = [sys.executable, "-m", "tests.forks"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True, encoding="utf-8")


def _run_in_fork(arguments: list[str], env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    forks = _forks()
    assert forks.stdin is not None
    assert forks.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("output", "errors")]
        request = [arguments, [*map(str, files)], {**os.environ, **env}]
        print(json.dumps(request), file=forks.stdin, flush=True)
        answer = forks.stdout.readline()
        assert answer, "tests/forks.py has stopped; what it printed says why"
        return subprocess.CompletedProcess(
            arguments, int(answer), *(file.read_text("utf-8") for file in files)
        )


def run_command(*arguments: object, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run run_swift.py in a process of its own, as a user does, or in a fork."""
    if not GPU_HERE:
        return _run_in_fork([*map(str, arguments)], env or {})
    return subprocess.run(
        [sys.executable, str(ROOT / "run_swift.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        timeout=PATIENCE,
        check=False,
    )


class Started(subprocess.Popen[str]):
    """A process that does not outlive the test that failed within its `with`."""

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


def start_command(*arguments: object, cwd: Path = ROOT) -> "subprocess.Popen[str]":
    """Start run_swift.py in a process of its own, whose output is read while it works."""
    return Started(
        [sys.executable, "run_swift.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=cwd,
    )


def free_port() -> int:
    """A port that nobody holds, outside the range from which outgoing connections take theirs."""
    while True:
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", random.randrange(20_000, 30_000)))
            return int(tried.getsockname()[1])


def read_options(*flags: object) -> RunOptions:
    """What the flags of `run` ask for."""
    _, bound, *_ = app.parse_args(["run", *map(str, flags)], exit_on_error=False, print_error=False)
    return bound.arguments.get("new", NEW_RUN).options


def make_experiment(*flags: object) -> Experiment:
    """The experiment that the flags of `run` describe."""
    return resolve(read_options(*flags))


def prepare_run(folder: Path, *flags: object) -> RunFolder:
    """A run folder with the data that the flags of `run` ask for, and nothing else."""
    from workflows.data.prepare import prepare  # which loads scikit-learn

    run = RunFolder(folder)
    prepare(Job(run, make_experiment(*flags)))
    return run


def settings(*each: str) -> list[str]:
    """The flags that set arguments of SWIFT, each written name=value."""
    return [part for setting in each for part in ("--set", setting)]


# One checkpoint, the last: the first one's step has a learning rate of nearly nothing.
LAST = settings("max_steps=3", "eval_steps=3", "save_steps=3")

RUN_ALL = """
import json, sys
from run_swift import main
for arguments in json.load(sys.stdin):
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    print('@', code, flush=True)
"""


def run_commands(
    commands: Sequence[Sequence[object]], cwd: Path, env: dict[str, str] | None = None
) -> tuple[list[int], "subprocess.CompletedProcess[str]"]:
    """Run command lines of a copy of the project in one process, since SWIFT takes 10 s to start; their exit
    codes.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps([[*map(str, arguments)] for arguments in commands]),
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env={**os.environ, **(env or {})},
        check=False,
    )
    return [int(code) for code in re.findall(r"^@ (\d+)$", done.stdout, re.M)], done


@pytest.fixture(scope="session")
def command() -> Command:
    """run_swift.py as a function of its arguments."""
    return run_command


def copy_project(folder: Path) -> Path:
    """Put all that the commands need into `folder`."""
    for name in ("workflows", "datasets", "sft_args"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_swift.py", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="session")
def project_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, so that commands that write beside the code leave the checkout alone."""
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def demo_run(
    project_copy: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> tuple[RunFolder, str]:
    """`python run_swift.py`, run once for all tests: its run folder and what the screen showed.

    Tests run in several processes; each gets a copy of the run of the first that needs it.
    """
    base = tmp_path_factory.getbasetemp()
    first = (base if worker_id == "master" else base.parent) / "demo-run"
    with FileLock(f"{first}.lock"):
        if not first.exists():
            done = subprocess.run(
                [sys.executable, "run_swift.py"],
                capture_output=True,
                text=True,
                cwd=project_copy,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            shutil.copytree(project_copy / "outputs", first / "outputs")
            (first / "screen.txt").write_text(done.stdout, encoding="utf-8")
    screen = (first / "screen.txt").read_text(encoding="utf-8")
    shown = screen.splitlines()[-1].removeprefix("run folder: ")
    if not (project_copy / shown).exists():
        shutil.copytree(first / shown, project_copy / shown)
    return RunFolder(project_copy / shown), screen


@pytest.fixture
def own_run(demo_run: tuple[RunFolder, str], tmp_path: Path) -> RunFolder:
    """The finished run, a copy that may be changed."""
    return RunFolder(shutil.copytree(demo_run[0].path, tmp_path / "run"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A ModelScope and Hugging Face hub on loopback, empty, with caches of its own."""
    with serve_hub(tmp_path / "hub") as served:
        yield served


@pytest.fixture
def hub_here(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """That hub for this process too, whose clients have read their settings long ago."""
    from modelscope_hub import set_default_config

    for name, value in hub.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", f"{hub.env['HF_HOME']}/hub")
    set_default_config(None)
    yield hub
    set_default_config(None)
