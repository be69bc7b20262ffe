"""Kills commands at random moments, goes on, and compares what comes out with that of commands left alone.

    python -m tests.kill_runs --kills 24 --seed 1

A study of two runs, the stages that it left of one, a table of answers, and a server.  A moment is a file
event (opened to be written, renamed, removed) of the command left alone, so that kills spread over all
stages, or, with --by-clock, a point in time, which falls between two writes of one file, too.  `predict` is
killed in the middle of a line of its answers as well.
"""

import argparse
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ORDER = "TEST_ORDER"  # the variable that tells a fork what to die of
CARD = """
question: {en: "Which is better on few rows?", zh: 行数很少时哪个更好？}
options: {test_samples: 20, set: [max_steps=4, save_steps=1, eval_steps=1]}
sizes: [48]
draws: 1
arms: {probe: {}, tuned: {}}
compare: [[tuned, probe]]
"""
# Files that say when and how long, and SWIFT's arguments, among them the checkpoint gone on from.
OF_THE_WAY = re.compile(
    r"^study/(report|study[.]json)|/(logs|figures)/|/(stages|environment|args)[.]json$|/report[.](md|html)$"
    r"|/[.]lock$|/training_args[.]bin$|/logging[.]jsonl$"
)
BY_CHANCE = re.compile(r"/logs/|/[.]lock$")  # files that one of two ways may leave alone
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
LISTENS = "socket.bind"
EVENTS = {LISTENS, "open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "shutil.rmtree"}
PREDICT, SERVE = 2, 3  # of `steps`; a server ends by a kill alone
ANSWERS = 2000  # bytes, of some more that the rows of `steps` are answered in
A_SERVER_STARTS = 20.0  # seconds
NEVER = 1 << 30
Command = Callable[..., Any]


def arm(order: dict[str, Any]) -> None:
    """Let this process be killed as `order` says; called in it.

    `after`: in so many seconds.  `written`: by the write that would take a file of answers beyond so many
    bytes, which is half done then.  Else at an event, a file in `folder` that is changed or a server that
    starts to listen: the first that is not before number `target` of those `known`, or as many as `later`
    after it; each is noted in the file `seen`.
    """
    if "after" in order:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends a process without a word, as SIGKILL does
        signal.setitimer(signal.ITIMER_REAL, order["after"])
        return
    if "written" in order:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # so does this
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def limit(event: str, given: tuple[Any, ...]) -> None:
            if event == "open" and str(given[0]).endswith(".answers"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (order["written"], order["written"]))

        sys.addaudithook(limit)
        return
    known = {event: number for number, event in enumerate(order["known"])}
    folder, later, dying = order["folder"], order["later"], False
    seen = os.open(order["seen"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal later, dying
        if event not in EVENTS:
            return
        path = "" if event == LISTENS else str(given[0])
        if event != LISTENS and not path.startswith(folder):
            return
        if event == "open" and not int(given[2]) & WRITES:
            return
        name = re.sub(r"[.]\d+[.]part", ".part", f"{event} {path.removeprefix(folder)}")
        os.write(seen, f"{name}\n".encode())
        dying = dying or known.get(name, -1) >= order["target"]
        if dying and later == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        later -= dying

    sys.addaudithook(hook)


def steps(folder: Path) -> list[list[str]]:
    """The commands, of which each needs what those before it left."""
    card, table = folder / "few.yaml", folder / "reviews.csv"
    card.write_text(CARD, encoding="utf-8")
    table.write_text("review\n" + "".join(f"第{i}次来，味道很好\n" for i in range(30)), encoding="utf-8")
    run = str(next(iter(folder.glob("study/runs/*-lora-*")), folder))
    output = ["--text-column", "review", "--output", str(folder / "answers.csv")]
    return [
        ["study", str(card), "--output", str(folder / "study")],
        ["run", run],
        ["predict", run, "--input", str(table), *output],
        ["serve", run, "--port", "0"],
    ]


class Killer:
    """Does the commands of `steps` in a folder, killing them or not."""

    def __init__(self, folder: Path, command: Command) -> None:
        self.folder, self.command = folder, command
        folder.mkdir(parents=True, exist_ok=True)
        self.killed: list[str] = []  # at what

    def do(self, number: int, **order: Any) -> int:
        """Do a command, to be killed as `arm` says; its exit code, negative where it was killed."""
        os.environ[ORDER] = json.dumps(order)
        try:
            done = self.command(*steps(self.folder)[number])
        finally:
            del os.environ[ORDER]
        if done.returncode < 0:
            moment = next(order[name] for name in ("after", "written", "target") if name in order)
            self.killed.append(f"{steps(self.folder)[number][0]}: {moment}")
        elif done.returncode:
            raise RuntimeError(f"after {self.killed}: {done.stderr}")
        return int(done.returncode)

    def do_to(self, number: int, known: Sequence[str], target: int, later: int = 0) -> list[str]:
        """Do a command until the file event `target` of those `known`, and as many as `later` more; the
        events that there were.
        """
        seen = self.folder.with_name(f"{self.folder.name}-events.txt")
        seen.write_text("", encoding="utf-8")
        inside = f"{self.folder}/"
        self.do(number, folder=inside, known=known, target=target, later=later, seen=str(seen))
        return [*dict.fromkeys(seen.read_text(encoding="utf-8").splitlines())]


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two folders of the same commands, but for the way there."""
    contents = [_contents(folder) for folder in (one, other)]
    return sorted(
        name for name in {*contents[0], *contents[1]} if contents[0].get(name) != contents[1].get(name)
    )


def _contents(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = str(path.relative_to(folder))
        if OF_THE_WAY.search(name):
            if not BY_CHANCE.search(name):
                found[name] = b"there"
            continue
        found[name] = path.read_bytes().replace(str(folder).encode(), b"FOLDER")
        if path.name == "training.json":  # the trainer's summary is of its last session alone
            training = json.loads(found[name])
            for entry in training["log_history"]:
                for figure in [figure for figure in entry if figure.startswith("train_")]:
                    del entry[figure]
            found[name] = json.dumps(training, sort_keys=True).encode()
    return found


def main() -> None:
    """Kill as often as asked, and say whether the end was the same."""
    from tests.conftest import run_command

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--by-clock", action="store_true")
    asked = parser.parse_args()
    chosen = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = (Killer(Path(folder) / name, run_command) for name in ("alone", "killed"))
        print(f"seed {asked.seed}", flush=True)
        kill_all(alone, killed, asked.kills, chosen, asked.by_clock)
        print(f"{len(killed.killed)} kills: {', '.join(killed.killed)}")
        found = differences(alone.folder, killed.folder)
        print(f"not the same: {', '.join(found)}" if found else "the end is the same, byte for byte")


def kill_all(alone: Killer, killed: Killer, kills: int, chosen: random.Random, by_clock: bool) -> None:
    """Do all commands once without a kill, and once with so many, spread over them."""
    for number, share in enumerate((0.55, 0.3, 0.1, 0.05)):
        serves, count = number == SERVE, max(1, round(share * kills))
        start = time.monotonic()
        known = [f"{LISTENS} "] if serves else alone.do_to(number, (), NEVER)
        took = A_SERVER_STARTS if serves else (time.monotonic() - start) / count**0.5
        for place in sorted(chosen.sample(range(len(known)), min(count, len(known)))):
            if by_clock:
                killed.do(number, after=chosen.uniform(0.1, 1.0) * took)
            else:
                killed.do_to(number, known, place, 0 if serves else chosen.randrange(4))
        if number == PREDICT:
            for written in sorted(chosen.sample(range(1, ANSWERS), count)):
                killed.do(number, written=written)
        if not serves:
            killed.do_to(number, (), NEVER)


if __name__ == "__main__":
    main()
