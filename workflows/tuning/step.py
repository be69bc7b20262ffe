"""How one optimiser step is computed: in pieces of so many tokens, their common beginning only once.

Neither changes what is learned. The loss of a step is a sum over its rows, so the gradients of pieces of a
batch add up to the batch's; and what stands before the first token in which rows differ is the same for all
of them, as are its keys and values, which a causal model needs nothing else for.  Few tokens are read as one
row without padding; of many, attention over all pairs would cost more than it saves.  Memory then follows the
tokens of a piece, not the rows of a batch: long rows come few at a time, short ones many.

Not covered: rows packed into one (padding_free, packing), DPO's pairs of rows, and models with dropout in
training, whose noise would be the same for all rows.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from workflows.core.errors import is_out_of_memory
from workflows.core.texts import text
from workflows.core.told import tell
from workflows.model.batches import length_batches
from workflows.model.patches import PLAIN_ATTENTION
from workflows.model.ranks import ranks

SHORTEST = 4  # tokens of a common beginning that are worth a pass of their own

Inputs = dict[str, Any]


def train_in_pieces(trainer: Any, budget: int, count: Callable[[int, int], None]) -> None:
    """Let `trainer` compute each batch in pieces of at most `budget` padded tokens, one row at least; `count`
    gets the rows and tokens of each batch.

    A mean over tokens is SWIFT's own to weigh (it divides by the tokens of the whole step); a mean over rows,
    a head's, is weighed here.  Where memory runs out all the same, the batch is computed anew in pieces of
    half the size of its largest, and so are the batches after it, which is told.
    """
    step, compute_loss = trainer.training_step, trainer.compute_loss
    share = 1.0

    def weighed_loss(*args: Any, **named: Any) -> Any:
        found = compute_loss(*args, **named)
        if share == 1.0:
            return found
        return (share * found[0], *found[1:]) if isinstance(found, tuple) else share * found

    def training_step(model: Any, inputs: Inputs, *args: Any, **named: Any) -> torch.Tensor:
        nonlocal share, budget
        rows, present = len(inputs["labels"]), inputs.get("attention_mask")
        while True:
            losses, pieces = [], [*cut(inputs, budget)]
            try:
                for number, piece in enumerate(pieces, start=1):
                    share = len(piece["labels"]) / rows if trainer.task_type == "seq_cls" else 1.0
                    # Processes add up their gradients once a batch: each may have another number of pieces.
                    apart = getattr(model, "no_sync", nullcontext)  # torch's DistributedDataParallel has it
                    with nullcontext() if number == len(pieces) else apart():
                        losses.append(step(model, piece, *args, **named))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or ranks() > 1:  # the others wait for this batch
                    raise
                # What earlier batches of the same step have added to the gradients would be lost.
                if not _can_be_cut(inputs) or trainer.args.gradient_accumulation_steps > 1:
                    raise
                padded = [piece["attention_mask"] for piece in pieces]
                widest, largest = max(each.shape[1] for each in padded), max(map(torch.numel, padded))
                if largest == widest:
                    raise
                budget = max(widest, largest // 2)
                tell(text("memory_ran_out_in_a_step", tokens=budget))
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        count(rows, inputs["labels"].numel() if present is None else int(present.sum()))
        return torch.stack(losses).sum()

    trainer.training_step, trainer.compute_loss = training_step, weighed_loss


def cut(inputs: Inputs, budget: int) -> Iterator[Inputs]:
    """A batch in pieces of rows of like length, the longest first, each without the padding that it does not
    need; the batch itself where its rows are packed or it is small enough.
    """
    if not _can_be_cut(inputs):
        yield inputs
        return
    present = inputs["attention_mask"]
    lengths = dict(enumerate(present.sum(1).tolist()))
    for rows in length_batches(lengths, present.device.type, budget=budget):
        used = present[rows].any(0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        yield {name: _part(value, rows, slice(first, last), present.shape) for name, value in inputs.items()}


def _can_be_cut(inputs: Inputs) -> bool:
    present = inputs.get("attention_mask")
    return present is not None and present.dim() == 2


def _part(value: Any, rows: list[int], columns: slice, shape: torch.Size) -> Any:
    """The part of one input of a batch whose mask has `shape`, (rows, tokens)."""
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return value
    if value.dim() == 3 and value.shape[1:] == shape:  # positions in each direction of a picture
        return value[:, rows, columns]
    if value.dim() > 1 and value.shape[1] == shape[1]:
        return value[rows][:, columns]
    return value[rows] if len(value) == shape[0] else value


def shares_beginning(body: Any) -> bool:
    """Whether the decoder `body` computes the same when the rows' common beginning is read only once."""
    return (
        type(body).__module__.startswith("transformers.")
        and "past_key_values" in inspect.signature(body.forward).parameters
        and body.config.model_type in ("qwen2", "qwen3")
        and not getattr(body, "gradient_checkpointing", False)  # it has no cache
        and not any(isinstance(each, torch.nn.Dropout) and each.p > 0 for each in body.modules())
        and body.config._attn_implementation in ("eager", "sdpa")  # padding stands within the rows
    )


