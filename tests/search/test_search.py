"""A whole search on the embedded model: killed, gone on with, and the same whatever the test rows say."""

import csv
import html
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from run_swift import app
from tests.conftest import Command, make_experiment, read_demo_rows, start_command
from workflows.core.errors import UserError
from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.screen import Screen
from workflows.experiment.cards import ROOT
from workflows.experiment.experiment import load_experiment
from workflows.experiment.options import DEFAULTS
from workflows.search.search import work_on_search
from workflows.search.space import load_space

SPACE = """
learning_rate: {low: 5.0e-4, high: 1.0e-2, log: true}
lora_rank: [4, 16]
prompt: [zh-question, zh-continue]
"""


def _write_reviews(folder: Path, flipped: bool) -> list[str]:
    """Few reviews in three files, and the flags that name them; `flipped`: test labels are the wrong ones."""
    rows = [(row["text"], "差好"[int(row["label"])] + "评") for row in read_demo_rows()]
    flags = ["--text-column", "text", "--label-column", "label", "--labels", "差评,好评"]
    other = {"差评": "好评", "好评": "差评"}
    test = [(review, other[label] if flipped else label) for review, label in rows[200:240]]
    for name, part in (("data", rows[:96]), ("val", rows[96:136]), ("test", test)):
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])
        flags += [f"--{name}-file", str(folder / f"{name}.csv")]
    return flags


def _search(folder: Path, flipped: bool = False) -> list[str]:
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE, encoding="utf-8")
    flags = [*_write_reviews(folder, flipped), "--keep-near-copies", "--set", "max_steps=4"]
    return ["search", *flags, "--space", str(folder / "space.yaml"), "--output", str(folder / "out")]


