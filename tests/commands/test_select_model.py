"""Candidates answer the same training rows; no model is called the best without grounds."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import TINY, Command
from workflows.core.files import read_json, read_jsonl, write_json, write_jsonl
from workflows.core.run_folder import RunFolder


@pytest.fixture(scope="module")
def selection(command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], Path, str]:
    """`tiny` and a copy of it, asked for ten cases: the arguments, the folder, what the screen showed."""
    place = tmp_path_factory.mktemp("select")
    shutil.copytree(TINY, place / "twin")
    folder = place / "out"
    arguments: list[object] = ["select-model", "--models", f"tiny,{place / 'twin'}", "--cases", "10"]
    arguments += ["--prompt", "zh-descriptions", "--output", folder]
    done = command(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return arguments, folder, done.stdout


@pytest.mark.slow
def test_equal_models_cannot_be_told_apart(selection: tuple[list[object], Path, str]) -> None:
    _, folder, screen = selection
    found = read_json(folder / "selection.json")
    assert list(found["models"]) == ["tiny", "twin"]
    assert found["best"] is None
    assert "No best model can be named. 10 cases cannot tell twin from tiny" in screen
    assert "Who always names one label is right in 0.500 of the 10 cases." in screen
    for figures in found["models"].values():
        assert figures["prompt"] == "zh-descriptions"
        assert figures["accuracy_interval"][0] < figures["accuracy"] < figures["accuracy_interval"][1]
        assert figures["cost"]["parameters"] > 10**6
        assert figures["cost"]["seconds_a_row"] > 0
        assert figures["cost"]["peak_memory_bytes"]["ram"] > 50 * 2**20


def test_the_cases_are_balanced_training_rows(
    selection: tuple[list[object], Path, str], demo_run: tuple[RunFolder, str]
) -> None:
    _, folder, _ = selection
    asked = [read_jsonl(RunFolder(folder / "models" / name).split("test")) for name in ("1-tiny", "2-twin")]
    assert asked[0] == asked[1]
    assert sorted(row["label"] for row in asked[0]) == [0] * 5 + [1] * 5
    later = {row["id"] for row in read_jsonl(demo_run[0].split("train"))}
    assert {row["id"] for row in asked[0]} <= later


@pytest.mark.slow
def test_answers_that_are_there_are_not_asked_for_again(
    selection: tuple[list[object], Path, str], command: Command, tmp_path: Path
) -> None:
    arguments, folder, _ = selection
    answers = RunFolder(folder / "models" / "2-twin").predictions("zero_shot")
    rows = read_jsonl(answers)
    right = [{**row, "prediction": row["gold"]} for row in rows]
    wrong = [{**row, "prediction": None} for row in rows]
    write_jsonl(answers, right)
    write_jsonl(RunFolder(folder / "models" / "1-tiny").predictions("zero_shot"), wrong)
    (folder / "selection.json").unlink()
    done = command(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "tiny: answered before\ntwin: answered before" in done.stdout
    assert read_json(folder / "selection.json")["best"] == "twin"
    assert "twin is the best of these models." in done.stdout
    other = command(*arguments, "--data-seed", "1")
    assert other.returncode == 2
    assert "not of this selection" in other.stderr
    cases = RunFolder(folder / "cases")
    was = read_json(cases.manifest)
    write_json(
        cases.manifest, was | {"files": {name: of | {"sha256": "0"} for name, of in was["files"].items()}}
    )
    later = command(*arguments)
    assert (later.returncode, answers.exists(), (folder / "selection.json").exists()) == (2, True, True)
    assert "its rows have changed since; name a new folder by --output" in later.stderr
    write_json(cases.manifest, was)
    whole = cases.split("train").read_bytes()
    cases.split("train").write_bytes(whole[:-9])  # as a copy that broke off
    damaged = command(*arguments)
    assert (damaged.returncode, answers.exists()) == (2, True), damaged.stderr
    cases.split("train").write_bytes(whole)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--models", "tiny"], "name two models or more"),
        (["--models", "tiny,qwen9"], "model 'qwen9' is neither"),
        (["--models", f"tiny,{TINY}", "--cases", "9999"], "--cases 9999: there are only"),
        (["--models", f"tiny,{TINY}", "--dataset", "demo-aspects"], "demo-aspects is multi_label"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    command: Command, tmp_path: Path, options: list[str], complaint: str
) -> None:
    done = command("select-model", *options, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
