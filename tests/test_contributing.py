"""The examples of CONTRIBUTING.md, as they stand there, work in a copy of the project."""

import csv
import re
from pathlib import Path

import pytest

from tests.conftest import copy_project, run_commands
from tests.test_floors import FLOORS
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.experiment.cards import METHODS, ROOT, read_yaml

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SHORT = ["--train-samples", "60", "--test-samples", "20", "--set", "max_steps=2", "--set", "logging_steps=1"]


def _block(title: str, language: str) -> str:
    """The only block in this language that stands under a title."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M)
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.S | re.M)
    return block


def _commands(title: str) -> list[list[str]]:
    lines = _block(title, "bash").splitlines()
    assert all(line.startswith("python run_swift.py ") for line in lines)
    return [line.split()[2:] for line in lines]


def _apply(block: str, folder: Path) -> None:
    """Change the files of `folder` as a block of differences says."""
    for part in block.split("--- ")[1:]:
        name, hunks = part.split("\n", 1)
        text = (folder / name).read_text(encoding="utf-8")
        for hunk in hunks.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            assert text.count(before) == 1, (
                f"{name}: CONTRIBUTING.md changes what is not there once:\n{before}"
            )
            text = text.replace(before, after)
        (folder / name).write_text(text, encoding="utf-8")


def _write_preset(folder: Path, name: str, changes: str) -> None:
    """A copy of the preset lora in which the lines of `changes` take the place of those with the same key."""
    text = (METHODS / "lora.yaml").read_text(encoding="utf-8")
    for line in changes.splitlines(keepends=True):
        text = re.sub(rf"^{line.split(':')[0]}:.*\n", "", text, flags=re.M) + line
    (folder / "sft_args" / f"{name}.yaml").write_text(f"# The example {name}.\n{text}", encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project to which all of the examples were applied."""
    folder = copy_project(tmp_path_factory.mktemp("contributed"))
    (folder / "datasets" / "books.yaml").write_text(_block("Add a data set", "yaml"), encoding="utf-8")
    _write_preset(folder, "rslora", _block("Add a preset", "yaml"))
    _write_preset(folder, "weighted", _block("Add a method", "yaml"))
    for title in ("Add an option", "Add a metric", "Add a method"):
        _apply(_block(title, "diff"), folder)
    return folder


def _run(project: Path, commands: list[list[str]]) -> str:
    """What the commands print, run in `project` in one process."""
    codes, done = run_commands(commands, cwd=project)
    assert codes == [0] * len(commands), done.stderr[-3000:]
    return done.stdout


def test_the_floor_plan_is_that_of_the_code() -> None:
    plan = _block("Where things are", "")
    drawn = {number: set(names.split()) for number, names in re.findall(r"^  (\d)((?:   ?\w+)+)", plan, re.M)}
    assert [drawn[str(number)] & set().union(*FLOORS) for number in range(1, 1 + len(FLOORS))] == [*FLOORS]


def test_a_data_set_is_added_by_a_card(project: Path, demo_rows: list[dict[str, str]]) -> None:
    (project / "my-data").mkdir()
    with open(project / "my-data" / "books.csv", "w", encoding="utf-8", newline="") as file:
        stars = [("3" if i % 3 == 0 else "15"[int(row["label"])]) for i, row in enumerate(demo_rows[:90])]
        texts = [row["text"] for row in demo_rows]
        csv.writer(file).writerows([("评论", "星级"), *zip(texts, stars, strict=False)])
    shown = _run(project, _commands("Add a data set"))
    assert "Book reviews" in shown
    assert "90 rows read, 60 kept, 30 rejected (30 unlabelled)" in shown
    (run,) = (project / "outputs").glob("books-*")
    answers = {row["messages"][-1]["content"] for row in read_jsonl(RunFolder(run).split("train"))}
    assert answers == {"差评", "好评"}


def test_an_option_is_a_flag_and_stands_in_the_experiment(project: Path) -> None:
    _run(project, _commands("Add an option"))
    run = RunFolder(project / "outputs" / "option")
    assert len(read_jsonl(run.split("train"))) == 50
    assert read_yaml(run.experiment)["options"] == {"data": {"first_rows": 50}}


def test_a_metric_is_in_the_scores_and_on_the_screen(project: Path) -> None:
    shown = _run(project, _commands("Add a metric"))
    assert "错误率" in shown
    for figures in read_json(RunFolder(project / "outputs" / "metric").scores)["systems"].values():
        assert figures["error_rate"] == pytest.approx(1 - figures["accuracy"])
        low, high = figures["error_rate_interval"]
        assert low < figures["error_rate"] < high


@pytest.fixture(scope="module")
def trained(project: Path) -> list[RunFolder]:
    """The runs of the preset, and of the method with two settings."""
    listed, *runs = [*_commands("Add a preset"), *_commands("Add a method")]
    folders = [RunFolder(project / "outputs" / f"trained-{number}") for number in range(len(runs))]
    shortened = [
        [*run, *SHORT, "--run-folder", str(folder.path)] for run, folder in zip(runs, folders, strict=True)
    ]
    assert "The example rslora." in _run(project, [listed, *shortened])
    return folders


@pytest.mark.slow
def test_a_preset_trains_with_its_own_arguments(trained: list[RunFolder]) -> None:
    adapter = read_json(checkpoint_of(trained[0]) / "adapter_config.json")
    assert (adapter["r"], adapter["lora_alpha"], adapter["use_rslora"]) == (32, 16, True)
    assert "tuned" in read_json(trained[0].scores)["systems"]


@pytest.mark.slow
def test_a_method_trains_with_its_own_loss(trained: list[RunFolder]) -> None:
    histories = [read_json(run.training)["log_history"] for run in trained[1:]]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert len(losses[0]) == len(losses[1]) == 2
    assert losses[0] != losses[1]  # to the power of 0 all rows weigh the same
    assert read_yaml(trained[1].experiment) != read_yaml(trained[2].experiment)


def test_each_promise_of_the_security_page_names_tests_that_are_there() -> None:
    promised = (ROOT / "SECURITY.md").read_text(encoding="utf-8").split("## What is not")[0]
    for promise in promised.split("\n- ")[1:]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert named, promise
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), test
