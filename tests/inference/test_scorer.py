"""The fast scorer against direct computations on the embedded model: probabilities and greedy answers."""

from typing import Any

import pytest
import torch
from swift.infer_engine import RequestConfig

from tests.conftest import make_experiment
from tests.served import load_for_answers
from workflows.core.errors import UserError
from workflows.data.messages import write_row
from workflows.data.reviews import Review
from workflows.experiment.cards import Label
from workflows.inference.infer import answer_batches, has_own_code
from workflows.inference.plain_scorer import answer_by_engine
from workflows.inference.scorer import Answer, Greedy, prompt_tokens, score_prompts
from workflows.model import batches
from workflows.model.folder import label_tokens

EXPERIMENT = make_experiment()
# Words of one token and of several; one is the beginning of another.
LABELS = (Label("bad", "负面"), Label("good", "正面"), Label("best", "正面，非常好"), Label("fair", "一般般"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The embedded model and its template, as inference loads them."""
    return load_for_answers(EXPERIMENT, tmp_path_factory.mktemp("scorer"))


@pytest.fixture(scope="module")
def prompts(loaded: tuple[Any, Any], demo_rows: list[dict[str, str]]) -> list[list[int]]:
    texts = [row["text"] for row in demo_rows[:40]] + ["好", "非常" * 200, "<b>&amp;\"'😀</b>"]
    reviews = [Review(f"train:{i}", text, i % 2) for i, text in enumerate(texts)]
    rows = [write_row(review, EXPERIMENT.prompt, EXPERIMENT.labels, "messages") for review in reviews]
    return [prompt_tokens(loaded[1], row) for row in rows]


def _answers(model: Any, prompts: list[list[int]], labels: list[list[int]], greedy: Greedy) -> list[Answer]:
    found = [answer for batch in score_prompts(model, prompts, labels, greedy) for answer in batch]
    assert sorted(answer.row for answer in found) == list(range(len(prompts)))
    return sorted(found, key=lambda answer: answer.row)


@pytest.mark.parametrize("budget", [4096, 300])
def test_label_probabilities_are_those_of_a_direct_forward_pass(
    loaded: tuple[Any, Any], prompts: list[list[int]], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, template = loaded
    monkeypatch.setitem(batches.TOKEN_BUDGET, "cpu", budget)
    labels = label_tokens(template, LABELS)
    assert {len(label) for label in labels} != {2}
    answers = _answers(model, prompts, labels, Greedy(frozenset([labels[0][-1]])))
    for answer, prompt in zip(answers, prompts, strict=True):
        for label, log in zip(labels, answer.log_probabilities, strict=True):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + label])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(label) - 1)
            direct = sum(float(logits[place, token]) for place, token in zip(places, label, strict=True))
            assert log == pytest.approx(direct, abs=1e-3)


def test_where_answers_go_on_a_label_has_the_probability_of_its_words(
    loaded: tuple[Any, Any], prompts: list[list[int]], demo_rows: list[dict[str, str]]
) -> None:
    model, template = loaded
    labels = label_tokens(template, LABELS)
    greedy = Greedy(frozenset([labels[0][-1]]))
    whole = _answers(model, prompts, labels, greedy)
    batches = score_prompts(model, prompts, labels, greedy, ended=False)
    words = sorted((answer for batch in batches for answer in batch), key=lambda answer: answer.row)
    assert [answer.tokens for answer in words] == [answer.tokens for answer in whole]
    for answer, prompt in list(zip(words, prompts, strict=True))[:5]:
        for label, log in zip(labels, answer.log_probabilities, strict=True):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + label])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(label) - 2)
            direct = sum(float(logits[place, token]) for place, token in zip(places, label[:-1], strict=True))
            assert log == pytest.approx(direct, abs=1e-3)
    reviews = [Review(f"train:{i}", row["text"], i % 2) for i, row in enumerate(demo_rows[:8])]
    rows = [write_row(review, EXPERIMENT.prompt, EXPERIMENT.labels, "messages") for review in reviews]
    request = RequestConfig(max_tokens=5, temperature=0)
    outputs = {row["id"]: "" for row in rows}
    fast, plain = (
        {answer["id"]: answer for batch in batches for answer in batch}
        for batches in (
            answer_batches(model, template, rows, LABELS, request, None, ended=False),
            answer_batches(model, template, rows, LABELS, request, outputs, ended=False),
        )
    )
    for id, scored in plain.items():
        assert scored["log_probabilities"] == pytest.approx(fast[id]["log_probabilities"], abs=1e-3)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_answers_are_those_of_plain_greedy_decoding(
    loaded: tuple[Any, Any], prompts: list[list[int]], penalty: float, noise: float
) -> None:
    model, template = loaded
    head = model.get_output_embeddings().weight
    before = head.detach().clone()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # with noise the model writes more than labels
        head += noise * head.std() * torch.randn(head.shape, generator=generator)
    try:
        request = RequestConfig(max_tokens=5, temperature=0, repetition_penalty=penalty)
        greedy = Greedy.of(model, template, request)
        assert greedy.repetition_penalty == penalty
        answers = _answers(model, prompts, label_tokens(template, LABELS), greedy)
        for answer, prompt in zip(answers, prompts, strict=True):
            ids = torch.tensor([prompt])
            written = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=5,
                do_sample=False,
                repetition_penalty=penalty,
                eos_token_id=sorted(greedy.end_tokens),
                pad_token_id=template.tokenizer.pad_token_id,
            )
            assert answer.tokens == written[0, len(prompt) :].tolist()
        drafted = sum(answer.tokens in label_tokens(template, LABELS) for answer in answers)
        assert (drafted > len(answers) / 2) == (noise == 0.0)  # both ways to an answer are taken
    finally:
        with torch.no_grad():
            head.copy_(before)


def test_a_model_with_a_cache_of_its_own_gets_the_same_answers(
    loaded: tuple[Any, Any], demo_rows: list[dict[str, str]]
) -> None:
    model, template = loaded
    reviews = [Review(f"train:{i}", row["text"], i % 2) for i, row in enumerate(demo_rows[:20])]
    rows = [write_row(review, EXPERIMENT.prompt, EXPERIMENT.labels, "messages") for review in reviews]
    request = RequestConfig(max_tokens=5, temperature=0)
    assert not has_own_code(model)
    fast = {a["id"]: a for batch in answer_batches(model, template, rows, LABELS, request) for a in batch}
    batches = answer_by_engine(model, template, rows, label_tokens(template, LABELS), request)
    plain = [answer for batch in batches for answer in batch]
    assert [answer["id"] for answer in plain] == [row["id"] for row in rows]
    for answer in plain:
        assert answer["output"] == fast[answer["id"]]["output"]
        assert answer["log_probabilities"] == pytest.approx(fast[answer["id"]]["log_probabilities"], abs=1e-3)


def test_prompts_without_a_common_beginning_are_answered_too(loaded: tuple[Any, Any]) -> None:
    model, template = loaded
    labels = label_tokens(template, LABELS[:2])
    greedy = Greedy(frozenset([labels[0][-1]]))
    prompts = [[5, 6, 7], [8], [9, 10], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]]
    together = _answers(model, prompts, labels, greedy)
    for prompt, answer in zip(prompts, together, strict=True):
        alone = _answers(model, [prompt], labels, greedy)[0]
        assert alone.tokens == answer.tokens
        assert alone.log_probabilities == pytest.approx(answer.log_probabilities, abs=1e-4)


def test_what_the_scorer_does_not_follow_is_refused(loaded: tuple[Any, Any]) -> None:
    model, template = loaded
    model.generation_config.no_repeat_ngram_size = 2
    try:
        with pytest.raises(UserError, match=r"no_repeat_ngram_size.*--engine swift"):
            Greedy.of(model, template, RequestConfig(temperature=0))
    finally:
        model.generation_config.no_repeat_ngram_size = 0
    with pytest.raises(UserError, match="stop word '很好很好'"):
        Greedy.of(model, template, RequestConfig(temperature=0, stop=["很好很好"]))
