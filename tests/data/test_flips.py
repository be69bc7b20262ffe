"""Labels made wrong on purpose: as many as asked, of training and validation alone, and each is listed."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_experiment, prepare_run
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.core.screen import Screen
from workflows.pipeline.lines import lines_of
from workflows.pipeline.run import are_done, do_stages
from workflows.scoring.table import render_scores

SAMPLE = ["--train-samples", "320", "--sample-seed", "1", "--test-samples", "50"]


def _labels(run: RunFolder, *splits: str) -> dict[str, int]:
    return {row["id"]: row["label"] for name in splits for row in read_jsonl(run.split(name))}


def _changed(run: RunFolder, plain: RunFolder) -> dict[str, tuple[int, int]]:
    before, after = (_labels(each, *SPLITS) for each in (plain, run))
    assert before.keys() == after.keys()
    return {id: (before[id], after[id]) for id in before if before[id] != after[id]}


def test_as_many_labels_as_asked_are_wrong_and_a_larger_share_has_them_too(tmp_path: Path) -> None:
    plain = prepare_run(tmp_path / "plain", *SAMPLE)
    rows = {name: len(_labels(plain, name)) for name in SPLITS}
    assert (rows["train"], rows["val"]) == (320, 41)
    before: set[str] = set()
    for share in (0.05, 0.1, 0.2):
        run = prepare_run(tmp_path / f"{share}", *SAMPLE, "--flip-labels", str(share))
        wrong = _changed(run, plain)
        counts = {name: len(wrong.keys() & _labels(plain, name)) for name in SPLITS}
        assert counts == {"train": round(share * 320), "val": round(share * 41), "test": 0}
        assert run.split("test").read_bytes() == plain.split("test").read_bytes()
        names = ["negative", "positive"]
        listed = {row["id"]: (row["before"], row["after"]) for row in read_jsonl(run.flipped)}
        assert listed == {id: tuple(names[label] for label in pair) for id, pair in wrong.items()}
        for row in read_jsonl(run.split("train")):  # what the model is taught is wrong too
            assert row["messages"][-1]["content"] == ["负面", "正面"][row["label"]]
        manifest, own = read_json(run.manifest), read_json(plain.manifest)
        assert manifest["flipped"] == {name: counts[name] for name in ("train", "val")}
        assert manifest["splits"]["train"]["labels"] != own["splits"]["train"]["labels"]
        assert manifest["drift"] == own["drift"]
        assert "flipped.jsonl" in manifest["sha256"]
        assert before < wrong.keys()
        before = {*wrong}
    said = " ".join(lines_of("prepare", manifest, run))
    assert "Labels were made wrong on purpose: 64 of 320 in training, 8 of 41 in validation" in said
    assert "有意改错了标签：训练集 320 条中的 64 条，验证集 41 条中的 8 条" in said
    assert not plain.flipped.exists()


def test_another_sample_has_other_wrong_labels_and_the_same_one_the_same(tmp_path: Path) -> None:
    asked = ["--train-samples", "2000", "--flip-labels", "0.1"]
    first, again, other = (
        read_jsonl(prepare_run(tmp_path / name, *asked, "--sample-seed", seed).flipped)
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert first == again
    assert len({row["id"] for row in first} & {row["id"] for row in other}) < len(first) / 2


def test_each_other_label_is_as_likely(tmp_path: Path) -> None:
    file = tmp_path / "three.csv"
    lines = (f"第{i}条，{'差中好'[i % 3]}，{i * i},{'差中好'[i % 3]}" for i in range(3000))
    file.write_text("t,l\n" + "\n".join(lines), encoding="utf-8")
    own = ["--data-file", str(file), "--text-column", "t", "--label-column", "l", "--labels", "差,中,好"]
    pairs = Counter(
        (row["before"], row["after"])
        for row in read_jsonl(prepare_run(tmp_path / "run", *own, "--flip-labels", "0.5").flipped)
    )
    assert pairs.keys() == {(a, b) for a in "差中好" for b in "差中好" if a != b}
    assert all(180 < count < 270 for count in pairs.values())  # of 1,350 in six ways


def test_labels_are_flipped_after_corrections_by_hand_and_mixed_rows_keep_theirs(
    tmp_path: Path, demo_rows: list[dict[str, str]]
) -> None:
    plain = prepare_run(tmp_path / "plain")
    table = tmp_path / "mine.csv"
    wrong = read_jsonl(plain.split("train"))[:200]
    lines = (f'{row["id"]},"{row["review"]}",{["positive", "negative"][row["label"]]}' for row in wrong)
    table.write_text("id,text,correction\n" + "\n".join(lines), encoding="utf-8")
    lines = (f"{i % 2},第{i}单外卖{'差好'[i % 2]}，{i * i}号骑手" for i in range(600))
    (tmp_path / "waimai_10k.csv").write_text("label,review\n" + "\n".join(lines), encoding="utf-8")
    asked = ["--apply", str(table), "--data-dir", str(tmp_path), "--mix", "waimai=0.1"]
    corrected = prepare_run(tmp_path / "corrected", *asked)
    run = prepare_run(tmp_path / "run", *asked, "--flip-labels", "0.2")
    assert run.corrections.read_bytes() == corrected.corrections.read_bytes()
    wrong_now = _changed(run, corrected)
    own = [id for id in _labels(run, "train") if not id.startswith("waimai/")]
    assert len(own) < len(_labels(run, "train"))
    assert len(wrong_now) == round(0.2 * len(own)) + round(0.2 * len(_labels(run, "val")))
    assert not any(id.startswith("waimai/") for id in wrong_now)
    assert wrong_now.keys() & {row["id"] for row in wrong}


def test_the_report_says_that_labels_are_wrong_and_how_many_the_audit_finds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment(
        "--train-samples", "1000", "--test-samples", "50", "--flip-labels", "0.05", "--method", "probe"
    )
    run, stages = RunFolder(tmp_path), ("prepare", "baselines", "audit", "score", "report")
    do_stages(run, experiment, stages, Screen())
    listed = {line.split(",")[0] for line in run.audit.read_text(encoding="utf-8").splitlines()}
    found = sum(row["id"] in listed for row in read_jsonl(run.flipped))
    assert found > 28
    assert f"of the 56 labels made wrong on purpose, {found} are among them" in capfd.readouterr().out
    page = run.report_page.read_text(encoding="utf-8")
    shown = render_scores(read_json(run.scores), {})
    for said in ("Labels were made wrong on purpose: 50 of 1,000 in training, 6 of", "有意改错了标签"):
        assert said in page
        assert said in shown
    assert f"Of the 56 labels that were made wrong on purpose, {found} are among them." in page
    assert f"有意改错的 56 个标签中，有 {found} 个被列为可能有误。" in page
    assert are_done(run, experiment, stages)
    run.flipped.unlink()
    assert not are_done(run, experiment, stages)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--flip-labels", "1"], "--flip-labels 1.0: a share of the labels, from 0 to below 1"),
        (["--flip-labels=-0.1"], "--flip-labels -0.1: a share of the labels, from 0 to below 1"),
        (["--flip-labels", "nan"], "--flip-labels nan: a share of the labels, from 0 to below 1"),
        (
            ["--dataset", "demo-aspects", "--method", "head", "--flip-labels", "0.1"],
            "--flip-labels: means nothing for data set demo-aspects, which is multi_label",
        ),
        (
            ["--dataset", "dianping-stars", "--method", "head", "--flip-labels", "0.1"],
            "--flip-labels: means nothing for data set dianping-stars, which is regression",
        ),
    ],
)
def test_what_cannot_be_flipped_is_one_line(options: list[Any], complaint: str) -> None:
    with pytest.raises(UserError) as error:
        make_experiment(*options)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
