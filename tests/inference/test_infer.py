"""Outputs reach their rows by id, and a run with too few or too many outputs fails."""

import pytest

from run_swift import build_parser
from workflows.assemble import assemble_experiment
from workflows.inference.infer import join_outputs

EXPERIMENT = assemble_experiment(build_parser().parse_args(["run"]))
TEST = [
    {"id": "train:5", "review": "很好", "label": 1},
    {"id": "train:2", "review": "很差", "label": 0},
]


def test_outputs_in_another_order_reach_their_rows() -> None:
    rows = join_outputs(TEST, {"train:2": "负面", "train:5": "我说不好"}, EXPERIMENT)
    assert rows == [
        {
            "id": "train:5",
            "text": "很好",
            "gold": "positive",
            "output": "我说不好",
            "prediction": None,
            "probabilities": None,
        },
        {
            "id": "train:2",
            "text": "很差",
            "gold": "negative",
            "output": "负面",
            "prediction": "negative",
            "probabilities": None,
        },
    ]


@pytest.mark.parametrize(
    "outputs", [{"train:2": "负面"}, {"train:2": "负面", "train:5": "", "train:9": "正面"}]
)
def test_other_ids_than_the_test_rows_fail(outputs: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="outputs for 2 test rows"):
        join_outputs(TEST, outputs, EXPERIMENT)
