"""Qwen3.5, here a tiny one with random weights: layers that carry a state on, read exactly all the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine

from tests.conftest import LAST, make_experiment, settings
from tests.served import load_for_answers
from tests.tiny_qwen3_5 import build_qwen3_5, stand_in_for_pictures
from workflows.commands.export.export import export
from workflows.core.files import read_json, read_jsonl
from workflows.core.rows import Rows, question
from workflows.core.run_folder import checkpoint_of
from workflows.core.screen import Screen
from workflows.data.messages import write_row
from workflows.data.reviews import Review
from workflows.experiment.cards import MAX_NEW_TOKENS, Label
from workflows.experiment.experiment import Experiment
from workflows.experiment.model_cards import load_model_card
from workflows.inference.features import Frame, probed_layers, read_features
from workflows.inference.head import score_rows
from workflows.inference.infer import answer_batches, merge_adapter
from workflows.inference.scorer import Answer, Greedy, Tokens, prompt_tokens, score_prompts
from workflows.model.folder import label_tokens
from workflows.pipeline.run import do_stages, start_run

pytest.importorskip("transformers.models.qwen3_5", reason="Qwen3.5 needs transformers>=5.2")

# Words of one token and of several; one is the beginning of another.
LABELS = (Label("bad", "负面"), Label("good", "正面"), Label("fair", "正面，一般"))
NO_THOUGHTS = "<think>\n\n</think>\n\n"
REQUEST = RequestConfig(max_tokens=MAX_NEW_TOKENS, temperature=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("qwen3.5")
    with pytest.MonkeyPatch.context() as monkeypatch:
        stand_in_for_pictures(base / "packages", monkeypatch)
        yield build_qwen3_5(base / "Qwen3.5-tiny")


@pytest.fixture(scope="module")
def experiment(folder: Path) -> Experiment:
    options = ["--train-samples", "48", "--test-samples", "24", "--model", str(folder)]
    return make_experiment(*options, *LAST, *settings("torch_dtype=float32"))


@pytest.fixture(scope="module")
def loaded(experiment: Experiment, folder: Path) -> tuple[Any, Any]:
    return load_for_answers(experiment, folder)


@pytest.fixture(scope="module")
def rows(experiment: Experiment, demo_rows: list[dict[str, str]]) -> Rows:
    texts = [row["text"] for row in demo_rows[:20]] + ["好", "非常" * 100]
    reviews = [Review(f"train:{i}", text, i % 2) for i, text in enumerate(texts)]
    return [write_row(review, experiment.prompt, experiment.labels, "messages") for review in reviews]


def _alone(model: Any, template: Any, rows: Rows) -> list[str]:
    """SWIFT's greedy answer to each row alone, without any padding."""
    engine = TransformersEngine(model, template=template, max_batch_size=1)
    asked = [InferRequest(messages=question(row)) for row in rows]
    answers = [answer.choices[0].message.content for answer in engine.infer(asked, REQUEST, use_tqdm=False)]
    assert all(answer.startswith(NO_THOUGHTS) for answer in answers)  # which the prompt ends with
    return [answer.removeprefix(NO_THOUGHTS) for answer in answers]


