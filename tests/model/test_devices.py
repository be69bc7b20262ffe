"""What is computed on another device than the CPU: the same numbers, and no tensor left behind."""

import json
import subprocess
import sys

import pytest

from workflows.experiment.cards import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    program = [sys.executable, "-m", "tests.on_pretended_device"]
    done = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    if isinstance(last, str):
        pytest.skip(last)
    return last


@pytest.mark.parametrize("case", ["answers", "scores_of_a_head", "hidden_states", "losses_with_every_term"])
def test_another_device_gets_the_same_numbers(found: dict[str, str], case: str) -> None:
    assert found[case] == "same"


def test_a_tensor_left_on_the_cpu_is_found(found: dict[str, str]) -> None:
    assert "same device" in found["a_planted_mistake"]
