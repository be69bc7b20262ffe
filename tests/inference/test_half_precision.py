"""Evaluation while an fp16 model is tuned: the trained parts are fp32, and autocast brings them together."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.conftest import TINY
from workflows.inference.infer import merged_for_a_while
from workflows.inference.scorer import Answer, Greedy, score_prompts

PROMPTS = [[5, 6, 7, 8, *range(70, 70 + length)] for length in (9, 4, 30, 12, 5)]
LABELS = [[100, 3], [200, 201, 3]]


def _answers(dtype: torch.dtype) -> list[Answer]:
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype)
    adapter = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["embed_tokens"])
    model = get_peft_model(model, adapter)
    for weight in model.parameters():
        if weight.requires_grad:  # as SWIFT does for fp16's gradients
            weight.data = weight.data.float()
    with merged_for_a_while(model):
        batches = score_prompts(model, PROMPTS, LABELS, Greedy(frozenset([3])))
        return sorted((answer for batch in batches for answer in batch), key=lambda answer: answer.row)


def test_an_embedding_trained_in_fp32_is_evaluated_with_fp16_weights() -> None:
    with pytest.raises(RuntimeError, match=r"dtype|Half"):
        _answers(torch.float16)
    with torch.autocast("cpu", dtype=torch.float16):  # as accelerate's on a T4
        half = _answers(torch.float16)
    whole = _answers(torch.float32)
    for one, other in zip(half, whole, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=0.05)
