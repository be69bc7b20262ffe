"""Cards and presets are SWIFT's own arguments, read by SWIFT's own parser; what it refuses is one clear
line.
"""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from swift import InferArguments, SftArguments
from swift.pipelines.infer.deploy import SwiftDeploy

from tests.conftest import TINY, make_experiment, settings
from workflows.core.errors import UserError
from workflows.core.files import read_json, write_json, write_jsonl
from workflows.core.run_folder import RunFolder
from workflows.experiment.cards import METHODS, MODELS, load_preset, names_of, read_yaml
from workflows.experiment.recipes import Preference
from workflows.inference.scorer import prompt_tokens
from workflows.inference.swift_engine import limit_vllm
from workflows.model import swift_names
from workflows.model.arguments import (
    SFT_NAMES,
    build_deploy_arguments,
    build_infer_arguments,
    build_sft_arguments,
)
from workflows.model.folder import check_machine, with_local_model
from workflows.model.machine import Machine, fit_to_machine
from workflows.model.memory import fit_to_memory, load_of, memory, read_sizes
from workflows.model.swift_names import check_overrides

A10 = Machine("cuda", "NVIDIA A10", "bfloat16", "")
T4 = Machine("cuda", "Tesla T4", "float16", "")
CPU = Machine("cpu", "CPU", "float32", "")
# Every figure that the reference gives for the JD page, under today's names.
JD_PAGE = {
    "tuner_type": "lora",
    "target_modules": "c_attn",
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_bias": "none",
    "lora_dtype": "float32",
    "torch_dtype": "bfloat16",
    "use_chat_template": False,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16,
    "num_train_epochs": 1,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.05,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "weight_decay": 0.01,
    "max_grad_norm": 0.5,
    "gradient_checkpointing": True,
    "max_length": 2048,
    "truncation_strategy": "delete",
    "split_dataset_ratio": 0.01,
    "eval_steps": 50,
    "save_steps": 50,
    "save_total_limit": 2,
    "logging_steps": 5,
    "seed": 42,
    "data_seed": 42,
    "report_to": "tensorboard",
}
COURSE = {
    "lora_rank": 8,
    "lora_alpha": 16,
    "max_length": 512,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 3,
    "eval_strategy": "epoch",
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    row = {"messages": [{"role": "user", "content": "好"}, {"role": "assistant", "content": "正面"}]}
    for split in ("train", "val"):
        write_jsonl(folder.split(split), [row])
    return folder


def test_four_bits_are_refused_where_they_cannot_be_had() -> None:
    if torch.cuda.is_available() and importlib.util.find_spec("bitsandbytes"):
        pytest.skip("this machine can load a model in 4 bits")
    with pytest.raises(
        UserError, match=r"method qlora loads the model in 4 bits, which needs .*--method lora"
    ):
        check_machine(make_experiment("--method", "qlora"))


def test_presets_and_model_cards_hold_swift_names_only() -> None:
    for folder in (METHODS, MODELS):
        for name in names_of(folder):
            assert set(read_yaml(folder / f"{name}.yaml")) <= {*SFT_NAMES, "recipe", "rlhf_type", "beta"}, (
                name
            )


@pytest.mark.parametrize(("name", "figures"), [("jd-qwen-1.8b", JD_PAGE), ("course-chnsenticorp", COURSE)])
def test_presets_of_the_sources_have_their_figures(name: str, figures: dict[str, object]) -> None:
    preset, _ = load_preset(name)
    assert {key: preset[key] for key in figures} == figures


# The others need a GPU, another run, or (tests/inference/test_encoder.py) another kind of model.
PLAIN = sorted(set(names_of(METHODS)) - {"qlora", "dpo", "distill", "pseudo-label", "encoder"})


@pytest.mark.parametrize("method", PLAIN)
def test_every_preset_becomes_sft_arguments(run: RunFolder, method: str) -> None:
    experiment = with_local_model(
        make_experiment("--method", method, "--set", "learning_rate=3e-4", "--set", "lora_rank=16")
    )
    arguments = build_sft_arguments(run, experiment, CPU)
    assert isinstance(arguments, SftArguments)
    assert (arguments.learning_rate, arguments.lora_rank) == (3e-4, 16)
    assert arguments.per_device_train_batch_size == 32  # the model card's wins over the preset's
    assert (arguments.bf16, arguments.fp16, arguments.use_cpu) == (False, False, True)
    assert arguments.output_dir == str(run.sft)


def test_swifts_defaults_are_what_the_preset_says_of_them(run: RunFolder, tmp_path: Path) -> None:
    folder = tmp_path / "tiny-chat"  # a folder's name pins nothing, as the card of `tiny` does
    shutil.copytree(TINY, folder)
    experiment = with_local_model(make_experiment("--model", folder, "--method", "swift-defaults"))
    arguments = build_sft_arguments(run, experiment, CPU)
    own = arguments.training_args
    assert (own.learning_rate, own.warmup_ratio, own.weight_decay, own.num_train_epochs) == (1e-4, 0, 0.1, 3)
    assert (own.per_device_train_batch_size, own.gradient_accumulation_steps) == (1, 16)
    assert (own.group_by_length, own.train_dataloader_shuffle, arguments.padding_side) == (
        False,
        True,
        "right",
    )
    assert (own.eval_steps, own.save_steps, own.load_best_model_at_end) == (500, 500, False)
    assert (arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout) == (8, 32, 0.05)


def test_inference_is_greedy_in_five_tokens_with_the_model_of_training(
    run: RunFolder, tmp_path: Path
) -> None:
    experiment = with_local_model(make_experiment("--set", "system=你是评论员", "--set", "max_batch_size=7"))
    arguments = build_infer_arguments(experiment, CPU, run.split("val"), tmp_path / "out.jsonl", None)
    assert isinstance(arguments, InferArguments)
    assert (arguments.max_new_tokens, arguments.temperature, arguments.max_batch_size) == (5, 0, 7)
    assert (arguments.system, arguments.template, arguments.adapters) == ("你是评论员", "qwen", [])


def test_vllm_is_given_the_adapter_and_room_for_its_rank(run: RunFolder, tmp_path: Path) -> None:
    ready = with_local_model(make_experiment("--set", "lora_rank=64"))
    experiment = replace(ready, tuning=replace(ready.tuning, engine="vllm"))
    adapter = tmp_path / "checkpoint-1"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    arguments = build_infer_arguments(experiment, CPU, run.split("val"), tmp_path / "out.jsonl", adapter)
    assert (arguments.infer_backend, arguments.adapters) == ("vllm", [str(adapter)])
    assert arguments.get_vllm_engine_kwargs()["enable_lora"] is True
    assert arguments.vllm_max_lora_rank == 64
    assert arguments.vllm_gpu_memory_utilization == 0.5
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("好", "房间很大" * 9)]
    limit_vllm(arguments, rows)
    longest = len(prompt_tokens(arguments.get_template(), rows[1]))
    assert arguments.get_vllm_engine_kwargs()["max_model_len"] == longest + 5
    # A rank that vLLM has no room of; and what --set says of vLLM stays.
    asked = {"lora_rank": "24", "vllm_gpu_memory_utilization": "0.8", "vllm_max_model_len": "512"}
    experiment = replace(experiment, overrides=asked)
    arguments = build_infer_arguments(experiment, CPU, run.split("val"), tmp_path / "out.jsonl", adapter)
    assert (arguments.vllm_max_lora_rank, arguments.vllm_gpu_memory_utilization) == (32, 0.8)
    limit_vllm(arguments, rows)
    assert arguments.vllm_max_model_len == 512


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bnb_4bit_quant_type", "fp4"),
        ("bnb_4bit_use_double_quant", False),
        ("template_backend", "jinja"),
        ("new_special_tokens", ["<e1>"]),
    ],
)
def test_a_model_answers_as_it_was_loaded_and_asked_in_training(
    run: RunFolder, tmp_path: Path, name: str, value: object
) -> None:
    said = value[0] if isinstance(value, list) else str(value).lower()
    ready = with_local_model(make_experiment("--set", f"{name}={said}"))
    trained = build_sft_arguments(run, ready, CPU)
    asked = build_infer_arguments(ready, CPU, run.split("val"), tmp_path / "out.jsonl", None)
    assert getattr(trained, name) == getattr(asked, name) == value


