"""Studies, searches and `predict` on a Ray cluster of three nodes on this machine; some are killed."""

import csv
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command, read_demo_rows
from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.core.tables import open_table
from workflows.experiment.options import DEFAULTS
from workflows.serving.blocks import BLOCK_ROWS, answer_rows
from workflows.serving.systems import open_system
from workflows.studies.study import work_on_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason='Ray is not installed: pip install "ray[data]"'),
]
STUDY = """
question: {en: "Which is better on few rows?", zh: 行数很少时哪个更好？}
options: {method: probe, test_samples: 40}
sizes: [16, 32]
draws: 1
arms: {majority: {}, tfidf: {}}
compare: [[tfidf, majority]]
"""


class Nodes:
    """A head, on which the command is, and nodes with a core each, on which all tasks are."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # By default a machine that is gone is missed after half a minute.
        soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}
        # A node that was killed refuses at once; a slow one has time.
        soon |= {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 2}
        settings = {**soon, "worker_niceness": 0}  # beside other tests 15, the default, would wait for all
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": settings}
        self.cluster = Cluster(True, head_node_args=head)
        self.workers: list[Any] = []
        self.add(2)

    def add(self, count: int) -> None:
        self.workers += [self.cluster.add_node(num_cpus=1, wait=False) for _ in range(count)]
        self.cluster.wait_for_nodes()

    def kill_one(self) -> None:
        self.cluster.remove_node(self.workers.pop(0), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    started = Nodes()
    yield started
    started.cluster.shutdown()


def test_a_table_gets_the_same_answers_though_a_node_dies(
    demo_run: tuple[RunFolder, str], nodes: Nodes, tmp_path: Path
) -> None:
    texts = [row["text"] for row in read_demo_rows()]
    parts = []
    for part, rows in enumerate((4 * BLOCK_ROWS + 100, 0, 3 * BLOCK_ROWS)):  # blocks go over files' ends
        with open(tmp_path / f"{part}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["review"])
            writer.writerows([f"{texts[at % len(texts)]}{at}" if at % 99 else ""] for at in range(rows))
        parts.append(open_table(tmp_path / f"{part}.csv"))
    system, rows = open_system(demo_run[0].path, "tfidf"), 7 * BLOCK_ROWS + 100
    with open(tmp_path / "alone", "a+b") as whole:
        answer_rows(system, parts, "review", whole, rows, Screen())
    alone = (tmp_path / "alone").read_bytes()
    stopped = b"".join(alone.splitlines(keepends=True)[: BLOCK_ROWS + 7])  # of a command that goes on
    (tmp_path / "there").write_bytes(stopped)
    left = len(nodes.workers) - 1

    class Answers(io.FileIO):
        def write(self, lines: Any) -> int:
            if len(nodes.workers) > left:
                nodes.kill_one()
            return super().write(lines)

    with Answers(tmp_path / "there", "a+") as answers:
        answer_rows(system, parts, "review", answers, rows, Screen(), nodes.cluster.address)
    assert len(nodes.workers) == left
    assert (tmp_path / "there").read_bytes() == alone


def test_a_study_comes_out_the_same_though_a_node_dies(nodes: Nodes, tmp_path: Path) -> None:
    card = tmp_path / "few.yaml"
    card.write_text(STUDY, encoding="utf-8")
    nodes.add(1)
    left = len(nodes.workers) - 1

    class Watching(Screen):
        begun = 0

        def say(self, text: str = "") -> None:
            self.begun += text.startswith("begun on ")
            if self.begun == 2 and len(nodes.workers) > left:  # each node has a run
                nodes.kill_one()
            super().say(text)

    folders = []
    for place, ray in (("alone", None), ("there", nodes.cluster.address)):
        asked = (str(card), "full", None, False, False, (), DEFAULTS, tmp_path / place, ray)
        folder, not_done = work_on_study(*asked, Watching(), lambda asked, screen: [])
        assert not_done is None
        folders.append(folder)
    assert len(nodes.workers) == left
    alone, there = (read_json(folder / "study.json") for folder in folders)
    assert [there[name] for name in ("panels", "answer")] == [alone[name] for name in ("panels", "answer")]
    for run in alone["folders"].values():
        for system in ("majority", "tfidf"):
            answers = [RunFolder(folder / run).predictions(system).read_bytes() for folder in folders]
            assert answers[0] == answers[1]


def test_a_search_trains_there_and_its_storage_is_written_here(
    command: Command, nodes: Nodes, tmp_path: Path
) -> None:
    space, out = tmp_path / "space.yaml", tmp_path / "out"
    space.write_text("{lora_rank: [4, 16]}", encoding="utf-8")
    rows = ("--train-samples", 24, "--test-samples", 10, "--set", "max_steps=2")
    asked = ("search", *rows, "--space", space, "--trials", 2, "--output", out)
    done = command(*asked, "--ray", nodes.cluster.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": begun on ") == 2
    trials = read_json(out / "search.json")["trials"]
    assert [each["state"] for each in trials] == ["complete", "complete"]
    assert all(each["evaluations"][-1] == each["loss"] for each in trials)  # reported while it was trained
    assert len([*out.glob("runs/*/logs/run.log")]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ray", "127.0.0.1:9"], "--ray 127.0.0.1:9: nothing answers there: "),
        (["--ray", "ray://127.0.0.1:9"], "--ray ray://127.0.0.1:9: give local, or HOST:PORT"),
        (["--offline", "--ray", "192.0.2.1:9"], "--offline --ray 192.0.2.1:9: is another machine"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_line(
    command: Command, tmp_path: Path, flags: list[str], message: str
) -> None:
    card = tmp_path / "few.yaml"
    card.write_text(STUDY, encoding="utf-8")
    done = command("study", card, "--output", tmp_path / "out", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"error: {message}")
