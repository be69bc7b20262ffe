"""Answers to a whole table of reviews, or to one text.

python run_swift.py predict outputs/RUN --input reviews.csv --text-column review --output answers.csv

The answers gather in a hidden file beside the output, one line a row in the rows' order, so that a command
that was stopped goes on; the output is written from it at the end, whole.
"""

import glob
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from workflows.core.errors import UserError
from workflows.core.files import fingerprint, sha256
from workflows.core.remote import copied_here
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen, as_typed
from workflows.core.table_writers import check_format, check_sheet, open_table_writer
from workflows.core.tables import Table, name_columns, open_table, read_chunks
from workflows.data.reviews import why_no_review
from workflows.experiment.experiment import Experiment, load_experiment
from workflows.serving.blocks import answer_rows, answer_texts
from workflows.serving.counts import Counts, confidence, render_counts, render_trial
from workflows.serving.kept_answers import held
from workflows.serving.systems import Answer, System, open_system

LINES_AT_ONCE = 256  # of standard input
NO_LABEL = "the output names no label"


@dataclass(frozen=True)
class Wanted:
    """What is asked of each row's answer."""

    text_column: str
    label_column: str | None = None  # the gold label, to be scored
    min_confidence: float | None = None  # below it no label is given
    name_system: bool = False  # a column that says which system answered


@dataclass(frozen=True)
class Work:
    """Tables that were looked at, and where their answers go."""

    tables: list[Table]
    columns: list[str]  # of each
    rows: int  # of all
    output: Path
    kind: str  # its format


def predict(
    folder: Path,
    name: str,
    wanted: Wanted,
    inputs: tuple[str, ...],
    texts: tuple[str, ...],
    output: Path | None,
    ray: str | None,
    screen: Screen,
) -> None:
    """Answer `texts`, the lines of standard input (where `inputs` is "-"), or the rows of files, and say what
    came of it.

    `ray`: the cluster that answers a table, as of `on_cluster`.  Raises UserError where what is asked does
    not go together, and as `look_at`, `open_system` and `write_answers` do.
    """
    lines = inputs == ("-",)
    if bool(inputs) == bool(texts):
        raise UserError(
            "predict: give --text TEXT, or --input FILE, or --input - for the lines of standard input."
        )
    if inputs and not lines and output is None:
        raise UserError("predict --input FILE: name the table that takes the answers: --output FILE.")
    if (texts or lines) and output is not None:
        raise UserError("predict --output: takes answers to --input FILE; others are printed: leave it out.")
    for flag, value in (("--label-column", wanted.label_column), ("--ray", ray)):
        if value is not None and output is None:
            raise UserError(f"{flag}: goes with --input FILE.")
    if wanted.min_confidence is not None and not 0 <= wanted.min_confidence <= 1:
        raise UserError(f"--min-confidence {wanted.min_confidence:g}: give a probability from 0 to 1.")
    with copied_here("--input", () if output is None else inputs, screen) as names:
        tables, experiment = find_inputs(names), load_experiment(RunFolder(folder).experiment)
        single = experiment.dataset.task == "single_label"
        if not single and (wanted.min_confidence, wanted.label_column) != (None, None):
            raise UserError(
                f"--min-confidence, --label-column: are for reviews with one label each; {folder} has others."
            )
        # Before a model is loaded, which takes its time.
        work = None if output is None else look_at(tables, wanted, experiment, output, screen)
        aside = screen.beside if output is None else screen  # printed answers stand alone
        aside.say(f"loading {name} of {as_typed(folder)} …")
        with aside.output_to(folder / "logs" / "predict.log"):
            system = open_system(folder, name)
            if wanted.min_confidence is not None:
                aside.say(render_trial(system, wanted.min_confidence))
            if work is None:
                _print_answers(system, wanted, iter(texts) if texts else lines_of_input(), screen)
                return
            start = time.monotonic()
            screen.say(render_counts(write_answers(system, work, wanted, screen, ray), wanted.label_column))
            screen.say(f"answered in {time.monotonic() - start:.2f} s, without loading")
            screen.say(f"answers: {as_typed(work.output)}")


