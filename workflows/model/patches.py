"""Mends of slowness in the libraries below, each small, in one place, and off where it is not needed.

docs/upstream.md has the drafts of the reports to their makers.
"""

from typing import Any

import torch

from workflows.model.loaded import body_of

# Attention weights of a layer, in entries for each head, up to which a CPU computes them as plain matrix
# products: 8 rows of 172 tokens, the longest for which a gain was measured. Training keeps them all: 0.6 GB
# for a Qwen2.5-0.5B.
PLAIN_ATTENTION = 8 * 172**2


def make_output_layer_input_contiguous(model: Any) -> None:
    """Hand the output layer contiguous hidden states, so that torch does not copy its weights.

    Cause: transformers slices the hidden states by `logits_to_keep` (SWIFT asks for it in training,
    `generate` in inference).  Of a slice that is not contiguous, torch's matmul makes a batched product when
    the weights need no gradient, as under LoRA; on a CPU that product copies the whole weight matrix once a
    row: 272 MB for a Qwen2.5-0.5B.  Seen with torch 2.13 to 2.15, transformers 4.49 to 5.19.  The copy made
    here is of the few hidden states alone, and none where they are contiguous already.
    """

    def contiguous(layer: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(each.contiguous() for each in given)

    layer = model.get_output_embeddings()
    if layer is not None:  # a classification head has none
        layer.register_forward_pre_hook(contiguous)


def use_plain_attention_for_short_rows(model: Any) -> None:
    """Let a CPU compute short attention by plain matrix products, forward and backward.

    Cause: torch's fused attention for CPUs is slow on short rows, its backward most of all: 15 ms against 3
    for 8 rows of 58 tokens with 14 heads of 64 in bf16, 68 ms against 22 for 172.  Seen with torch 2.13.
    Long rows keep the fused one, which needs no memory for the weights.  Off on GPUs, and where `attn_impl`
    asks for another kind.
    """

    def choose(body: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        tokens = next(
            each for each in (*given, named.get("input_ids"), named.get("inputs_embeds")) if each is not None
        )
        rows, width = tokens.shape[:2]
        cache = named.get("past_key_values")
        seen = width + (cache.get_seq_length() if cache is not None else 0)
        plain = rows * width * seen <= PLAIN_ATTENTION
        body.config._attn_implementation = "eager" if plain else "sdpa"

    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        body_of(model).register_forward_pre_hook(choose, with_kwargs=True)
