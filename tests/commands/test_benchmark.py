"""Benchmarks run end to end on the embedded model, and compare like with like."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import TINY, Command, make_experiment
from workflows.commands.benchmark.benchmark import about, smallest_lead
from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder
from workflows.experiment.cards import MAX_NEW_TOKENS
from workflows.model.machine import Machine


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("inference", ["--rows", "24"], ["ours", "swift_16", "features", "swift_1", "bare", "bare_own"]),
        (
            "training",
            ["--steps", "3"],
            ["ours", "swift", "products of all tokens"],
        ),
        ("startup", [], ["help", "list", "score", "empty python"]),
    ],
)
def test_a_benchmark_writes_times_and_ratios(
    command: Command,
    demo_run: tuple[RunFolder, str],
    tmp_path: Path,
    kind: str,
    options: list[str],
    expected: list[str],
) -> None:
    repeats = 1 if kind == "training" else 2  # each is three trainings
    done = command("benchmark", kind, demo_run[0].path, *options, "--repeats", repeats, "--output", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = read_json(tmp_path / "benchmark.json")
    assert list(figures["seconds"]) == expected
    assert all(len(times) == repeats and min(times) > 0 for times in figures["seconds"].values())
    for name, ratio in figures["ratios"].items():
        assert ratio["low"] <= ratio["high"]
        assert f"  {name}: {ratio['median']:.2f} (" in done.stdout
    table = (tmp_path / "benchmark.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + len(figures["ratios"])
    assert figures.get("device", "") in table[0]
    if kind == "inference":
        assert figures["outputs_unlike_swift"] == []
        assert figures["rows"] == 24
        least = {name: min(times) for name, times in figures["seconds"].items()}  # all of them compute
        assert least["features"] > 0.05 * least["bare_own"]
        assert least["bare"] > 0.05 * least["ours"]
    if kind == "training":  # the same rows in the same order give the same losses
        assert figures["largest_difference_of_a_loss"] < 1e-4
        assert figures["steps"] == 3


def test_the_dtype_is_that_of_the_run() -> None:
    """The embedded model's card has its own."""
    machine = Machine("cpu", "a CPU with bf16", "bfloat16", "")
    assert about(make_experiment(), machine, {"rows": 1}, 1)["torch_dtype"] == "float32"
    asked = make_experiment("--model", "qwen2.5-0.5b-instruct")
    assert about(asked, machine, {"rows": 1}, 1)["torch_dtype"] == "bfloat16"


def test_a_benchmark_needs_a_finished_run(command: Command, tmp_path: Path) -> None:
    assert command("prepare", "--run-folder", tmp_path / "run").returncode == 0
    done = command("benchmark", "inference", tmp_path / "run")
    assert done.returncode == 2
    assert "is not finished; finish it first" in done.stderr


@pytest.mark.slow
def test_preparing_is_timed_on_tables_of_three_sizes(command: Command, tmp_path: Path) -> None:
    done = command("benchmark", "data", "--rows", "300", "--repeats", "1", "--output", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = read_json(tmp_path / "benchmark.json")
    for key in ("seconds", "peak_memory_bytes"):
        assert list(figures[key]) == ["1x", "2x", "4x"]
    assert list(figures["ratios"]) == ["2x / 1x", "4x / 1x"]
    assert figures["rows_per_second"] == 1200 / figures["seconds"]["4x"][0]
    assert min(figures["peak_memory_bytes"].values()) > 50e6
    refused = command("benchmark", "data", tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_how_nearly_an_answer_was_another_is_read_along_the_greedy_answer() -> None:
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    prompt = [7, 8, 9, 10, 20, 21]
    template = SimpleNamespace(template_meta=SimpleNamespace(stop_token_id=model.config.eos_token_id))
    written = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    leads = [float(-each[0].topk(2).values.diff()) for each in written.logits]
    assert smallest_lead(model, template, prompt) == pytest.approx(min(leads), abs=1e-4)
