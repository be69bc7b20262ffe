"""What the page does: answers by any run, tables, and runs that are started, watched and stopped.

A run is known by the name of its folder, which is looked up: no path comes from the browser.  A training is a
process of its own, `run FOLDER`, so that it outlives the page, stops by Ctrl-C's signal, and goes on by the
same command; it is found again among the machine's processes.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil
from tqdm import tqdm

from workflows.core.errors import GOES_ON, UserError
from workflows.core.files import read_json, sha256, whole
from workflows.core.permissions import trusted_names
from workflows.core.rows import Rows
from workflows.core.run_folder import RunFolder, discard_if_unstarted, finished_stages, holder_of
from workflows.core.screen import Screen
from workflows.core.tables import as_unicode, open_table, read_chunks
from workflows.core.texts import in_language, text
from workflows.data.reviews import strip_text
from workflows.experiment.cards import ROOT
from workflows.experiment.experiment import load_experiment
from workflows.experiment.labels import normalise_label
from workflows.experiment.options import Language, RunOptions, flags_of
from workflows.experiment.resolve import resolve
from workflows.model.folder import check_machine
from workflows.pipeline.run import OUTPUTS, start_run, timed_folder
from workflows.pipeline.stages import STAGES
from workflows.serving.batcher import Batcher, Full
from workflows.serving.explain import Explanation, clauses_of, explain
from workflows.serving.models import Models
from workflows.serving.predict import Wanted, predict_table
from workflows.serving.server import MOST_CHARACTERS
from workflows.serving.systems import Answer, Batches, System, made_system, open_system

MOST_LINES = 64  # reviews that are pasted at once
AT_ONCE = 64  # rows of a table that wait in the queue together: requests between them are answered soon
MOST_CLAUSES = 40  # of a review that is asked without each of them
LOG_END = 4000  # bytes
NAME_BYTES = 80  # of each of two names that make up a file's, which may have 255


class Late:
    """A system that the thread that answers opens when it is first asked: models are that thread's alone."""

    def __init__(self, opener: Callable[[], System]) -> None:
        self.open = cache(opener)

    def answer(self, texts: list[str]) -> list[Answer]:
        """The answer to each text; of none, it only opens."""
        system = self.open()
        return system.answer(texts) if texts else []


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    stages: dict[str, bool]  # by name, in order: whether it is done
    works: bool  # a process works on it
    last_lines: list[str]  # of what that process said, the latest last
    history: Rows  # losses, as SWIFT logs them, with `step` and `steps`

    @property
    def state(self) -> str:
        """works, finished, failed, or stopped."""
        if self.works:
            return "works"
        if self.stages and all(self.stages.values()):
            return "finished"
        # A process that was not stopped says why it failed, or was ended before it could.
        is_stopped = not self.last_lines or self.last_lines[-1].startswith("stopped; ")
        return "stopped" if is_stopped else "failed"


class PageScreen(Screen):
    """A screen whose progress is told to a page: what is done, rows so far, rows in all."""

    def __init__(self, tell: Callable[[str, int, int | None], Any]) -> None:
        super().__init__()
        self.tell = tell

    def progress(self, title: str, total: int | None, counted: bool = True) -> tqdm:
        """A bar that is drawn by the page."""
        tell = self.tell

        class Bar(tqdm):
            def update(self, n: float | None = 1) -> bool | None:
                tell(title, int(self.n + (n or 0)), total)
                return super().update(n)

        return Bar(total=total, file=sys.stderr, delay=float("inf"), leave=False)


