"""A whole study on the embedded model: killed, gone on with, and read from its raw predictions."""

import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from run_swift import main
from tests.conftest import Command, start_command
from tests.fake_hub import FakeHub
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl, write_json
from workflows.core.run_folder import RunFolder
from workflows.experiment.experiment import Experiment
from workflows.experiment.options import DEFAULTS, DataOptions, RunOptions
from workflows.experiment.resolve import resolve
from workflows.studies.card import load_study
from workflows.studies.plan import render_plan
from workflows.studies.records import key_of, read_known_runs, refuse_to_lose, stages_of
from workflows.studies.runs import find_runs

CARD = """
question: {en: "Which is better on few rows?", zh: 行数很少时哪个更好？}
options: {method: probe, test_samples: 40}
sizes: [16, 32]
draws: 2
arms: {tfidf: {}, probe: {}}
compare: [[probe, tfidf]]
"""


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hub_here: FakeHub,
    capfd: pytest.CaptureFixture[str],
) -> None:
    card, out = tmp_path / "few.yaml", tmp_path / "outputs" / "studies" / "few"
    card.write_text(CARD, encoding="utf-8")
    study = ["study", str(card), "--output", str(out)]
    planned = command(*study, "--plan").stdout
    assert "4 runs; training rows in all: 96; tested rows in each run: 40\n" in planned
    assert re.search(r"the 4 that are left take: ~0\.\d h; memory at most: ~\d\.\d GB\n", planned)
    assert len(re.findall(r"demo-tiny-probe +\d\d +2 +0 +~\d+ +~0\.\d\d +~\d\.\d\n", planned)) == 2
    assert not out.exists()
    with start_command(*study) as started:
        assert started.stdout is not None
        for line in started.stdout:
            if line.startswith("run 3 of 4"):
                started.kill()
    assert started.returncode == -signal.SIGKILL
    assert len(list(out.glob("runs/*/report.html"))) == 2
    so_far = command(*study, "--so-far")
    assert "study few: 4 runs, 2 of them finished" in so_far.stdout
    assert len(list(out.glob("runs/*/report.html"))) == 2
    left = "Not measured yet: "
    assert left in (out / "report.html").read_text(encoding="utf-8")
    done = command(*study)
    assert done.returncode == 0, done.stderr
    assert "study few: 4 runs, 2 of them finished" in done.stdout
    assert re.search(
        r"run 2 of 2: demo-tiny-probe, 32 training rows, \d+ s a run so far, about 0 min left", done.stdout
    )
    assert "2 draws are too few to ever tell who is ahead" in done.stdout
    assert "answers nothing about a real Qwen" in done.stdout
    found = read_json(out / "study.json")
    (panel,) = found["panels"]
    assert panel["sizes"] == [{"size": 16, "train": 16, "val": 3}, {"size": 32, "train": 32, "val": 5}]
    for arm, points in panel["arms"].items():
        for point in points:
            runs = [RunFolder(out / found["folders"][run]) for run in point["runs"]]
            answers = [read_jsonl(run.predictions(arm)) for run in runs]
            right = [sum(row["prediction"] == row["gold"] for row in rows) / 40 for rows in answers]
            assert point["accuracies"] == right
    small, large = (
        [RunFolder(out / found["folders"][run]) for run in point["runs"]] for point in panel["arms"]["tfidf"]
    )
    assert len({run.split("test").read_bytes() for run in small + large}) == 1
    for split in ("train", "val"):
        ids = [
            [{row["id"] for row in read_jsonl(run.split(split))} for run in runs] for runs in (small, large)
        ]
        assert all(smaller < larger for smaller, larger in zip(*ids, strict=True))
    page = (out / "report.html").read_text(encoding="utf-8")
    for run in small + large:
        assert f'href="runs/{run.path.name}/report.html"' in page
    assert f"python run_swift.py {' '.join(study)}" in page
    assert "Options of all runs, unless a system has its own: method probe, test_samples 40." in page
    assert left not in page
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "a-token")
    assert main([*study, "--push", "someone/few"]) == 0
    assert "4 runs, 4 of them finished" in capfd.readouterr().out
    there = hub_here.root / "models" / "someone" / "few"
    assert {path.name for path in there.iterdir()} == {"README.md", "figures"}
    card_there = ModelCard.load(there / "README.md", ignore_metadata_errors=False)
    for arm, result in zip(panel["arms"], card_there.data.eval_results, strict=True):
        best = panel["arms"][arm][-1]
        assert (result.metric_value, result.dataset_args) == (best["accuracy"], {"rows": 40})
        assert result.metric_args == {"interval_95": best["accuracy_interval"], "draws": 2}
    assert str(tmp_path) not in card_there.content
    assert "study few.yaml --output few\n" in card_there.content
    for picture in re.findall(r"\]\((figures/[^)]+)\)", card_there.content):
        assert (there / picture).exists()
    planned = command(*study, "--plan").stdout
    assert re.search(r"the 0 that are left take: 0\.0 h; memory at most: \d\.\d GB\n", planned)
    assert "~" not in planned
    # Another study finds them, once they are where runs are.
    other = load_study(str(card), DEFAULTS, False, None)
    assert not any(run.is_done for _, run in find_runs(other, tmp_path / "other", {}, lambda experiment: {}))
    monkeypatch.setattr("workflows.studies.runs.OUTPUTS", tmp_path / "outputs")
    assert all(run.is_done for _, run in find_runs(other, tmp_path / "other", {}, lambda experiment: {}))
    # On another machine its study.json stands for its runs.
    elsewhere = tmp_path / "elsewhere"
    known = command("study", str(card), "--known-runs", str(out / "study.json"), "--output", str(elsewhere))
    assert "4 runs, 4 of them finished" in known.stdout, known.stderr
    assert not (elsewhere / "runs").exists()
    again = read_json(elsewhere / "study.json")
    assert [again[name] for name in ("panels", "answer", "runs")] == [
        found[name] for name in ("panels", "answer", "runs")
    ]
    # And is not written over without them.
    refused = command("study", str(card), "--draws", 1, "--so-far", "--output", str(elsewhere))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "study.json: holds 4 runs of other machines, or of files that lay" in refused.stderr
    assert read_json(elsewhere / "study.json") == again