def test_dtype_follows_the_machine_unless_it_is_pinned() -> None:
    preset, _ = load_preset("lora")
    assert fit_to_machine(preset, set(), A10)["torch_dtype"] == "bfloat16"
    t4 = fit_to_machine(preset, set(), T4)
    assert (t4["torch_dtype"], t4["fp16"], t4["bf16"]) == ("float16", True, False)
    assert "use_cpu" not in t4
    assert (
        fit_to_machine({**preset, "torch_dtype": "float32"}, {"torch_dtype"}, T4)["torch_dtype"] == "float32"
    )
    cpu = fit_to_machine(preset, set(), replace(CPU, torch_dtype="bfloat16"))
    assert (cpu["use_cpu"], cpu["bf16"], cpu["gradient_checkpointing"]) == (True, True, False)


@pytest.mark.parametrize(
    ("memory", "options", "expected"),
    [
        (24e9, (), (8, 1, False, 16384)),  # the preset's checkpointing is for who has less
        (24e9, ("--set", "gradient_accumulation_steps=2"), (8, 2, False, 16384)),  # what --set says stays
        (24e9, ("--method", "jd-qwen-1.8b"), (16, 1, False, 16384)),  # 1 x 16 there, the same batch at once
        (24e9, ("--method", "head"), (8, 1, False, 16384)),
        (1.0e9, (), (8, 1, False, 4096)),
        (0.8e9, (), (8, 1, True, 1000)),  # one row at a time, the longest
    ],
)
def test_tokens_at_a_time_and_checkpointing_follow_the_memory_at_the_same_batch(
    run: RunFolder,
    tmp_path: Path,
    memory: float,
    options: tuple[str, ...],
    expected: tuple[int, int, bool, int],
) -> None:
    folder = tmp_path / "tiny-chat"  # a folder's name pins nothing, as the card of `tiny` does
    shutil.copytree(TINY, folder)
    here = ("--set", "use_cpu=true", "--set", "torch_dtype=float32")  # the machine that is meant has a GPU
    ready = with_local_model(make_experiment("--model", str(folder), *here, *options))
    if "jd-qwen-1.8b" in options:  # the first Qwen's module
        ready = replace(ready, preset={**ready.preset, "target_modules": "all-linear"})
    write_json(run.tokens, {"splits": {"train": {"max": 1000}}})
    fitted, piece_tokens = fit_to_memory(run, ready, A10, memory)
    arguments = build_sft_arguments(run, fitted, CPU)
    own = arguments.training_args
    found = (own.per_device_train_batch_size, own.gradient_accumulation_steps, own.gradient_checkpointing)
    assert (*found, piece_tokens) == expected


