"""Several labels in one cell, numbers, and how rows with them are split."""

import csv
import re
import shlex
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Command, make_experiment
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.data.labels import LabelValue, gold_reader, stratify, value_reader
from workflows.data.prepare import prepare
from workflows.experiment.cards import ROOT, load_dataset_card
from workflows.experiment.job import Job
from workflows.experiment.labels import labels_flag, normalise_label, parse_labels
from workflows.reporting.data_content import _rows_read

ASPECTS = load_dataset_card("demo-aspects")
STARS = load_dataset_card("dianping-stars")
DIANPING = load_dataset_card("dianping")  # in one layout 1 is good, in the other 1 star is bad


@pytest.mark.parametrize(
    ("column", "cell", "label"),
    [
        ("label", "1", "positive"),
        ("rating", "1", "negative"),
        ("rating", " 5.0", "positive"),
        ("rating", "3", None),
        ("another", "1", None),
        ("another", "5", "positive"),
        ("another", "负面", "negative"),
    ],
)
def test_a_gold_label_is_read_by_the_layout_of_its_column(column: str, cell: str, label: str | None) -> None:
    assert gold_reader(DIANPING, column, None)(cell) == label


@pytest.mark.parametrize(
    ("cell", "meaning"),
    [
        ("taste", (0,)),
        ("price;taste", (0, 3)),
        (" price ; taste ;", (0, 3)),
        ("taste;taste", (0,)),
        ("taste;colour", None),
        (";", None),
    ],
)
def test_several_labels_in_a_cell(cell: str, meaning: LabelValue | None) -> None:
    assert value_reader(ASPECTS, ASPECTS.layouts[0], None)(cell) == meaning


WAIMAI = load_dataset_card("waimai")


@pytest.mark.parametrize(
    ("cell", "meaning"),
    [
        *(("0", 0), ("1", 1), ("negative", 0), ("positive", 1), ("负面", 0), ("正面", 1)),
        *(("True", 1), ("FALSE", 0), ("3", None), ("neutral", None)),
    ],
)
def test_a_label_is_known_by_its_value_its_name_and_its_words(cell: str, meaning: int | None) -> None:
    assert value_reader(WAIMAI, WAIMAI.layouts[0], None)(cell) == meaning


def test_signs_of_full_width_are_read_in_labels() -> None:
    assert parse_labels("1＝好评，0＝差评，２＝") == parse_labels("1=好评,0=差评,2=")
    assert parse_labels("1＝好评,0＝差评")[0] == {"好评": ("1",), "差评": ("0",)}


def test_words_that_the_file_does_not_hold_are_no_labels(tmp_path: Path) -> None:
    """0 and 1 are not taken for the first and the second word: who writes 好评 first would turn all round."""
    file = tmp_path / "a.csv"
    file.write_text("text,label\n" + "".join(f"第{i}条,{i % 2}\n" for i in range(30)), encoding="utf-8")
    own = ["--data-file", str(file), "--text-column", "text", "--label-column", "label"]
    with pytest.raises(UserError, match=r"label '0' is none of 好评, 差评 .*--labels 0=,1="):
        prepare(Job(RunFolder(tmp_path / "run"), make_experiment(*own, "--labels", "好评,差评")))


def test_labels_are_printed_as_a_shell_takes_them() -> None:
    """The flag that a message gives is pasted."""
    for mapping in ("0=差评,1=好评", "Very good=…", "好评(推荐)=…", "-1=差评,it's=…"):
        flag, *rest = shlex.split(labels_flag(mapping))
        assert [flag.removeprefix("--labels="), *rest][-1] == mapping
    assert labels_flag("0=差评,1=好评") == "--labels 0=差评,1=好评"


def test_a_file_of_any_name_gives_its_data_set_a_name() -> None:
    flags = ("--text-column", "text", "--label-column", "label", "--labels", "差评,好评")
    for stem, name in (("_评论 (1)", "评论-1"), ("很" * 80, "很" * 60), ("...", "reviews")):
        assert make_experiment("--data-file", f"{stem}.csv", *flags).dataset.name == name


def test_decimals_are_values_not_names() -> None:
    values, _ = parse_labels("3.0,4.0,5.0")
    assert values == {"3.0": ("3.0",), "4.0": ("4.0",), "5.0": ("5.0",)}


