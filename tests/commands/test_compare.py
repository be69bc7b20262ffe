"""Runs side by side: the same rows only, and what each says of the other."""

import csv
import shutil
from pathlib import Path

import pytest

from tests.conftest import Command
from workflows.core.files import read_json, read_jsonl, write_json, write_jsonl
from workflows.core.run_folder import RunFolder

FORMULA = "=cmd|' /C calc'!A0"


@pytest.fixture
def pair(demo_run: tuple[RunFolder, str], tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """The finished run, and a copy whose tuned model answers every fourth row the other way round; the first
    review is what a spreadsheet would run.
    """
    first = RunFolder(shutil.copytree(demo_run[0].path, tmp_path / "first"))
    for path in first.predictions("tuned").parent.glob("*.jsonl"):
        rows = read_jsonl(path)
        write_jsonl(path, [{**rows[0], "text": FORMULA}, *rows[1:]])
    second = RunFolder(shutil.copytree(first.path, tmp_path / "second"))
    rows = read_jsonl(second.predictions("tuned"))
    for row in rows[::4]:
        row["prediction"] = "negative" if row["prediction"] == "positive" else "positive"
    write_jsonl(second.predictions("tuned"), rows)
    return first, second


def test_two_runs_on_the_same_rows(
    command: Command, pair: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    first, second = pair
    write_json(second.manifest, read_json(second.manifest) | {"flipped": {"train": 12, "val": 3}})
    done = command("compare", first.path, second.path, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "out" / "comparison.json")
    assert found["verdict"]["en"].startswith("second: Labels were made wrong on purpose: 12 of 2,391")
    assert found["test_rows"] == 300
    assert found["rows_that_differ"] == 75
    # The baselines are the same: they stand in the table once.
    assert [key for key in found["systems"] if "tfidf" in key] == ["first/tfidf"]
    (compared,) = found["comparisons"]
    assert compared["only_a_right"] + compared["only_b_right"] == 75
    assert compared["holm_p"] < 0.001
    assert "second is worse than first" in found["verdict"]["en"]
    assert "second is worse than first" in done.stdout
    with open(tmp_path / "out" / "differences.csv", encoding="utf-8-sig", newline="") as file:
        differences = list(csv.DictReader(file))
    assert len(differences) == 75
    assert differences[0]["text"] == f"'{FORMULA}"  # none that a spreadsheet runs
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "second 不如 first" in page
    assert "有意改错了标签" in page
    assert (tmp_path / "out" / "figures" / "losses.en.png").exists()


def test_other_test_rows_are_refused_or_cut_to_the_common_ones(
    command: Command, pair: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    first, second = pair
    answers = [*second.predictions("tuned").parent.glob("*.jsonl")]
    for path in answers:
        write_jsonl(path, read_jsonl(path)[100:])
    refused = command("compare", first.path, second.path)
    assert refused.returncode == 2
    assert "different test rows (first 300, second 200; 200 in common); --common" in refused.stderr
    done = command("compare", first.path, second.path, "--common", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "out" / "comparison.json")
    assert (found["test_rows"], found["rows_that_differ"]) == (200, 50)
    for path in answers:
        write_jsonl(path, [{"text": "x", "gold": "positive"}])
    assert "no test row in common" in command("compare", first.path, second.path, "--common").stderr


def test_runs_whose_folders_have_the_same_name_are_called_by_their_paths(
    command: Command, pair: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    first, second = pair
    namesake = shutil.move(second.path, tmp_path / "other" / "first")
    done = command("compare", first.path, namesake, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"{namesake} is worse than {first.path}" in done.stdout
    assert list(read_json(tmp_path / "out" / "comparison.json")["runs"]) == [str(first.path), str(namesake)]


def test_what_cannot_be_compared_is_one_line(
    command: Command, pair: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    first, second = pair
    assert "two runs or more" in command("compare", first.path, first.path).stderr
    assert "not a run folder" in command("compare", first.path, tmp_path).stderr
    (tmp_path / "file").touch()
    assert "is a file" in command("compare", first.path, second.path, "--output", tmp_path / "file").stderr
    answers = second.predictions("tuned").read_text(encoding="utf-8")
    # As where the data have changed, and the run was stopped before it was tuned on them.
    write_jsonl(
        second.predictions("tuned"),
        [*read_jsonl(second.predictions("tuned"))[1:], {"text": "x", "gold": "y"}],
    )
    unfinished = command("compare", first.path, second.path)
    assert (unfinished.returncode, unfinished.stderr.count("\n")) == (2, 1)
    assert "its answers of tuned are of other rows, from before; finish it first" in unfinished.stderr
    second.predictions("tuned").unlink()
    unlike = command("compare", first.path, second.path).stderr
    assert "different kinds (first after tuning, second frozen probe)" in unlike
    second.predictions("tuned").write_text(answers, encoding="utf-8")
    text = second.experiment.read_text(encoding="utf-8")
    negative, positive = "- name: negative\n      words: 负面\n", "- name: positive\n      words: 正面\n"
    turned = text.replace(f"{negative}    {positive}", f"{positive}    {negative}")
    assert turned != text
    second.experiment.write_text(turned, encoding="utf-8")
    done = command("compare", first.path, second.path, "--output", tmp_path / "turned")
    assert done.returncode == 0, done.stderr  # everything goes by name
    text = text.replace("name: positive", "name: good")
    second.experiment.write_text(text.replace("positive:", "good:"), encoding="utf-8")
    done = command("compare", first.path, second.path)
    assert done.returncode == 2
    assert "second has the labels good, negative" in done.stderr
