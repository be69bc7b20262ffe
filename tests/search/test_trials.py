"""Who works on which trial, and what is searched: without a model."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from tests.conftest import make_experiment
from workflows.core.errors import UserError
from workflows.core.screen import Screen
from workflows.experiment.cards import ROOT
from workflows.scoring.uncertainty import compare_systems
from workflows.search.begin import begin
from workflows.search.result import gain_a_minute, what_may_be_said
from workflows.search.space import Space, load_space
from workflows.search.trials import FAILED, Came, Trials, evaluates_in_shares


def _space(tmp_path: Path, content: str, *flags: str) -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(content, encoding="utf-8")
    return load_space(str(path), make_experiment(*flags))


def _trials(tmp_path: Path, space: Space, wanted: int) -> Trials:
    (tmp_path / "locks").mkdir(exist_ok=True)
    return Trials(tmp_path, space, wanted)


def test_two_processes_share_the_trials_and_take_up_what_one_left(tmp_path: Path) -> None:
    space = _space(tmp_path, "{lora_rank: [4, 16], learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}}")
    here, there = _trials(tmp_path, space, 3), _trials(tmp_path, space, 3)
    first, second = here.take_next(), there.take_next()
    assert first is not None
    assert second is not None
    assert first.experiment == space.asked  # the default comes first
    with second.lock:
        third = here.take_next()
        assert third is not None
        assert there.take_next() is None
        assert len({each.run.path for each in (first, second, third)}) == 3
    # The second is let go without an answer, as when its process is killed: it is the next, as it was.
    again = here.take_next()
    assert again is not None
    assert again.trial.number != second.trial.number
    assert (again.run, again.experiment) == (second.run, second.experiment)
    for work in (first, third, again):
        here.study.tell(work.trial, 0.5)
    assert there.take_next() is None
    assert len(there.finished()) == 3
    more = _trials(tmp_path, space, 4).take_next()
    assert more is not None
    assert more.run.path not in {each.run.path for each in (first, third, again)}


def test_a_trial_that_was_stopped_while_it_was_drawn_comes_back_whole(tmp_path: Path) -> None:
    trials = _trials(tmp_path, _space(tmp_path, "{lora_rank: [4, 16], lora_alpha: [16, 64]}"), 2)
    assert trials.study.ask().params == {}  # the default, of which no value is stored yet
    work = trials.take_next()
    assert work is not None
    assert work.experiment == trials.space.asked


def test_numbers_that_yaml_takes_for_texts_are_no_other_values(tmp_path: Path) -> None:
    trials = _trials(tmp_path, _space(tmp_path, "{learning_rate: [1e-3, 2e-3]}"), 9)  # tiny's is 0.002
    taken = []
    while (work := trials.take_next()) is not None:
        taken.append(work.experiment.arguments["learning_rate"])
        trials.study.tell(work.trial, 0.5)
    assert sorted(map(float, taken)) == [1e-3, 2e-3]


def test_a_value_is_not_taken_away_by_null(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"warmup_ratio: null would leave it at 0\.05; leave null out"):
        _space(tmp_path, "{warmup_ratio: [null, 0.1]}")


def test_no_values_are_tried_twice(tmp_path: Path) -> None:
    trials = _trials(tmp_path, _space(tmp_path, "{lora_rank: [8, 16], lora_alpha: [32, 64]}"), 30)
    taken = []
    while (work := trials.take_next()) is not None:
        taken.append(work.run.path)
        trials.study.tell(work.trial, 0.5)
    assert len(set(taken)) == len(taken) == 4


def test_values_that_do_not_go_together_count_with_the_reason(tmp_path: Path) -> None:
    space = _space(
        tmp_path,
        "{recipe.min_characters: [10, 180], recipe.max_characters: [100, 200]}",
        *("--method", "cot"),
    )
    trials = _trials(tmp_path, space, 4)
    while (work := trials.take_next()) is not None:
        trials.study.tell(work.trial, 0.5)
    assert [each.user_attrs.get(FAILED) for each in trials.finished() if each.state == TrialState.FAIL] == [
        "recipe.max_characters: must be at least min_characters, 180."
    ]


def test_a_machine_without_memory_costs_no_more_than_one_trial(tmp_path: Path) -> None:
    trials = _trials(tmp_path, _space(tmp_path, "{lora_rank: [4, 8, 16, 32]}"), 4)
    first, second, third = (trials.take_next() for _ in range(3))
    assert first is not None and second is not None and third is not None
    no_memory = Came(1.0, error="memory ran out in training", momentary=True)
    trials.failed_by_the_moment = True  # a trial before these; what was trained since is between
    trials.note(first, Came(1.0, {"eval_label_loss": 0.5}), Screen())
    trials.note(second, no_memory, Screen())  # as a larger rank may bring about
    with pytest.raises(UserError, match="memory ran out"):
        trials.note(third, no_memory, Screen())
    assert [each.number for each in trials.running()] == [third.trial.number]
    again = _trials(tmp_path, trials.space, 4)  # the same command, which goes on past values that never fit
    with third.lock:
        pass
    taken = again.take_next()
    assert taken is not None and taken.run == third.run
    again.note(taken, no_memory, Screen())
    assert len(again.finished()) == 3


@pytest.mark.parametrize(
    ("flags", "compare"),
    [
        ((), True),
        (("--method", "course-chnsenticorp"), False),
        (("--set", "eval_steps=50", "--set", "save_steps=50"), False),
    ],
)
def test_trials_end_early_only_where_evaluations_are_at_shares(flags: tuple[str, ...], compare: bool) -> None:
    assert evaluates_in_shares(make_experiment(*flags)) is compare


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{lora_rnk: [4]}", "--set lora_rnk: SWIFT has no such argument. Nearest: lora_rank"),
        ("{lora_rank: [four]}", "--set lora_rank=four: SWIFT takes a whole number for it."),
        ("{lora_rank: {low: 4, hgh: 8}}", "lora_rank"),
        ("{lora_rank: {low: 8, high: 4}}", "lora_rank: low must be below high."),
        ("{learning_rate: {low: 0.0, high: 1.0, log: true}}", "on a log scale low must be above 0."),
        ("{lora_dropout: {low: 0.01, high: 0.2, log: true}}", "has 0.0 for it, which is searched too"),
        ("{label_smoothing_factor: {low: 0.0, high: 0.1}}", "has no number for it"),
        ("{prompt: [zh-answer]}", "prompt 'zh-answer' is not known"),
        ("{seed: [1, 2]}", "--set seed: the run sets this itself; use --seed."),
        ("{}", "leaves nothing to search"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        _space(tmp_path, content)
    assert str(tmp_path / "space.yaml") in str(refused.value)
    assert message in str(refused.value)


def test_a_number_that_yaml_takes_for_a_text_is_a_number(tmp_path: Path) -> None:
    preset = (ROOT / "sft_args" / "lora.yaml").read_text(encoding="utf-8")
    own = re.sub(r"^learning_rate: \S+", "learning_rate: 2e-4", preset, flags=re.M)
    (tmp_path / "own.yaml").write_text(own, encoding="utf-8")
    space = _space(
        tmp_path,
        "{learning_rate: {low: 0.0001, high: 0.001, log: true}}",
        *("--model", "qwen2.5-0.5b-instruct", "--method", str(tmp_path / "own.yaml")),
    )
    assert space.default == {"learning_rate": 0.0002}


def test_what_is_set_is_not_searched_and_the_default_belongs_to_the_space(tmp_path: Path) -> None:
    asked = make_experiment("--set", "lora_rank=12", "--set", "num_train_epochs=9", "--method", "lora")
    settings = load_space(None, asked).settings
    assert [*settings] == ["learning_rate", "lora_alpha", "target_modules", "prompt"]
    assert settings["learning_rate"].distribution.high == 0.002  # type: ignore[attr-defined]  # tiny's own
    whole = [*load_space(None, make_experiment("--method", "full")).settings]
    assert whole == ["learning_rate", "num_train_epochs", "prompt"]
    assert "prompt" not in load_space(None, make_experiment("--method", "head")).settings
    assert "prompt" not in load_space(None, make_experiment("--prompt", "zh-continue")).settings
    own = _space(tmp_path, "{lora_rank: [4, 16], use_rslora: [true], warmup_ratio: {low: 0.1, high: 0.2}}")
    assert own.settings["lora_rank"].distribution.choices == (8, 4, 16)  # type: ignore[attr-defined]
    assert own.experiment(own.default) == own.asked
    changed = own.experiment({**own.default, "use_rslora": True, "warmup_ratio": 0.123456})
    assert changed.tuning.set == ("use_rslora=true", "warmup_ratio=0.123")


def test_a_folder_is_of_one_search_and_its_rows(tmp_path: Path) -> None:
    data, out = tmp_path / "own.csv", tmp_path / "out"
    flags = ["--data-file", str(data), "--text-column", "t", "--label-column", "l", "--labels", "差,好"]
    with pytest.raises(UserError, match="no such file"):
        begin(out, _space(tmp_path, "{lora_rank: [4]}", *flags), Screen())
    assert not out.exists()
    (out / ".git").mkdir(parents=True)
    with pytest.raises(UserError, match="no such file"):
        begin(out, _space(tmp_path, "{lora_rank: [4]}", *flags), Screen())
    assert [path.name for path in out.iterdir()] == [".git"]  # what is hidden there stays
    data.write_text("t,l\n" + "".join(f"第{i}条,{'差好'[i % 2]}\n" for i in range(40)), encoding="utf-8")
    for _ in range(2):
        begin(out, _space(tmp_path, "{lora_rank: [4]}", *flags), Screen())
    for other in (_space(tmp_path, "{lora_rank: [16]}", *flags), _space(tmp_path, "{lora_rank: [4]}")):
        with pytest.raises(UserError, match="holds a search of other options; name a new folder"):
            begin(out, other, Screen())
    data.rename(tmp_path / "moved.csv")  # each trial would read it
    with pytest.raises(UserError, match="the files of its rows are others now, or gone; bring them back"):
        begin(out, _space(tmp_path, "{lora_rank: [4]}", *flags), Screen())
    (tmp_path / "moved.csv").rename(data)
    data.write_text(data.read_text(encoding="utf-8") + "又一条,好\n再一条,差\n", encoding="utf-8")
    with pytest.raises(UserError, match="its rows have changed since it began"):
        begin(out, _space(tmp_path, "{lora_rank: [4]}", *flags), Screen())


@pytest.mark.parametrize(
    ("default", "best", "said"),
    [
        (60, 60, "100 test rows cannot tell the best trial from the default preset"),
        (
            60,
            63,
            "So this search has not shown settings that are better than the default preset beyond chance.",
        ),
        (
            60,
            40,
            "So this search has not shown settings that are better than the default preset beyond chance.",
        ),
        (60, 90, "The best trial beat the default preset (+0.300, 95 % "),
        (
            60,
            None,
            "None of 4 trials has a lower validation loss than the default preset (40 validation rows)",
        ),
    ],
)
def test_a_gain_is_said_only_where_test_rows_show_it(default: int, best: int | None, said: str) -> None:
    pair = None
    if best is not None:
        (pair,) = compare_systems({"default": np.arange(100) < default, "best": np.arange(100) < best})
    found: dict[str, Any] = {
        "comparison": pair,
        "gain_a_minute": gain_a_minute(pair, 20.0),
        "trials": [{}] * 4,
        "evaluated_rows": 40,
        "minutes": 20.0,
        "test": {"best": {"rows": 100}},
    }
    told = " ".join(each.en for each in what_may_be_said(found))
    assert said in told
    assert ("has not shown" in told) == (best in (40, 60, 63))
    assert "Beside the default preset 3 trials took 20.0 minutes." in told
    assert ("for each minute of search: +0.0150, 95 % +0." in told) == (best == 90)
