"""Each term of the loss is what plain torch makes of the model's logits, in value and in gradient."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from swift.metrics import MeanMetric
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import TINY
from workflows.tuning.label_loss import LabelLoss, Terms, balanced_weights, branchings, find_label

# Words that part at their first token, that share it, and that are the beginning of another's.
WORDS = ("负面", "正面", "正面，非常好", "负数")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="module")
def labels(tokenizer: Any) -> list[list[int]]:
    return [[*tokenizer.encode(words), tokenizer.eos_token_id] for words in WORDS]


@pytest.fixture(scope="module")
def model() -> Any:
    """The embedded model with an adapter that changes what it says."""
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(TINY).float()
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return adapted.train()


def padded_batch(
    tokenizer: Any, labels: list[list[int]], demo_rows: list[dict[str, str]]
) -> dict[str, torch.Tensor]:
    """Reviews with answers of unlike lengths, padded on the left; each label once and the second twice."""
    answers = [*labels, labels[1]]
    prompts = [tokenizer.encode(row["text"]) for row in demo_rows[: len(answers)]]
    width = max(len(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True))
    rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in zip(prompts, answers, strict=True):
        padding = width - len(prompt) - len(answer)
        rows["input_ids"].append([0] * padding + prompt + answer)
        rows["attention_mask"].append([0] * padding + [1] * (len(prompt) + len(answer)))
        rows["labels"].append([-100] * (padding + len(prompt)) + answer)
    return {name: torch.tensor(row) for name, row in rows.items()}


def label_loss(
    model: Any,
    batch: dict[str, torch.Tensor],
    labels: list[list[int]],
    terms: Terms,
    step: dict[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """As SWIFT's trainer calls the loss: logits and labels of the last positions only; `step`: all rows of
    the optimiser step that `batch` is a piece of.
    """
    template = SimpleNamespace(compute_sft_loss=lambda model, inputs, **rest: model(**inputs))
    trainer = SimpleNamespace(
        template=template,
        model=model,
        args=SimpleNamespace(device="cpu"),
        get_batch_samples=lambda batches: (batches, sum((each["labels"] != -100).sum() for each in batches)),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        custom_metrics={
            "train": defaultdict(lambda: MeanMetric(nan_value=None, device="cpu")),
            "eval": defaultdict(lambda: MeanMetric(nan_value=None, device="cpu")),
        },
    )
    loss = LabelLoss(None, trainer, labels=labels, terms=terms)
    kept = max(len(label) for label in labels) + 1
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    outputs = template.compute_sft_loss(model, {**inputs, "logits_to_keep": kept})
    _, items = (None, None) if step is None else trainer.get_batch_samples([step])
    return loss(outputs, batch["labels"][:, -kept:], num_items_in_batch=items)


def _direct(
    model: Any, batch: dict[str, torch.Tensor], labels: list[list[int]], terms: Terms
) -> torch.Tensor:
    """The same from whole logits, row by row, written out after the formulas."""

    def logits() -> torch.Tensor:
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    with torch.no_grad(), model.disable_adapter():
        base = log_softmax(logits(), -1)
    tuned = logits()
    logs = log_softmax(tuned, -1)
    answer_losses, label_losses, divergences = [], [], []
    for row, gold in enumerate(batch["labels"].tolist()):
        places = [place for place, token in enumerate(gold) if token != -100]
        answer = [gold[place] for place in places]
        weight = terms.weights[labels.index(answer)] if terms.weights else 1.0
        for place in places:
            right, all_alike = logs[row, place - 1, gold[place]], logs[row, place - 1].mean()
            share = terms.smoothing
            answer_losses.append(-weight * ((1 - share) * right + share * all_alike))
        divergences += [
            (logs[row, place - 1].exp() * (logs[row, place - 1] - base[row, place - 1])).sum()
            for place in places
        ]
        # The probability of the answer where at each step only a beginning of some label may be written.
        constrained = torch.tensor(0.0)
        for step, place in enumerate(places):
            allowed = sorted({label[step] for label in labels if label[:step] == answer[:step]})
            constrained = (
                constrained + log_softmax(tuned[row, place - 1, allowed], -1)[allowed.index(answer[step])]
            )
        label_losses.append(-weight * constrained)
    return (
        torch.stack(answer_losses).mean()
        + terms.alpha * torch.stack(label_losses).mean()
        + terms.beta * torch.stack(divergences).mean()
    )


@pytest.mark.parametrize(
    "terms",
    [
        Terms(),
        Terms(smoothing=0.1),
        Terms(alpha=0.7),
        Terms(beta=0.3),
        Terms(smoothing=0.1, alpha=0.7, beta=0.3, weights=(0.5, 2.0, 1.0, 3.0)),
    ],
)
def test_value_and_gradient_are_those_of_a_direct_computation(
    model: Any, tokenizer: Any, labels: list[list[int]], demo_rows: list[dict[str, str]], terms: Terms
) -> None:
    batch = padded_batch(tokenizer, labels, demo_rows)
    gradients = []
    for compute in (label_loss, _direct):
        model.zero_grad()
        loss = compute(model, batch, labels, terms)
        loss.backward()
        trained = [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]
        gradients.append((loss.item(), trained))
    (ours, our_gradients), (direct, direct_gradients) = gradients
    assert ours == pytest.approx(direct, rel=1e-5)
    for mine, theirs in zip(our_gradients, direct_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("cuts", [([2], [0, 1], [3, 4]), ([0], [1], [2], [3], [4])])
def test_pieces_of_a_batch_add_up_to_it_though_labels_have_unlike_numbers_of_tokens(
    model: Any,
    tokenizer: Any,
    labels: list[list[int]],
    demo_rows: list[dict[str, str]],
    taught: bool,
    cuts: tuple[list[int], ...],
) -> None:
    batch = padded_batch(tokenizer, labels, demo_rows)
    rows = [row[mask.bool()] for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    table = {tuple(row.tolist()): [0.1 * (at + 1), 0.3, 0.1, 0.5 - 0.1 * at] for at, row in enumerate(rows)}
    terms = Terms(alpha=0.7, beta=0.3, weights=(0.5, 2.0, 1.0, 3.0))
    if taught:
        terms = Terms(teacher=table, teacher_weight=0.4, temperature=2.0)
    found = []
    for parts in ((range(5),), cuts):
        model.zero_grad()
        losses = [
            label_loss(model, {name: value[[*part]] for name, value in batch.items()}, labels, terms, batch)
            for part in parts
        ]
        torch.stack(losses).sum().backward()
        gradients = [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]
        found.append((sum(map(float, losses)), gradients))
    (whole, expected), (pieces, gradients) = found
    assert whole == pytest.approx(float(label_loss(model, batch, labels, terms)), rel=1e-6)
    assert pieces == pytest.approx(whole, rel=1e-5)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_low_temperature_leaves_no_nan(model: Any, labels: list[list[int]]) -> None:
    terms = Terms(teacher={}, teacher_weight=0.4, temperature=0.15)
    loss = LabelLoss.__new__(LabelLoss)
    loss.terms, loss.labels = terms, labels
    logits = torch.zeros(len(labels[0]), model.config.vocab_size)
    found = loss._distil(logits, labels[0], [1e-8, 1.0, 1e-8, 1e-8])
    assert torch.isfinite(found)


def test_distillation_is_the_divergence_over_whole_labels(
    model: Any, tokenizer: Any, labels: list[list[int]], demo_rows: list[dict[str, str]]
) -> None:
    # Labels that part at their first tokens: then all of it can be read at the answer's first token.
    labels = [labels[0], labels[1]]
    batch = padded_batch(tokenizer, labels, demo_rows)
    taught = [[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]]
    rows = [row[mask.bool()] for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    table = {tuple(row.tolist()): shares for row, shares in zip(rows, taught, strict=True)}
    ours = label_loss(model, batch, labels, Terms(teacher=table, teacher_weight=0.4, temperature=2.0))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = 0.6 * _direct(model, batch, labels, Terms())
    for row, shares in enumerate(taught):
        first = next(place for place, token in enumerate(batch["labels"][row].tolist()) if token != -100)
        student = (logits[row, first - 1, [label[0] for label in labels]] / 2).softmax(-1)
        teacher = torch.tensor(shares).sqrt() / torch.tensor(shares).sqrt().sum()
        expected = expected + 0.4 * 4 * (teacher * (teacher / student).log()).sum() / len(taught)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)


def test_labels_part_where_their_tokens_do(labels: list[list[int]]) -> None:
    negative, positive, best, _ = labels
    assert find_label(best, labels) == 2
    assert find_label([*positive[:-1], 5], [label[:-1] for label in labels]) == 1
    with pytest.raises(ValueError, match="begins with no label's tokens"):
        find_label([1, 2, 3], labels)
    first, second = branchings(positive, labels)
    assert first.position == 0
    assert sorted(map(sorted, first.labels)) == [[0, 3], [1, 2]]
    # 正面 parts from 正面，非常好 by its end mark.
    assert second.position == len(positive) - 1
    assert second.tokens[second.right] == positive[-1]
    assert [place.position for place in branchings(negative, [negative, positive])] == [0]


def test_balanced_weights_give_each_label_the_same_share() -> None:
    weights = balanced_weights([0, 0, 0, 1], 2)
    assert weights == pytest.approx((2 / 3, 2.0))
    assert balanced_weights([1, 1], 2) == (0.0, 1.0)