def test_a_plain_script_is_given_nothing_that_it_does_not_read() -> None:
    read = ("learning_rate=1e-3", "lora_rank=4", "max_steps=3", "torch_dtype=float32", "max_batch_size=4")
    experiment = make_experiment("--method", "plain-peft", *settings(*read))
    check_overrides(experiment.overrides, experiment.recipe)
    for name in ("warmup_ratio", "use_dora", "eval_steps", "gradient_checkpointing", "target_modules"):
        value = experiment.preset.get(name, "1")
        with pytest.raises(
            UserError, match=f"--set {name}: the plain script does not read it; it has adam_b"
        ):
            check_overrides({name: str(value)}, experiment.recipe)
    with pytest.raises(UserError, match="--best-by macro_f1: method plain-peft keeps its last step"):
        make_experiment("--method", "plain-peft", "--best-by", "macro_f1")


def test_a_trained_embedding_needs_its_fp32_copy_gradient_and_two_moments(run: RunFolder) -> None:
    write_json(run.tokens, {"splits": {"train": {"max": 100}}})
    needed = {}
    for method in ("lora", "lora-embedding"):
        ready = with_local_model(make_experiment("--method", method))
        load = load_of(run, build_sft_arguments(run, ready, CPU), ready, CPU)
        sizes = read_sizes(Path(ready.model.arguments["model"]))
        needed[method] = memory(sizes, load)
    embedding = sizes.config.vocab_size * sizes.config.hidden_size
    assert needed["lora-embedding"] - needed["lora"] == pytest.approx(16 * embedding)


def test_a_switch_is_on_however_it_is_written(run: RunFolder) -> None:
    write_json(run.tokens, {"splits": {"train": {"max": 100}}})
    for value, on in (("1", True), ("f", False)):
        ready = with_local_model(make_experiment("--set", f"gradient_checkpointing={value}"))
        assert load_of(run, build_sft_arguments(run, ready, CPU), ready, CPU).checkpointing is on


def test_what_is_trained_is_reckoned_as_it_begins(run: RunFolder) -> None:
    """AdaLoRA begins with more ranks than it keeps; DPO reads a row with its right and its wrong label."""
    write_json(run.tokens, {"splits": {"train": {"max": 100}}})
    write_json(run.derived_summary, {"tokens": {"longest": [100, 90]}})
    adalora = with_local_model(make_experiment("--method", "adalora"))
    assert load_of(run, build_sft_arguments(run, adalora, CPU), adalora, CPU).lora_rank == 12
    pairs = replace(with_local_model(make_experiment()), recipe=Preference("dpo"))
    arguments = build_sft_arguments(run, pairs, CPU)
    load = load_of(run, arguments, pairs, CPU)
    assert load.batch == 2 * arguments.training_args.per_device_train_batch_size
    assert load.longest == (100, 100, 90, 90)


def test_texts_for_list_arguments_and_values_with_a_dash_reach_swift(run: RunFolder) -> None:
    options = ["--set", "target_modules=q_proj,v_proj", "--set", "system=-请回答"]
    arguments = build_sft_arguments(run, with_local_model(make_experiment(*options)), CPU)
    assert (arguments.target_modules, arguments.system) == (["q_proj", "v_proj"], "-请回答")


