"""A study whose models or data cannot be had: what is left out, what is refused, what a plan says."""

import re
from pathlib import Path

import pytest

from tests.conftest import TINY, Command
from tests.fake_hub import FakeHub
from workflows.core.files import read_json, write_json
from workflows.experiment.options import DEFAULTS
from workflows.studies.card import load_study
from workflows.studies.runs import find_runs

OPTIONAL = """
question: {en: "Which is better?", zh: 哪个更好？}
options: {test_samples: 40}
sizes: [16]
draws: 1
arms:
  tfidf: {}
  chat: {options: {method: lora, model: someone/tiny-chat}, optional: true}
  again: {options: {method: head, model: someone/tiny-chat}, optional: true}
compare: [[chat, tfidf]]
"""


def _without_hub(hub: FakeHub) -> dict[str, str]:
    """The environment of a machine with the hub's caches, but without a network."""
    nowhere = "http://127.0.0.1:9"
    return {**hub.env, "MODELSCOPE_ENDPOINT": nowhere, "HF_ENDPOINT": nowhere}


@pytest.mark.slow
def test_an_arm_is_left_out_where_its_model_cannot_be_had(
    command: Command, hub: FakeHub, tmp_path: Path
) -> None:
    card, out = tmp_path / "optional.yaml", tmp_path / "out"
    card.write_text(OPTIONAL, encoding="utf-8")
    study = ("study", card, "--output", out)
    gone = _without_hub(hub)
    done = command(*study, env=gone)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("asking for model tiny-chat") == 1
    for arm in ("chat", "again"):
        assert f"arm {arm} is left out: model someone/tiny-chat: could not be downloaded" in done.stdout
    assert "study optional: 1 runs" in done.stdout
    found = read_json(out / "study.json")
    assert [(each["arm"], each["model"]) for each in found["left_out"]] == [
        ("chat", "tiny-chat"),
        ("again", "tiny-chat"),
    ]
    (panel,) = found["panels"]
    assert (list(panel["arms"]), panel["pairs"]) == (["tfidf"], [])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "chat is left out: the model tiny-chat could not be had" in page
    assert "未包含 chat：运行研究时无法取得模型 tiny-chat" in page
    # What another machine has measured of an arm stays; the rest of it is left for later.
    records = found["runs"]
    (tfidf,) = records.values()
    asked = load_study(str(card), DEFAULTS, False, 2)
    first, second = (
        run.key for cell, run in find_runs(asked, out, {}, lambda experiment: {}) if cell.arm == "chat"
    )
    stages = "prepare tokens derive train tuned score report"
    known = tmp_path / "known.json"
    measured = {first: tfidf | {"right": {"tuned": tfidf["right"]["tfidf"]}, "stages": stages}}
    write_json(known, found | {"runs": measured})
    part = ("study", card, "--draws", 2, "--known-runs", known, "--output", tmp_path / "part")
    done = command(*part, env=gone)
    assert done.returncode == 0, done.stderr
    assert "arm chat, 16 training rows: left for later: model someone/tiny-chat" in done.stdout
    assert "arm again is left out" in done.stdout
    again = read_json(tmp_path / "part" / "study.json")
    assert again["runs"].keys() >= {first}
    assert second not in again["runs"]
    assert again["panels"][0]["unfinished"] == [{"arm": "chat", "size": 16, "draws": 1, "of": 2}]
    # With the model on the hub the arms are there; what describes it is in the cache when the hub is gone.
    hub.put_folder("models", "someone/tiny-chat", TINY)
    for env in (hub.env, gone):
        planned = command(*study, "--plan", env=env)
        assert planned.returncode == 0, planned.stderr
        assert "left out" not in planned.stdout
        rows = re.findall(r"demo-tiny-chat-(\w+) +16 +1 +0 +~\d+ +~0\.\d\d +~\d\.\d\n", planned.stdout)
        assert rows == ["head", "lora"]
        assert planned.stdout.count("calibrating on") == 1


@pytest.mark.slow
def test_a_model_that_cannot_be_had_is_said_before_the_first_run(
    command: Command, hub: FakeHub, tmp_path: Path
) -> None:
    card, out = tmp_path / "needed.yaml", tmp_path / "out"
    card.write_text(OPTIONAL.replace("optional: true", "optional: false"), encoding="utf-8")
    study = ("study", card, "--output", out)
    done = command(*study, env=_without_hub(hub))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "study needed, chat: model someone/tiny-chat: could not be downloaded" in done.stderr
    table = tmp_path / "reviews.csv"
    lines = [f"第{at}家店：{'好吃' if at % 2 else '难吃'},{at % 2}" for at in range(400)]
    table.write_text("\n".join(["t,l", *lines]), encoding="utf-8")
    columns = ("--text-column", "t", "--label-column", "l", "--labels", "0=negative,1=positive")
    done = command(*study, "--scale", "smoke", "--data-file", table, *columns)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "study needed, chat: label words 'negative' are" in done.stderr
    assert not [*out.glob("runs/*")]


@pytest.mark.slow
def test_a_plan_comes_without_model_and_data(command: Command, hub: FakeHub, tmp_path: Path) -> None:
    card = tmp_path / "missing.yaml"
    missing = OPTIONAL.replace("optional: true", "optional: false")
    card.write_text(missing + "grid: {dataset: [demo, jd]}\n", encoding="utf-8")
    planned = command("study", card, "--plan", "--output", tmp_path / "out", env=_without_hub(hub))
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"demo-tiny-probe +16 +1 +0 +~\d+ +~0\.\d\d +~\d\.\d\n", planned.stdout)
    assert re.search(r"demo-tiny-chat-lora +16 +1 +0 +\? +\? +\?\n", planned.stdout)
    assert "6 runs; training rows in all: 96; tested rows in each run: 40\n" in planned.stdout
    assert "h, without 5 of which it is not known; memory" in planned.stdout
    for why in (
        "model someone/tiny-chat: could not be downloaded",
        "data set jd: no source could be reached",
    ):
        assert planned.stdout.count(f"?: {why}") == 1
