"""What SWIFT is told on the GPUs that people have, for every method; none of them is here."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY
from tests.pretended import A10, T4, V100, Gpu, torch_shows
from tests.tiny_encoder import build_encoder
from workflows.core.errors import UserError
from workflows.core.files import write_jsonl
from workflows.core.run_folder import RunFolder
from workflows.experiment.cards import (
    METHODS,
    ModelCard,
    load_dataset_card,
    load_preset,
    load_prompt,
    names_of,
)
from workflows.experiment.experiment import Experiment
from workflows.experiment.model_cards import describe_folder, load_model_card
from workflows.experiment.options import DataOptions, TuningOptions
from workflows.model.arguments import build_infer_arguments, build_sft_arguments, merged_arguments
from workflows.model.folder import check_machine
from workflows.model.machine import Machine, find_machine

COMPUTED_IN = {"A10": torch.bfloat16, "A10 + flash_attn": torch.bfloat16, "2 x A10": torch.bfloat16}
COMPUTED_IN |= {"T4": torch.float16, "V100": torch.float16}
MACHINES = {
    "A10": A10,
    "A10 + flash_attn": A10,
    "2 x A10": Gpu(A10.name, A10.capability, count=2),
    "T4": T4,
    "V100": V100,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelCard]:
    """A Qwen and an encoder whose cards pin nothing."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(TINY, folder / "tiny-chat")
    build_encoder(folder / "tiny-bert", ["好"])
    return {name: ModelCard(name, describe_folder(folder / name)) for name in ("tiny-chat", "tiny-bert")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    row = {"messages": [{"role": "user", "content": "好"}, {"role": "assistant", "content": "正面"}]}
    for split in ("train", "val"):
        write_jsonl(folder.split(split), [row])
    write_jsonl(folder.derived, [row])
    return folder


def _experiment(method: str, model: ModelCard, **overrides: str) -> Experiment:
    preset, recipe = load_preset(method)
    return Experiment(
        data=DataOptions(),
        tuning=TuningOptions(method=method),
        lang="zh",
        dataset=load_dataset_card("demo"),
        model=model,
        prompt=load_prompt("zh-question"),
        preset=preset,
        overrides=overrides,
        recipe=recipe,
    )


def _pretended(name: str) -> Machine:
    with torch_shows(MACHINES[name]):
        return find_machine()


def _with_flash_attn(monkeypatch: pytest.MonkeyPatch, folder: Path, content: str = "") -> None:
    """A package flash_attn that can be imported, as on ModelScope's images; transformers takes it for one."""
    (folder / "flash_attn.py").write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("method", names_of(METHODS))
def test_arguments(
    run: RunFolder,
    models: dict[str, ModelCard],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    method: str,
    machine: str,
) -> None:
    if machine == "A10 + flash_attn":
        _with_flash_attn(monkeypatch, tmp_path)
    here, computed_in = _pretended(machine), COMPUTED_IN[machine]
    # SWIFT builds its arguments for the device that is here: use_cpu is this test's alone.
    experiment = _experiment(
        method, models["tiny-bert" if method == "encoder" else "tiny-chat"], use_cpu="true"
    )
    training: Any = build_sft_arguments(run, experiment, here)
    is_full = method in ("full", "encoder")
    assert training.torch_dtype == (torch.float32 if is_full else computed_in)
    assert (training.bf16, training.fp16) == (computed_in == torch.bfloat16, computed_in == torch.float16)
    assert (training.training_args.bf16, training.training_args.fp16) == (training.bf16, training.fp16)
    assert (training.attn_impl, training.padding_free, training.packing) == (None, False, False)
    assert training.device_map == "cuda:0"
    answering = build_infer_arguments(experiment, here, run.split("val"), tmp_path / "out.jsonl", None)
    assert (answering.torch_dtype, answering.device_map) == (computed_in, "cuda:0")
    if method == "qlora":
        assert training.bnb_4bit_compute_dtype == answering.bnb_4bit_compute_dtype == computed_in


def test_each_of_several_processes_has_a_gpu_of_its_own(
    run: RunFolder, models: dict[str, ModelCard], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What torchrun says to the second process of a machine.
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    experiment, here = _experiment("lora", models["tiny-chat"]), _pretended("2 x A10")
    assert merged_arguments(experiment, here)["device_map"] == "cuda:1"
    answering = build_infer_arguments(experiment, here, run.split("val"), tmp_path / "out.jsonl", None)
    assert answering.device_map == "cuda:1"
    pinned = _experiment("lora", models["tiny-chat"], device_map="cuda:0")
    assert merged_arguments(pinned, here)["device_map"] == "cuda:0"


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_card_or_set_pins_to_float32_is_computed_in_it(machine: str) -> None:
    for experiment in (
        _experiment("lora", load_model_card("tiny")),
        _experiment("full", load_model_card("qwen2.5-0.5b"), torch_dtype="float32"),
    ):
        merged = merged_arguments(experiment, _pretended(machine))
        assert [merged[name] for name in ("torch_dtype", "bf16", "fp16")] == ["float32", False, False]


@pytest.mark.parametrize(
    ("cpu", "expected"), [("bfloat16", ("float32", True, False)), ("float32", ("float32", False, False))]
)
def test_full_tuning_on_a_cpu_is_mixed_where_it_has_bf16(cpu: str, expected: tuple[str, bool, bool]) -> None:
    merged = merged_arguments(
        _experiment("full", load_model_card("qwen2.5-0.5b")), Machine("cpu", "", cpu, "")
    )
    assert tuple(merged[name] for name in ("torch_dtype", "bf16", "fp16")) == expected
    assert (merged["use_cpu"], merged["device_map"]) == (True, "cpu")


def test_full_tuning_of_fp16_weights_is_refused() -> None:
    experiment = _experiment("full", load_model_card("qwen2.5-0.5b"), torch_dtype="float16")
    with pytest.raises(UserError, match="method full trains all weights, which fp16 has too few digits for"):
        check_machine(experiment)


@pytest.mark.parametrize("name", ["flash_attn", "flash_attention_2"])
def test_flash_attention_is_let_through_where_it_works_and_refused_where_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    qwen = load_model_card("qwen2.5-0.5b")
    asked = _experiment("lora", qwen, attn_impl=name)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=f"--set attn_impl={name}: it needs an NVIDIA GPU; leave it out"):
            check_machine(asked)
    with torch_shows(T4), pytest.raises(UserError, match="it needs a GPU of Ampere or newer"):
        check_machine(asked)
    with torch_shows(A10):
        monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: False)
        with pytest.raises(UserError, match="flash_attn is not installed here"):
            check_machine(asked)
        _with_flash_attn(monkeypatch, tmp_path, "raise ImportError('undefined symbol: _ZN3c104')")
        with pytest.raises(
            UserError, match=r"built for another torch \(undefined symbol: _ZN3c104\); leave it out"
        ):
            check_machine(asked)
        _with_flash_attn(monkeypatch, tmp_path)
        check_machine(asked)
        for experiment in (
            _experiment("lora", load_model_card("tiny"), attn_impl=name),
            _experiment("full", qwen, attn_impl=name),
        ):
            with pytest.raises(UserError, match="it refuses float32, which this run's weights are in"):
                check_machine(experiment)


def test_a_mac_trains_and_answers_on_its_cpu(
    run: RunFolder, models: dict[str, ModelCard], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    experiment, machine = _experiment("lora", models["tiny-chat"]), find_machine()
    training = build_sft_arguments(run, experiment, machine)
    answering = build_infer_arguments(experiment, machine, run.split("val"), tmp_path / "out.jsonl", None)
    assert (machine.device, training.training_args.device.type) == ("cpu", "cpu")
    assert training.device_map == answering.device_map == "cpu"
