"""The systems of a finished run answer any text as the run answered its test rows.

Other methods and tasks: tests/tuning/test_methods.py, tests/inference/test_head.py and test_encoder.py.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.conftest import TINY, Command, make_experiment
from tests.served import assert_served_as_answered
from workflows.core.errors import UserError
from workflows.core.files import read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.model.arguments import build_infer_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import find_machine
from workflows.pipeline.run import do_stages, start_run
from workflows.serving.models import Models, load_model
from workflows.serving.systems import open_system


@pytest.fixture(scope="module")
def models(demo_run: tuple[RunFolder, str]) -> Models:
    """With the tuned adapter on the base that the other systems read."""
    models = Models()
    open_system(demo_run[0].path, "tuned", models)
    return models


@pytest.mark.parametrize("name", ["tuned", "zero_shot", "probe", "tfidf"])
def test_answers_are_those_of_the_run(demo_run: tuple[RunFolder, str], models: Models, name: str) -> None:
    assert_served_as_answered(demo_run[0], name, models)


def test_runs_beside_each_other_answer_by_their_own_weights(
    demo_run: tuple[RunFolder, str], models: Models, tmp_path: Path
) -> None:
    """In folders with dots, as the names of models have, and one in another dtype."""
    runs = [RunFolder(tmp_path / name) for name in ("demo-qwen2.5-0.5b", "demo-qwen2.5-0.5b-bf16")]
    for run in runs:
        shutil.copytree(demo_run[0].path, run.path)
    written = runs[1].experiment.read_text(encoding="utf-8")
    assert "torch_dtype: float32" in written
    in_bf16 = written.replace("torch_dtype: float32", "torch_dtype: bfloat16")
    runs[1].experiment.write_text(in_bf16, encoding="utf-8")
    assert_served_as_answered(runs[0], models=models)
    texts = [row["text"] for row in read_jsonl(demo_run[0].predictions("tuned"))[:50]]
    alone = open_system(runs[1].path, "tuned", Models()).answer(texts)
    assert open_system(runs[1].path, "tuned", models).answer(texts) == alone
    assert open_system(runs[0].path, "tuned", models).answer(texts) != alone


def test_adapters_of_unlike_kinds_answer_beside_each_other(tmp_path: Path) -> None:
    """peft refuses AdaLoRA's beside LoRA's on one model, and PiSSA's changes the weights of the base."""
    kinds = {
        "lora": LoraConfig(r=4, target_modules=["q_proj"]),
        "pissa": LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa"),
        "adalora": AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["q_proj"]),
    }
    for name, config in kinds.items():
        base = AutoModelForCausalLM.from_pretrained(TINY)
        get_peft_model(base, config).save_pretrained(str(tmp_path / name))
    arguments = build_infer_arguments(
        with_local_model(make_experiment()), find_machine(), Path(os.devnull), Path(os.devnull), None
    )
    models = Models()
    worn = {name: models.load(arguments, tmp_path / name)[2] for name in kinds}
    for name, wear in worn.items():
        with wear() as dressed:
            assert dressed.peft_type == kinds[name].peft_type
    shipped = AutoModelForCausalLM.from_pretrained(TINY).state_dict()
    with models.load(arguments, None)[2]() as untuned:
        weights = dict(untuned.get_base_model().named_parameters())
    query = "model.layers.0.self_attn.q_proj"
    assert torch.equal(weights[f"{query}.base_layer.weight"], shipped[f"{query}.weight"])


def test_a_merged_adapter_answers_as_one_beside_others(demo_run: tuple[RunFolder, str]) -> None:
    assert_served_as_answered(demo_run[0])


def test_what_a_run_asked_of_vllm_is_not_asked_where_it_answers() -> None:
    plain = make_experiment()  # vLLM itself is refused here, for want of a GPU
    overrides = {"vllm_gpu_memory_utilization": "0.4"}
    asked = replace(plain, overrides=overrides, tuning=replace(plain.tuning, engine="vllm"))
    _, template, worn = load_model(asked, None, None)
    with worn() as model:
        assert model.config.model_type == template.model_info.model_type


def test_tfidf_answers_where_the_prompt_shows_training_rows(command: Command, tmp_path: Path) -> None:
    few = ("--prompt", "zh-few-shot", "--train-samples", 200, "--run-folder", tmp_path / "run")
    assert command("prepare", *few).returncode == 0
    (answer,) = open_system(tmp_path / "run", "tfidf").answer(["味道很好，下次还来"])
    assert answer["prediction"] == "positive"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("majority", (), "majority answers no new texts; take one of tuned, zero_shot, probe, tfidf"),
        (
            "probe",
            ("--method", "encoder", "--model", "bert-base-chinese"),
            "an encoder has no probe; take another",
        ),
        ("probe", (), "probe is not finished; finish it first"),
        ("tfidf", (), r"data/val\.jsonl is missing, which tfidf needs; take a copy with its rows"),
        ("zero_shot", ("--prompt", "zh-few-shot"), r"data/train\.jsonl is missing, which zero_shot needs"),
    ],
)
def test_a_system_that_a_run_cannot_have_or_lacks_the_rows_of_is_refused(
    tmp_path: Path, name: str, flags: tuple[str, ...], message: str
) -> None:
    experiment = make_experiment(*flags)
    run = start_run(experiment, tmp_path, Screen())
    do_stages(run, experiment, ("prepare",), Screen())
    run.split("val" if name == "tfidf" else "train").unlink()
    with pytest.raises(UserError, match=message):
        open_system(run.path, name)


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        open_system(tmp_path)