def test_a_run_is_known_by_what_is_in_it_not_by_where_it_is(tmp_path: Path) -> None:
    keys = []
    for folder in ("here", "there"):
        data = tmp_path / folder / "reviews.csv"
        data.parent.mkdir()
        data.write_text("t,l\n好,1\n差,0\n", encoding="utf-8")
        options = DataOptions(data_file=str(data), text_column="t", label_column="l", labels="0=差,1=好")
        keys.append(key_of(resolve(RunOptions(options))))
        keys.append(key_of(resolve(RunOptions(replace(options, data_seed=1)))))
    assert keys[:2] == keys[2:]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is no study.json (KeyError: 'format')"),
        ("[", "is no study.json (JSONDecodeError: "),
        ('{"format": 0, "runs": {}, "environments": {}}', "is of format 0, this version reads 2"),
        (
            '{"format": 2, "environments": {}, "runs": {"a": {"environment": "e"}}}',
            "is no study.json (KeyError: 'tested')",
        ),
        (
            '{"format": 2, "environments": {}, "runs": {"a": {"environment": "e", "tested": "t", '
            '"stages": "", "seconds": 1, "peak_memory_bytes": 1, "test_rows": 9, '
            '"right": {"tfidf": "AA=="}}}}',
            "is no study.json (ValueError: tfidf: not of 9 test rows)",
        ),
    ],
)
def test_what_is_no_study_is_not_known_runs(
    command: Command, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "study.json"
    path.write_text(content, encoding="utf-8")
    done = command("study", "seeds", "--known-runs", path, "--output", tmp_path / "out", "--plan")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"--known-runs {path}: {message}" in done.stderr


def _record(stages: str, system: str = "tfidf") -> dict[str, object]:
    right = {system: "AA=="}
    labels = {"train": 16, "val": 3}
    return {
        **{"labels": labels, "test_rows": 8, "tested": "t", "right": right, "stages": stages},
        **{"seconds": 20.0, "peak_memory_bytes": 9, "environment": "e"},
    }


def test_of_two_records_of_a_run_the_one_that_did_more_counts(tmp_path: Path) -> None:
    paths = (tmp_path / "a.json", tmp_path / "b.json")
    for path, stages in zip(
        paths, ("prepare baselines probe score report", "prepare baselines score report"), strict=True
    ):
        write_json(path, {"format": 2, "runs": {"a": _record(stages)}, "environments": {}})
    for order in (paths, paths[::-1]):
        assert "probe" in read_known_runs(order)["a"]["stages"]


def test_two_records_of_a_run_that_each_did_something_else_are_put_together(tmp_path: Path) -> None:
    paths = (tmp_path / "a.json", tmp_path / "b.json")
    parts = {"tfidf": "prepare baselines score", "zero_shot": "prepare zero_shot score"}
    for path, (system, stages) in zip(paths, parts.items(), strict=True):
        write_json(path, {"format": 2, "runs": {"a": _record(stages, system)}, "environments": {}})
    for order in (paths, paths[::-1]):
        found = read_known_runs(order)["a"]
        assert stages_of(found) == {"prepare", "baselines", "zero_shot", "score"}
        assert {*found["right"]} == {*parts}


def test_runs_whose_folders_are_gone_are_not_written_over(tmp_path: Path) -> None:
    study = {"runs": {"a": {}, "b": {}}, "folders": {"a": "runs/a", "b": "runs/b"}}
    write_json(tmp_path / "study.json", study)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    names = {"a": "a", "b": "b"}
    refuse_to_lose(tmp_path / "study.json", {"a"}, names)
    with pytest.raises(UserError, match="holds 1 runs of other machines, or of files that lay in another"):
        refuse_to_lose(tmp_path / "study.json", {"a"}, names | {"b": "b-of-a-file-that-was-moved"})
    (tmp_path / "runs" / "b").rmdir()
    with pytest.raises(UserError, match="holds 1 runs of other machines"):
        refuse_to_lose(tmp_path / "study.json", {"a"}, names)
    refuse_to_lose(tmp_path / "study.json", {"b"}, names)


def test_what_another_machine_took_plans_nothing_here(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(CARD, encoding="utf-8")
    study = load_study(str(tmp_path / "few.yaml"), DEFAULTS, False, None)
    taken = find_runs(study, tmp_path, {}, lambda experiment: {})
    runs = [*{run.name: run for _, run in taken}.values()]
    for run in runs[:-1]:
        run.known = _record(" ".join(run.stages))
    asked: list[Experiment] = []

    def estimate(runs: Sequence[tuple[Experiment, Sequence[str]]]) -> list[dict[str, object]]:
        asked.extend(experiment for experiment, _ in runs)
        return [{"train": 32, "test": 8, "seconds": 30.0, "bytes": 2_000_000_000, "why": None}]

    plan = render_plan(runs, estimate)
    assert asked == [runs[-1].experiment]
    assert re.search(r"demo-tiny-probe +16 +2 +2 +– +– +–\n", plan)
    assert re.search(r"demo-tiny-probe +32 +2 +1 +~30 +~0\.01 +~2\.0\n", plan)
    assert "training rows in all: 80; tested rows in each run: 8\n" in plan


def test_nothing_is_said_of_a_study_that_is_not_begun(command: Command, tmp_path: Path) -> None:
    done = command("study", "seeds", "--scale", "smoke", "--so-far", "--output", str(tmp_path / "out"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "study seeds --so-far: none of its runs is finished yet" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", ["README.md", "outputs", "file"])
def test_a_study_is_not_written_over_what_is_none(command: Command, tmp_path: Path, there: str) -> None:
    out = tmp_path / "out"
    other = out if there == "file" else out / there
    other.parent.mkdir(exist_ok=True)
    other.write_text("mine", encoding="utf-8")
    for more in ([], ["--plan"], ["--so-far"]):
        done = command("study", "seeds", "--scale", "smoke", "--output", out, *more)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"{out}: is no study, and has {other.name}; name a folder of its own" in done.stderr
    assert other.read_text(encoding="utf-8") == "mine"
    assert out.is_file() or [*out.iterdir()] == [other]


@pytest.mark.slow
def test_arms_with_other_test_rows_are_refused_before_all_runs_are_done(
    command: Command, tmp_path: Path
) -> None:
    table = tmp_path / "reviews.csv"
    stars = ["差评", "中评", "好评"]
    lines = [f"第{at}条评论：{stars[at % 3]}的菜,{at % 3}" for at in range(240)]
    table.write_text("\n".join(["t,l", *lines]), encoding="utf-8")
    card, out = tmp_path / "few.yaml", tmp_path / "out"
    columns = f"data_file: {table}, text_column: t, label_column: l, labels: '0=差评,1=,2=好评', test_samples"
    arms = "arms: {tfidf: {}, both: {system: tfidf, options: {labels: '0=差评,1=差评,2=好评'}}}\n"
    text = CARD[: CARD.index("arms:")].replace("test_samples", columns) + arms
    card.write_text(text, encoding="utf-8")
    done = command("study", card, "--output", out)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "which belong into the study's grid" in done.stderr
    assert len([*out.glob("runs/*/report.html")]) == 2


@pytest.mark.slow
def test_a_run_that_cannot_be_done_keeps_no_other_from_it(command: Command, tmp_path: Path) -> None:
    card, out = tmp_path / "few.yaml", tmp_path / "out"
    refused = "arms: {lora: {options: {method: lora, set: [max_length=5]}}, tfidf: {}}"  # no row is as short
    card.write_text(CARD[: CARD.index("arms:")].replace("draws: 2", "draws: 1") + refused, encoding="utf-8")
    done = command("study", card, "--output", out)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "study few: 2 of 4 runs could not be done, and are left for the same command" in done.stderr
    assert "SWIFT could not start the training" in done.stderr
    found = read_json(out / "study.json")
    assert ([*found["panels"][0]["arms"]], len(found["runs"])) == (["tfidf"], 2)
    assert (out / "report.html").exists()
    assert "report: " in done.stdout


def test_a_study_of_a_file_of_ones_own(command: Command, tmp_path: Path) -> None:
    table, card, out = tmp_path / "reviews.csv", tmp_path / "few.yaml", tmp_path / "out"
    lines = [f"第{at}家店：{'好吃' if at % 3 else '难吃'},{at % 3 and 1}" for at in range(200)]
    table.write_text("\n".join(["t,l", *lines]), encoding="utf-8")
    card.write_text(CARD[: CARD.index("arms:")] + "arms: {tfidf: {}, majority: {}}\n", encoding="utf-8")
    columns = ("--text-column", "t", "--label-column", "l", "--labels")

    def study(*more: object, file: Path = table, labels: str = "0=差评,1=好评") -> tuple[int, str, str]:
        done = command("study", card, "--data-file", file, *columns, labels, "--output", out, *more)
        return done.returncode, done.stdout, done.stderr

    # What is refused leaves nothing behind, and a plan is refused as the study is.
    refusals = {
        "typo.csv: there is no such file": study("--plan", file=tmp_path / "typo.csv"),
        "label '1' is none of 差评, 好评": study("--plan", labels="0=差评,2=好评"),
        "--set sizes: SWIFT has no such argument": study("--set", "sizes=16"),
        "typo.csv: there is no such file.": study(file=tmp_path / "typo.csv"),
    }
    for message, (code, _, errors) in refusals.items():
        assert (code, errors.count("\n")) == (2, 1), errors
        assert message in errors
        assert "rejected.jsonl" not in errors
    assert not out.exists()
    assert study()[0] == 0
    found = read_json(out / "study.json")
    assert found["panels"][0]["test_rows"] == 20
    other = tmp_path / "others.csv"
    other.write_bytes(table.read_bytes())
    begun = [*(out / "data").iterdir()]
    for more in ((), ("--plan",)):
        code, _, errors = study(*more, file=other)
        assert (code, errors.count("\n")) == (2, 1), errors
        assert "out: holds a page of data_file reviews.csv, not others.csv" in errors
    assert "out: holds a page of split as the card has it, not course" in study("--split", "course")[2]
    assert [*(out / "data").iterdir()] == begun
    # The rows were counted while the file was there.
    table.unlink()
    code, shown, errors = study("--so-far")
    assert code == 0, errors
    assert "4 runs, 4 of them finished" in shown
    assert read_json(out / "study.json")["runs"] == found["runs"]
