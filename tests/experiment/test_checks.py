"""What does not go together is refused before anything is read or trained."""

import pytest

from tests.conftest import make_experiment
from workflows.core.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--model", "qwen2.5-0.5b", "--prompt", "zh-system"),
            "zh-system: qwen2.5-0.5b reads no system",
        ),
        (("--model", "qwen2.5-0.5b", "--set", "system=你好"), "system: qwen2.5-0.5b reads no system prompt"),
        (
            ("--method", "encoder", "--model", "bert-base-chinese", "--prompt", "zh-system"),
            "prompt zh-system: bert-base-chinese reads no system prompt",
        ),
        (("--set", "target_modules=all-linear all-embedding"), "take --method lora-embedding"),
        (("--eval-rows", "1"), "--eval-rows 1: takes a row of each of the 2 labels at least"),
        (("--probe-rows", "1"), "--probe-rows 1: takes a row of each of the 2 labels at least"),
    ],
)
def test_what_would_be_passed_over_or_fail_late_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_experiment(*arguments)
