"""Whole runs of the real SWIFT on the embedded model: what a user gets, and what happens when it is
interrupted.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch

from tests.conftest import PATIENCE, TINY, Command
from tests.fake_hub import FakeHub
from workflows.core.files import fingerprint, read_json, read_jsonl, sha256, write_jsonl
from workflows.core.run_folder import RunFolder, finished_stages
from workflows.experiment.cards import ROOT
from workflows.experiment.experiment import load_experiment, save_experiment
from workflows.pipeline.stages import UNTUNED

pytestmark = pytest.mark.slow

# Tests that run in a shell's background would hand down that Ctrl-C is ignored.
STOPPED_BY_CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from run_swift import main
sys.exit(main(sys.argv[1:]))
"""
SHORT = ("--set", "max_steps=4", "--test-samples", "20")


def test_the_default_job_ends_with_a_tuned_model_and_an_honest_table(demo_run: tuple[RunFolder, str]) -> None:
    run, screen = demo_run
    scores = read_json(run.scores)
    systems = scores["systems"]
    assert list(systems) == ["majority", "tfidf", *UNTUNED, "probe", "tuned"]
    assert scores["test_rows"] == 300
    assert systems["tuned"]["accuracy"] >= 0.90
    assert systems["tuned"]["accuracy"] > systems["tfidf"]["accuracy"] > systems["majority"]["accuracy"]
    assert systems["zero_shot"]["accuracy"] < 0.65  # the stand-in knows no sentiment before it is tuned
    assert systems["zero_shot"]["unparsed"] == 0
    for system, figures in systems.items():
        rows = read_jsonl(run.predictions(system))
        assert [row["id"] for row in rows] == [row["id"] for row in read_jsonl(run.split("test"))]
        assert figures["accuracy"] == sum(row["gold"] == row["prediction"] for row in rows) / 300
    for part in (
        "300 test rows",
        "before tuning",
        "after tuning",
        "baseline: TF-IDF",
        "stand-in",
        f"run folder: outputs/{run.path.name}",
    ):
        assert part in screen
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    baseline = next(line for line in screen.splitlines() if "TF-IDF" in line)
    assert baseline in readme  # what has no floating-point training in it is shown as it is
    assert "INFO:swift" not in screen
    logs = "".join(run.log(stage).read_text(encoding="utf-8") for stage in finished_stages(run))
    assert "INFO:swift" in logs
    assert logs.count("Loading weights: 100%") == 1  # the base model, for all stages
    training = read_json(run.training)
    manifest = read_json(run.manifest)
    kept = manifest["splits"]["train"]["rows"]
    assert kept == 2400 - manifest["near_copies"]["removed_from_train"]
    assert training["rows"]["train"] == {"given": kept, "used": kept, "left_out": []}
    figures = {name for entry in training["log_history"] for name in entry}
    assert {"loss", "eval_loss", "eval_accuracy", "eval_macro_f1"} <= figures
    for record in finished_stages(run).values():
        assert record["peak_memory_bytes"]["ram"] > 50 * 2**20
    assert read_json(run.environment)["machine"]["device"] in ("cpu", "cuda", "mps")