def test_values_that_a_card_leaves_out_are_compared_as_those_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (ROOT / "datasets" / "dianping-stars.yaml").read_text(encoding="utf-8")
    assert 'unlabelled: ["0"]' in card
    own = card.replace('["0"]', '["0.0"]').replace("dianping-stars", "own")
    (tmp_path / "own.yaml").write_text(own, encoding="utf-8")
    monkeypatch.setattr("workflows.experiment.cards.DATASETS", tmp_path)
    stars = load_dataset_card("own")
    assert value_reader(stars, stars.layouts[0], None)("0") is None


def test_a_separator_of_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (ROOT / "datasets" / "demo-aspects.yaml").read_text(encoding="utf-8")
    own = card.replace("name: demo-aspects", "name: own").replace('separator: ";"', 'separator: ""')
    assert 'separator: ""' in own
    (tmp_path / "own.yaml").write_text(own, encoding="utf-8")
    monkeypatch.setattr("workflows.experiment.cards.DATASETS", tmp_path)
    with pytest.raises(UserError, match="separator"):
        load_dataset_card("own")


def test_a_value_that_the_card_gives_goes_before_a_name() -> None:
    layout = replace(WAIMAI.layouts[0], values={"negative": ("positive",), "positive": ("1",)})
    read = value_reader(WAIMAI, layout, None)
    assert (read("positive"), read("negative"), read("True")) == (0, 0, None)
    unlabelled = replace(WAIMAI.layouts[0], unlabelled=("负面",))
    assert value_reader(WAIMAI, unlabelled, None)("负面") is None


def test_another_separator_is_the_layouts() -> None:
    layout = replace(ASPECTS.layouts[0], separator="|")
    assert value_reader(ASPECTS, layout, None)("service|taste") == (0, 1)
    wide = value_reader(ASPECTS, replace(layout, separator="＋"), None)
    assert wide(normalise_label("service＋taste")) == (0, 1)


@pytest.mark.parametrize(
    ("cell", "meaning"), [("4", 4.0), ("3.5", 3.5), ("-1", -1.0), ("0", None), ("nan", None), ("five", None)]
)
def test_a_number_in_a_cell(cell: str, meaning: float | None) -> None:
    assert value_reader(STARS, STARS.layouts[0], None)(cell) == meaning


def test_a_number_that_the_card_calls_neutral_is_left_out() -> None:
    layout = replace(STARS.layouts[0], neutral=("3",))
    assert [value_reader(STARS, layout, None)(cell) for cell in ("3", "4")] == [None, 4.0]


def test_labels_to_be_pasted_keep_what_was_left_out_before(command: Command, tmp_path: Path) -> None:
    file, asked = tmp_path / "stars.csv", "1=差评,2=差评,3=,4=好评,5=好评"
    lines = [f"第{at}条评论,{at % 5 + 1}" for at in range(40)]
    file.write_text("\n".join(["text,stars", *lines, "没有打分,0"]), encoding="utf-8")
    columns = ["--data-file", file, "--text-column", "text", "--label-column", "stars"]
    run = ["--run-folder", tmp_path / "run"]
    done = command("prepare", *columns, "--labels", asked, *run)
    assert "known values: 1, 2, 4, 5; left out: 3; not known: '0' in 1 row(s)" in done.stderr
    (flag,) = re.findall(r"--labels (\S+)", done.stderr)
    again = command("prepare", *columns, "--labels", shlex.split(flag)[0], *run)
    assert again.returncode == 0, again.stderr
    manifest = read_json(RunFolder(tmp_path / "run").manifest)
    assert manifest["rejected"]["unlabelled"] == 9
    assert "9 label value left out" in _rows_read(manifest).en  # not: without a label


def test_strata_are_the_rarest_label_and_ranges_of_numbers() -> None:
    sets: list[LabelValue] = [(0,), (0, 1), (1,)]
    codes = np.array([0] * 10 + [1] * 3 + [2] * 2)
    assert stratify(sets, codes, np.arange(15)).tolist() == [0] * 10 + [1] * 5
    numbers: list[LabelValue] = [float(n) for n in range(100)]
    ranges = stratify(numbers, np.arange(100), np.arange(100))
    assert Counter(ranges.tolist()) == dict.fromkeys(range(5), 20)
    assert stratify([0, 1], np.array([1, 0]), np.arange(2)).tolist() == [1, 0]


