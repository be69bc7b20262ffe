"""Near copies between splits, on real reviews."""

from pathlib import Path

from workflows.assemble import assemble_experiment
from workflows.command_line import build_parser
from workflows.data.near_copies import find_near_copies
from workflows.data.prepare import prepare
from workflows.data.reviews import Review
from workflows.run_folder import RunFolder, read_json, read_jsonl


def _reviews(split: str, texts: list[str]) -> list[Review]:
    return [Review(f"{split}:{i}", text, 0) for i, text in enumerate(texts, start=1)]


def test_copies_with_other_marks_and_small_changes_are_found(demo_rows: list[dict[str, str]]) -> None:
    long = "房间很干净，早餐也不错，前台服务态度很好，下次来还会选择这里，位置离地铁站走路只要五分钟。"
    train = _reviews(
        "train",
        [
            "送餐太慢了！！！",
            long.replace("五分钟", "十分钟"),
            long[: len(long) // 2],
            "GOOD 手机",
            "不错",
            "￥￥",
        ],
    )
    test = _reviews("test", ["送餐太慢了…", long, "good手机！", "不值", "￥￥￥"])
    found = find_near_copies(train, test)
    assert {id: other for id, (other, _) in found.items()} == {
        "train:1": "test:1",
        "train:2": "test:2",
        "train:4": "test:3",
    }
    assert 0.8 <= found["train:2"][1] < 1.0


def test_training_rows_that_stand_in_the_test_set_are_removed_and_accounted_for(
    tmp_path: Path, shared_data: Path
) -> None:
    options = ["--dataset", "chnsenticorp", "--data-file", str(shared_data / "ChnSentiCorp_htl_all.csv")]
    manifests = {}
    for flag in ([], ["--keep-near-copies"]):
        run = RunFolder(tmp_path / str(len(flag)))
        prepare(run, assemble_experiment(build_parser().parse_args(["run", *options, *flag])))
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
    assert manifests[0]["near_copies"]["train_in_test"] == 2
    assert manifests[1]["near_copies"]["train_in_test"] == 2
    assert manifests[1]["near_copies"]["removed_from_train"] == 0
    assert manifests[1]["splits"]["train"]["rows"] - manifests[0]["splits"]["train"]["rows"] == 2
