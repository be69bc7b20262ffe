"""Near copies between splits, on real reviews."""

from pathlib import Path

import pytest
from tqdm import tqdm

from tests.conftest import make_experiment
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.data.near_copies import find_near_copies
from workflows.data.prepare import prepare
from workflows.experiment.job import Job


def test_copies_with_other_marks_and_small_changes_are_found() -> None:
    long = "房间很干净，早餐也不错，前台服务态度很好，下次来还会选择这里，位置离地铁站走路只要五分钟。"
    train = [
        "送餐太慢了！！！",
        long.replace("五分钟", "十分钟"),
        long[: len(long) // 2],
        "GOOD 手机",
        "不错",
        "￥￥",
    ]
    test = ["送餐太慢了…", long, "good手机！", "不值", "￥￥￥"]
    found = find_near_copies(train, ["不错！", "别的", "不值。"], test, tqdm(disable=True))
    assert {row: other for row, (other, _) in found.train_in_test.items()} == {0: 0, 1: 1, 3: 2}
    assert 0.8 <= found.train_in_test[1][1] < 1.0
    assert {row: other for row, (other, _) in found.val_in_test.items()} == {2: 3}
    assert found.val_in_train == {0}


def test_training_rows_that_stand_in_the_test_set_are_removed_and_accounted_for(
    tmp_path: Path, shared_data: Path
) -> None:
    options = ["--dataset", "chnsenticorp", "--data-file", str(shared_data / "ChnSentiCorp_htl_all.csv")]
    manifests = {}
    for flag in ([], ["--keep-near-copies"]):
        run = RunFolder(tmp_path / str(len(flag)))
        prepare(Job(run, make_experiment(*options, *flag)))
        manifest = manifests[len(flag)] = read_json(run.manifest)
        rejected = read_jsonl(run.rejected)
        rows = manifest["rows"]
        assert rows["read"] == 7766 == rows["kept"] + rows["rejected"]
        assert rows["rejected"] == len(rejected)
        assert rows["kept"] == sum(split["rows"] for split in manifest["splits"].values())
        near = [row for row in rejected if row["reason"] == "near copy of a test row"]
        assert len(near) == manifest["near_copies"]["removed_from_train"]
        test = {row["id"] for row in read_jsonl(run.split("test"))}
        assert all(row["detail"].split(" to ")[1] in test for row in near)
    assert manifests[0]["near_copies"]["searched"] == "all rows"
    assert manifests[0]["near_copies"]["train_in_test"] == 2
    assert manifests[1]["near_copies"]["train_in_test"] == 2
    assert manifests[1]["near_copies"]["removed_from_train"] == 0
    assert manifests[1]["splits"]["train"]["rows"] - manifests[0]["splits"]["train"]["rows"] == 2


def test_of_very_many_rows_only_a_sample_is_searched_and_that_is_said(
    tmp_path: Path, demo_rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.data.prepare.NEAR_COPY_ROWS", 300)
    lines = [f"{row['text']}{mark},{row['label']}" for row in demo_rows[:200] for mark in ("", "！！")]
    (tmp_path / "reviews.csv").write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    options = ["--dataset", "demo", "--data-file", str(tmp_path / "reviews.csv")]
    manifests = []
    for flags in ([], ["--train-samples", "200"]):
        run = RunFolder(tmp_path / str(len(flags)))
        experiment = make_experiment(*options, *flags)
        manifests.append(prepare(Job(run, experiment)))
    assert [manifest["near_copies"]["searched"] for manifest in manifests] == [None, "the sample"]
    removed = manifests[1]["near_copies"]["removed_from_train"]
    assert removed > 0
    assert manifests[1]["splits"]["train"]["rows"] == 200 - removed
    assert manifests[1]["rows"]["kept"] == manifests[0]["rows"]["kept"] - removed
    used = sum(split["rows"] for split in manifests[1]["splits"].values())
    assert manifests[1]["left_out_by_sampling"] == manifests[1]["rows"]["kept"] - used
    assert len(read_jsonl(run.rejected)) == manifests[1]["rows"]["rejected"]