def test_an_unknown_name_in_a_preset_is_refused(run: RunFolder) -> None:
    experiment = with_local_model(make_experiment())
    misspelt = replace(experiment, preset={**experiment.preset, "learning_rat": 1e-3})
    with pytest.raises(UserError, match=r"SWIFT has no argument learning_rat; .* Nearest: learning_rate"):
        build_sft_arguments(run, misspelt, CPU)


def test_a_fully_tuned_checkpoint_is_the_model_of_inference(run: RunFolder, tmp_path: Path) -> None:
    experiment = with_local_model(make_experiment())
    whole = Path(experiment.model.arguments["model"])  # a folder with weights and no adapter
    arguments = build_infer_arguments(experiment, CPU, run.split("val"), tmp_path / "out.jsonl", whole)
    assert (arguments.model, arguments.adapters) == (str(whole), [])


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"--set learning_rat: SWIFT has no such argument\. Nearest: learning_rate"
    ):
        check_overrides({"learning_rat": "1"})
    with pytest.raises(UserError, match="--set output_dir: the run sets this itself; use --run-folder"):
        check_overrides({"output_dir": "x"})
    with pytest.raises(UserError, match=r'--set use_cpu: .* put CUDA_VISIBLE_DEVICES="" before the command'):
        check_overrides({"use_cpu": "true"})  # of the job, it would take only the training off a GPU
    with pytest.raises(
        UserError, match=r"repetition_penalty: .* answers are decoded as the model's files say"
    ):
        check_overrides({"repetition_penalty": "1.0"})


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("learning_rate=abc", "argument --learning_rate.*'abc'"),
        ("truncation_strategy=cut", "argument --truncation_strategy.*: invalid choice: 'cut'"),
        ("packing=true", "flash"),
    ],
)
def test_a_value_that_swift_refuses_is_one_line(run: RunFolder, override: str, complaint: str) -> None:
    with pytest.raises(UserError, match=f"SWIFT refuses the arguments: .*{complaint}") as caught:
        build_sft_arguments(run, with_local_model(make_experiment("--set", override)), CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("lora_rank", "eight", "a whole number"),
        ("learning_rate", "fast", "a finite number"),
        ("weight_decay", "nan", "a finite number"),
        ("gradient_checkpointing", "maybe", "true or false"),
        ("truncation_strategy", "cut", "one of .*delete"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_before_anything_runs(
    name: str, value: str, wanted: str
) -> None:
    good = {"learning_rate": "3e-4", "target_modules": "all-linear", "max_batch_size": "8", "bf16": "True"}
    check_overrides(good)
    with pytest.raises(UserError, match=f"--set {name}={value}: SWIFT takes {wanted}"):
        check_overrides({name: value})


def test_the_names_that_are_known_without_swift_are_the_installed_swifts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = swift_names.describe_swift()
    if installed["made_with"] != read_json(swift_names.FILE)["made_with"]:
        pytest.skip(f"swift_names.json was made with other versions than {installed['made_with']}")
    assert read_json(swift_names.FILE) == installed
    monkeypatch.setattr(swift_names, "_versions", lambda: {"ms-swift": "4.6.9", "transformers": "5.20"})
    with pytest.raises(UserError, match=r"SWIFT has no such argument\. Nearest: learning_rate"):
        check_overrides({"learning_rat": "1"})  # SWIFT itself was asked
    check_overrides({"rlhf_type": "dpo"}, Preference("dpo"))


def test_swifts_own_server_gets_the_adapters_by_name(tmp_path: Path) -> None:
    """What can be seen without vLLM: SWIFT's parser takes the arguments, adapters have names."""
    for name in ("first", "second"):
        write_json(tmp_path / name / "adapter_config.json", {})
    ready = [with_local_model(make_experiment("--set", f"lora_rank={rank}")) for rank in (8, 64)]
    adapters = {name: tmp_path / name for name in ("first", "second")}
    parsed = build_deploy_arguments(ready, CPU, adapters, "127.0.0.1", 0, "a-secret")
    assert parsed.vllm_max_lora_rank == 64
    assert parsed.adapter_mapping == {name: str(path) for name, path in adapters.items()}
    assert (parsed.infer_backend, parsed.host, parsed.max_new_tokens) == ("vllm", "127.0.0.1", 5)
    assert (parsed.api_key, "a-secret" in repr(parsed)) == ("a-secret", False)  # SWIFT logs its arguments
    assert {*SwiftDeploy._AUTH_EXEMPT_PATHS} == {"/health", "/health/", "/ping", "/v1/models"}  # open to all


def test_a_token_of_the_hub_opens_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SWIFT logs in wherever there is one, also for an embedded model; out of reach, that was a traceback."""

    def connect(*given: object) -> None:
        raise AssertionError(f"a socket was opened: {given}")

    ready = with_local_model(make_experiment("--model", "tiny"))
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-a-token")
    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    parsed = build_infer_arguments(ready, CPU, tmp_path / "none", tmp_path / "none", None)
    assert parsed.hub_token is None
