"""The base model that answers after a training is the one that was loaded."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.conftest import TINY
from workflows.model.loaded import LoadedModel

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("begins", "is_kept"), [(True, True), ("gaussian", True), ("pissa", False)])
def test_a_base_that_an_adapter_took_from_is_loaded_anew(begins: Any, is_kept: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(TINY).float()
    before = copy.deepcopy(model.state_dict())
    base = LoadedModel(model=model, loaded_with="this")
    base.remove_adapter(
        get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=begins))
    )
    assert (base.model is not None) == is_kept
    if is_kept:
        after = base.model.state_dict()
        assert all(torch.equal(weight, after[name]) for name, weight in before.items())
