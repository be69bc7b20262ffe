"""The door of the probe: regressions on what the frozen model knows of each prompt; nothing is tuned.

After Alain and Bengio (2016), Understanding intermediate layers using linear classifier probes.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from swift.pipelines.utils import prepare_model_template

from workflows.core.files import read_jsonl, write_json, write_jsonl
from workflows.core.rows import Rows
from workflows.core.texts import Text, text
from workflows.experiment.experiment import Experiment
from workflows.experiment.job import Job
from workflows.inference.features import Frame, probed_layers
from workflows.inference.infer import has_own_code, labelled_rows, work_of
from workflows.inference.predictions import join_scores
from workflows.inference.recall import recall_features
from workflows.inference.regressions import STRENGTH, fit, out_of_fold, outputs_of, save_weights
from workflows.inference.scorer import Tokens, prompt_tokens
from workflows.inference.swift_engine import read_whole_lines
from workflows.model.arguments import build_infer_arguments
from workflows.model.folder import with_local_model
from workflows.model.loaded import body_of
from workflows.model.machine import machine_of

LEAST = 8  # labelled rows with each label


def probe(job: Job) -> dict[str, Any]:
    """Fit the probe to labelled rows, let it answer every test row; write probe/ and predictions/probe.jsonl.

    Returns what probe.json holds, and the seconds of each part.  Where it cannot be fitted, probe.json says
    why (`missing`), and nothing else is written.  An interrupted call with the same `job.inputs` goes on.
    Raises UserError where the model cannot be had.
    """
    run, experiment = job.run, job.experiment
    labelled, known = labelled_rows(run, experiment)
    summary: dict[str, Any] = {"rows": {"labelled": known, "used": len(labelled)}}
    missing = why_not(labelled, experiment)
    if missing is None:
        machine, ready = machine_of(job), with_local_model(experiment)
        arguments = build_infer_arguments(ready, machine, run.probe, run.probe, None)
        with job.base.reused():
            model, template = prepare_model_template(arguments)
        if has_own_code(model):
            missing = text("probe_reads_no_own_code")
    if missing is None:
        found = _fit_and_answer(job, model, template, labelled, len(labelled) == known)
    else:
        found = {"missing": asdict(missing)}
        for path in (run.predictions("probe"), run.out_of_fold, run.probe_weights):
            path.unlink(missing_ok=True)
    if experiment.has_head:
        job.base.release()  # its head, which the probe has no use for, is to be drawn as training draws it
    seconds = found.pop("seconds", {})
    write_json(run.probe, summary | found)
    return summary | found | {"seconds": {"probe": seconds}}


def why_not(labelled: Rows, experiment: Experiment) -> Text | None:
    """What keeps the probe from being fitted: a label that fewer than LEAST rows have, or, where a row may
    have several, have not; None where nothing does.
    """
    if experiment.dataset.task == "regression":
        return None if len(labelled) >= 2 * LEAST else text("probe_needs_rows", least=2 * LEAST)
    for index, label in enumerate(experiment.labels):
        with_it = sum(index in _as_list(row["label"]) for row in labelled)
        if min(with_it, len(labelled) - with_it) < LEAST:
            used = len(labelled)
            return text("probe_needs_labels", label=label.name, rows=with_it, used=used, least=LEAST)
    return None


def _as_list(label: int | list[int]) -> list[int]:
    return label if isinstance(label, list) else [label]


def _fit_and_answer(job: Job, model: Any, template: Any, labelled: Rows, whole: bool) -> dict[str, Any]:
    """What probe.json holds of a probe that was fitted, and the seconds of each part; the other files are
    written.

    `whole`: whether no labelled row was left out; then out_of_fold.jsonl has each row's label probabilities
    by a probe that did not see it.
    """
    run, experiment = job.run, job.experiment
    task, labels = experiment.dataset.task, experiment.labels
    kept, answered = (run.probe.parent / f".{name}-{job.inputs}" for name in ("features", "answers"))
    resumed = kept.exists() or job.features is not None  # what another run has read is not paid for again
    clock = [time.monotonic()]
    prompts = [prompt_tokens(template, row) for row in labelled]
    frame = Frame.of(prompts)
    features = _read(job, model, labelled, prompts, frame, kept)
    clock.append(time.monotonic())
    gold = [row["label"] for row in labelled]
    weights = fit(features, gold, task, len(labels))
    save_weights(weights, run.probe_weights)
    clock.append(time.monotonic())
    write_jsonl(run.predictions("probe"), _answer(job, model, template, weights, frame, answered))
    clock.append(time.monotonic())
    if whole and task == "single_label":
        outputs = out_of_fold(features, gold, len(labels)).tolist()
        said = [
            {"id": row["id"], "answer": None, "scores": [each]}
            for row, each in zip(labelled, outputs, strict=True)
        ]
        write_jsonl(run.out_of_fold, join_scores(labelled, said, experiment))
    else:
        run.out_of_fold.unlink(missing_ok=True)
    for path in (kept, answered):
        path.unlink()
    parts = zip(("features", "fitting", "answering"), np.diff(clock).tolist(), strict=True)
    return {
        "missing": None,
        "layers": probed_layers(model),
        "features": ["answer position", "mean of the review's tokens"],
        "strength": STRENGTH,
        "outputs": [label.name for label in labels],
        "frame": asdict(frame),
        "seconds": {name: round(seconds, 2) for name, seconds in parts} | {"resumed": resumed},
    }


def _read(job: Job, model: Any, rows: Rows, prompts: list[Tokens], frame: Frame, kept: Path) -> np.ndarray:
    """The features of labelled rows, (rows, layers, features); `kept` keeps those of an interrupted call."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(probed_layers(model)), 2 * body_of(model).config.hidden_size)
    record = np.dtype([("row", "<i4"), ("features", "<f4", shape)])
    done = np.fromfile(kept, record) if kept.exists() else np.empty(0, record)  # a torn record is left out
    found = np.empty((len(rows), *shape), np.float32)
    found[done["row"]] = done["features"]
    work = [work_of(row) for row in rows]
    left = sorted({*range(len(rows))} - set(done["row"].tolist()))
    with (
        job.screen.progress("probe: reading labelled rows", sum(work), counted=False) as bar,
        open(kept, "r+b" if kept.exists() else "w+b") as file,
    ):
        file.seek(len(done) * record.itemsize)
        file.truncate()
        bar.initial = bar.n = sum(work[index] for index in done["row"])
        for batch in recall_features(job, model, [prompts[index] for index in left], frame):
            rows_read = [left[index] for index, _ in batch]
            read = np.array([(row, each) for row, (_, each) in zip(rows_read, batch, strict=True)], record)
            found[read["row"]] = read["features"]
            file.write(read.tobytes())
            file.flush()
            bar.update(sum(work[row] for row in rows_read))
    return found


