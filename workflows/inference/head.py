"""What a head on top of the model says of each row: one forward pass, rows of like length together.

For classification and regression heads, on a Qwen or on an encoder.  Nothing is generated.
"""

from collections.abc import Iterator
from typing import Any

import torch

from workflows.inference.scorer import Tokens, length_batches
from workflows.run_folder import question

Rows = list[dict[str, Any]]


def score_rows(
    model: Any, template: Any, rows: Rows, outputs: dict[str, Any] | None = None
) -> Iterator[Rows]:
    """{"id", "answer", "scores"} of rows of a data file, batch by batch, the longest first.

    `model`: with its head, and with or without an adapter; it is left in the mode it was in.  `scores` are
    the head's raw outputs, (labels,); `answer` is SWIFT's own where `outputs` (by id) has it, else None.
    """
    device = next(model.parameters()).device
    training = model.training
    tokens = [row_tokens(template, row) for row in rows]
    lengths = {index: len(each) for index, each in enumerate(tokens)}
    model.eval()
    try:
        for batch in length_batches(lengths, device.type):
            scores = head_scores(model, [tokens[index] for index in batch], template.tokenizer.pad_token_id)
            yield [
                {
                    "id": rows[index]["id"],
                    "answer": None if outputs is None else outputs[rows[index]["id"]],
                    "scores": row_scores,
                }
                for index, row_scores in zip(batch, scores, strict=True)
            ]
    finally:
        model.train(training)


def row_tokens(template: Any, row: dict[str, Any]) -> Tokens:
    """What the model reads of a row, as SWIFT's inference encodes it."""
    with template.generate_context():
        return template.encode({"messages": question(row)})["input_ids"]


@torch.no_grad()
def head_scores(model: Any, tokens: list[Tokens], pad: int) -> list[list[float]]:
    """The head's raw outputs for a batch of rows, (rows, labels).

    Padded on the right: a Qwen's head reads the last token that is no padding, an encoder's the first one,
    whose positions must not shift.
    """
    device = next(model.parameters()).device
    width = max(map(len, tokens))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in tokens], device=device)
    present = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens], device=device)
    return model(input_ids=ids, attention_mask=present).logits.float().tolist()
