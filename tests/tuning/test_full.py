"""What is tuned whole, a Qwen, an encoder, or a head beside LoRA: fp32 weights, computed in 16 bits."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import LAST, TINY, make_experiment, run_command, settings
from tests.tiny_encoder import build_encoder
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.core.screen import Screen
from workflows.pipeline.run import do_stages, start_run

pytestmark = pytest.mark.slow

# What a CPU with bf16 gets by itself, so that it is so on every machine; no warm-up: three steps are all.
MIXED = ["--set", "bf16=true", "--set", "warmup_ratio=0", "--set", "lr_scheduler_type=constant"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, demo_rows: list[dict[str, str]]) -> dict[str, RunFolder]:
    """The finished runs by method; `model` in their parent folder is what each began with."""
    folder = tmp_path_factory.mktemp("full")
    shutil.copytree(TINY, folder / "full" / "model")
    build_encoder(folder / "encoder" / "model", [row["text"] for row in demo_rows])
    runs = {method: RunFolder(folder / method / "run") for method in ("full", "encoder")}
    commands = [
        [
            *("run", "--method", method, "--model", str(run.path.parent / "model"), *MIXED, *LAST),
            *("--train-samples", "60", "--test-samples", "20", "--run-folder", str(run.path)),
        ]
        for method, run in runs.items()
    ]
    for command in commands:
        done = run_command(*command)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return runs


@pytest.mark.parametrize(
    ("method", "layer"),
    [
        ("full", "model.layers.0.self_attn.q_proj.weight"),
        ("encoder", "bert.encoder.layer.0.attention.self.query.weight"),
    ],
)
def test_every_weight_takes_steps_of_a_small_learning_rate(
    runs: dict[str, RunFolder], method: str, layer: str
) -> None:
    run = runs[method]
    arguments = read_json(run.sft / "args.json")
    assert (arguments["torch_dtype"], arguments["bf16"], arguments["learning_rate"]) == (
        "float32",
        True,
        2e-5,
    )
    before = load_file(run.path.parent / "model" / "model.safetensors")[layer].float()
    after = load_file(checkpoint_of(run) / "model.safetensors")[layer].float()
    changed = (before != after).float().mean()
    assert changed > 0.99  # of bf16 weights, most would be what they were
    assert (before.bfloat16() != after.bfloat16()).float().mean() < 0.9
    assert len(read_jsonl(run.predictions("tuned"))) == 20


def test_a_head_on_a_bf16_model_is_trained_in_fp32_and_so_goes_on_after_a_stop(tmp_path: Path) -> None:
    options = [*MIXED, *settings("torch_dtype=bfloat16", "max_steps=4", "eval_steps=2", "save_steps=2")]
    sizes = ("--train-samples", "40", "--test-samples", "8", "--eval-rows", "2")
    experiment = make_experiment("--method", "head", *sizes, *options)
    run = start_run(experiment, tmp_path / "run", Screen())
    do_stages(run, experiment, ("prepare", "tokens", "train"), Screen())
    first, last = (load_file(run.sft / f"checkpoint-{step}" / "adapter_model.safetensors") for step in (2, 4))
    assert {weight.dtype for weight in last.values()} == {torch.float32}
    (head,) = (name for name in last if "score" in name)
    assert (first[head] != last[head]).float().mean() > 0.99  # of bf16 weights, many would be what they were
    shutil.rmtree(run.sft / "checkpoint-4")  # as where it was stopped before that
    run.training.unlink()
    do_stages(run, experiment, ("train", "tuned"), Screen())
    assert read_json(run.stages)["train"]["systems"]["tuned"]["resumed"]
    again = load_file(run.sft / "checkpoint-4" / "adapter_model.safetensors")
    assert all(torch.equal(again[name], weight) for name, weight in last.items())
    assert len(read_jsonl(run.predictions("tuned"))) == 8
