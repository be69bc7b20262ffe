"""Answers by SWIFT's engine, and label probabilities by running each prompt once with each label.

For `--engine swift`, and for the first Qwen, whose own modeling code takes no `DynamicCache`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine

from workflows.core.rows import question
from workflows.inference.scorer import prompt_tokens
from workflows.inference.swift_engine import without_prefix
from workflows.model.loaded import body_of

BATCH = 8  # prompts; each is run with every label at once


def answer_by_engine(
    model: Any,
    template: Any,
    rows: list[dict[str, Any]],
    labels: list[list[int]],
    request: RequestConfig,
    outputs: dict[str, str] | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """{"id", "output", "log_probabilities"} of rows of a data file, in batches, in their order.

    `labels`: each label's tokens, with the end mark where that is to count; `outputs`: output by id, where
    SWIFT was asked already.
    """
    engine = TransformersEngine(model, template=template, max_batch_size=BATCH)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        if outputs is None:
            asked = [InferRequest(messages=question(row)) for row in batch]
            answers = engine.infer(asked, request, use_tqdm=False)
            written = [answer.choices[0].message.content for answer in answers]
        else:
            written = [outputs[row["id"]] for row in batch]
        written = [without_prefix(template, output) for output in written]
        logs = _label_logs(model, [prompt_tokens(template, row) for row in batch], labels)
        yield [
            {"id": row["id"], "output": output, "log_probabilities": log}
            for row, output, log in zip(batch, written, logs, strict=True)
        ]


@torch.no_grad()
def _label_logs(model: Any, prompts: list[list[int]], labels: list[list[int]]) -> list[list[float]]:
    """The log probability of each label after each prompt, (prompts, labels)."""
    device = next(model.parameters()).device
    whole = [prompt + label for prompt in prompts for label in labels]
    width = max(map(len, whole))
    # Padded on the right, where nothing that matters can see it.
    ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens in whole], device=device)
    present = torch.tensor(
        [[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in whole], device=device
    )
    body, head = body_of(model), model.get_output_embeddings()
    hidden = body(input_ids=ids, attention_mask=present).last_hidden_state
    found = []
    for row, tokens in enumerate(whole):
        label = labels[row % len(labels)]
        at = list(range(len(tokens) - len(label) - 1, len(tokens) - 1))
        logs = head(hidden[row, at].contiguous()).float().log_softmax(-1)
        found.append(float(logs[range(len(label)), label].sum()))
    return [found[i : i + len(labels)] for i in range(0, len(found), len(labels))]
