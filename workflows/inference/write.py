"""Texts longer than an answer, written by the untuned model through SWIFT's engine; resumable."""

from pathlib import Path
from typing import Any

from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine
from swift.pipelines.utils import prepare_model_template

from workflows.core.files import json_line
from workflows.experiment.cards import MAX_NEW_TOKENS
from workflows.experiment.job import Job
from workflows.inference.swift_engine import read_whole_lines, without_prefix
from workflows.model.arguments import build_infer_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import Machine


def write_texts(
    job: Job, machine: Machine, prompts: list[dict[str, Any]], max_new_tokens: int, written: Path
) -> dict[str, str]:
    """The model's greedy text to each of `prompts` ({"id", "messages"}), by id.

    `written`: a file that keeps the texts of an interrupted call, and is left to the caller to remove.
    Raises UserError where the model cannot be had.
    """
    written.parent.mkdir(parents=True, exist_ok=True)
    done = {row["id"] for row in read_whole_lines(written)}
    # Longest first: rows of like length share a batch, and the memory that is needed shows at once.
    remaining = sorted(
        (row for row in prompts if row["id"] not in done),
        key=lambda row: -sum(len(turn["content"]) for turn in row["messages"]),
    )
    if remaining:
        arguments = build_infer_arguments(with_local_model(job.experiment), machine, written, written, None)
        arguments.max_length -= max_new_tokens - MAX_NEW_TOKENS
        with job.screen.progress("reasonings: writing", total=len(prompts)) as bar:
            bar.update(len(done))
            with job.base.reused():
                model, template = prepare_model_template(arguments)
            batch = arguments.max_batch_size
            engine = TransformersEngine(model, template=template, max_batch_size=batch)
            request = RequestConfig(max_tokens=max_new_tokens, temperature=0)
            with open(written, "a", encoding="utf-8") as file:
                for start in range(0, len(remaining), batch):
                    rows = remaining[start : start + batch]
                    asked = [InferRequest(messages=row["messages"]) for row in rows]
                    for row, answer in zip(rows, engine.infer(asked, request, use_tqdm=False), strict=True):
                        text = without_prefix(template, answer.choices[0].message.content)
                        file.write(json_line({"id": row["id"], "text": text}))
                    file.flush()
                    bar.update(len(rows))
    return {row["id"]: row["text"] for row in read_whole_lines(written)}
