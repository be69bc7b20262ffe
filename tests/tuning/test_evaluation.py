"""An evaluation is one pass over a fixed sample of the validation rows, and judges as SWIFT's own does."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from swift.callbacks import TrainerCallback, callbacks_map
from swift.pipelines.utils import prepare_model_template
from tqdm import tqdm
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from tests.conftest import TINY, make_experiment, settings
from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.screen import Screen
from workflows.data.splits import sample_rows
from workflows.inference.infer import measure_validation, merged_for_a_while
from workflows.inference.predictions import head_loss
from workflows.model.arguments import build_infer_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import find_machine
from workflows.pipeline.run import do_stages, start_run
from workflows.tuning.callbacks import Pace, Plan, register_watch

SETTINGS = settings("max_steps=8", "eval_steps=2", "save_steps=2", "callbacks=witness")


@pytest.mark.slow
def test_its_loss_is_that_of_swifts_own_evaluation_and_keeps_the_same_checkpoint(tmp_path: Path) -> None:
    ours: list[float] = []
    swifts: list[float] = []

    class Witness(TrainerCallback):
        """Lets SWIFT evaluate the same model on the same rows."""

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
            ours.append(metrics["eval_loss"])
            rows = self.trainer.get_eval_dataloader()
            found = self.trainer.evaluation_loop(rows, "witness", prediction_loss_only=True)
            swifts.append(found.metrics["eval_loss"])

    callbacks_map["witness"] = Witness
    experiment = make_experiment("--train-samples", "256", "--test-samples", "20", *SETTINGS)
    run = start_run(experiment, tmp_path / "run", Screen())
    do_stages(run, experiment, ("prepare", "tokens", "train"), Screen())
    assert ours == pytest.approx(swifts, rel=1e-3)
    assert len(ours) == 4
    best = min(range(4), key=lambda at: swifts[at])
    assert read_json(run.training)["checkpoint"] == f"checkpoint-{2 * (best + 1)}"


def test_validation_rows_are_read_whole_whatever_the_training_cuts_them_to(tmp_path: Path) -> None:
    def messages_of(review: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": review}, {"role": "assistant", "content": "正面"}]

    experiment = with_local_model(make_experiment())
    arguments = build_infer_arguments(experiment, find_machine(), tmp_path, tmp_path, None)
    model, template = prepare_model_template(arguments)
    rows = [
        {"id": f"val:{at}", "label": at % 2, "review": each, "messages": messages_of(each)}
        for at, each in enumerate(["房间很干净，下次还来" * 4, "太吵了，隔音很差" * 3])
    ]
    whole = measure_validation(model, template, rows, experiment, tqdm(disable=True))
    template.max_length = 16
    assert measure_validation(model, template, rows, experiment, tqdm(disable=True)) == whole
    assert template.max_length == 16


def test_at_most_so_many_rows_are_looked_at_the_same_each_time_with_the_labels_shares() -> None:
    rows = [{"id": f"val:{at}", "label": int(at % 4 == 0)} for at in range(777)]
    looked_at = sample_rows(rows, 256, 42)
    assert looked_at == sample_rows(rows, 256, 42)
    assert len({row["id"] for row in looked_at}) == 256
    assert sum(row["label"] for row in looked_at) == pytest.approx(256 / 4, abs=1)
    assert sample_rows(rows[:40], 256, 42) == rows[:40]
    several = [{"id": f"val:{at}", "label": [at % 3]} for at in range(300)]
    assert len(sample_rows(several, 100, 42)) == 100


def test_an_adapter_is_in_the_weights_for_a_while_and_leaves_no_trace() -> None:
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16)
    model = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    ids = torch.arange(5, 25)[None]
    weights = {name: each.clone() for name, each in model.named_parameters()}
    with torch.no_grad():
        apart = model(input_ids=ids).logits
        with merged_for_a_while(model):
            assert all(layer.merged for layer in model.modules() if hasattr(layer, "merged_adapters"))
            merged = model(input_ids=ids).logits
        again = model(input_ids=ids).logits
    torch.testing.assert_close(merged, apart, rtol=0.1, atol=0.3)  # bf16
    assert torch.equal(again, apart)
    assert all(torch.equal(each, weights[name]) for name, each in model.named_parameters())


def test_an_adapter_that_holds_what_is_no_number_is_one_line() -> None:
    model = AutoModelForCausalLM.from_pretrained(TINY)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    layer = tuned.base_model.model.model.layers[-1].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B["default"].weight[0, 0] = torch.nan
    diverged = pytest.raises(UserError, match="not all numbers: its training has diverged")
    with diverged, merged_for_a_while(tuned):
        pytest.fail("it was merged")
    after = tuned.unload().state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_heads_loss_is_cross_entropy_or_squared_error() -> None:
    one = [{"gold": "good", "probabilities": {"bad": 0.25, "good": 0.75}}]
    assert head_loss(one, "single_label") == pytest.approx(-math.log(0.75))
    several = [{"gold": ["food"], "probabilities": {"food": 0.5, "price": 0.2}}]
    assert head_loss(several, "multi_label") == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    numbers = [{"gold": 4.0, "prediction": 3.0}, {"gold": 2.0, "prediction": 2.0}]
    assert head_loss(numbers, "regression") == 0.5


@pytest.mark.parametrize(("strategy", "save_steps"), [("steps", 10), ("steps", 30), ("epoch", 500)], ids=str)
@pytest.mark.parametrize("greater", [True, False])
def test_early_stopping_counts_on_after_a_stop(strategy: str, save_steps: int, greater: bool) -> None:
    register_watch(tqdm(disable=True), Plan(lambda model, template: {}, None, False, 0.0))
    args = TrainingArguments("/tmp", metric_for_best_model="macro_f1", greater_is_better=greater)
    args.save_strategy, args.early_stop_interval = IntervalStrategy(strategy), 5
    whole, control = callbacks_map["early_stop"](args, None), TrainerControl()
    state = TrainerState(save_steps=save_steps, log_history=[])
    for at, value in enumerate((0.5, 0.6, 0.6, 0.4, 0.5, 0.7, 0.3, 0.6, 0.7), start=1):
        state.global_step = 10 * at
        state.log_history += [{"loss": 1.0, "step": 10 * at}, {"eval_macro_f1": value, "step": 10 * at}]
        before = value if state.best_metric is None else state.best_metric
        state.best_metric = (max if greater else min)(value, before)
        if strategy == "steps" and state.global_step % save_steps:
            continue
        whole.on_save(args, state, control)
        resumed = callbacks_map["early_stop"](args, None)
        resumed.on_train_begin(args, state, TrainerControl())
        assert (resumed.best_metric, resumed.interval) == (whole.best_metric, whole.interval)
    anew = callbacks_map["early_stop"](args, None)
    anew.on_train_begin(args, TrainerState(save_steps=save_steps), TrainerControl())
    assert (anew.best_metric, anew.interval) == (None, 0)


def test_the_time_left_counts_long_rows_as_long_and_pauses_that_are_to_come() -> None:
    pace = Pace(total=1000.0, pauses=5)
    pace.add_step(100.0, 10.0)  # a step of long rows
    assert pace.left() == pytest.approx(90.0 + 5 * 8 * 10.0)  # until an evaluation was timed
    pace.paused.append(20.0)
    pace.add_step(20.0, 2.0)  # a step of short ones costs as much for each token
    assert pace.left() == pytest.approx(88.0 + 4 * 20.0)
    resumed = copy.deepcopy(pace)
    resumed.done = 900.0
    assert resumed.left() == pytest.approx(10.0 + 80.0)
