"""What a head on top of the model says of each row: one forward pass, rows of like length together.

For classification and regression heads, on a Qwen or on an encoder.  Nothing is generated.
"""

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from workflows.core.rows import Rows
from workflows.inference.scorer import Tokens, prompt_tokens
from workflows.model.batches import in_batches, most_rows


def score_rows(
    model: Any, template: Any, rows: Rows, window: int | None = None, outputs: dict[str, Any] | None = None
) -> Iterator[Rows]:
    """{"id", "answer", "scores"} of rows of a data file, batch by batch, the longest first.

    `model`: with its head, and with or without an adapter; it is left in the mode it was in.  `scores` are
    the head's raw outputs, (windows, labels), one window where `window` (its stride) is None.  `answer` is
    SWIFT's own where `outputs` (by id) has it, else None.
    """
    device = next(model.parameters()).device
    training = model.training
    pieces = [row_windows(template, row, window) for row in rows]
    lengths = {index: sum(map(len, each)) for index, each in enumerate(pieces)}

    def score(batch: list[int]) -> Rows:
        tokens = [piece for index in batch for piece in pieces[index]]
        scores = iter(head_scores(model, tokens, template.tokenizer.pad_token_id))
        return [
            {
                "id": rows[index]["id"],
                "answer": None if outputs is None else outputs[rows[index]["id"]],
                "scores": list(islice(scores, len(pieces[index]))),
            }
            for index in batch
        ]

    model.eval()
    try:
        yield from in_batches(lengths, device.type, most_rows(model), score)
    finally:
        model.train(training)


def row_windows(template: Any, row: dict[str, Any], stride: int | None) -> list[Tokens]:
    """What an encoder reads of a row, window by window: a beginning mark, a part of the text, an end mark.

    A part starts every `stride` tokens, and the last one ends with the text; None for one window alone, cut
    by the template.
    """
    if stride is None:
        return [prompt_tokens(template, row)]
    whole = copy.copy(template)
    whole.max_length = None
    first, *text, last = prompt_tokens(whole, row)
    size = template.max_length - 2
    starts = range(0, max(1, len(text) - size + stride), stride)
    return [[first, *text[start : start + size], last] for start in starts]


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
