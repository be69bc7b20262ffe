"""Answers and label probabilities without a cache of our own, for models whose code has caches of its kind.

The first Qwen brings its own modeling code, which takes no `DynamicCache`: SWIFT's engine writes its answers,
and each prompt is run once with each label.
"""

from collections.abc import Iterator
from typing import Any

import torch
from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine

from workflows.run_folder import conversation

BATCH = 8  # prompts; each is run with every label at once


def answer_plainly(
    model: Any, template: Any, rows: list[dict[str, Any]], prompts: list[list[int]], labels: list[list[int]],
    request: RequestConfig,
) -> Iterator[list[dict[str, Any]]]:  # fmt: skip
    """{"id", "output", "log_probabilities"} of rows of a data file, in batches, in their order.

    `prompts`: the rows' tokens; `labels`: each label's whole answer, end mark included.
    """
    engine = TransformersEngine(model, template=template, max_batch_size=BATCH)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        turns = [[turn for turn in conversation(row) if turn["role"] != "assistant"] for row in batch]
        answers = engine.infer([InferRequest(messages=each) for each in turns], request, use_tqdm=False)
        logs = _label_logs(model, prompts[start : start + BATCH], labels)
        yield [
            {"id": row["id"], "output": answer.choices[0].message.content, "log_probabilities": log}
            for row, answer, log in zip(batch, answers, logs, strict=True)
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
    logs = model(input_ids=ids, attention_mask=present).logits.float().log_softmax(-1)
    found = []
    for row, tokens in enumerate(whole):
        label = labels[row % len(labels)]
        at = range(len(tokens) - len(label) - 1, len(tokens) - 1)
        found.append(float(logs[row, list(at), label].sum()))
    return [found[i : i + len(labels)] for i in range(0, len(found), len(labels))]
