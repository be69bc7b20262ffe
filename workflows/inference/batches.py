"""How many rows a model without gradients reads at a time: as many as are quick, and as memory holds.

Not covered: what other programs take after the free memory was read; a batch that finds none is read in two.
"""

import gc
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from workflows.errors import UserError
from workflows.machine import free_memory

# Padded tokens in a batch: enough for matrix products to run at their best.
TOKEN_BUDGET = {"cpu": 4096, "cuda": 8192}
# What starting another batch costs, as padding tokens that take as long: the weights are read once more.
BATCH_COST = {"cpu": 128, "cuda": 1024}
LOGIT_ROWS = 256  # rows of the output layer at a time: 256 x 151,936 float32 are 150 MB
USABLE = 0.8  # of the memory that is free: the rest is the allocator's gaps, and other programs'
Answered = TypeVar("Answered")


def row_bytes(config: Any, size: int, beginning: int, width: int, copies: int, words: int) -> float:
    """Bytes that a row of `width` tokens behind a common `beginning` takes in a batch.

    `size`: bytes of a number in the model's dtype; `copies`: of the row's keys and values, its own among
    them; `words`: tokens that are read behind each.  Counted: keys and values (twice while a longer tensor is
    made of them), one layer's tensors (as in memory.py, nothing is kept of the others), and the mask.
    """
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", heads)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    seen = beginning + width + words
    cache = config.num_hidden_layers * 2 * key_heads * head * size
    a_layer = size * (8 * config.hidden_size + 4 * config.intermediate_size) + 8 * config.hidden_size
    return copies * seen * cache * (1 + 1 / config.num_hidden_layers) + width * (a_layer + size * seen)


def most_rows(model: Any, beginning: int = 0, copies: int = 1, words: int = 0) -> Callable[[int], int]:
    """How many rows of a width in tokens the memory that is free now holds at a time; one at least."""
    weight = next(model.parameters())
    config, vocabulary = model.config, getattr(model.config, "vocab_size", 0)
    logits = 12.0 * LOGIT_ROWS * vocabulary if model.get_output_embeddings() is not None else 0.0
    left = USABLE * free_memory(weight.device.type) - logits

    def rows(width: int) -> int:
        return max(1, int(left / row_bytes(config, weight.element_size(), beginning, width, copies, words)))

    return rows


def length_batches(
    lengths: dict[int, int], device: str, most: Callable[[int], int] | None = None
) -> Iterator[list[int]]:
    """Rows cut into batches, longest first; `lengths`: tokens to be read of each row; `most`: rows of a width
    that memory holds.

    A batch ends where padding would cost more than another batch does, or where it is full.
    """
    budget, cost = TOKEN_BUDGET.get(device, TOKEN_BUDGET["cpu"]), BATCH_COST.get(device, BATCH_COST["cpu"])
    batch: list[int] = []
    padding = width = fitting = 0
    for row in sorted(lengths, key=lambda row: (-lengths[row], row)):
        full = len(batch) == fitting or (len(batch) + 1) * width > budget
        if batch and (full or padding + width - lengths[row] > cost):
            yield batch
            batch, padding = [], 0
        if not batch:
            width = lengths[row]
            fitting = min(LOGIT_ROWS, LOGIT_ROWS if most is None else most(width))
        padding += width - lengths[row]
        batch.append(row)
    if batch:
        yield batch


def in_halves(batch: list[int], work: Callable[[list[int]], list[Answered]]) -> Iterator[list[Answered]]:
    """What `work` makes of a batch, in one go, or in halves of it where memory runs out.

    Raises UserError where it does at one row.
    """
    try:
        yield work(batch)
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if len(batch) == 1:
        raise UserError(
            "memory ran out at answering one row: end other programs that use it, shorten the prompt (fewer "
            "examples), or take a smaller model; the same command then goes on."
        )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    for half in (batch[:middle], batch[middle:]):
        yield from in_halves(half, work)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no memory: on a GPU an exception of its own, on a CPU a RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