def _logs_alone(model: Any, prompt: list[int], label: list[int]) -> float:
    """A label's log probability by a forward pass over its prompt alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + label])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(label) - 1)
    return sum(float(logits[place, token]) for place, token in zip(places, label, strict=True))


def test_answers_and_probabilities_are_those_of_each_row_alone(loaded: tuple[Any, Any], rows: Rows) -> None:
    model, template = loaded
    found = [each for batch in answer_batches(model, template, rows, LABELS, REQUEST) for each in batch]
    answers = {each["id"]: each for each in found}
    assert len(answers) == len(found) == len(rows)
    written = [answers[row["id"]]["output"] for row in rows]
    assert written == _alone(model, template, rows)
    assert len(set(written)) > 5
    for row in rows:
        prompt = prompt_tokens(template, row)
        direct = [_logs_alone(model, prompt, label) for label in label_tokens(template, LABELS)]
        assert answers[row["id"]]["log_probabilities"] == pytest.approx(direct, abs=1e-3)


def test_answers_that_stay_within_labels_or_leave_them_late_are_the_same(
    loaded: tuple[Any, Any], rows: Rows
) -> None:
    model, template = loaded
    prompts = [prompt_tokens(template, row) for row in rows]
    greedy = Greedy.of(model, template, REQUEST)

    def answers(labels: list[Tokens]) -> list[Answer]:
        found = [each for batch in score_prompts(model, prompts, labels, greedy) for each in batch]
        return sorted(found, key=lambda answer: answer.row)

    plain = answers(label_tokens(template, LABELS))
    own = [answer.tokens[: 2 + answer.row % 3] for answer in plain[:6]]
    read_along = answers([*own, [*plain[6].tokens[:3], 0]])
    assert [answer.tokens for answer in read_along] == [answer.tokens for answer in plain]
    for row, label in enumerate(own):
        direct = _logs_alone(model, prompts[row], label)
        assert read_along[row].log_probabilities[row] == pytest.approx(direct, abs=1e-3)


def test_features_are_those_of_each_prompt_alone(loaded: tuple[Any, Any], rows: Rows) -> None:
    model, template = loaded
    prompts = [prompt_tokens(template, row) for row in rows]
    frame, layers = Frame.of(prompts), probed_layers(model)
    assert frame.beginning
    assert layers == [5, 6]
    found = dict(pair for batch in read_features(model, prompts, frame) for pair in batch)
    assert sorted(found) == [*range(len(prompts))]
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        for index, layer in enumerate(layers):
            hidden = states[layer][0]
            expected = torch.cat([hidden[-1], hidden[frame.own(prompt)].mean(0)])
            np.testing.assert_allclose(found[row][index], expected, atol=2e-4)


def test_a_head_reads_each_row_as_if_alone(folder: Path, rows: Rows) -> None:
    model, template = load_for_answers(make_experiment("--method", "head", "--model", str(folder)), folder)
    together = {each["id"]: each["scores"] for batch in score_rows(model, template, rows) for each in batch}
    assert len({score for [[score, _]] in together.values()}) == len(rows)
    for row in rows:
        [[alone]] = score_rows(model, template, [row])
        np.testing.assert_allclose(together[row["id"]], alone["scores"], atol=1e-4)


def test_it_answers_without_thinking(loaded: tuple[Any, Any], rows: Rows) -> None:
    _, template = loaded
    asked = template.tokenizer.decode(prompt_tokens(template, rows[0]))
    assert asked.endswith("<|im_start|>assistant\n" + NO_THOUGHTS)


@pytest.mark.slow
def test_a_run_tunes_the_layers_for_text_and_answers_as_swift_does(
    experiment: Experiment, folder: Path, tmp_path: Path
) -> None:
    run = start_run(experiment, tmp_path / "run", Screen())
    do_stages(
        run, experiment, ("prepare", "tokens", "zero_shot", "probe", "train", "tuned", "score"), Screen()
    )
    with safe_open(checkpoint_of(run) / "adapter_model.safetensors", "pt") as adapter:
        names = [*adapter.keys()]
    assert any("linear_attn.in_proj_qkv" in name for name in names)
    assert all("language_model" in name for name in names)
    assert read_json(run.probe)["missing"] is None
    model, template = load_for_answers(experiment, folder, checkpoint_of(run))
    model = merge_adapter(model)
    test, tuned = read_jsonl(run.split("test")), read_jsonl(run.predictions("tuned"))
    assert [row["output"] for row in tuned] == _alone(model, template, test)
    exported = export(run, None, Screen())
    again = replace(experiment, model=load_model_card(str(exported)))
    assert _alone(*load_for_answers(again, folder), test) == [row["output"] for row in tuned]
    val = read_jsonl(run.split("val"))
    history = read_json(run.training)["log_history"]
    measured = next(entry["eval_loss"] for entry in history if "eval_loss" in entry)
    assert measured == pytest.approx(_loss(model, template, val, experiment.labels), rel=1e-3)


def _loss(model: Any, template: Any, rows: Rows, labels: tuple[Label, ...]) -> float:
    """Mean cross-entropy of the right answers' tokens, each row alone; the line's end behind them, which
    SWIFT counts too, is taken as certain.
    """
    answers = label_tokens(template, labels)
    logs = [_logs_alone(model, prompt_tokens(template, row), answers[row["label"]]) for row in rows]
    return -sum(logs) / sum(len(answers[row["label"]]) + 1 for row in rows)