def _print_answers(system: System, wanted: Wanted, given: Iterator[str], screen: Screen) -> None:
    added, at_once = added_columns(system.experiment, wanted), 1 if sys.stdin.isatty() else LINES_AT_ONCE
    while block := list(islice(given, at_once)):
        for text, said in zip(block, answer_texts(system, block), strict=True):
            cells = dict(zip(added, row_of(system, wanted, text, said), strict=True))
            screen.say(json.dumps({"text": text, **cells}, ensure_ascii=False))


def lines_of_input() -> Iterator[str]:
    """The lines of standard input; a UserError for one that is not UTF-8."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"--input -: line {number} is not UTF-8; convert the lines (iconv -f GB18030 -t UTF-8), or "
                "give them as a file, which may be GB18030 or Big5."
            ) from error


def find_inputs(names: tuple[str, ...]) -> list[Table]:
    """The files that names and patterns stand for, in order; a UserError for one that stands for none."""
    tables = []
    for name in names:
        found = [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute, too
        if not found:
            raise UserError(f"--input {name}: there is no such file.")
        tables += [open_table(Path(each)) for each in found]
    return tables


def predict_table(
    system: System, tables: list[Table], wanted: Wanted, output: Path, screen: Screen
) -> dict[str, Any]:
    """Look at `tables`, and write their answers; returns and raises as `look_at` and `write_answers` do."""
    return write_answers(system, look_at(tables, wanted, system.experiment, output, screen), wanted, screen)


def write_answers(
    system: System, work: Work, wanted: Wanted, screen: Screen, ray: str | None = None
) -> dict[str, Any]:
    """Write the rows of tables, all columns kept, with their answers; return the counts.

    `ray`: as of `predict`.  Raises UserError where the output cannot be written, another command is about the
    same, or a table is not any more what was looked at.
    """
    tables, columns, output = work.tables, work.columns, work.output
    added = added_columns(system.experiment, wanted)
    output.parent.mkdir(parents=True, exist_ok=True)
    asked = fingerprint([[table.sha256 for table in tables], wanted.text_column, identity(system), columns])
    answered = output.with_name(f".{output.name}-{asked}.answers")
    # Of two commands with one output, each writes a file of its own; the later one stays, whole.
    part, counts = output.with_name(f".{output.name}-{asked}.part"), Counts(system, wanted.label_column)
    with held(answered, output) as lines:
        answer_rows(system, tables, wanted.text_column, lines, work.rows, screen, ray)
        _check_unchanged(tables, answered)
        lines.seek(0)
        try:
            with (
                screen.progress("writing", work.rows) as bar,
                open_table_writer(part, [*columns, *added], work.kind, numbers_of(system)) as write,
            ):
                for chunk in _chunks(tables, columns):
                    said = [json.loads(line) for line in islice(lines, len(chunk))]
                    answers = zip(chunk[wanted.text_column], said, strict=True)
                    new = pd.DataFrame(
                        [row_of(system, wanted, *each) for each in answers], columns=added, dtype=object
                    )
                    counts.add(chunk, said, new)
                    write(pd.concat([chunk.reset_index(drop=True), new], axis=1))
                    bar.update(len(chunk))
            _check_unchanged(tables, answered)
            part.replace(output)
        except ValueError:  # there are more rows than answers
            _check_unchanged(tables, answered)
            raise
        finally:
            part.unlink(missing_ok=True)
        answered.unlink()
    return counts.summary()


def _check_unchanged(tables: list[Table], answered: Path) -> None:
    """Raise UserError, without the answers, which may be of other rows, where a table was saved since."""
    for table in tables:
        if sha256(table.path) != table.sha256:
            answered.unlink()
            raise UserError(
                f"{table.path}: was changed while it was answered; nothing was written: give the same "
                "command again."
            )


def look_at(
    tables: list[Table], wanted: Wanted, experiment: Experiment, output: Path, screen: Screen
) -> Work:
    """The columns and rows of tables whose answers go into `output`.

    Raises UserError where one cannot be read, lacks a column or has others than the first, where a new column
    is there already, and where `output` is an input too, of no format, or of one that does not take the rows.
    """
    kind = check_format(output)
    if any(table.path.resolve() == output.resolve() for table in tables):
        raise UserError(f"--output {output}: is an input too; name another file.")
    asked = {"--text-column": wanted.text_column, "--label-column": wanted.label_column}
    for table in tables:
        for chunk in islice(read_chunks(table), 1):
            for flag, column in asked.items():
                if column is not None and column not in chunk.columns:
                    there = name_columns(chunk.columns)
                    raise UserError(f"{table.path}: has no column {column!r} ({flag}); it has {there}.")
    columns: list[str] = []
    rows = 0
    with screen.progress("counting rows", None) as bar:
        for table in tables:
            here: dict[str, None] = {}  # in their order; an object of JSONL may lack some
            for chunk in read_chunks(table):
                here.update(dict.fromkeys(chunk.columns))
                if kind == "xlsx":  # said now, not when all are answered
                    check_sheet(output, chunk, rows)
                rows += len(chunk)
                bar.update(len(chunk))
            columns = columns or [*here]
            if {*here} != {*columns}:
                other = sorted({*here} ^ {*columns})[0]
                raise UserError(
                    f"{table.path}: has not the columns of {tables[0].path} ({other!r} is in one of them "
                    "alone); predict them one by one."
                )
    for name in added_columns(experiment, wanted):
        if name in columns:
            raise UserError(f"{tables[0].path}: has a column {name!r} already; give it another name.")
    return Work(tables, columns, rows, output, kind)


def _chunks(tables: list[Table], columns: list[str]) -> Iterator[pd.DataFrame]:
    """The rows of all files, some thousand at a time, each with all columns."""
    for table in tables:
        for chunk in read_chunks(table):
            yield chunk.reindex(columns=columns, fill_value="")


def added_columns(experiment: Experiment, wanted: Wanted) -> list[str]:
    """The columns that answers add to a table."""
    regression = experiment.dataset.task == "regression"
    shares = [] if regression else [f"probability_{label.name}" for label in experiment.labels]
    return ["prediction", *shares, "reason", *(["system"] if wanted.name_system else [])]


def numbers_of(system: System) -> list[str]:
    """Those of them that hold numbers."""
    columns = added_columns(system.experiment, Wanted(""))
    return columns[:1] if system.experiment.dataset.task == "regression" else columns[1:-1]


def row_of(system: System, wanted: Wanted, text: str, said: Answer | None) -> list[str | float | None]:
    """The cells of `added_columns` for a text and its answer: a number where there is one, else a text."""
    shares = list((said or {}).get("probabilities") or {})
    regression = system.experiment.dataset.task == "regression"
    none: str | None = None if regression else ""
    label, reason = none, why_no_review(text)
    if said is not None:
        label, reason = _written(said["prediction"]), ""
        if said["prediction"] is None:
            reason = NO_LABEL
        elif wanted.min_confidence is not None and confidence(said) < wanted.min_confidence:
            label, reason = none, f"below {wanted.min_confidence:g}"
    width = len(added_columns(system.experiment, wanted)) - 2 - wanted.name_system
    cells = [round(said["probabilities"][name], 6) for name in shares] if said else []
    return [label, *(cells or [None] * width), reason, *([system.name] if wanted.name_system else [])]


def _written(prediction: Any) -> Any:
    if isinstance(prediction, list):
        return "、".join(prediction)
    return "" if prediction is None else prediction


def identity(system: System) -> str:
    """What a system's answers depend on, in short."""
    run, name = system.run, system.name
    files = {
        "tuned": [run.exported, run.training],
        "probe": [run.probe_weights],
        "tfidf": [run.split("train"), run.split("val")],
        "zero_shot": [],
    }[name]
    return fingerprint([name, sha256(run.experiment), *(sha256(path) for path in files if path.exists())])