def share_beginning(body: Any) -> Callable[[], None]:
    """Let the decoder `body` read what all rows of a training batch begin with only once; returns what undoes
    it.

    Hidden states have the places that they have without it, padding aside.
    """
    whole = body.forward

    def forward(*args: Any, **named: Any) -> Any:
        ids, present = named.get("input_ids"), named.get("attention_mask")
        plain = args or not body.training or named.get("past_key_values") is not None
        if plain or ids is None or present is None or present.dim() != 2 or len(ids) < 2:
            return whole(*args, **named)
        starts, common = _beginning(ids, present)
        if common < SHORTEST:
            return whole(*args, **named)
        rows, width = ids.shape
        inside = (torch.arange(width, device=ids.device) >= (starts + common)[:, None]) & present.bool()
        if (common + int(inside.sum())) ** 2 <= PLAIN_ATTENTION:
            device = ids.device.type
            computed_in = (
                torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else body.dtype
            )
            return _in_one_row(whole, ids, inside, starts, common, computed_in)
        cache = DynamicCache()
        begun = ids[:1, int(starts[0]) : int(starts[0]) + common]
        head = whole(input_ids=begun, past_key_values=cache, use_cache=True).last_hidden_state
        cache.batch_repeat_interleave(rows)
        places = torch.arange(width, device=ids.device)
        seen = torch.cat([inside.new_ones(rows, common), inside[:, common:]], 1).long()
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, common:]
        tail = whole(
            input_ids=ids[:, common:],
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden = torch.cat([head.expand(rows, -1, -1), tail], 1)
        if starts.any():  # padded on the left: the beginning goes back behind the padding
            before = places < (starts + common)[:, None]
            places = torch.where(before, (places - starts[:, None]).clamp(min=0), places)
            hidden = hidden.gather(1, places[..., None].expand_as(hidden))
        return BaseModelOutputWithPast(last_hidden_state=hidden)

    def undo() -> None:
        del body.forward

    body.forward = forward
    return undo


def _in_one_row(
    whole: Callable[..., Any],
    ids: torch.Tensor,
    inside: torch.Tensor,
    starts: torch.Tensor,
    common: int,
    dtype: torch.dtype,
) -> BaseModelOutputWithPast:
    """Hidden states of a batch whose common beginning and rests stand one behind the other in one row, each
    rest blind to the others: one pass without padding, for which attention looks at all pairs of tokens.

    `inside` marks the tokens behind the beginning, (rows, width); `starts`: where each row begins.
    """
    row, place = inside.nonzero(as_tuple=True)
    begun = ids[0, int(starts[0]) : int(starts[0]) + common]
    owner = torch.cat([row.new_full((common,), -1), row])
    visible = ((owner[:, None] == owner) | (owner == -1)).tril()
    hidden_from = torch.zeros(1, 1, *visible.shape, dtype=dtype, device=ids.device)
    hidden_from.masked_fill_(~visible, torch.finfo(dtype).min)
    states = whole(
        input_ids=torch.cat([begun, ids[inside]])[None],
        attention_mask=hidden_from,
        position_ids=torch.cat([torch.arange(common, device=ids.device), place - starts[row]])[None],
        use_cache=False,
    ).last_hidden_state[0]
    # Where each token's state went; padding takes the first one's.
    at = (torch.arange(ids.shape[1], device=ids.device) - starts[:, None]).clamp(0, common - 1)
    at[inside] = torch.arange(common, len(states), device=ids.device)
    return BaseModelOutputWithPast(last_hidden_state=states[at])


def _beginning(ids: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Where each row begins behind its padding, (rows,), and how many tokens all rows then have in common, at
    least one less than the shortest has.
    """
    starts = present.argmax(1)
    shortest = int(present.sum(1).min())
    at = starts[:, None] + torch.arange(max(shortest - 1, 0), device=ids.device)
    begun = ids.gather(1, at)
    return starts, int((begun == begun[:1]).all(0).long().cumprod(0).sum())
