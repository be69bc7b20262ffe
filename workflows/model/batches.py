"""How many rows a model without gradients reads at a time: as many as are quick, and as memory holds.

Not covered: what other programs take after the free memory was read; a batch that finds none is made smaller.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from workflows.core.errors import UserError, is_out_of_memory
from workflows.core.texts import text
from workflows.core.told import tell
from workflows.model.loaded import body_of, carries_state
from workflows.model.machine import free_memory, let_go_of_memory

# Padded tokens in a batch: enough for matrix products to run at their best.
TOKEN_BUDGET = {"cpu": 4096, "cuda": 8192}
# What starting another batch costs, as padding tokens that take as long: the weights are read once more.
BATCH_COST = {"cpu": 128, "cuda": 1024}
LOGIT_ROWS = 256  # rows of the output layer at a time: 256 x 151,936 float32 are 150 MB
USABLE = 0.8  # of the memory that is free: the rest is the allocator's gaps, and other programs'
Answered = TypeVar("Answered")


def state_bytes(config: Any) -> int:
    """Bytes that a token takes in a layer which carries a state on, beside what any layer's tensors take; 0
    where no layer does.

    Counted in torch's saved tensors of Qwen3.5's layers, without its kernels for GPUs: 23 to 35 an element of
    queries, keys and values, which are computed in fp32.
    """
    if not carries_state(config):
        return 0
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    return 32 * (2 * keys + config.linear_num_value_heads * config.linear_value_head_dim)


def row_bytes(config: Any, size: int, beginning: int, width: int) -> float:
    """Bytes that a row of `width` tokens behind a common `beginning` takes in a batch.

    `size`: bytes of a number in the model's dtype.  Counted: keys and values (twice while a longer tensor is
    made of them), one layer's tensors (as in memory.py, nothing is kept of the others), the mask, and the
    states that layers carry on: the prompt's, a copy for a label, and what replaces one.
    """
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", heads)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    seen = beginning + width
    cache = config.num_hidden_layers * 2 * key_heads * head * size
    a_layer = size * (8 * config.hidden_size + 4 * config.intermediate_size) + 8 * config.hidden_size
    a_layer += state_bytes(config)
    states = 0
    if carries_state(config):
        values = config.linear_num_value_heads * config.linear_value_head_dim
        states = 12 * config.num_hidden_layers * config.linear_key_head_dim * values  # three in fp32
    return states + seen * cache * (1 + 1 / config.num_hidden_layers) + width * (a_layer + (size + 2) * seen)


def most_rows(model: Any, beginning: int = 0) -> Callable[[int], int]:
    """How many rows of a width in tokens the memory that is free now holds at a time; one at least."""
    weight = next(model.parameters())
    config = body_of(model).config
    vocabulary = getattr(config, "vocab_size", 0)
    logits = 12.0 * LOGIT_ROWS * vocabulary if model.get_output_embeddings() is not None else 0.0
    left = USABLE * free_memory(weight.device.type) - logits

    def rows(width: int) -> int:
        return max(1, int(left / row_bytes(config, weight.element_size(), beginning, width)))

    return rows


def length_batches(
    lengths: dict[int, int],
    device: str,
    most: Callable[[int], int] | None = None,
    budget: int | None = None,
) -> Iterator[list[int]]:
    """Rows cut into batches, longest first; `lengths`: tokens to be read of each row; `most`: rows of a width
    that memory holds; `budget`: padded tokens in a batch, one row at least (None: the device's).

    A batch ends where padding would cost more than another batch does, or where it is full.
    """
    cost = BATCH_COST.get(device, BATCH_COST["cpu"])
    if budget is None:
        budget = TOKEN_BUDGET.get(device, TOKEN_BUDGET["cpu"])
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


def in_batches(
    lengths: dict[int, int],
    device: str,
    most: Callable[[int], int],
    work: Callable[[list[int]], list[Answered]],
) -> Iterator[list[Answered]]:
    """What `work` makes of rows, batch by batch, longest first; `lengths` and `most` as in `length_batches`.

    Where memory runs out, that batch and those after it have at most half its tokens, which is told.
    Raises UserError where it does at one row.
    """
    waiting = list(length_batches(lengths, device, most))
    while waiting:
        batch = waiting.pop(0)
        try:
            yield work(batch)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        let_go_of_memory()  # what the failed batch held is let go only after that block
        longest = lengths[batch[0]]
        if len(batch) == 1:
            raise UserError(
                f"memory ran out at answering one row of {longest} tokens, with "
                f"{free_memory(device) / 1e9:.1f} GB free: end other programs that use it, and the same "
                "command goes on; or begin anew with a shorter prompt (fewer examples) or a smaller model."
            )
        left = {row: lengths[row] for rows in (batch, *waiting) for row in rows}
        fewer = len(batch) // 2
        tell(text("memory_ran_out_at_rows", rows=fewer))
        waiting = list(length_batches(left, device, most, fewer * longest))
