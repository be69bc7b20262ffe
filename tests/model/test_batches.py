"""Batches follow the bytes that rows take, and go on in halves where memory runs out."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from tests.conftest import TINY
from workflows.core.errors import UserError
from workflows.core.told import listening
from workflows.inference.scorer import Greedy, _Scorer, score_prompts
from workflows.model import batches
from workflows.model.batches import in_batches, length_batches, most_rows, row_bytes

QWEN1_5 = Qwen2Config(
    hidden_size=2048,
    intermediate_size=5504,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=16,
)
QWEN3 = Qwen3Config(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
)
BEGINNING = list(range(20, 60))
PROMPTS = [[*BEGINNING, *range(70, 70 + length)] for length in (9, 4, 30, 12, 5)]
LABELS = [[100 + at, 200 + at % 3, 3] for at in range(20)]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)


def _answers(model: Any) -> list[Any]:
    greedy = Greedy(frozenset([3]))
    found = [answer for batch in score_prompts(model, PROMPTS, LABELS, greedy) for answer in batch]
    return sorted(found, key=lambda answer: answer.row)


@pytest.mark.parametrize("config", [QWEN1_5, QWEN3])
def test_a_long_beginning_leaves_room_for_fewer_rows(config: Any) -> None:
    alone = row_bytes(config, 2, 0, 100)
    behind = row_bytes(config, 2, 700, 100)
    heads = config.num_key_value_heads * (getattr(config, "head_dim", None) or 128)
    assert behind - alone > 700 * 2 * 2 * heads * config.num_hidden_layers  # its keys and values, in each row


def test_no_batch_takes_more_than_is_free(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "free_memory", lambda device: 100_000_000)
    most = most_rows(tiny, beginning=2000)
    free = 0.8 * 100_000_000 - 12 * batches.LOGIT_ROWS * tiny.config.vocab_size
    taken = most(50) * row_bytes(tiny.config, 4, 2000, 50)
    assert 1 <= most(50) < 40
    assert taken <= free < taken * (most(50) + 1) / most(50)
    found = list(length_batches(dict.fromkeys(range(100), 50), "cpu", most))
    assert max(map(len, found)) == most(50)
    assert sorted(row for batch in found for row in batch) == list(range(100))
    monkeypatch.setattr(batches, "free_memory", lambda device: 0)
    assert most_rows(tiny)(50) == 1


def test_twenty_labels_have_the_probabilities_of_a_direct_pass(tiny: Any) -> None:
    for answer, prompt in zip(_answers(tiny), PROMPTS, strict=True):
        for label, log in list(zip(LABELS, answer.log_probabilities, strict=True))[::6]:
            with torch.no_grad():
                logits = tiny(input_ids=torch.tensor([prompt + label])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(label) - 1)
            direct = sum(float(logits[place, token]) for place, token in zip(places, label, strict=True))
            assert log == pytest.approx(direct, abs=1e-3)


def test_answers_are_the_same_where_memory_runs_out(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, read, sizes = _answers(tiny), _Scorer._read_with_words, []

    def short_of_memory(self: Any, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return read(self, ids, *rest)

    monkeypatch.setattr(_Scorer, "_read_with_words", short_of_memory)
    found = _answers(tiny)
    assert max(sizes) > 2
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


def test_one_row_without_memory_is_one_line_and_other_errors_stay_what_they_are() -> None:
    def never(batch: list[int]) -> list[int]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    with pytest.raises(UserError, match=r"one row of 70 tokens, with \d+\.\d GB free: end other programs"):
        list(in_batches({4: 60, 5: 70}, "cpu", lambda width: 2, never))

    def wrong(batch: list[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_batches({4: 60, 5: 70}, "cpu", lambda width: 2, wrong))


def test_batches_after_one_that_found_no_memory_are_as_small() -> None:
    sizes: list[int] = []

    def short_of_memory(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return batch

    lengths = dict.fromkeys(range(20), 50)
    answered = [
        row for batch in in_batches(lengths, "cpu", lambda width: 12, short_of_memory) for row in batch
    ]
    assert sorted(answered) == list(range(20))
    assert sizes == [12, 6, 3, 3, 3, 3, 3, 3, 2]


def test_a_process_without_memory_for_a_batch_takes_half_of_it_and_says_so() -> None:
    a_row = 64 << 20  # bytes, which the system gives and takes back as a whole

    def work(batch: list[int]) -> list[int]:
        torch.empty(len(batch) * a_row, dtype=torch.int8)
        return batch

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    said: list[str] = []
    with listening(said.append) as told:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 4 * a_row, before[1]))
        try:
            done = list(in_batches(dict.fromkeys(range(12), 50), "cpu", lambda width: 12, work))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    assert sorted(row for batch in done for row in batch) == list(range(12))
    assert max(map(len, done)) == 3
    assert [line.split(" at most")[0] for line in said] == [
        "  memory ran out, so 6 rows",
        "  memory ran out, so 3 rows",
    ]
    assert len(told) == 2
