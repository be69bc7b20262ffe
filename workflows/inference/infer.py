"""The door of the inference stage: InferArguments to infer_main to predictions joined to gold by id."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swift import infer_main
from tqdm import tqdm

from workflows.experiment import Experiment
from workflows.inference.reading import read_label
from workflows.machine import Machine
from workflows.models import ready_model
from workflows.run_folder import RunFolder, read_jsonl, write_jsonl
from workflows.screen import Screen
from workflows.swift_arguments import build_infer_arguments

Rows = list[dict[str, Any]]


def infer(
    run: RunFolder,
    experiment: Experiment,
    machine: Machine,
    screen: Screen,
    system: str,
    adapter: Path | None,
    inputs: str,
) -> None:
    """Let the model answer every test row; write predictions/<system>.jsonl.

    `adapter`: the checkpoint folder, or None for the untouched model.  `inputs` is the fingerprint of what
    goes in: outputs of an interrupted inference with the same inputs are kept, and only the other rows are
    asked for. Raises UserError as training does; RuntimeError where SWIFT did not answer each row exactly
    once.
    """
    test = read_jsonl(run.split("test"))
    raw = run.path / "predictions" / f".{system}-{inputs}.swift.jsonl"
    raw.parent.mkdir(parents=True, exist_ok=True)
    outputs = _read_outputs(raw)
    remaining = [row for row in test if row["id"] not in outputs]
    if remaining:
        questions = raw.with_suffix(".questions.jsonl")
        write_jsonl(questions, map(_as_question, sorted(remaining, key=lambda row: -len(row["review"]))))
        with screen.progress(f"{system}: answering", total=len(test)) as bar:
            arguments = build_infer_arguments(ready_model(experiment), machine, questions, raw, adapter)
            with _watched(raw, bar):
                infer_main(arguments)
        questions.unlink()
        outputs = _read_outputs(raw)
    write_jsonl(run.predictions(system), join_outputs(test, outputs, experiment))
    raw.unlink()


def join_outputs(test: Rows, outputs: dict[str, str], experiment: Experiment) -> Rows:
    """One prediction row a test row, joined by id; RuntimeError where the ids are not the same."""
    ids = {row["id"] for row in test}
    if ids != set(outputs):
        missing, strange = sorted(ids - set(outputs)), sorted(set(outputs) - ids)
        raise RuntimeError(
            f"{len(outputs)} outputs for {len(test)} test rows: missing {missing[:5]}, not asked for "
            f"{strange[:5]}."
        )
    names = [label.name for label in experiment.labels]
    return [
        {
            "id": row["id"],
            "text": row["review"],
            "gold": names[row["label"]],
            "output": outputs[row["id"]],
            "prediction": read_label(outputs[row["id"]], experiment.labels),
            "probabilities": None,
        }
        for row in test
    ]


def _as_question(row: dict[str, Any]) -> dict[str, Any]:
    """A test row as SWIFT's inference reads it.

    SWIFT keeps few columns of a row; `label` is one that generation passes through unread, so it carries the
    id. SWIFT takes the gold answer off the conversation before the model sees it.
    """
    conversation: dict[str, Any] = {
        key: row[key] for key in ("messages", "system", "query", "response") if key in row
    }
    return {**conversation, "label": row["id"]}


def _read_outputs(raw: Path) -> dict[str, str]:
    """Output by id, from what SWIFT has written so far; a line cut off by a stop is left out and cut away."""
    outputs: dict[str, str] = {}
    if not raw.exists():
        return outputs
    lines = raw.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if len(whole) < len(lines):
        raw.write_bytes(b"".join(whole))
    for row in map(json.loads, whole):
        if row["label"] in outputs:
            raise RuntimeError(f"{raw}: row {row['label']} was answered twice.")
        outputs[row["label"]] = row["response"]
    return outputs


@contextmanager
def _watched(path: Path, bar: tqdm) -> Iterator[None]:
    """Move `bar` as lines appear in `path`: SWIFT writes each batch as it is done."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            if path.exists():
                with open(path, "rb") as file:
                    bar.update(sum(1 for _ in file) - bar.n)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
