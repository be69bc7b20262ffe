"""The exported folder is the tuned model, for transformers alone, for this project, and on the hub."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard as HubCard

from tests.conftest import Command, make_experiment
from tests.fake_hub import FakeHub
from workflows.commands.export.export import (
    CONTINUED,
    WITH_SYSTEM,
    WITHOUT_THINKING,
    choose_chat_template,
    without_places,
)
from workflows.commands.export.model_card import write_model_card
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl, write_jsonl
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.data.messages import write_row
from workflows.data.reviews import Review
from workflows.experiment.cards import ROOT, ModelCard
from workflows.experiment.experiment import load_experiment, save_experiment
from workflows.experiment.model_cards import describe_folder
from workflows.model.arguments import build_infer_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import Machine
from workflows.serving.systems import open_system

TOKEN = "a-token-for-the-test"


@pytest.fixture(scope="module")
def exported(
    command: Command, demo_run: tuple[RunFolder, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, Path]:
    """The finished run (a copy), and the folder that it was exported to."""
    run = RunFolder(shutil.copytree(demo_run[0].path, tmp_path_factory.mktemp("export") / "run"))
    done = command("export", run.path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].endswith("/run/export")
    return run, run.path / "export"


def test_the_folder_answers_the_test_rows_as_the_run_did(exported: tuple[RunFolder, Path]) -> None:
    _, folder = exported
    check = read_json(folder / "export.json")
    assert (check["dtype"], check["test_rows"], check["prompts_equal"]) == ("float32", 300, 300)
    assert check["outputs_differing"] == []
    assert not list(folder.parent.glob(".export*"))
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    assert not any("adapter" in name for name in names)
    assert describe_folder(folder) == {"model": str(folder), "model_type": "qwen2", "template": "qwen"}


def test_the_folder_alone_answers_texts_and_names_no_place_of_this_machine(
    exported: tuple[RunFolder, Path], command: Command, tmp_path: Path
) -> None:
    run, folder = exported
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    written = read_jsonl(run.predictions("tuned"))
    found = open_system(moved).answer([row["text"] for row in written])
    assert [said["prediction"] for said in found] == [row["prediction"] for row in written]
    assert str(ROOT) not in (moved / "experiment.yaml").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="an exported folder has no probe, only tuned"):
        open_system(moved, "probe")
    done = command("explain", moved, "--text", written[0]["text"])
    assert done.returncode == 0, done.stderr
    assert command("score", moved).returncode == 2  # it is no run


def test_the_model_card_has_the_figures_and_no_path_of_this_machine(exported: tuple[RunFolder, Path]) -> None:
    run, folder = exported
    card = (folder / "README.md").read_text(encoding="utf-8")
    scores, manifest = read_json(run.scores), read_json(run.manifest)
    for system in scores["systems"].values():
        low, high = system["accuracy_interval"]
        assert card.count(f"{system['accuracy']:.3f} ({low:.3f} – {high:.3f})") >= 2  # in both languages
    assert scores["verdict"]["en"] in card
    assert scores["verdict"]["zh"] in card
    assert f"Rows read {manifest['rows']['read']}, kept {manifest['rows']['kept']}" in card
    assert f"读入 {manifest['rows']['read']} 行" in card
    for split in manifest["splits"].values():
        assert f"| {split['rows']} | negative {split['labels']['negative']}, positive" in card
    assert "| `lora_rank` | 8 |" in card
    assert "0 of 300 answers" in card
    for path in folder.iterdir():
        if path.suffix not in (".safetensors",):
            assert str(run.path.parents[1]) not in path.read_text(encoding="utf-8"), path.name


def test_a_hub_reads_the_figures_of_the_model_card_as_they_are(exported: tuple[RunFolder, Path]) -> None:
    run, folder = exported
    scores = read_json(run.scores)
    card = HubCard.load(folder / "README.md", ignore_metadata_errors=False)
    assert (card.data.license, card.data.language, card.data.base_model) == ("other", "zh", None)
    assert card.data.model_name == "demo-tiny-lora"
    tuned = scores["systems"]["tuned"]
    assert [
        (each.metric_type, each.metric_value, each.metric_args["interval_95"])
        for each in card.data.eval_results
    ] == [
        ("accuracy", tuned["accuracy"], tuned["accuracy_interval"]),
        ("f1", tuned["macro_f1"], tuned["macro_f1_interval"]),
    ]
    for each in card.data.eval_results:
        assert (each.task_type, each.dataset_type, each.dataset_split) == (
            "text-classification",
            "demo",
            "test",
        )
        assert each.dataset_args == {"rows": 300, "sha256": scores["test_sha256"]}


def test_files_of_ones_own_leave_no_place_of_this_machine(tmp_path: Path) -> None:
    for name, source in (
        ("method", "sft_args/lora.yaml"),
        ("prompt", "workflows/data/prompts/zh-system.yaml"),
    ):
        shutil.copy(ROOT / source, tmp_path / f"{name}.yaml")
    experiment = make_experiment(
        *("--method", tmp_path / "method.yaml", "--prompt", tmp_path / "prompt.yaml"),
        *("--set", f"logging_dir={tmp_path}", "--set", "learning_rate=1e-4"),
        *("--dataset", "dianping", "--neutral", "negative"),
    )
    written = save_experiment(without_places(experiment))
    assert str(tmp_path) in save_experiment(experiment)
    assert str(tmp_path) not in written
    assert "learning_rate=1e-4" in written
    assert without_places(experiment).data.neutral == "negative"  # what gold labels in a table mean


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--method", "full"), ("all weights were tuned", "全部权重都经过微调")),
        (
            ("--method", "plain-peft"),
            ("peft and transformers' Trainer", "以 peft 与 transformers 的 Trainer 微调"),
        ),
        (("--method", "cot"), ("then with its reasons", "随后是理由")),
        (("--set", "target_regex=a|b"), ("| `target_regex` | a\\|b |", "适配器已合并进权重")),
        (("--method", "label-loss"), ("| `recipe.alpha` |", "ModelScope SWIFT")),
    ],
)
def test_the_model_card_says_how_the_model_was_made(
    exported: tuple[RunFolder, Path], tmp_path: Path, flags: tuple[str, ...], said: tuple[str, ...]
) -> None:
    run, folder = exported
    base = folder.parent  # it has no card of its own
    write_model_card(tmp_path, run, make_experiment(*flags), base, read_json(RunFolder(folder).exported))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert all(each in card for each in said)


def test_rows_of_ones_own_go_by_their_file_in_the_model_card(
    exported: tuple[RunFolder, Path], tmp_path: Path
) -> None:
    """Also where `--dataset` names a card whose columns and labels they have."""
    run, folder = exported
    experiment = load_experiment(run.experiment)
    own = replace(experiment, data=replace(experiment.data, data_file="/home/me/手机评论.csv"))
    write_model_card(tmp_path, run, own, tmp_path, read_json(folder / "export.json"))
    card = HubCard.load(tmp_path / "README.md", ignore_metadata_errors=False)
    assert {(each.dataset_name, each.dataset_type) for each in card.data.eval_results} == {
        ("手机评论.csv", "手机评论")
    }
    assert "tuned on 手机评论.csv\n" in card.text
    assert experiment.dataset.title not in card.text


def test_the_lines_of_the_model_card_work_without_swift(exported: tuple[RunFolder, Path]) -> None:
    _, folder = exported
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert "swift" not in code
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "正面"


def test_the_folder_is_a_model_for_another_run(
    exported: tuple[RunFolder, Path], command: Command, tmp_path: Path
) -> None:
    run, folder = exported
    options = ["--model", folder, "--set", "torch_dtype=float32", "--test-samples", "40"]
    options += ["--probe-rows", "16"]
    other = RunFolder(tmp_path / "run")
    assert command("prepare", *options, "--run-folder", other.path).returncode == 0
    done = command("infer", other.path)
    assert done.returncode == 0, done.stderr[-3000:]
    tuned = {row["id"]: row["output"] for row in read_jsonl(run.predictions("tuned"))}
    for row in read_jsonl(other.predictions("zero_shot")):
        assert row["output"] == tuned[row["id"]]


def test_where_the_checkpoint_is_gone_the_way_to_a_new_one_works(
    command: Command, own_run: RunFolder
) -> None:
    shutil.rmtree(own_run.sft)
    vllm = ("serve", own_run.path, "--engine", "vllm")
    benchmark = ("benchmark", "inference", own_run.path)
    for words in (("export", own_run.path), ("predict", own_run.path, "--text", "好"), vllm, benchmark):
        said = command(*words)
        assert said.returncode == 2
        assert f"is gone; to train again remove {own_run.training}, then `run {own_run.path}`" in said.stderr
    own_run.training.unlink()
    experiment = load_experiment(own_run.experiment)
    short = replace(experiment, preset={**experiment.preset, "max_steps": 1})
    own_run.experiment.write_text(save_experiment(short), encoding="utf-8")
    done = command("train", own_run.path)
    assert done.returncode == 0, done.stderr
    assert checkpoint_of(own_run).is_dir()


def test_a_folder_that_answers_otherwise_is_not_kept(
    exported: tuple[RunFolder, Path], command: Command, tmp_path: Path
) -> None:
    run = RunFolder(shutil.copytree(exported[0].path, tmp_path / "run"))
    refused = command("export", run.path, "--output", run.sft)
    assert refused.returncode == 2
    assert "is there already" in refused.stderr
    rows = read_jsonl(run.predictions("tuned"))
    write_jsonl(run.predictions("tuned"), [{**rows[0], "output": "正面负面"}, *rows[1:]])
    unscored = command("export", run.path, "--output", tmp_path / "out")
    assert (unscored.returncode, "is not finished; finish it first" in unscored.stderr) == (2, True)
    assert command("score", run.path).returncode == 0
    done = command("export", run.path, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert f"answers 1 of 300 test rows otherwise than the run did, {rows[0]['id']} first" in done.stderr
    assert not list(tmp_path.glob("*out*"))


def test_a_push_uploads_the_folder_and_keeps_the_token_to_itself(
    exported: tuple[RunFolder, Path], command: Command, hub: FakeHub
) -> None:
    run, folder = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (folder / "logs").mkdir(exist_ok=True)  # as `predict` leaves them, with places of this machine
    (folder / "logs" / "predict.log").write_text(str(folder), encoding="utf-8")
    arguments = ["export", run.path, "--push", "someone/tuned"]
    done = command(*arguments, env={**hub.env, "MODELSCOPE_API_TOKEN": TOKEN})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "exported before" in done.stdout
    assert "/models/someone/tuned" in done.stdout.splitlines()[-1]
    there = {path.name: path.read_bytes() for path in (hub.root / "models" / "someone" / "tuned").iterdir()}
    assert there == before
    written = [*run.path.rglob("*"), *hub.root.rglob("*")]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written if path.is_file())
    assert TOKEN not in done.stdout + done.stderr


def test_nothing_is_done_for_a_push_without_a_token(
    exported: tuple[RunFolder, Path], command: Command, tmp_path: Path
) -> None:
    run, _ = exported
    env = {"MODELSCOPE_API_TOKEN": ""}
    done = command("export", run.path, "--output", tmp_path / "out", "--push", "someone/tuned", env=env)
    assert done.returncode == 2
    assert "MODELSCOPE_API_TOKEN" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    wrong = command("export", run.path, "--push", "tuned", env={**os.environ, "MODELSCOPE_API_TOKEN": TOKEN})
    assert "write OWNER/NAME" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "addition"),
    [
        ({}, WITH_SYSTEM % '"You are a helpful assistant."'),
        ({"use_chat_template": False}, CONTINUED),
        ({"model_type": "qwen3", "template": "qwen3", "enable_thinking": False}, WITHOUT_THINKING),
    ],
    ids=["default system", "base", "thinking off"],
)
def test_the_chat_template_gives_the_prompts_of_the_tuning(
    demo_rows: list[dict[str, str]], tmp_path: Path, arguments: dict[str, object], addition: str
) -> None:
    """The embedded tokenizer, with the answer's place as Qwen3's template has it."""
    experiment = make_experiment()
    card = ModelCard("tiny", {**experiment.model.arguments, **arguments})
    ready = with_local_model(replace(experiment, model=card))
    machine = Machine("cpu", "", "float32", "")
    template = build_infer_arguments(ready, machine, tmp_path / "t", tmp_path / "r", None).get_template()
    template.tokenizer.chat_template += (
        "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    )
    reviews = [Review(f"test:{i}", row["text"], 0) for i, row in enumerate(demo_rows[:20])]
    rows = [write_row(review, experiment.prompt, experiment.labels, "messages") for review in reviews]
    chosen, equal = choose_chat_template(template.tokenizer, template, rows)
    assert equal == 20
    assert chosen.startswith(addition)
    template.tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    refused = pytest.raises(UserError, match="no chat template gives the prompts that the model was tuned")
    with nullcontext() if addition == CONTINUED else refused:
        choose_chat_template(template.tokenizer, template, rows)