def _answer(
    job: Job, model: Any, template: Any, weights: dict[str, np.ndarray], frame: Frame, answered: Path
) -> Rows:
    """What the probe says to each test row; `answered` keeps the answers of an interrupted call."""
    test = read_jsonl(job.run.split("test"))
    work = {row["id"]: work_of(row) for row in test}
    done = {answer["id"] for answer in read_whole_lines(answered)}
    left = [row for row in test if row["id"] not in done]
    with (
        job.screen.progress("probe: answering", sum(work.values()), counted=False) as bar,
        open(answered, "a", encoding="utf-8") as file,
    ):
        bar.initial = bar.n = sum(work[id] for id in done)
        for batch in recall_features(job, model, [prompt_tokens(template, row) for row in left], frame):
            outputs = outputs_of(weights, np.array([features for _, features in batch])).tolist()
            ids = [left[index]["id"] for index, _ in batch]
            file.writelines(
                json.dumps({"id": id, "answer": None, "scores": [output]}) + "\n"
                for id, output in zip(ids, outputs, strict=True)
            )
            file.flush()
            bar.update(sum(work[id] for id in ids))
    # It writes nothing, so there is no output to be read.
    return [{**row, "output": None} for row in join_scores(test, read_whole_lines(answered), job.experiment)]