def test_every_split_has_its_share_of_each_aspect(command: Command, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    done = command("prepare", "--dataset", "demo-aspects", "--method", "head", "--run-folder", run.path)
    assert done.returncode == 0, done.stderr
    manifest = read_json(run.manifest)
    with open(ROOT / "datasets/demo-aspects/demo-aspects.csv", encoding="utf-8", newline="") as file:
        cells = {
            f"train:{number}": row["aspects"] for number, row in enumerate(csv.DictReader(file), start=1)
        }
    names = [label.name for label in ASPECTS.labels]
    for split in ("train", "val", "test"):
        rows = read_jsonl(run.split(split))
        assert [";".join(names[i] for i in row["label"]) for row in rows] == [
            cells[row["id"]] for row in rows
        ]
        counts = Counter(names[i] for row in rows for i in row["label"])
        assert manifest["splits"][split]["labels"] == counts
        for name in names:
            assert counts[name] / len(rows) == pytest.approx(
                sum(name in cell for cell in cells.values()) / len(cells), abs=0.08
            )


def test_stars_are_numbers_and_every_row_is_accounted_for(
    command: Command, shared_data: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    options = ["--dataset", "dianping-stars", "--data-dir", shared_data, "--method", "head"]
    done = command("prepare", *options, "--run-folder", run.path)
    assert done.returncode == 0, done.stderr
    manifest = read_json(run.manifest)
    assert manifest["rows"]["read"] == 3000 == manifest["rows"]["kept"] + manifest["rows"]["rejected"]
    means = {split: manifest["splits"][split]["numbers"]["mean"] for split in ("train", "val", "test")}
    rows = read_jsonl(run.split("test"))
    assert {row["label"] for row in rows} == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert means["test"] == pytest.approx(np.mean([row["label"] for row in rows]))
    assert max(means.values()) - min(means.values()) < 0.1


def test_numbers_of_which_most_are_the_smallest_are_split(
    command: Command, demo_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    file, run = tmp_path / "rows.csv", RunFolder(tmp_path / "run")
    with open(file, "w", encoding="utf-8", newline="") as written:
        writer = csv.writer(written)
        writer.writerow(["comment", "rating"])
        writer.writerows(
            [row["text"], 1 if at % 10 else 2 + at % 4] for at, row in enumerate(demo_rows[:400])
        )
    options = ["--dataset", "dianping-stars", "--data-file", file, "--method", "head"]
    done = command("prepare", *options, "--run-folder", run.path)
    assert done.returncode == 0, done.stderr
    kept = read_json(run.manifest)["rows"]["kept"]
    sizes = {split: len(read_jsonl(run.split(split))) for split in ("train", "val", "test")}
    assert sizes["test"] == pytest.approx(kept / 10, abs=1)
    assert {row["label"] for row in read_jsonl(run.split("train"))} == {1.0, 2.0, 4.0}
    file.write_text("comment,rating\n" + "".join(f"评论{at},3\n" for at in range(40)), encoding="utf-8")
    done = command("prepare", *options, "--run-folder", tmp_path / "same")
    assert done.returncode == 2
    assert "all 40 training rows have one label: there is nothing to learn" in done.stderr


def test_a_value_without_meaning_stops_the_run(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    options = ["--data-file", file, "--run-folder", tmp_path / "run"]
    file.write_text("text,aspects\n好吃,taste\n好看,taste;colour\n", encoding="utf-8")
    done = command("prepare", "--dataset", "demo-aspects", "--method", "head", *options)
    assert done.returncode == 2
    assert "rows.csv, row 2 below the header: label 'taste;colour' is none of taste, service" in done.stderr
    assert f"listed in {tmp_path / 'run' / 'data' / 'rejected.jsonl'}" in done.stderr
    assert [row["label"] for row in read_jsonl(tmp_path / "run" / "data" / "rejected.jsonl")] == [
        "taste;colour"
    ]
    shutil.rmtree(tmp_path / "run")
    file.write_text("comment,rating\n好吃,5\n好看,五\n", encoding="utf-8")
    done = command("prepare", "--dataset", "dianping-stars", "--method", "head", *options)
    assert done.returncode == 2
    assert "rows.csv, row 2 below the header: label '五' is no number" in done.stderr


def test_labels_are_audited_where_a_row_has_one(command: Command, tmp_path: Path) -> None:
    done = command("audit", "demo-aspects", "--method", "head", "--run-folder", tmp_path / "run")
    assert done.returncode == 2
    assert "audit is no stage of method head on multi_label data" in done.stderr
    assert not (tmp_path / "run").exists()
