"""A plan has the run's figures, fetches no weights, leaves nothing behind, and knows what to change."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import TINY, Command, make_experiment, settings
from tests.fake_hub import FakeHub
from workflows.commands.plan.devices import DEVICES, changes_to_fit
from workflows.commands.plan.plan import estimate_runs
from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.cards import ROOT
from workflows.model.memory import Workload, memory, read_sizes

QWEN_1_5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
WIDE = Workload(
    device="cuda",
    torch_dtype="float16",
    compute_dtype="float16",
    checkpointing=False,
    batch=64,
    longest=(1024,) * 64,
    piece_tokens=65536,
    lora_rank=8,
    target_modules="all-linear",
    quant_bits=None,
)


def test_plan_of_a_hub_model_has_the_figures_of_the_run_and_fetches_no_weights(
    command: Command, hub: FakeHub, demo_run: tuple[RunFolder, str], tmp_path: Path
) -> None:
    run, _ = demo_run
    hub.put_folder("models", "someone/tiny-chat", TINY)
    short = Path(tempfile.mkdtemp(prefix="p"))  # datasets' processes meet at a socket in it: 107 characters
    before = sorted((ROOT / "outputs").iterdir())
    done = command(
        *(
            "plan",
            "--model",
            "someone/tiny-chat",
            "--run-folder",
            run.path,
            "--output",
            tmp_path / "plan.json",
        ),
        *settings("num_train_epochs=3", "per_device_train_batch_size=32", "per_device_eval_batch_size=64"),
        env={**hub.env, "TMPDIR": str(short)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "prepare: done before" in done.stdout
    result, tokens, training = (
        read_json(tmp_path / "plan.json"),
        read_json(run.tokens),
        read_json(run.training),
    )
    for name, split in result["splits"].items():
        assert split == {key: tokens["splits"][name][key] for key in ("rows", "median", "max")}
    assert result["steps"] == training["steps"]
    assert result["training_rows_used"] == training["rows"]["train"]["used"]
    assert result["evaluations"] == sum("eval_loss" in entry for entry in training["log_history"])
    lengths = tokens["splits"]["train"]
    assert result["training_tokens"]["used"] == round(3 * lengths["mean"] * lengths["rows"])
    assert 0 < result["training_tokens"]["computed"] < result["training_tokens"]["used"]
    assert all(machine["changes"] == [] for machine in result["machines"])
    caches = [path for path in hub.root.rglob("*") if "cache" in path.parts[len(hub.root.parts)]]
    assert [path for path in caches if path.name == "config.json"]
    assert not [path for path in caches if path.suffix == ".safetensors"]
    assert sorted((ROOT / "outputs").iterdir()) == before
    assert not list(short.glob("plan-*"))
    shutil.rmtree(short)


def test_a_gpu_that_is_too_small_leads_to_changes_that_fit_at_the_same_effective_batch(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_1_5B), encoding="utf-8")
    sizes = read_sizes(tmp_path)
    assert sizes.parameters == 1_543_714_304  # as the model's page has it: 1.54 B
    t4 = DEVICES[1]
    assert t4.memory is not None
    assert memory(sizes, WIDE) > t4.memory
    changes, smaller, fits = changes_to_fit(t4, sizes, WIDE, p99=300)
    assert fits
    assert changes == []  # fewer tokens at a time cost less than checkpointing, shorter rows or four bits
    assert smaller.batch == WIDE.batch
    assert smaller.piece_tokens is not None
    assert 1024 <= smaller.piece_tokens < 65536


def test_a_gpu_that_no_change_makes_large_enough_is_called_too_small(tmp_path: Path) -> None:
    large = {**QWEN_1_5B, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80}
    (tmp_path / "config.json").write_text(json.dumps({**large, "num_attention_heads": 64}), encoding="utf-8")
    changes, _, fits = changes_to_fit(DEVICES[1], read_sizes(tmp_path), WIDE, p99=300)
    assert not fits
    assert changes[-2:] == ["--set quant_method=bnb", "--set quant_bits=4"]


@pytest.mark.parametrize(
    ("pinned", "advised"), [("bfloat16", ["--set torch_dtype=float16"]), ("float16", [])]
)
def test_a_t4_gets_float16(tmp_path: Path, pinned: str, advised: list[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_1_5B), encoding="utf-8")
    small = replace(WIDE, torch_dtype=pinned, compute_dtype=pinned, batch=8, longest=(200,) * 8)
    changes, _, fits = changes_to_fit(DEVICES[1], read_sizes(tmp_path), small, p99=100)
    assert (changes, fits) == (advised, True)


TESTED = ("--test-samples", 100)
TUNED = ("prepare", "tokens", "derive", "train", "tuned", "score", "report")


@pytest.mark.slow
def test_runs_of_a_study_are_estimated_by_one_measurement(capfd: pytest.CaptureFixture[str]) -> None:
    asked = [
        (make_experiment("--method", method, *flags, *(() if "--test-samples" in flags else TESTED)), stages)
        for method, flags, stages in (
            ("lora", ("--train-samples", 32), TUNED),
            ("lora", ("--train-samples", 512), TUNED),
            ("lora", ("--train-samples", 512, "--test-samples", 110), TUNED),
            ("label-loss", ("--train-samples", 512), TUNED),
            ("head", ("--train-samples", 512), TUNED),
            ("probe", ("--train-samples", 512), ("prepare", "baselines", "probe", "score", "report")),
            ("cot", ("--train-samples", 512), TUNED),
            ("plain-peft", ("--train-samples", 512), TUNED),
            ("dora", ("--train-samples", 5000), TUNED),
        )
    ]
    few, many, tested_elsewhere, label_loss, head, probe, *others = estimate_runs(asked, Screen())
    cot, plain, too_many = others
    assert capfd.readouterr().out.count("calibrating on") == 1
    assert few["seconds"] < many["seconds"] < label_loss["seconds"]  # which asks the base model, too
    assert tested_elsewhere["seconds"] < many["seconds"]  # whose training it takes over
    assert probe["seconds"] < head["seconds"]
    assert all(each["bytes"] > 1e8 for each in (few, many, label_loss, head, probe))
    assert [each["test"] for each in (few, probe, cot)] == [100, 100, 100]
    assert cot | {"seconds": None, "why": "plan does not cover method cot"} == cot
    assert plain | {"seconds": None, "why": "plan does not cover method plain-peft"} == plain
    assert "--train-samples 5000: there are only" in too_many["why"]


@pytest.mark.slow
def test_a_frozen_model_reads_a_row_once_for_all_draws_of_a_study() -> None:
    from workflows.commands.plan import runs

    kind = runs.Kind(
        rows={"train": 1000, "val": 100, "test": 200},
        seconds={"prepare": 1.0},
        tokens={"train": 10.0, "val": 10.0, "test": 10.0},
    )
    a_token = runs.Speeds(load=2.0, answered=1.0, evaluated=0, start=0, trained=0, reading=3e9, extra=0)
    read: dict[int | None, float] = {}
    draws: list[tuple[object, ...]] = [(100, 1), (200, 1), (200, 2), (), ()]
    seconds = []
    for draw in draws:
        flags = [
            part for pair in zip(("--train-samples", "--sample-seed"), draw, strict=False) for part in pair
        ]
        asked = make_experiment("--method", "probe", "--probe-rows", 100000, *flags)
        found = runs._estimate(asked, ("prepare", "probe"), kind, a_token, read, set())
        assert (found["bytes"], found["why"]) == (3e9, None)
        seconds.append(found["seconds"] - 1.0 - 2.0 - runs.SCORE_AND_REPORT)
    # With validation rows, a tenth more; the test rows with the first.
    new = [110 + 200, 110, 220, 1100 - 440, 0]
    assert seconds == pytest.approx([rows * 10.0 * runs.PROBED for rows in new])
