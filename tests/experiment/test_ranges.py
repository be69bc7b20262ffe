"""A number outside its range is refused when the command is read, with its key, its value and the range."""

from dataclasses import replace

import pytest

from tests.conftest import make_experiment
from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.experiment.checks import check_experiment
from workflows.experiment.ranges import RANGES
from workflows.model.swift_names import FILE


@pytest.mark.parametrize(
    ("pair", "wanted"),
    [
        *((f"learning_rate={value}", "above 0") for value in ("nan", "inf", "-inf", "-1e-4", "0")),
        *((f"{name}=0", "1 or more") for name in ("lora_rank", "max_length", "per_device_train_batch_size")),
        ("num_train_epochs=-1", "above 0"),
        ("lora_dropout=2", "from 0 to below 1"),
        ("warmup_ratio=5", "from 0 to below 1"),
        ("weight_decay=-0.1", "0 or more"),
        ("max_steps=0", "1 or more, or -1 for no limit"),
        ("split_dataset_ratio=1", "above 0, below 1"),
    ],
)
def test_a_number_outside_its_range_is_refused_with_the_range(pair: str, wanted: str) -> None:
    with pytest.raises(UserError, match=rf"^--set {pair}: must be a finite number, {wanted}\.$"):
        make_experiment("--set", pair)


def test_a_preset_and_a_model_card_are_checked_too() -> None:
    experiment = make_experiment()
    with pytest.raises(UserError, match=r"^method lora: lora_rank=0: must be a finite number, 1 or more\.$"):
        check_experiment(replace(experiment, preset={**experiment.preset, "lora_rank": 0}), None)
    hostile = replace(experiment.model, arguments={**experiment.model.arguments, "max_length": float("nan")})
    with pytest.raises(UserError, match=r"^model tiny: max_length=nan: must be"):
        check_experiment(replace(experiment, model=hostile), None)


def test_the_ends_of_the_ranges_are_taken_and_texts_left_to_swift() -> None:
    for pair in ("lora_dropout=0", "max_steps=-1", "lora_rank=1", "warmup_ratio=0", "warmup_steps=0"):
        make_experiment("--set", pair)
    make_experiment("--set", "lora_rank=eight")  # check_overrides says what SWIFT takes


@pytest.mark.parametrize("flag", ["--seed", "--data-seed"])
def test_a_seed_is_one_that_numpy_takes(flag: str) -> None:
    for seed in (-1, 1 << 32):
        with pytest.raises(UserError, match=rf"^{flag} {seed}: must be from 0 to 4294967295\.$"):
            make_experiment(f"{flag}={seed}")
    for seed in (0, (1 << 32) - 1):
        make_experiment(flag, seed)


def test_every_name_is_one_of_swifts_numbers() -> None:
    content = read_json(FILE)
    kinds = {**content["infer"], **content["rlhf"], **content["sft"]}
    assert {kinds[name] for _, names in RANGES.values() for name in names} == {"int", "float"}