def _tried(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(each["values"], each["evaluations"], each["loss"]) for each in found["trials"]]


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_test_rows_do_not_choose(
    command: Command, tmp_path: Path
) -> None:
    search, out = [*_search(tmp_path / "killed"), "--trials", "3"], tmp_path / "killed" / "out"
    with start_command(*search) as started:
        assert started.stdout is not None
        second = False
        for line in started.stdout:
            second = second or line.startswith("trial 2 of 3: ")
            if second and "train" in line:
                started.kill()
    assert started.returncode == -signal.SIGKILL
    assert not list(out.glob("runs/*/predictions"))
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{out / 'search.db'}")
    stopped = study.trials[1]
    assert [each.state for each in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    done = command(*search)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 trials finished" in done.stdout
    assert re.search(r"trial 3 of 3: .*; \d+ s a trial so far, about \d\d:\d\d left for all", done.stdout)
    assert [each.state for each in study.trials[1:]] == [TrialState.FAIL, *[TrialState.COMPLETE] * 2]
    assert study.trials[2].params == stopped.params
    found = read_json(out / "search.json")
    assert all(said["en"] in done.stdout and said["zh"] in done.stdout for said in found["verdict"])
    assert [each["number"] for each in found["trials"]] == [0, 2, 3]
    assert found["best"] == min(found["trials"], key=lambda each: each["loss"])["number"]
    assert found["rows"] == {"train": 96, "val": 40, "test": 40}
    # The rows are the same in all trials; only two have answered test rows.
    runs = {each["number"]: RunFolder(out / "runs" / each["run"]) for each in found["trials"]}
    for split in ("train", "val"):
        rows = [
            [(row["id"], row["review"], row["label"]) for row in read_jsonl(run.split(split))]
            for run in runs.values()
        ]
        assert rows[0] == rows[1] == rows[2]
    answered = {number for number, run in runs.items() if run.predictions("tuned").exists()}
    assert answered == {found["default"], found["best"]}
    _check_preset(found, out, runs[found["best"]])
    _check_page(found, out, search)
    # Another that was not killed, with every test label wrong.
    flipped = tmp_path / "flipped"
    done = command(*_search(flipped, flipped=True), "--trials", "3")
    assert done.returncode == 0, done.stderr
    other = read_json(flipped / "out" / "search.json")
    assert _tried(other) == _tried(found)
    assert other["best"] == found["best"] - 1 != other["default"]  # no trial was stopped
    for name in ("default", "best"):
        answers = [
            read_jsonl(RunFolder(each / each_found["runs"][name]).predictions("tuned"))
            for each, each_found in ((out, found), (flipped / "out", other))
        ]
        assert [row["output"] for row in answers[0]] == [row["output"] for row in answers[1]]
        assert not any(a["gold"] == b["gold"] for a, b in zip(*answers, strict=True))
    _check_pruning(command, out, search, study)


def _check_preset(found: dict[str, Any], out: Path, best: RunFolder) -> None:
    """The preset with its command is the run that won."""
    used = (out / "best.yaml").read_text(encoding="utf-8").splitlines()[1].removeprefix("#   ")
    assert used == found["use"]
    experiment, won = make_experiment(*shlex.split(used)[3:]), load_experiment(best.experiment)
    assert experiment.method == "best"
    assert experiment.prompt == won.prompt
    assert {name: str(value) for name, value in experiment.arguments.items()} == {
        name: str(value) for name, value in won.arguments.items()
    }


def _check_page(found: dict[str, Any], out: Path, search: list[str]) -> None:
    """The page shows what was found, and fetches nothing from elsewhere."""
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 * 6
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=.?https?:", page)
    assert found["command"] in html.unescape(page)
    repeated, asked = (
        app.parse_args(words, exit_on_error=False, print_error=False)[1].arguments
        for words in (shlex.split(found["command"])[2:], search)
    )
    assert repeated == asked
    for name in ("default", "best"):
        low, high = found["test"][name]["accuracy_interval"]
        assert f"({low:.3f} – {high:.3f})" in page
        assert found["test"][name]["baselines"].keys() == {"tfidf", "majority"}
        assert f'href="{found["runs"][name]}/report.html"' in page
    assert "测试集准确率（字符 TF-IDF" in page
    gain, pair = found["gain_a_minute"], found["comparison"]
    assert gain["accuracy"] * found["minutes"] == pytest.approx(pair["accuracy_difference"])
    assert gain["interval"][0] < gain["accuracy"] < gain["interval"][1]


def _check_pruning(command: Command, out: Path, search: list[str], study: optuna.Study) -> None:
    """A trial that is behind the median of others, here made up, ends early; the default never does."""
    ahead = dict.fromkeys(range(4), 1e-6)
    for number in range(3):
        study.add_trial(
            optuna.create_trial(
                value=9.0,
                params=study.trials[0].params,
                distributions=study.trials[0].distributions,
                intermediate_values=ahead,
                user_attrs={"run": f"made-up-{number}", "seconds": 1.0},
            )
        )
    best = read_json(out / "search.json")["best"]
    shutil.rmtree(out / "runs")  # as its page allows: what is looked at again is trained again
    done = command(*search[:-1], "7")
    assert done.returncode == 0, done.stderr
    assert "trial 7 of 7: " in done.stdout
    assert done.stdout.count("ended early: on validation it is behind the median of the others") == 1
    found = read_json(out / "search.json")
    last = found["trials"][-1]
    assert (last["state"], last["loss"], len(last["evaluations"])) == ("pruned", None, 2)
    run = RunFolder(out / "runs" / last["run"])
    assert not run.sft.exists()
    assert "train" not in finished_stages(run)
    assert found["best"] == best
    for name in ("default", "best"):
        assert RunFolder(out / found["runs"][name]).experiment.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "probe"], "method probe tunes no model"),
        (["--method", "plain-peft"], "method plain-peft watches no validation rows"),
        (["--space", "no.yaml"], "no such file"),
        (["--trials", "0"], "Must be >= 1"),
        (["--output", str(ROOT / "docs")], "is no search and not empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_searched_is_one_line(command: Command, flags: list[str], message: str) -> None:
    done = command("search", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_prompt_of_a_space_is_a_name(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("prompt: [1, 2]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"space\.yaml: prompt: 1 is no name of a prompt"):
        load_space(str(space), make_experiment())


def test_without_optuna_the_command_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'needs optuna, .* pip install "optuna>=5"$'):
        work_on_search(DEFAULTS, None, 3, None, None, Screen())


def test_a_search_without_evaluations_is_refused_before_anything_is_trained(
    command: Command, tmp_path: Path
) -> None:
    without = ("--set", "eval_strategy=no", "--set", "load_best_model_at_end=false")
    done = command("search", *without, "--output", tmp_path / "search")
    assert done.returncode == 2
    assert "search: eval_strategy no leaves nothing to search by; leave it out." in done.stderr
    assert not list(tmp_path.glob("search/runs/*"))
