"""Mends of slowness in the libraries below, each small, in one place, and off where it is not needed.

docs/upstream.md has the drafts of the reports to their makers.
"""

from typing import Any

import torch


def keep_output_layer_in_place(model: Any) -> None:
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