def test_a_finished_run_is_not_run_again_and_a_changed_stage_is(command: Command, own_run: RunFolder) -> None:
    before = finished_stages(own_run)
    again = command("run", own_run.path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 10
    assert str(own_run.report_page) in again.stdout
    assert finished_stages(own_run) == before
    rows = read_jsonl(own_run.predictions("tuned"))
    own_run.predictions("tuned").write_text(
        "".join(json.dumps({**row, "prediction": None}, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )
    assert command("score", own_run.path).returncode == 0
    assert read_json(own_run.scores)["systems"]["tuned"]["accuracy"] == 0.0


def test_answers_to_other_rows_are_not_scored(command: Command, own_run: RunFolder) -> None:
    rows = read_jsonl(own_run.predictions("tuned"))
    other = {"positive": "negative", "negative": "positive"}
    write_jsonl(own_run.predictions("tuned"), ({**row, "gold": other[row["gold"]]} for row in rows))
    done = command("score", own_run.path)
    assert done.returncode == 2
    assert "tuned.jsonl: not the rows of" in done.stderr


def test_an_interrupted_training_goes_on_from_its_checkpoint(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["--train-samples", "320", "--test-samples", "20", "--probe-rows", "16"]
    options += ["--run-folder", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED_BY_CTRL_C, "run", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + PATIENCE
    while not list(folder.glob("sft/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        Event().wait(0.05)
    os.killpg(process.pid, signal.SIGINT)
    screen, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, screen
    assert "the same command goes on from here" in screen
    assert "train" not in finished_stages(RunFolder(folder))
    for checkpoint in folder.glob("sft/checkpoint-*"):
        torch.save({"scale": 65536.0}, checkpoint / "scaler.pt")  # as of a GPU without bf16
    again = command("run", *options)
    assert again.returncode == 0, again.stderr
    assert "going on from checkpoint-" in again.stdout
    assert "zero_shot: done before" in again.stdout
    training = read_json(RunFolder(folder).training)
    assert training["steps"] == 30
    assert max(entry["step"] for entry in training["log_history"]) == 30


@pytest.mark.parametrize("engine", ["fast", "swift"])
def test_an_interrupted_inference_asks_only_for_the_missing_rows(
    command: Command, tmp_path: Path, engine: str
) -> None:
    options = ["--test-samples", "40", "--probe-rows", "16", "--engine", engine]
    options += ["--run-folder", str(tmp_path / "run")]
    assert command("prepare", *options).returncode == 0
    assert command("infer", tmp_path / "run").returncode == 0
    run = RunFolder(tmp_path / "run")
    whole = read_jsonl(run.predictions("zero_shot"))
    inputs = fingerprint(finished_stages(run)["zero_shot"]["inputs"])
    # As if it had been stopped after 30 rows, in the middle of writing the next; the answers are marked.
    suffix = ".swift.jsonl" if engine == "swift" else ".jsonl"
    partial = run.path / "predictions" / f".zero_shot-{inputs}{suffix}"
    answers: list[dict[str, object]] = [
        {
            "id": row["id"],
            "label": row["id"],
            "response": "正面!",
            "output": "正面!",
            "log_probabilities": [-1, -2],
        }
        for row in whole
    ]
    lines = [json.dumps(answer) + "\n" for answer in answers]
    partial.write_text("".join(lines[:30]) + lines[30][:15], encoding="utf-8")
    run.predictions("zero_shot").unlink()
    done = command("infer", run.path)
    assert done.returncode == 0, done.stderr
    again = read_jsonl(run.predictions("zero_shot"))
    assert [row["output"] for row in again] == ["正面!"] * 30 + [row["output"] for row in whole[30:]]
    assert not partial.exists()
    log = run.log("zero_shot").read_text(encoding="utf-8")
    assert ("num_rows: 10" in log) == (engine == "swift")  # infer_main was asked for these only


def test_both_engines_give_the_same_answers(
    command: Command, demo_run: tuple[RunFolder, str], own_run: RunFolder
) -> None:
    experiment = load_experiment(own_run.experiment)
    by_swift = replace(experiment, tuning=replace(experiment.tuning, engine="swift", probe_rows=16))
    own_run.experiment.write_text(save_experiment(by_swift), encoding="utf-8")
    done = command("infer", own_run.path)
    assert done.returncode == 0, done.stderr
    assert "zero_shot: again, --engine, --probe-rows changed" in done.stdout
    assert "done before" not in done.stdout
    for system in ("zero_shot", "tuned"):
        fast, swift = (read_jsonl(each.predictions(system)) for each in (demo_run[0], own_run))
        assert [row["output"] for row in fast] == [row["output"] for row in swift]
    figures = read_json(demo_run[0].scores)["systems"]["tuned"]["probabilities"]
    assert figures["disagreements"] == 0
    assert figures["mean_label_mass"] > 0.9


def test_a_file_with_three_labels_through_the_stages_one_by_one(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "stars.tsv"
    texts = {"1": "难吃，再也不来", "3": "一般，没什么特别", "5": "好吃，下次还来"}
    rows = [f"{text}，第{i}次\t{stars}" for i in range(40) for stars, text in texts.items()]
    file.write_text("评论\t星级\n" + "\n".join(rows), encoding="gb18030")
    run = RunFolder(tmp_path / "run")
    flags = [
        "--data-file",
        file,
        "--text-column",
        "评论",
        "--label-column",
        "星级",
        "--labels",
        "1=差评,3=中评,5=好评",
    ]
    for arguments in (
        ["prepare", *flags, "--format", "query-response", "--set", "max_steps=4", "--run-folder", run.path],
        ["train", run.path, "--verbose"],
        ["infer", run.path],
        ["score", run.path],
    ):
        done = command(*arguments)
        assert done.returncode == 0, done.stderr
        assert ("INFO:swift" in done.stdout) == ("--verbose" in arguments)
    assert read_json(run.manifest)["files"]["train"]["encoding"] == "gb18030"
    assert "好评、中评还是差评" in read_jsonl(run.split("train"))[0]["query"]
    systems = read_json(run.scores)["systems"]
    assert systems["tfidf"]["accuracy"] == 1.0
    assert set(systems["tuned"]["per_class"]) == {"差评", "中评", "好评"}
    assert read_json(run.training)["steps"] == 4


def test_a_model_by_hub_id_is_fetched_from_modelscope(command: Command, hub: FakeHub, tmp_path: Path) -> None:
    """The embedded weights stand on the hub in the place of a Qwen2.5 base model."""
    hub.put_folder("models", "Qwen/Qwen2.5-0.5B", TINY)
    options = [
        "--model",
        "Qwen/Qwen2.5-0.5B",
        *SHORT,
        "--train-samples",
        "64",
        "--run-folder",
        tmp_path / "run",
    ]
    done = command("run", *options, env=hub.env)
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "run")
    scores = read_json(run.scores)
    assert scores["experiment"]["model"] == "qwen2.5-0.5b"
    assert scores["experiment"]["prompt"] == "zh-continue"
    assert scores["systems"]["tuned"]["sha256"] == sha256(run.predictions("tuned"))
    log = run.log("train").read_text(encoding="utf-8")
    prompt = log.split("[INPUT] ", 1)[1].split("[LABELS_IDS]", 1)[0]
    assert prompt.startswith("评论内容: ")  # plain continuation: no chat marks
    assert "<|im_start|>" not in prompt


def test_reviews_with_marks_of_the_chat_form_and_long_ones_pass_through(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "odd.csv"
    odd = [
        "<|im_end|>正面",
        "<image>好看",
        "<b>加粗</b> & 'quotes'",
        "很长" * 1500,
        "{review}",
        "😀" * 20,
        "正面负面",
    ]
    plain = [f"{text}{i}" for i in range(12) for text in ("不错", "很差", "还行", "失望")]
    lines = [f'"{text}",{index % 2}' for index, text in enumerate(odd + plain)]
    file.write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    test = tmp_path / "test.csv"
    odd.append("比模型能读的还长" * 2000)  # in the test set every row is answered
    test.write_text(
        "text,label\n" + "\n".join(f'"{text}！",{i % 2}' for i, text in enumerate(odd)), encoding="utf-8"
    )
    flags = ["--data-file", file, "--test-file", test, "--text-column", "text", "--label-column", "label"]
    flags += ["--keep-near-copies"]  # the same texts are in both files
    run = RunFolder(tmp_path / "run")
    done = command(
        "run", *flags, "--labels", "0=差评,1=好评", "--set", "max_steps=2", "--run-folder", run.path
    )
    assert done.returncode == 0, done.stderr
    assert len(read_jsonl(run.predictions("tuned"))) == len(odd)
    rows = read_json(run.training)["rows"]["train"]
    assert rows["given"] - rows["used"] == 1  # the long one is over max_length
    assert rows["left_out"] == ["train:4"]
    assert read_json(run.tokens)["splits"]["train"]["over_max_length"] == {"rows": 1, "ids": ["train:4"]}
    assert f"1 of {rows['given']} train rows were left out by SWIFT" in done.stdout


def test_what_swift_cannot_train_with_is_one_line(command: Command, tmp_path: Path) -> None:
    options = ["--set", "max_length=20", "--train-samples", "40", "--test-samples", "5"]
    done = command("run", *options, "--run-folder", tmp_path / "run")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: SWIFT could not start the training:")
    assert "max_length shorter than every row" in last
    log = RunFolder(tmp_path / "run").log("train").read_text(encoding="utf-8")
    assert "filtered dataset length: 0" in log
    assert "Traceback" in log


def test_a_probe_run_tunes_nothing_and_compares_with_one_that_did(
    command: Command, demo_run: tuple[RunFolder, str], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "probe")
    done = command("run", "--method", "probe", "--probe-rows", "200", "--run-folder", run.path)
    assert done.returncode == 0, done.stderr
    assert "fitted to 200 of 2,691 labelled rows; more with --probe-rows" in done.stdout
    assert "fitted threshold, frozen probe: fitted to 200 of 2,691 labelled rows" in done.stdout
    assert not any(run.sft.glob("checkpoint-*"))
    scores = read_json(run.scores)
    assert list(scores["systems"]) == ["majority", "tfidf", *UNTUNED, "probe"]
    right = [row["prediction"] == row["gold"] for row in read_jsonl(run.predictions("probe"))]
    assert scores["systems"]["probe"]["accuracy"] == sum(right) / len(right)
    assert scores["systems"]["zero_shot_labels"]["strict_accuracy"] is None  # it writes nothing
    assert "2,691 条标注数据中的 200 条" in run.report_markdown.read_text(encoding="utf-8")
    compared = command("compare", demo_run[0].path, run.path, "--output", tmp_path / "compared")
    assert compared.returncode == 0, compared.stderr
    ends = read_json(tmp_path / "compared" / "comparison.json")["compared"]
    assert list(ends.values()) == ["tuned", "probe"]
    assert "infer" not in command("infer", run.path).stderr
    for what in (["export", run.path], ["run", "--method", "dpo", "--from-run", run.path]):
        refused = command(*what)
        assert refused.returncode == 2
        assert "tunes no model" in refused.stderr


def test_too_few_labels_leave_the_probes_row_empty_and_say_why(command: Command, tmp_path: Path) -> None:
    options = ("--method", "probe", "--train-samples", "8", "--test-samples", "20")
    done = command("run", *options, "--run-folder", tmp_path / "few")
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "few")
    assert "probe" not in read_json(run.scores)["systems"]
    assert done.stdout.count("it takes 8 that are and 8 that are not") == 2  # as a stage, and under the table
    assert "带有和不带有该标签的数据至少各需 8 条" in run.report_markdown.read_text(encoding="utf-8")
