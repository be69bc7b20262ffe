"""Every method runs on the embedded model, from the command line to the scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import LAST, Command, make_experiment, run_command
from tests.served import assert_served_as_answered, load_for_answers
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl, sha256
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.experiment.experiment import load_experiment
from workflows.inference.infer import merge_adapter
from workflows.inference.scorer import prompt_tokens
from workflows.model.arguments import build_sft_arguments, refuse_other_prompting
from workflows.model.folder import with_local_model
from workflows.model.machine import Machine
from workflows.model.swift_names import check_overrides
from workflows.serving.systems import open_system

pytestmark = pytest.mark.slow

SIZES = ["--train-samples", "60", "--test-samples", "20"]
# Of three checkpoints, by the largest loss; each with ranks of its own, which AdaLoRA takes from every step.
FIRST_IS_BEST = [
    *("--set", "eval_steps=1", "--set", "save_steps=1", "--set", "warmup_ratio=0"),
    *("--set", "greater_is_better=true"),
]
FROM_RUN = ["--from-run", "{folder}/lora"]
RUNS = {
    "lora": ["--method", "lora"],
    "full": ["--method", "full"],
    "adalora": ["--method", "adalora", *FIRST_IS_BEST],
    "dora": ["--method", "dora"],
    "lora-embedding": ["--method", "lora-embedding"],
    "smoothed": ["--method", "lora", "--set", "label_smoothing_factor=0.1"],
    "nothing added": ["--method", "label-loss", "--set", "recipe.alpha=0", "--set", "recipe.beta=0"],
    "label-loss": ["--method", "label-loss", "--set", "recipe.class_weights=balanced"],
    "plain-peft": ["--method", "plain-peft"],
    "distill": ["--method", "distill", *FROM_RUN],
    "dpo": ["--method", "dpo", *FROM_RUN, "--set", "learning_rate=1e-3"],
    "cot": ["--method", "cot", "--set", "recipe.samples=12", "--set", "recipe.min_characters=2"],
    "pseudo-label": [
        *("--method", "pseudo-label", *FROM_RUN, "--unlabelled", "{folder}/more.csv"),
        *("--set", "recipe.threshold=0.5"),
    ],
}


# Of the others losses and weights are looked at alone.
ANSWER = [name for name in RUNS if name not in ("smoothed", "nothing added")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, demo_rows: list[dict[str, str]]) -> dict[str, RunFolder]:
    """The finished runs by name."""
    folder = tmp_path_factory.mktemp("methods")
    texts = "\n".join(row["text"] for row in demo_rows[:100])
    (folder / "more.csv").write_text("text\n" + texts, encoding="utf-8")
    commands: list[list[str]] = []
    for name, options in RUNS.items():
        path = str(folder / name)
        given = [option.replace("{folder}", str(folder)) for option in options]
        last = (
            ["--set", "max_steps=3"] if name == "plain-peft" else LAST
        )  # which has the last step in any case
        commands.append(["prepare", *last, *SIZES, *given, "--run-folder", path])
        commands += [
            [command, path] for command in (("train", "infer", "score") if name in ANSWER else ("train",))
        ]
    for arguments in commands:
        done = run_command(*arguments)
        assert done.returncode == 0, done.stderr[-3000:]
    return {name: RunFolder(folder / name) for name in RUNS}


@pytest.mark.parametrize("name", ANSWER)
def test_a_method_is_trained_and_scored_before_and_after(runs: dict[str, RunFolder], name: str) -> None:
    run = runs[name]
    assert read_json(run.training)["steps"] == 3
    systems = read_json(run.scores)["systems"]
    assert {"zero_shot", "tuned"} <= set(systems)
    before, after = (read_jsonl(run.predictions(system)) for system in ("zero_shot", "tuned"))
    assert len(before) == len(after) == 20
    assert [row["probabilities"] for row in before] != [row["probabilities"] for row in after]
    used = read_json(run.training)["rows"]["train"]
    assert used["given"] == used["used"]


def test_a_reasoned_answer_is_given_in_a_labels_words(runs: dict[str, RunFolder]) -> None:
    said = {"output": "正面\n因为", "prediction": "positive"}
    assert open_system(runs["cot"].path).words(said) == "正面"
    assert open_system(runs["lora"].path).words(said) == said["output"]


def test_an_adapter_is_trained_on_with_the_prompt_that_it_was_tuned_with(runs: dict[str, RunFolder]) -> None:
    flags = ("--method", "dpo", "--from-run", str(runs["lora"].path))
    machine = Machine("cpu", "", "float32", "")
    own = make_experiment(*flags, "--set", "system=你好", "--set", "enable_thinking=False")
    with pytest.raises(UserError, match="was tuned with no system no enable_thinking; give the same"):
        build_sft_arguments(runs["dpo"], with_local_model(own), machine)
    in_four_bits = replace(load_experiment(runs["lora"].experiment), preset={"quant_bits": 4})
    same = replace(make_experiment(*flags), overrides={"quant_bits": "4"})
    refuse_other_prompting(same, in_four_bits)
    with pytest.raises(UserError, match="was tuned with --set quant_bits=4; give the same"):
        refuse_other_prompting(make_experiment(*flags), in_four_bits)


@pytest.mark.parametrize("name", ANSWER)
def test_a_method_is_served_as_it_answered(runs: dict[str, RunFolder], name: str) -> None:
    assert_served_as_answered(runs[name])


def test_a_loss_to_which_nothing_is_added_is_that_of_lora_to_the_last_bit(runs: dict[str, RunFolder]) -> None:
    histories = []
    for name in ("lora", "nothing added"):
        history = read_json(runs[name].training)["log_history"]
        histories.append([entry[key] for entry in history for key in ("loss", "eval_loss") if key in entry])
    assert histories[0] == histories[1]
    weights = [checkpoint_of(runs[name]) / "adapter_model.safetensors" for name in ("lora", "nothing added")]
    assert sha256(weights[0]) == sha256(weights[1])


def test_adalora_ends_with_its_best_checkpoint_though_the_last_has_other_ranks(
    runs: dict[str, RunFolder],
) -> None:
    run = runs["adalora"]
    assert read_json(run.training)["checkpoint"] == checkpoint_of(run).name == "checkpoint-1"
    assert {path.name for path in run.sft.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-3"}
    best, last = (
        read_json(run.sft / name / "adapter_config.json")["rank_pattern"]
        for name in ("checkpoint-1", "checkpoint-3")
    )
    assert best != last


def _logged(run: RunFolder) -> dict[str, list[float]]:
    """The values of each term of the loss that the trainer logged."""
    terms: dict[str, list[float]] = {}
    for entry in read_json(run.training)["log_history"]:
        for name, value in entry.items():
            terms.setdefault(name, []).append(value)
    return terms


def test_each_term_of_the_loss_is_logged(runs: dict[str, RunFolder]) -> None:
    terms = _logged(runs["label-loss"])
    assert {"loss_answer", "loss_label", "loss_kl", "eval_loss"} <= set(terms)
    assert terms["loss_kl"][0] == pytest.approx(0, abs=1e-6)  # an adapter begins with no effect
    assert "eval_loss_label" not in terms  # an evaluation has the answers' loss alone
    assert min(_logged(runs["distill"])["loss_teacher"]) > 0
    assert "eval_loss_teacher" not in _logged(runs["distill"])


def test_label_smoothing_changes_the_loss_by_what_it_is_defined_as(runs: dict[str, RunFolder]) -> None:
    plain, smoothed = (_logged(runs[name])["loss"][0] for name in ("lora", "smoothed"))
    # (1 - e) x cross-entropy + e x mean over the vocabulary, which is above it where a model is sure.
    assert smoothed > plain


@pytest.mark.parametrize("name", ["adalora", "dora", "lora-embedding", "dpo"])
def test_a_merged_model_says_what_the_unmerged_one_does(
    runs: dict[str, RunFolder], name: str, tmp_path: Path
) -> None:
    run = runs[name]
    model, template = load_for_answers(load_experiment(run.experiment), tmp_path, checkpoint_of(run))
    torch.manual_seed(1)
    with torch.no_grad():  # three steps change little: what was trained gets an effect that cannot be missed
        for part, weight in model.named_parameters():
            if "lora_" in part or "modules_to_save" in part:
                weight.add_(0.1 * torch.randn_like(weight))
    prompts = [prompt_tokens(template, row) for row in read_jsonl(run.split("test"))[:3]]

    def logits(model: Any) -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(input_ids=torch.tensor([prompt])).logits for prompt in prompts]

    unmerged = logits(model)
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=torch.tensor([prompts[0]])).logits
    assert not torch.allclose(unmerged[0], base, atol=0.1)
    for before, after in zip(unmerged, logits(merge_adapter(model)), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_the_summary_says_what_became_of_every_row(runs: dict[str, RunFolder]) -> None:
    source = str(runs["lora"].path)
    for name in ("distill", "dpo", "cot", "pseudo-label"):
        summary = read_json(runs[name].derived_summary)
        assert summary["rows"]["train"] == 60
        assert summary["rows"]["derived"] == len(read_jsonl(runs[name].derived))
        assert sum(summary["rejected"].values()) == len(read_jsonl(runs[name].derived_rejected))
        if name != "cot":
            assert summary["from_run"]["folder"] == source
    rows = read_json(runs["pseudo-label"].derived_summary)["rows"]
    assert rows["unlabelled"] == 100
    assert rows["derived"] == 60 + rows["pseudo_labelled"] > 60
    assert rows["pseudo_labelled"] == 100 - len(read_jsonl(runs["pseudo-label"].derived_rejected))
    cot = read_json(runs["cot"].derived_summary)
    assert cot["rows"]["asked"] == 12 == cot["rows"]["with_reasoning"] + sum(cot["rejected"].values())
    for row in read_jsonl(runs["distill"].derived):
        assert sum(row["teacher"].values()) == pytest.approx(1)


def test_the_label_of_an_answer_that_goes_on_has_the_probability_of_its_words(
    runs: dict[str, RunFolder],
) -> None:
    plain, cot = (read_jsonl(runs[name].predictions("zero_shot")) for name in ("lora", "cot"))
    for ended, open_end in zip(plain, cot, strict=True):
        assert ended["output"] == open_end["output"]
        assert open_end["label_mass"] >= ended["label_mass"] - 1e-6


def test_a_finished_method_is_not_run_again(runs: dict[str, RunFolder], command: Command) -> None:
    done = command("train", runs["pseudo-label"].path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == 3


def test_dpo_takes_the_arguments_of_rlhf_and_needs_an_adapter(runs: dict[str, RunFolder]) -> None:
    experiment = load_experiment(runs["dpo"].experiment)
    check_overrides({"beta": "0.2", "rlhf_type": "dpo"}, experiment.recipe)
    with pytest.raises(UserError, match="SWIFT has no such argument"):
        check_overrides({"rlhf_type": "dpo"})
    whole = replace(experiment, tuning=replace(experiment.tuning, from_run=str(runs["full"].path)))
    with pytest.raises(UserError, match="is fully tuned; method dpo needs an adapter"):
        build_sft_arguments(runs["dpo"], with_local_model(whole), Machine("cpu", "", "float32", ""))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "dpo"], "method dpo starts from a finished run: name it with --from-run RUN"),
        (["--method", "lora", "--from-run", "{lora}"], "method lora starts from no other run; leave it out"),
        (["--method", "dpo", "--from-run", "{none}"], "not a run folder"),
        (["--method", "dpo", "--from-run", "{lora}", "--model", "tiny"], "--from-run gives the model"),
        (["--method", "distill", "--from-run", "{lora}", "--labels", "0=差评,1=好评"], "must be the same"),
        (["--method", "pseudo-label", "--from-run", "{lora}"], "needs reviews without labels"),
        (["--method", "lora", "--unlabelled", "x.csv"], "method lora takes no --unlabelled"),
        (["--method", "cot", "--labels", "0=好,1=好评"], "cannot tell them apart: take other words"),
        (["--set", "recipe.alpha=1"], "not a setting of method lora; it has no recipe settings"),
        (["--method", "label-loss", "--set", "recipe.gamma=1"], "its recipe has alpha, beta, class_weights"),
        (["--method", "label-loss", "--set", "recipe.alpha=much"], "alpha: Input should be a valid number"),
        (["--method", "label-loss", "--set", "recipe.alpha=inf"], "alpha: Input should be a finite number"),
        (["--method", "label-loss", "--set", "recipe.class_weights=all"], "should be 'none' or 'balanced'"),
        (["--method", "label-loss", "--set", "recipe.beta=-1"], "Input should be greater than or equal to 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_one_line(
    runs: dict[str, RunFolder], command: Command, tmp_path: Path, options: list[str], message: str
) -> None:
    names = {"{lora}": str(runs["lora"].path), "{none}": str(tmp_path)}
    given = [names.get(option, option) for option in options]
    done = command("run", *given, "--run-folder", tmp_path / "run")
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
