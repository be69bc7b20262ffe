"""A step computed in pieces, with the common beginning read once, learns what SWIFT's own step learns."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import TINY
from workflows.model.batches import length_batches
from workflows.model.loaded import body_of
from workflows.tuning import step
from workflows.tuning.step import cut, share_beginning, shares_beginning, train_in_pieces

BEGINNING = [7, 8, 9, 10, 11, 12]
ROWS = [[*BEGINNING, *range(20, 20 + length)] for length in (3, 30, 7, 8, 12)]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).train()


def _batch(rows: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """Rows as SWIFT's collator pads them; their last two tokens are the answer."""
    width = max(map(len, rows))

    def padded(values: list[int], filler: int) -> list[int]:
        filling = [filler] * (width - len(values))
        return filling + values if side == "left" else values + filling

    return {
        "input_ids": torch.tensor([padded(row, 0) for row in rows]),
        "attention_mask": torch.tensor([padded([1] * len(row), 0) for row in rows]),
        "labels": torch.tensor([padded([-100] * (len(row) - 2) + row[-2:], -100) for row in rows]),
    }


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far apart two tensors are, as a share of the second's length."""
    return float((one - other).norm() / other.norm().clamp(min=1e-9))


class _Trainer:
    """What `train_in_pieces` needs of SWIFT's trainer: a step that adds gradients, and its loss."""

    def __init__(self, by_row: bool) -> None:
        self.task_type = "seq_cls" if by_row else "causal_lm"
        self.args = SimpleNamespace(gradient_accumulation_steps=1)
        self.widths: list[tuple[int, int]] = []
        self.fails_above: int | None = None

    def compute_loss(self, model: Any, inputs: Any, items: int | None = None) -> torch.Tensor:
        if self.task_type == "seq_cls":
            return model(**{k: inputs[k] for k in ("input_ids", "attention_mask")}).logits.pow(2).mean()
        outputs = model(**inputs)
        return outputs.loss * (inputs["labels"][:, 1:] != -100).sum() / items

    def training_step(self, model: Any, inputs: Any, items: int | None = None) -> torch.Tensor:
        rows, width = inputs["input_ids"].shape
        self.widths.append((rows, width))
        if self.fails_above is not None and rows * width > self.fails_above:
            raise torch.OutOfMemoryError("no more")
        loss = self.compute_loss(model, inputs, items)
        loss.backward()
        return loss.detach()


