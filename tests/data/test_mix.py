"""Rows of another data set join the training rows alone, and every one is accounted for."""

import csv
from pathlib import Path

import pytest

from tests.conftest import Command, make_experiment, prepare_run
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.data.mix import compare_lengths


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, demo_rows: list[dict[str, str]]) -> Path:
    """A folder with a "waimai" whose first 2,000 reviews are the demo's, and 400 are not."""
    folder = tmp_path_factory.mktemp("other")
    rows = [(row["label"], row["text"]) for row in demo_rows[:2000]]
    words = ("太差", "很好")
    rows += [(str(i % 2), f"第{i}单外卖{words[i % 2]}，{i * i}号骑手送来的") for i in range(400)]
    with open(folder / "waimai_10k.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("label", "review"), *rows])
    return folder


def test_mixed_rows_are_training_rows_that_the_target_does_not_have(other: Path, tmp_path: Path) -> None:
    plain = prepare_run(tmp_path / "plain", "--train-samples", "1000")
    options = ["--train-samples", "1000", "--data-dir", str(other), "--mix", "waimai=0.5"]
    run = prepare_run(tmp_path / "run", *options)
    train = read_jsonl(run.split("train"))
    assert train[:1000] == read_jsonl(plain.split("train"))
    for name in ("val", "test"):
        assert run.split(name).read_bytes() == plain.split(name).read_bytes()
    manifest = read_json(run.manifest)
    mixed = manifest["mixed"]["waimai"]
    added = train[1000:]
    assert 0 < len(added) == mixed["used"]
    assert mixed["drawn"] == 500 == mixed["used"] + sum(mixed["left_out"].values())
    assert mixed["rows"]["read"] == mixed["rows"]["kept"] + mixed["rows"]["rejected"] == 2400
    assert manifest["rows"] == read_json(plain.manifest)["rows"]
    assert len({row["review"] for row in train}) == len(train)
    held_out = {row["review"] for name in ("val", "test") for row in read_jsonl(run.split(name))}
    assert not held_out & {row["review"] for row in train}
    with open(other / "waimai_10k.csv", encoding="utf-8", newline="") as file:
        source = list(csv.DictReader(file))
    for row in added:
        name, number = row["id"].split(":")
        assert name == "waimai/train"
        assert source[int(number) - 1]["review"].strip() == row["review"]
        assert row["messages"][1]["content"] == ["负面", "正面"][int(source[int(number) - 1]["label"])]
    again = prepare_run(tmp_path / "again", *options)
    assert again.split("train").read_bytes() == run.split("train").read_bytes()


def test_examples_may_be_mixed_rows(other: Path, tmp_path: Path) -> None:
    options = ["--train-samples", "20", "--data-dir", str(other), "--mix", "waimai=20"]
    run = prepare_run(tmp_path, *options, "--prompt", "zh-nearest", "--test-samples", "10")
    rows = read_jsonl(run.split("train"))
    assert all(len(row["examples"]) == 4 for row in rows)
    assert any(id.startswith("waimai/") for row in rows for id in row["examples"])


def test_lengths_that_differ_are_said_not_to_be_alike() -> None:
    assert compare_lengths(list(range(20, 60)), list(range(21, 61)))["alike"]
    apart = compare_lengths(list(range(20, 60)), list(range(200, 600)))
    assert (apart["alike"], apart["median"], apart["median_mixed"]) == (False, 39.5, 399.5)
    assert apart["ks_distance"] == 1.0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--mix", "waimai"], "--mix waimai: write NAME=RATIO"),
        (["--mix", "waimai=-1"], "the ratio above 0"),
        (["--mix", "demo=1"], "demo is in the training rows already"),
        (["--mix", "waimay=1"], "data set 'waimay' is not known"),
        (["--dataset", "jd", "--labels", "0=差评,1=好评", "--mix", "waimai=1"], "the same label names"),
        (["--mix", "waimai=50"], "such rows. Take a smaller ratio, or fewer rows of this one"),
    ],
)
def test_what_cannot_be_mixed_is_one_line(
    other: Path, tmp_path: Path, options: list[str], complaint: str
) -> None:
    with pytest.raises(UserError) as error:
        prepare_run(tmp_path, "--data-dir", str(other), *options)
    assert complaint in str(error.value)


def test_a_mix_that_is_refused_leaves_nothing(command: Command, other: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = command("prepare", "--data-dir", other, "--mix", "waimai=50", "--run-folder", run)
    assert (done.returncode, run.exists()) == (2, False), done.stderr


def test_a_file_of_ones_own_may_be_mixed_with_the_data_set_that_it_is_like(tmp_path: Path) -> None:
    own = tmp_path / "waimai.csv"
    own.write_text("label,review\n1,很好\n0,很差\n", encoding="utf-8")
    experiment = make_experiment("--dataset", "waimai", "--data-file", own, "--mix", "waimai=0.5")
    assert [each.dataset.name for each in experiment.mixed] == ["waimai"]
