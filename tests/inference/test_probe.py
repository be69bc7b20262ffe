"""The probe's features against a direct pass of the embedded model, and its fits against scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.conftest import make_experiment
from tests.served import load_for_answers
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.data.messages import write_row
from workflows.data.prepare import prepare
from workflows.data.reviews import Review
from workflows.experiment.job import Job
from workflows.inference.features import Frame, probed_layers, read_features
from workflows.inference.probe import probe
from workflows.inference.regressions import STRENGTH, fit, out_of_fold, outputs_of
from workflows.inference.scorer import Tokens, prompt_tokens
from workflows.inference.threshold import fit_threshold, shifted
from workflows.model.loaded import LoadedModel
from workflows.model.tokens import count_tokens

EXPERIMENT = make_experiment()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The embedded model and its template, as inference loads them."""
    return load_for_answers(EXPERIMENT, tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def texts(demo_rows: list[dict[str, str]]) -> list[str]:
    return [row["text"] for row in demo_rows[:30]] + ["好", "非常" * 200, "<b>&amp;\"'😀</b>"]


@pytest.fixture(scope="module")
def prompts(loaded: tuple[Any, Any], texts: list[str]) -> list[Tokens]:
    reviews = [Review(f"train:{i}", text, i % 2) for i, text in enumerate(texts)]
    rows = [write_row(review, EXPERIMENT.prompt, EXPERIMENT.labels, "messages") for review in reviews]
    return [prompt_tokens(loaded[1], row) for row in rows]


def test_the_own_tokens_of_a_prompt_are_its_reviews(
    loaded: tuple[Any, Any], prompts: list[Tokens], texts: list[str]
) -> None:
    frame = Frame.of(prompts)
    for prompt, text in zip(prompts, texts, strict=True):
        assert text in loaded[1].tokenizer.decode(prompt[frame.own(prompt)])
    assert len(prompts[30][frame.own(prompts[30])]) <= 3  # of a review of one character
    assert frame.own(frame.beginning + frame.ending).stop == len(frame.beginning + frame.ending)


def test_features_are_those_of_a_direct_forward_pass_over_each_prompt(
    loaded: tuple[Any, Any], prompts: list[Tokens]
) -> None:
    model, _ = loaded
    frame, layers = Frame.of(prompts), probed_layers(model)
    found = dict(pair for batch in read_features(model, prompts, frame) for pair in batch)
    assert sorted(found) == [*range(len(prompts))]
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            states = model.model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        for index, layer in enumerate(layers):
            hidden = states[layer][0]
            expected = torch.cat([hidden[-1], hidden[frame.own(prompt)].mean(0)])
            np.testing.assert_allclose(found[row][index], expected, atol=2e-4)


def test_features_do_not_depend_on_the_other_rows_of_a_call(
    loaded: tuple[Any, Any], prompts: list[Tokens]
) -> None:
    model, frame = loaded[0], Frame.of(prompts)
    together = dict(pair for batch in read_features(model, prompts, frame) for pair in batch)
    for row, prompt in enumerate(prompts):
        [[(_, alone)]] = read_features(model, [prompt], frame)
        np.testing.assert_allclose(alone, together[row], atol=2e-4)
    twice = [pair for batch in read_features(model, [prompts[3], prompts[3]], frame) for pair in batch]
    assert all(np.isfinite(features).all() for _, features in twice)


def test_one_prompt_that_begins_otherwise_leaves_the_frame_as_it_is(prompts: list[Tokens]) -> None:
    other = [*prompts[0][:5], 7, 7, 7, *prompts[0][5:]]  # a training row that is itself an example, say
    assert Frame.of([*prompts, other]) == Frame.of(prompts)


def test_layers_above_the_probed_ones_are_not_run_and_stay(
    loaded: tuple[Any, Any], prompts: list[Tokens]
) -> None:
    model, _ = loaded
    ran: list[str] = []
    hooks = len(model.model.layers[0]._forward_hooks)
    last = model.model.layers[-1]
    assert probed_layers(model)[-1] < len(model.model.layers)
    hook = last.register_forward_hook(lambda *_: ran.append("last layer"))
    [*read_features(model, prompts[:4], Frame.of(prompts))]
    assert ran == []
    model(torch.tensor([prompts[0]]))
    hook.remove()
    assert ran == ["last layer"]
    assert len(model.model.layers[0]._forward_hooks) == hooks


def _features(rows: int, layers: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features that know the label a little, and labels 0, 1, 2."""
    draw = np.random.default_rng(0)
    gold = draw.integers(0, 3, rows)
    features = draw.normal(size=(rows, layers, 6)) * 5 + 2
    features[:, :, 0] += gold[:, None] * 4
    return features.astype(np.float32), gold


def test_two_labels_answer_by_the_mean_of_the_layers_log_odds() -> None:
    features, gold = _features(60)
    gold = gold % 2
    outputs = outputs_of(fit(features, gold.tolist(), "single_label", 2), features)
    each = []
    for layer in range(features.shape[1]):
        scaled = StandardScaler().fit_transform(features[:, layer])
        each.append(LogisticRegression(C=STRENGTH).fit(scaled, gold).decision_function(scaled))
    np.testing.assert_allclose(outputs[:, 1] - outputs[:, 0], np.mean(each, axis=0), atol=1e-4)


def test_three_labels_several_labels_and_numbers() -> None:
    features, gold = _features(300)
    single = outputs_of(fit(features, gold.tolist(), "single_label", 3), features)
    assert single.shape == (300, 3)
    assert (single.argmax(1) == gold).mean() > 0.5
    several: list[Any] = [[label for label in range(2) if number > label] for number in gold]
    multi = outputs_of(fit(features, several, "multi_label", 2), features)
    assert ((multi[:, 1] > 0) == (gold == 2)).mean() > 0.6
    numbers = outputs_of(fit(features, gold.astype(float).tolist(), "regression", 0), features)
    assert numbers.shape == (300, 1)
    assert np.corrcoef(numbers[:, 0], gold)[0, 1] > 0.6


def test_out_of_fold_outputs_do_not_know_a_rows_own_label() -> None:
    draw = np.random.default_rng(1)
    features = draw.normal(size=(80, 2, 200)).astype(np.float32)  # enough to tell every row apart
    gold = draw.integers(0, 2, 80).tolist()
    seen = outputs_of(fit(features, gold, "single_label", 2), features).argmax(1)
    unseen = out_of_fold(features, gold, 2).argmax(1)
    assert (seen == gold).mean() >= 0.9
    assert (unseen == gold).mean() < 0.7


class _Stops(Screen):
    """A screen on which Ctrl-C comes at the second batch that a bar called `title` counts."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title

    def progress(self, title: str, *arguments: Any, **named: Any) -> Any:
        bar = super().progress(title, *arguments, **named)
        if title == self.title:
            update, counted = bar.update, []

            def stop(n: float = 1) -> None:
                counted.append(n)
                if len(counted) == 2:
                    raise KeyboardInterrupt
                update(n)

            bar.update = stop  # type: ignore[method-assign, assignment]
        return bar


def _prepared(folder: Path, rows: int = 60, *flags: str) -> Job:
    run = RunFolder(folder)
    job = Job(run, make_experiment(f"--train-samples={rows}", "--test-samples=40", *flags), inputs="one")
    prepare(job)
    return job


def _with(job: Job, screen: Screen) -> Job:
    return Job(job.run, job.experiment, screen, LoadedModel(), job.inputs)


@pytest.mark.parametrize("title", ["probe: reading labelled rows", "probe: answering"])
def test_a_stopped_probe_goes_on_to_the_same_bytes(
    tmp_path: Path, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("workflows.model.batches").model.batches.TOKEN_BUDGET, "cpu", 400)
    whole, stopped = _prepared(tmp_path / "whole"), _prepared(tmp_path / "stopped")
    probe(_with(whole, Screen()))
    with pytest.raises(KeyboardInterrupt):
        probe(_with(stopped, _Stops(title)))
    assert not stopped.run.probe.exists()
    summary = probe(_with(stopped, Screen()))
    assert summary["seconds"]["probe"]["resumed"]
    files = [path.relative_to(whole.run.path) for path in whole.run.path.rglob("*") if path.is_file()]
    assert {"probe.safetensors", "probe.json", "probe.jsonl", "out_of_fold.jsonl"} <= {p.name for p in files}
    for path in files:
        if path.name != "environment.json":
            assert (stopped.run.path / path).read_bytes() == (whole.run.path / path).read_bytes(), path
    left = {path.name for path in (stopped.run.path / "probe").iterdir()}
    assert left == {"probe.json", "probe.safetensors", "out_of_fold.jsonl"}


def test_the_saved_probe_answers_as_it_did(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    job = _prepared(tmp_path / "run")
    probe(_with(job, Screen()))
    saved = read_json(job.run.probe)
    frame = Frame(**saved["frame"])
    rows = read_jsonl(job.run.split("test"))
    prompts = [prompt_tokens(loaded[1], row) for row in rows]
    weights = load_file(job.run.probe_weights)
    said = read_jsonl(job.run.predictions("probe"))
    for batch in read_features(loaded[0], prompts, frame):
        for row, features in batch:
            outputs = outputs_of(weights, features[None])[0]
            assert saved["outputs"][int(outputs.argmax())] == said[row]["prediction"]
            assert said[row]["output"] is None
    assert saved["rows"] == {"labelled": 68, "used": 68}


def test_rows_are_held_against_what_the_model_reads(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    """The probe, which has no training, does not read `max_length`."""
    job = _prepared(tmp_path / "run", 20, "--method", "probe", "--set", "max_length=20")
    counted = count_tokens(job)
    assert counted["max_length"] == loaded[1].model_info.max_model_len
    assert [each["over_max_length"]["rows"] for each in counted["splits"].values()] == [0, 0, 0]


def test_too_few_rows_of_a_label_are_said_and_the_cap_is_kept(tmp_path: Path) -> None:
    few = _prepared(tmp_path / "few", 8)
    summary = probe(_with(few, Screen()))
    assert "negative" in summary["missing"]["en"]
    assert "8" in summary["missing"]["zh"]
    assert not few.run.predictions("probe").exists()
    capped = _prepared(tmp_path / "capped", 60, "--probe-rows=40")
    assert probe(_with(capped, Screen()))["rows"] == {"labelled": 68, "used": 40}
    assert not capped.run.out_of_fold.exists()  # some labelled rows were not read


def test_the_threshold_is_platts() -> None:
    draw = np.random.default_rng(2)
    gold = draw.integers(0, 2, 200)
    odds = 0.5 * draw.normal(size=200) + 0.8 * gold - 2  # nearly all rows seem to be the first label
    second = 1 / (1 + np.exp(-odds))
    rows = [
        {"gold": "ab"[label], "probabilities": {"a": 1 - share, "b": share}, "prediction": "a", "output": "x"}
        for label, share in zip(gold.tolist(), second.tolist(), strict=True)
    ]
    threshold = fit_threshold(rows)
    platt = LogisticRegression(C=1e9).fit(odds[:, None], gold)
    assert threshold["factor"] == pytest.approx(platt.coef_[0, 0], rel=1e-2)
    assert threshold["biases"]["b"] == pytest.approx(platt.intercept_[0], rel=1e-2)
    right = [shifted(row, threshold)["prediction"] == row["gold"] for row in rows]
    assert np.mean(right) == pytest.approx(platt.score(odds[:, None], gold), abs=0.01)
    assert np.mean(right) > 0.75