@dataclass
class Desk:
    """The runs in `outputs` and those that the command line named, and the models that answer for them."""

    batcher: Batcher
    models: Models
    named: dict[str, Path] = field(default_factory=dict)
    outputs: Path = OUTPUTS
    started: set[str] = field(default_factory=set)

    def runs(self) -> dict[str, Path]:
        """The folder of each run, by name: those named first, then the newest."""
        found = [path.parent for path in self.outputs.glob("*/experiment.yaml")]
        found.sort(key=lambda folder: (folder / "experiment.yaml").stat().st_mtime, reverse=True)
        return {**self.named, **{folder.name: folder for folder in found if folder.name not in self.named}}

    def answering(self) -> list[str]:
        """The names of runs that can answer."""
        runs = {name: RunFolder(folder) for name, folder in self.runs().items()}
        return [
            name for name, run in runs.items() if run.exported.exists() or "score" in finished_stages(run)
        ]

    def watched(self) -> list[str]:
        """The names of runs that can be worked on: first the one that is, then the newest."""
        runs = {name: at.resolve() for name, at in self.runs().items() if not RunFolder(at).exported.exists()}
        at_work = next((folder for _, folder in _at_work(runs.values())), None)

        def order(name: str) -> tuple[bool, float]:
            return runs[name] != at_work, -RunFolder(runs[name]).experiment.stat().st_mtime

        return sorted(runs, key=order)

    def reports(self) -> dict[str, Path]:
        """The page of each run, comparison and study, by name."""
        inside = [path for at in ("*", "studies/*") for path in self.outputs.glob(f"{at}/report.html")]
        inside.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        named = {name: folder / "report.html" for name, folder in self.named.items()}
        pages = {str(path.parent.relative_to(self.outputs)): path for path in inside}
        return {name: path for name, path in {**named, **pages}.items() if path.is_file()}

    def _folder(self, run: str | None) -> Path:
        if run is None:
            raise UserError("no run is chosen; where none is finished, start one on the tab 训练 (Train).")
        folder = self.runs().get(run)
        if folder is None:
            raise UserError(f"there is no run {run!r}; choose one of the list.")
        return folder

    # ---- Answers ----

    def systems_of(self, run: str | None) -> list[str]:
        """The systems that are shown side by side: the untouched model where it can answer, and what the run
        made of it, last.
        """
        folder = self._folder(run)
        experiment = load_experiment(RunFolder(folder).experiment)
        before = [] if experiment.has_head or RunFolder(folder).exported.exists() else ["zero_shot"]
        return [*before, made_system(experiment)]

    def system(self, run: str | None, name: str) -> System:
        """A system of a run, whose answers wait in the server's queue; a UserError where it cannot be
        opened.
        """
        key = f"{name} of {run}"
        late = self.batcher.systems.setdefault(
            key, Late(partial(open_system, self._folder(run), name, self.models))
        )
        assert isinstance(late, Late)
        self.batcher.ask(key, []).result()
        return replace(late.open(), answer_rows=partial(self._answer_rows, key))

    def _answer_rows(self, key: str, rows: Rows) -> Batches:
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            yield [
                {"id": row["id"], **said}
                for row, said in zip(part, self._ask(key, [row["review"] for row in part]), strict=True)
            ]

    def _ask(self, key: str, texts: list[str]) -> list[Answer]:
        while True:
            try:
                return self.batcher.ask(key, texts).result()
            except Full as full:
                if not self.batcher.is_open:
                    raise
                time.sleep(full.seconds)

    def answer_table(
        self, run: str | None, upload: Path, column: str | None, folder: Path, screen: Screen
    ) -> tuple[Path, dict[str, Any]]:
        """The uploaded table with its answers, in `folder`, and its counts.

        Raises UserError as `predict_table` does.
        """
        output = folder / f"{_shortened(upload.stem)}-{_shortened(str(run))}{upload.suffix}"
        system = self.system(run, self.systems_of(run)[-1])
        return output, predict_table(system, [open_table(upload)], Wanted(column or ""), output, screen)

    # ---- Runs that are started here ----

    def keep(self, upload: Path) -> Path:
        """An uploaded file where a run finds it again, also after the page is gone."""
        kept = self.outputs / "app" / "uploads" / sha256(upload)[:12] / upload.name
        if not kept.exists():  # a run that is at work may be reading it
            with whole(kept) as part:
                shutil.copy(upload, part)
        return kept

    def plan(self, options: RunOptions) -> tuple[dict[str, Any], str]:
        """The figures of `plan` for the run that would be started, and what it says; a UserError where it
        refuses.
        """
        resolve(options)
        with TemporaryDirectory(prefix="plan-") as folder:
            figures = Path(folder) / "plan.json"
            command = [*_ours(), "plan", *flags_of(options), "--output", str(figures)]
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
            if done.returncode != 0:
                said = done.stderr.strip().rpartition("\n")[2].removeprefix("error: ")
                raise UserError(said or "plan failed")
            # Without the calibration's own lines.
            return read_json(figures), done.stdout.partition("\n\n")[2].strip("\n")

    def start(self, options: RunOptions) -> str:
        """Start a run; return its name.  Raises UserError where the options do not fit together, or another
        run is at work.
        """
        self._check_idle()
        experiment = resolve(options)
        check_machine(experiment)
        folder = self.outputs / timed_folder(experiment.name).name
        start_run(experiment, folder, Screen())
        self.started.add(folder.name)
        self._work(folder)
        return folder.name

    def go_on(self, run: str | None) -> None:
        """Go on with a run at its first unfinished stage; a UserError where another one is at work."""
        self._check_idle()
        self._work(self._folder(run))

    def stop(self, run: str | None) -> None:
        """Stop a run as Ctrl-C does; one that nobody works on stays as it is."""
        for process, _ in _at_work([self._folder(run)]):
            process.send_signal(signal.SIGINT)

    def _check_idle(self) -> None:
        for _, folder in _at_work(self.runs().values()):
            raise UserError(f"{folder.name} is at work: stop it, or wait.")

    def _work(self, folder: Path) -> None:
        log = self._log(folder.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as said:
            subprocess.Popen(
                [*_ours(), "run", str(folder.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # a Ctrl-C that ends the page does not reach it
            )

    def _log(self, name: str) -> Path:
        """Outside of the run folder, which is gone where a run refuses to start."""
        return self.outputs / "app" / f"{name}.log"

    def progress(self, name: str | None) -> Progress:
        """How far the run `name` is; a UserError where there is none."""
        if name in self.started and name not in self.runs():  # it refused to start
            return Progress({}, False, _last_lines(self._log(name)), [])
        folder = self._folder(name)
        run = RunFolder(folder.resolve())  # as its process was told
        experiment, done = load_experiment(run.experiment), finished_stages(run)
        stages = {stage.name: stage.name in done for stage in STAGES if stage.is_part_of(experiment)}
        works = any(_at_work([folder]))
        found = Progress(stages, works, _last_lines(self._log(folder.name)), _history(run))
        end = found.last_lines[-1] if found.state == "failed" else ""
        if name in self.started and end.startswith("error: ") and GOES_ON not in end:  # it was refused
            discard_if_unstarted(run, end)
        return found


def _ours() -> list[str]:
    """How this project's command begins in a process of its own: with what --trust-code allowed here."""
    trusted = (f"--trust-code={name}" for name in trusted_names())
    return [sys.executable, str(ROOT / "run_swift.py"), *trusted]


def _shortened(name: str) -> str:
    return name.encode()[:NAME_BYTES].decode(errors="ignore")


def _at_work(folders: Iterable[Path]) -> Iterator[tuple[psutil.Process, Path]]:
    """Processes that work on run folders, each once, with its folder: those that hold one, and those that
    `Desk` has started and that will.
    """
    asked = {folder.resolve(): folder for folder in folders}
    by_command = {str(resolved): folder for resolved, folder in asked.items()}
    found = {holder_of(RunFolder(resolved)): folder for resolved, folder in asked.items()}
    for process in psutil.process_iter(["cmdline"]):
        typed = process.info["cmdline"] or []
        if process.pid in found:
            yield process, found[process.pid]
        elif typed[-2:-1] == ["run"] and typed[-1] in by_command:
            yield process, by_command[typed[-1]]


def _last_lines(log: Path) -> list[str]:
    """The end of what a command said; of a bar, which draws over itself, the latest state."""
    if not log.exists():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_END))
        said = file.read().decode("utf-8", errors="replace")
    return [line for line in said.replace("\r", "\n").split("\n") if line.strip()][-3:]


def _history(run: RunFolder) -> Rows:
    """What SWIFT has logged of a training so far."""
    log = run.sft / "logging.jsonl"
    whole = log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []  # the last may be half
    history = []
    for entry in map(json.loads, whole):
        step, _, steps = entry.get("global_step/max_steps", "").partition("/")
        if steps:
            history.append({**entry, "step": int(step), "steps": int(steps)})
    return history


def read_reviews(pasted: str, language: Language) -> list[str]:
    """The reviews that were pasted, one a line; a UserError in `language` where there are none, too many, or
    too long ones.
    """
    texts = [strip_text(line) for line in as_unicode(pasted).splitlines() if strip_text(line)]
    if not 0 < len(texts) <= MOST_LINES:
        raise UserError(in_language(text("paste_lines", most=f"{MOST_LINES}"), language))
    if max(map(len, texts)) > MOST_CHARACTERS:
        raise UserError(in_language(text("paste_characters", most=f"{MOST_CHARACTERS:,}"), language))
    return texts


def explain_clauses(system: System, texts: list[str]) -> dict[str, Explanation]:
    """What the label of each text hangs on, by text; nothing of a text with one clause or too many, nor where
    a row has no single label.
    """
    if system.experiment.dataset.task != "single_label":
        return {}
    asked = [text for text in dict.fromkeys(texts) if 1 < len(clauses_of(text)) <= MOST_CLAUSES]
    return dict(zip(asked, explain(system, asked, with_words=False), strict=True))


class Columns(NamedTuple):
    """Of an uploaded table."""

    names: list[str]
    longest: str | None  # the column with the longest cells: the review, likely
    few: dict[str, list[str]]  # the values of each column that has few: a label, likely


NO_COLUMNS = Columns([], None, {})


def columns_of(upload: Path) -> Columns:
    """The columns of an uploaded table, by its first rows; a UserError where it cannot be read."""
    first = next(read_chunks(open_table(upload)))
    values = {name: sorted({normalise_label(each) for each in first[name]} - {""}) for name in first.columns}
    longest = max(values, key=lambda name: sum(map(len, first[name].head(100))), default=None)
    few = {name: each for name, each in values.items() if 1 < len(each) <= 10}
    return Columns([*values], longest, few)


def suggest_labels(values: list[str]) -> str:
    """`--labels` to be filled in, for a column of these values: words may be the label's own, a number or a
    truth value needs a name behind its `=`.
    """
    words = all(re.search(r"[^\W\d_]", each) and each.lower() not in ("true", "false") for each in values)
    return ",".join(each if words else f"{each}=" for each in values)
