"""A BERT-size encoder, here a tiny one with random weights: what it reads of a text, and whole runs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Command
from tests.served import assert_served_as_answered, load_for_answers
from tests.tiny_encoder import build_encoder
from workflows.core.files import read_jsonl
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.experiment.experiment import load_experiment
from workflows.inference.head import row_windows, score_rows
from workflows.inference.scorer import prompt_tokens

pytestmark = pytest.mark.slow

CAN_READ = 24  # tokens
STRIDE = 10


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, demo_rows: list[dict[str, str]]) -> Path:
    return build_encoder(
        tmp_path_factory.mktemp("encoder") / "tiny-bert", [row["text"] for row in demo_rows], CAN_READ
    )


@pytest.fixture(scope="module")
def run(command: Command, encoder: Path) -> RunFolder:
    """A run in windows."""
    options = ["--train-samples", 48, "--test-samples", 24, "--set", "max_steps=3", "--window", STRIDE]
    options += ["--set", "eval_steps=3", "--set", "save_steps=3"]
    options += ["--set", f"max_length={CAN_READ}", "--run-folder", encoder.parent / "run"]
    options += ["--set", "torch_dtype=float32"]  # what `loaded` computes in, whatever this machine would
    done = command("run", "--model", encoder, "--method", "encoder", *options)
    assert done.returncode == 0, done.stderr
    return RunFolder(encoder.parent / "run")


@pytest.fixture(scope="module")
def loaded(run: RunFolder) -> tuple[Any, Any]:
    return load_for_answers(load_experiment(run.experiment), run.path, checkpoint_of(run))


def test_what_is_read_of_a_text(loaded: tuple[Any, Any]) -> None:
    _, template = loaded
    vocabulary = template.tokenizer.get_vocab()
    text = "好吃不贵" * 12

    def row(length: int) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text[:length]}]}

    marked = ["[CLS]", *text[:10], "[SEP]"]
    assert row_windows(template, row(10), None) == [[vocabulary[token] for token in marked]]
    cut = prompt_tokens(template, row(48))
    assert cut == [vocabulary[token] for token in ["[CLS]", *text][:CAN_READ]]
    template.set_mode("train")
    assert template.encode({**row(48), "label": 1})["input_ids"] == cut
    template.set_mode("transformers")
    for length, count in ((10, 1), (22, 1), (23, 2), (32, 2), (33, 3), (48, 4)):
        windows = row_windows(template, row(length), STRIDE)
        assert len(windows) == count
        read = [window[1:-1] for window in windows]
        assert {(window[0], window[-1]) for window in windows} == {(vocabulary["[CLS]"], vocabulary["[SEP]"])}
        assert max(map(len, windows)) <= CAN_READ
        joined = [token for part in read[:-1] for token in part[:STRIDE]] + read[-1]
        assert joined == [vocabulary[character] for character in text[:length]]


def test_windows_are_averaged_by_their_probabilities(run: RunFolder, loaded: tuple[Any, Any]) -> None:
    model, template = loaded
    rows = read_jsonl(run.predictions("tuned"))
    asked = {row["id"]: row for row in read_jsonl(run.split("test"))}
    assert {len(row["scores"]) for row in rows} >= {1, 2}
    for row in rows:
        with torch.no_grad():
            alone = [
                model(input_ids=torch.tensor([window])).logits[0].softmax(0)
                for window in row_windows(template, asked[row["id"]], STRIDE)
            ]
        shares = torch.stack(alone).mean(0).tolist()
        assert list(row["probabilities"].values()) == pytest.approx(shares, abs=1e-5)
    without = {
        row["id"]: row["scores"] for batch in score_rows(model, template, [*asked.values()]) for row in batch
    }
    assert {len(scores) for scores in without.values()} == {1}


def test_an_encoder_is_served_as_it_answered(run: RunFolder) -> None:
    assert_served_as_answered(run)


def test_a_method_that_does_not_fit_is_one_line(command: Command, encoder: Path) -> None:
    for options, complaint in (
        (("--model", encoder), "--method lora: tiny-bert is a BERT-size encoder; take --method encoder"),
        (("--model", "structbert-base", "--method", "head"), "take --method encoder"),
        (("--method", "encoder"), "is for BERT-size encoders, tiny is a qwen2; take --method head"),
        (("--dataset", "demo-aspects"), "demo-aspects is multi_label; take --method head"),
        (("--method", "head", "--window", "9"), "take --method encoder"),
        (
            ("--window", "600", "--method", "encoder", "--model", encoder),
            "reads 510 tokens of text at a time",
        ),
        (("--window", "9", "--engine", "swift", "--method", "encoder", "--model", encoder), "leave out"),
        (("--method", "head", "--dataset", "demo-aspects", "--balance"), "--balance: means nothing"),
        (
            ("--method", "head", "--dataset", "dianping-stars", "--best-by", "macro_f1"),
            "--best-by macro_f1: means nothing for data set dianping-stars, which is regression",
        ),
    ):
        done = command("run", *options)
        assert done.returncode == 2
        assert complaint in done.stderr
