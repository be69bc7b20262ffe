"""The mends change what a model costs, not what it computes."""

import copy

import torch
from transformers import AutoModelForCausalLM

from tests.conftest import TINY
from workflows.model.patches import (
    PLAIN_ATTENTION,
    make_output_layer_input_contiguous,
    use_plain_attention_for_short_rows,
)


def test_logits_and_gradients_stay_what_they_were() -> None:
    plain = AutoModelForCausalLM.from_pretrained(TINY).float()
    mended = copy.deepcopy(plain)
    make_output_layer_input_contiguous(mended)
    use_plain_attention_for_short_rows(mended)
    torch.manual_seed(42)
    ids = torch.randint(0, plain.config.vocab_size, (3, 20))
    present = torch.ones_like(ids)
    present[0, :9] = 0  # padded on the left
    found = []
    for model in (plain, mended):
        logits = model(input_ids=ids, attention_mask=present, logits_to_keep=4).logits
        logits.log_softmax(-1)[..., 7].sum().backward()
        found.append((logits.detach(), model.model.layers[0].self_attn.q_proj.weight.grad))
    for before, after in zip(*found, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_long_rows_keep_the_attention_that_needs_no_memory() -> None:
    model = AutoModelForCausalLM.from_pretrained(TINY)
    use_plain_attention_for_short_rows(model)
    used = []
    for width in (12, int(PLAIN_ATTENTION**0.5) + 1):
        with torch.no_grad():
            model(input_ids=torch.zeros(1, width, dtype=torch.long))
        used.append(model.config._attn_implementation)
    assert used == ["eager", "sdpa"]