@pytest.mark.parametrize("in_one_row", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_hidden_states_and_gradients_are_those_without_a_shared_beginning(
    tiny: Any, side: str, in_one_row: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_one_row:  # as for more tokens than attention may look at in pairs
        monkeypatch.setattr(step, "PLAIN_ATTENTION", 0)
    batch = _batch(ROWS, side)
    present = batch["attention_mask"][..., None]
    found = []
    for shared in (False, True):
        model = copy.deepcopy(tiny)
        body = body_of(model)
        assert shares_beginning(body)
        read: list[int] = []
        body.layers[0].register_forward_pre_hook(
            lambda layer, given, read=read: read.append(given[0].numel())
        )
        if shared:
            share_beginning(body)
        hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        hidden = hidden.last_hidden_state * present
        hidden.pow(2)[..., ::3].sum().backward()
        found.append((sum(read), hidden.detach(), _gradients(model)))
    (all_read, before, gradients), (own_read, after, own_gradients) = found
    assert own_read < all_read  # the beginning was really read once
    if in_one_row:  # and no padding
        common = min(map(len, ROWS)) - 1  # of these rows all tokens of the shortest but its last
        assert own_read == (common + sum(len(row) - common for row in ROWS)) * tiny.config.hidden_size
    assert _distance(after, before) < 1e-5
    for name, gradient in gradients.items():
        assert _distance(own_gradients[name], gradient) < 1e-4


def test_what_a_shared_beginning_would_change_is_read_as_before(tiny: Any) -> None:
    model = copy.deepcopy(tiny)
    model.model.layers[0].mlp = torch.nn.Sequential(torch.nn.Dropout(0.1), model.model.layers[0].mlp)
    assert not shares_beginning(body_of(model))  # its noise would be the same for all rows


@pytest.mark.parametrize("budget", [10_000, 60, 1])
def test_the_gradient_of_pieces_is_that_of_the_batch(tiny: Any, budget: int) -> None:
    batch = _batch(ROWS, "left")
    whole, pieces = copy.deepcopy(tiny), copy.deepcopy(tiny)
    items = int((batch["labels"] != -100).sum())
    expected = _Trainer(by_row=False).training_step(whole, batch, items)
    trainer, counted = _Trainer(by_row=False), []
    train_in_pieces(trainer, budget, lambda rows, tokens: counted.append((rows, tokens)))
    loss = trainer.training_step(pieces, batch, items)
    torch.testing.assert_close(loss, expected)
    assert counted == [(5, sum(map(len, ROWS)))]
    assert sum(rows for rows, _ in trainer.widths) == len(ROWS)
    assert all(rows * width <= budget or rows == 1 for rows, width in trainer.widths)
    gradients, own = _gradients(whole), _gradients(pieces)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-3, atol=1e-6)


def test_a_heads_mean_over_rows_stays_a_mean_over_the_batch(tiny: Any) -> None:
    same = [[*BEGINNING, *range(30 + at, 40 + at)] for at in range(5)]
    batch = {**_batch(same, "right"), "labels": torch.tensor([0, 1, 0, 1, 1])}
    whole, pieces = copy.deepcopy(tiny), copy.deepcopy(tiny)
    expected = _Trainer(by_row=True).training_step(whole, batch)
    trainer = _Trainer(by_row=True)
    train_in_pieces(trainer, 2 * 16, lambda rows, tokens: None)
    torch.testing.assert_close(trainer.training_step(pieces, batch), expected)
    assert [rows for rows, _ in trainer.widths] == [2, 2, 1]
    gradients, own = _gradients(whole), _gradients(pieces)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("budget", [120, 10_000])
def test_a_step_that_finds_no_memory_is_done_again_in_smaller_pieces(tiny: Any, budget: int) -> None:
    batch = _batch(ROWS, "left")
    items = int((batch["labels"] != -100).sum())
    whole, pieces = copy.deepcopy(tiny), copy.deepcopy(tiny)
    expected = _Trainer(by_row=False).training_step(whole, batch, items)
    trainer = _Trainer(by_row=False)
    trainer.fails_above = 50
    train_in_pieces(trainer, budget, lambda rows, tokens: None)
    torch.testing.assert_close(trainer.training_step(pieces, batch, items), expected)
    gradients, own = _gradients(whole), _gradients(pieces)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-3, atol=1e-6)
    failed = [rows * width for rows, width in trainer.widths if rows * width > 50]
    assert failed == sorted({*failed}, reverse=True) != []  # each was smaller than the one before
    trainer.fails_above = 20  # less than the longest row
    with pytest.raises(torch.OutOfMemoryError):
        trainer.training_step(pieces, batch, items)


def test_pieces_hold_rows_of_like_length_once_each_without_needless_padding() -> None:
    lengths = [900, 40, 41, 300, 310, 39, 5]
    pieces = list(length_batches(dict(enumerate(lengths)), "cpu", budget=1000))
    assert sorted(row for piece in pieces for row in piece) == list(range(len(lengths)))
    assert pieces[0] == [0]  # the long row alone: it sets no price for the others
    batch = _batch([[1] * length for length in (12, 5, 6)], "left")
    widths = [tuple(piece["input_ids"].shape) for piece in cut(batch, 12)]
    assert widths == [(1, 12), (2, 6)]
    inside = batch["attention_mask"] * torch.arange(12)
    pieces_of = list(cut({**batch, "position_ids": inside.expand(3, 3, 12), "text_position_ids": inside}, 12))
    for piece, (rows, columns) in zip(pieces_of, (([0], slice(12)), ([2, 1], slice(6, 12))), strict=True):
        assert piece["position_ids"].equal(
            inside[rows, columns].expand(3, -1, -1)
        )  # a Qwen that sees pictures
        assert piece["text_position_ids"].equal(inside[rows, columns])
    packed = {"input_ids": torch.ones(1, 9), "labels": torch.ones(1, 9)}
    assert list(cut(packed, 4)) == [packed]
