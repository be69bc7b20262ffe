"""Test rows of another data set: whose they are is said, and no training row is a copy of one."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_experiment, prepare_run
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.core.texts import in_language
from workflows.pipeline.run import are_done, do_stages
from workflows.reporting.blocks import Paragraph
from workflows.reporting.data_content import describe_data
from workflows.reporting.files import Files

WORDS = ("又脏又吵，服务也差", "干净安静，早餐很好")
OWN = [(str(i % 2), f"酒店在{i}路{i * i}号，{WORDS[i % 2]}，第{i * 37}间") for i in range(600)]


def _write_hotels(folder: Path, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    with open(folder / "ChnSentiCorp_htl_all.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("label", "review"), *rows])


@pytest.fixture(scope="module")
def hotels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hotel file that has nothing in common with the demo."""
    folder = tmp_path_factory.mktemp("hotels")
    _write_hotels(folder, OWN)
    return folder


def _said_of_the_data(manifest: dict[str, Any]) -> str:
    """What the report says of the data, tables apart."""
    files = Files({"task": "single_label"}, {}, manifest, None, None, None, None, {}, {}, {})
    blocks = describe_data(files).blocks
    return " ".join(in_language(each.text, "en") for each in blocks if isinstance(each, Paragraph))


def _ids_by_text(run: RunFolder) -> dict[str, str]:
    return {row["review"]: row["id"] for row in read_jsonl(run.split("test"))}


def test_training_rows_stay_and_test_rows_are_those_of_the_other_set(hotels: Path, tmp_path: Path) -> None:
    asked = ["--data-dir", str(hotels), "--train-samples", "300", "--sample-seed", "1"]
    plain = prepare_run(tmp_path / "plain", *asked, "--test-samples", "50", "--split", "course")
    there = prepare_run(
        tmp_path / "there",
        *(
            "--data-dir",
            str(hotels),
            "--dataset",
            "chnsenticorp",
            "--test-samples",
            "50",
            "--split",
            "course",
        ),
    )
    run = prepare_run(
        tmp_path / "run",
        *asked,
        "--test-dataset",
        "chnsenticorp",
        "--test-samples",
        "50",
        "--split",
        "course",
    )
    for name in ("train", "val"):
        assert run.split(name).read_bytes() == plain.split(name).read_bytes()
    taken, theirs = read_jsonl(run.split("test")), read_jsonl(there.split("test"))
    assert taken == [{**row, "id": f"chnsenticorp/{row['id']}"} for row in theirs]
    manifest, own, other = (read_json(each.manifest) for each in (run, plain, there))
    assert manifest["rows"] == own["rows"]
    assert manifest["rejected"] == own["rejected"]
    assert manifest["splits"] == {**own["splits"], "test": other["splits"]["test"]}
    assert manifest["tested"] == {
        "dataset": "chnsenticorp",
        **{name: other[name] for name in ("from", "rows", "rejected")},
        "own_test_rows": 600,
        "own_near_copies": own["near_copies"]["removed_from_train"],
    }
    used = sum(manifest["splits"][name]["rows"] for name in ("train", "val"))
    assert manifest["rows"]["kept"] == used + 600 + manifest["left_out_by_sampling"]
    # Drift is of these test rows.
    assert own["drift"]["texts"]["auroc"] < 0.7 < 0.95 < manifest["drift"]["texts"]["auroc"]
    assert manifest["drift"]["texts"]["rows"] == 100


