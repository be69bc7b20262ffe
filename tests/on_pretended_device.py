"""Each computation of ours on the CPU and on the pretended device; prints {case: "same" or what was wrong}.

A program of its own, since a process that has the device keeps it: python -m tests.on_pretended_device
"""

import json
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.conftest import TINY, read_demo_rows
from tests.pretended_device import DEVICE, WHY_NOT, PretendedDevice, moved
from tests.tuning.test_label_loss import WORDS, label_loss, padded_batch
from workflows.inference.head import head_scores
from workflows.inference.scorer import Greedy, score_prompts
from workflows.model.loaded import body_of
from workflows.model.patches import PLAIN_ATTENTION
from workflows.tuning import step
from workflows.tuning.label_loss import Terms
from workflows.tuning.step import cut, share_beginning

BEGINNING = [7, 8, 9, 10, 11, 12]
PROMPTS = [[*BEGINNING, *range(20, 20 + length)] for length in (3, 30, 7, 8, 12)] + [[5, 6, 7]]
LABELS = [[30, 3], [31, 32, 3], [31, 33, 34, 3]]


def tiny(kind: Any = AutoModelForCausalLM, **named: Any) -> Any:
    torch.manual_seed(1)  # a new head's weights
    model = kind.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager", **named)
    model.config.pad_token_id = 0
    return model


def answers(model: Any, device: str) -> list[torch.Tensor]:
    """With and without a repetition penalty; some leave the labels and are decoded on."""
    found = [
        answer
        for penalty in (1.0, 1.3)
        for batch in score_prompts(model, PROMPTS, LABELS, Greedy(frozenset([3]), penalty))
        for answer in batch
    ]
    assert any(answer.tokens not in LABELS for answer in found)
    return [torch.tensor([*each.tokens, *each.log_probabilities], dtype=torch.double) for each in found]


def scores_of_a_head(model: Any, device: str) -> list[torch.Tensor]:
    return [torch.tensor(head_scores(model.eval(), PROMPTS, 0))]


def hidden_states(model: Any, device: str) -> list[torch.Tensor]:
    """Of the pieces of a training batch, their common beginning read once."""
    rows = PROMPTS[:-1]
    width = max(map(len, rows))
    filled = {
        "input_ids": [[0] * (width - len(row)) + row for row in rows],
        "attention_mask": [[0] * (width - len(row)) + [1] * len(row) for row in rows],
        "labels": [[-100] * width for _ in rows],
    }
    body = body_of(model.train())
    undo = share_beginning(body)
    pieces = list(cut({name: torch.tensor(each, device=device) for name, each in filled.items()}, 64))
    assert len(pieces) > 1
    found = []
    for limit in (step.PLAIN_ATTENTION, 0):  # in one row, and row by row behind the beginning
        step.PLAIN_ATTENTION = limit
        with torch.no_grad():
            found += [body(**{k: v for k, v in piece.items() if k != "labels"}) for piece in pieces]
    step.PLAIN_ATTENTION = PLAIN_ATTENTION
    undo()
    return [each.last_hidden_state.cpu() for each in found]


def losses_with_every_term(model: Any, device: str) -> list[torch.Tensor]:
    """Smoothed and weighed answers, label paths, and the base model's; and the gradients."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    labels = [[*tokenizer.encode(words), tokenizer.eos_token_id] for words in WORDS]
    batch = padded_batch(tokenizer, labels, read_demo_rows())
    batch = {name: values.to(device) for name, values in batch.items()}
    terms = Terms(smoothing=0.1, alpha=0.7, beta=0.3, weights=(0.5, 2.0, 1.0, 3.0))
    loss = label_loss(model.train(), batch, labels, terms)
    loss.backward()
    gradients = [weight.grad.cpu() for weight in model.parameters() if weight.requires_grad]
    return [loss.detach().cpu(), *gradients]


def a_planted_mistake(model: Any, device: str) -> list[torch.Tensor]:
    """Token ids left on the CPU: what the device is here to find."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor(PROMPTS[:1])).logits.cpu()]


def adapted() -> Any:
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(tiny(), lora)


CASES = {
    answers: tiny,
    scores_of_a_head: lambda: tiny(AutoModelForSequenceClassification, num_labels=2),
    hidden_states: tiny,
    losses_with_every_term: adapted,
    a_planted_mistake: tiny,
}


def main() -> None:
    found = {}
    for compute, make in CASES.items():
        model = make()
        there = moved(model)
        here = compute(model, "cpu")
        try:
            with PretendedDevice():
                computed = compute(there, DEVICE)
            # Gradients are added up in another order there; all else is equal to the last bit.
            torch.testing.assert_close(computed, here, rtol=0, atol=1e-5)
            found[compute.__name__] = "same"
        except (RuntimeError, AssertionError) as error:
            found[compute.__name__] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    if WHY_NOT:
        print(json.dumps(WHY_NOT))
    else:
        main()