def test_there_may_be_more_test_rows_than_of_its_own(hotels: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("t,l\n" + "".join(f"第{i}条{WORDS[i % 2]},{i % 2}\n" for i in range(90)), encoding="utf-8")
    own = ["--data-file", str(few), "--text-column", "t", "--label-column", "l"]
    run = prepare_run(
        tmp_path / "run",
        *(*own, "--labels", "0=negative,1=positive", "--data-dir", str(hotels)),
        *("--test-dataset", "chnsenticorp", "--test-samples", "60"),
    )
    assert len(read_jsonl(run.split("test"))) == 60


@pytest.mark.parametrize("kept", [False, True])
def test_a_training_row_that_stands_in_the_test_set_is_left_out_and_counted(
    tmp_path: Path, demo_rows: list[dict[str, str]], kept: bool
) -> None:
    """As of ordinary test rows: --keep-near-copies keeps near copies, never the same text."""
    flip = {"0": "1", "1": "0"}
    rows = [(row["label"], row["text"]) for row in demo_rows[:200]]  # the same texts
    rows += [(flip[row["label"]], row["text"]) for row in demo_rows[200:300]]  # and with another label
    rows += [(row["label"], f"{row['text']}！！") for row in demo_rows[400:1400]]  # nearly the same
    _write_hotels(tmp_path / "data", rows)
    asked = ["--data-dir", str(tmp_path / "data"), *(["--keep-near-copies"] if kept else [])]
    plain = prepare_run(tmp_path / "plain", *asked)
    run = prepare_run(tmp_path / "run", *asked, "--test-dataset", "chnsenticorp")
    tested = _ids_by_text(run)
    used = {row["review"] for name in ("train", "val") for row in read_jsonl(run.split(name))}
    before = {row["review"] for name in ("train", "val") for row in read_jsonl(plain.split(name))}
    assert used.isdisjoint(tested)
    reasons = Counter(row["reason"] for row in read_jsonl(run.rejected))
    more = reasons - Counter(row["reason"] for row in read_jsonl(plain.rejected))
    assert more["same text as a test row"] == len(before & tested.keys()) > 10
    near = [row for row in read_jsonl(run.rejected) if "to chnsenticorp/" in row["detail"]]
    manifest = read_json(run.manifest)
    assert manifest["near_copies"]["removed_from_train"] == len(near)
    assert manifest["near_copies"]["train_in_test"] > 50
    own = reasons["near copy of a test row"] - len(near)
    assert manifest["tested"]["own_near_copies"] == own
    told = f"{own} more training rows were taken out as near copies of the test rows of demo itself"
    assert (told in _said_of_the_data(manifest)) is (own > 0) is not kept
    del manifest["tested"]["own_near_copies"]  # as of an older run
    assert "of demo itself" not in _said_of_the_data(manifest)
    assert (len(near) == 0) is kept
    assert manifest["rows"]["read"] == manifest["rows"]["kept"] + manifest["rows"]["rejected"] == 3000
    assert manifest["rows"]["rejected"] == sum(reasons.values())
    for row in read_jsonl(run.rejected):
        if row["reason"] == "same text as a test row":
            assert row["detail"] == f"same text as {tested[row['text'].strip()]}"


def test_no_row_that_is_mixed_in_stands_in_the_test_set(hotels: Path, tmp_path: Path) -> None:
    """--split course has other test rows of it than the split that its mixed rows are from."""
    asked = ["--data-dir", str(hotels), "--split", "course", "--train-samples", "300"]
    run = prepare_run(tmp_path, *asked, "--test-dataset", "chnsenticorp", "--mix", "chnsenticorp=1")
    tested = _ids_by_text(run)
    assert not tested.keys() & {row["review"] for row in read_jsonl(run.split("train"))}
    assert read_json(run.manifest)["mixed"]["chnsenticorp"]["left_out"]["same text as a row of test"] > 10


def test_data_are_prepared_anew_where_the_other_file_has_changed(tmp_path: Path) -> None:
    _write_hotels(tmp_path / "data", OWN)
    asked = ["--data-dir", str(tmp_path / "data"), "--train-samples", "100", "--test-samples", "50"]
    experiment = make_experiment(*asked, "--test-dataset", "chnsenticorp")
    run = RunFolder(tmp_path / "run")
    do_stages(run, experiment, ("prepare",), Screen())
    assert are_done(run, experiment, ("prepare",))
    _write_hotels(tmp_path / "data", OWN[1:])
    assert not are_done(run, experiment, ("prepare",))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--test-dataset", "chnsenticorpp"], "data set 'chnsenticorpp' is not known"),
        (["--test-dataset", "demo-aspects"], "--test-dataset demo-aspects: demo-aspects has the labels"),
        (
            ["--dataset", "jd", "--labels", "0=差评,1=好评", "--test-dataset", "chnsenticorp"],
            "both must have the same label names",
        ),
        (
            ["--dataset", "dianping-stars", "--method", "head", "--test-dataset", "chnsenticorp"],
            "both must have the same label names",
        ),
        (
            ["--dataset", "waimai", "--data-file", "a.csv", "--test-file", "b.csv", "--test-dataset", "jd"],
            "--test-file names the test rows already",
        ),
        (
            ["--test-dataset", "chnsenticorp", "--test-samples", "5000"],
            "--test-dataset chnsenticorp: --test-samples 5000: there are only 60",
        ),
    ],
)
def test_what_cannot_be_tested_on_is_one_line(
    hotels: Path, tmp_path: Path, options: list[str], complaint: str
) -> None:
    with pytest.raises(UserError) as error:
        prepare_run(tmp_path, "--data-dir", str(hotels), *options)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_its_own_name_says_another_file_where_the_rows_are_ones_own() -> None:
    own = make_experiment("--dataset", "waimai", "--data-file", "mine.csv", "--test-dataset", "waimai")
    assert own.tested is not None
