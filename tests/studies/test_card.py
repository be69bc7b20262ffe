"""A study's card: which runs it asks for, and what it refuses."""

import re
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import Command, make_experiment, read_options
from workflows.core.errors import UserError
from workflows.experiment.cards import ROOT, STUDIES, names_of
from workflows.experiment.experiment import Experiment, save_experiment
from workflows.experiment.options import DEFAULTS, flags_of, named_in
from workflows.studies.card import Rows, Study, cells_of, load_study
from workflows.studies.runs import find_runs

SMALL = """
question: {en: "Which is better?", zh: 哪个更好？}
options: {test_samples: 50}
sizes: [32, all]
draws: 3
arms:
  tfidf: {}
  zero_shot: {once: true}
  lora: {options: {set: [max_steps=1]}, sizes: [32], draws: 2}
compare: [[lora, tfidf]]
"""


def _write(folder: Path, text: str = SMALL) -> str:
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _rows(experiment: Experiment) -> Rows:
    """As many as may be wanted."""
    return {}


def _load(name: str, *flags: object, smoke: bool = False, draws: int | None = None) -> Study:
    return load_study(name, read_options(*flags) if flags else DEFAULTS, smoke, draws)


@pytest.mark.parametrize("smoke", [True, False])
@pytest.mark.parametrize("name", names_of(STUDIES))
def test_every_card_asks_for_runs_that_there_can_be(
    name: str, smoke: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "4.49.0")  # the first Qwen, of jd, needs it
    study = _load(name, smoke=smoke, draws=1)
    cells = list(cells_of(study, _rows))
    assert {cell.arm for cell, _ in cells} == set(study.arms)
    assert study.question.zh != study.question.en
    if smoke:
        assert {(each.dataset.name, each.model.name) for _, each in cells} == {("demo", "tiny")}


def test_a_draw_is_a_sample_and_an_initialisation_on_the_same_test_rows(tmp_path: Path) -> None:
    cells = list(cells_of(_load(_write(tmp_path)), _rows))
    lora = [(each.data.sample_seed, each.tuning.seed) for cell, each in cells if cell.arm == "lora"]
    assert lora == [(1, 1), (2, 2)]
    tfidf = {(each.data.train_samples, each.data.sample_seed) for cell, each in cells if cell.arm == "tfidf"}
    assert tfidf == {(32, 1), (32, 2), (32, 3), (None, None)}
    assert {(each.data.data_seed, each.data.test_samples) for _, each in cells} == {(42, 50)}
    assert {each.tuning.method for cell, each in cells if cell.arm != "lora"} == {"probe"}
    # TF-IDF on three draws of 32 and on all, LoRA on two; the untuned model answers in one of them.
    taken = find_runs(_load(_write(tmp_path)), tmp_path / "out", {}, _rows)
    assert len({run.name for _, run in taken}) == 6
    assert len({run.name for cell, run in taken if cell.arm == "zero_shot"}) == 1
    first = next(run for cell, run in taken if cell.arm == "tfidf" and cell.draw == 1)
    assert set(first.stages) == {"prepare", "baselines", "zero_shot", "score", "report"}


@pytest.mark.parametrize("option", ["flip_labels: 0.1", "balance: true", "mix: [demo=0.5]"])
def test_what_draws_of_all_rows_is_drawn_anew_each_time(tmp_path: Path, option: str) -> None:
    text = f"question: {{en: a, zh: b}}\noptions: {{dataset: waimai, {option}}}\nsizes: [all]\ndraws: 3\n"
    cells = list(cells_of(_load(_write(tmp_path, text + "arms: {tfidf: {}}\n")), _rows))
    assert [(each.data.train_samples, each.data.sample_seed) for _, each in cells] == [
        (None, 1),
        (None, 2),
        (None, 3),
    ]
    assert all(cell.varies for cell, _ in cells)


def test_what_is_tested_on_its_own_data_and_what_has_no_wrong_labels_are_ordinary_runs() -> None:
    """So that those which are finished are used again, and a training is the same for all test sets."""
    transfer = list(cells_of(_load("transfer", draws=1), _rows))
    for cell, each in transfer:
        own = cell.panel == (each.dataset.name,)
        assert (each.tested is None) is own, cell
        assert ("test_dataset" in save_experiment(each)) is not own
    assert {cell.panel for cell, _ in transfer} == {("waimai",), ("chnsenticorp",)}
    for cell, each in cells_of(_load("noise", draws=1), _rows):
        assert each.data.flip_labels == int(cell.arm.partition("-")[2] or 0) / 100
    ordinary = next(each for cell, each in cells_of(_load("noise", draws=1), _rows) if cell.arm == "lora")
    flags = ["--dataset", "waimai", "--model", "qwen2.5-0.5b-instruct", "--split", "course"]
    flags += ["--test-samples", "1000", "--probe-rows", "100000", "--train-samples", "320"]
    assert ordinary == make_experiment(*flags, "--sample-seed", "1", "--seed", "1")


def test_studies_of_the_same_data_share_their_runs(tmp_path: Path) -> None:
    """The LoRA preset on waimai, with the labels that two studies have both."""
    runs = {}
    for name in ("learning-curve", "methods", "seeds", "preset", "mixing", "settings"):
        taken = find_runs(_load(name, "--dataset", "waimai", draws=1), tmp_path / "out", {}, _rows)
        runs[name] = {run.name for cell, run in taken if run.experiment.tuning.method == "lora"}
    for name in ("methods", "seeds", "preset", "mixing", "settings"):
        assert runs[name] & runs["learning-curve"], name


def test_options_of_the_command_line_go_before_the_cards_but_not_before_an_arms(tmp_path: Path) -> None:
    grid = SMALL + "grid: {dataset: [chnsenticorp, waimai]}\n"
    name = _write(tmp_path, grid.replace("lora: {options: {", "lora: {options: {prompt: zh-system, "))
    assert {each.dataset.name for _, each in cells_of(_load(name), _rows)} == {"chnsenticorp", "waimai"}
    flags = ("--dataset", "demo", "--prompt", "zh-descriptions", "--set", "lora_rank=4", "--test-samples", 60)
    cells = list(cells_of(_load(name, *flags, draws=1), _rows))
    assert {(each.dataset.name, each.data.test_samples) for _, each in cells} == {("demo", 60)}
    prompts = {cell.arm: each.prompt.name for cell, each in cells}
    assert prompts == {"tfidf": "zh-descriptions", "zero_shot": "zh-descriptions", "lora": "zh-system"}
    assert {each.tuning.set for cell, each in cells if cell.arm == "lora"} == {("lora_rank=4", "max_steps=1")}
    ranks = _write(tmp_path, SMALL + "grid: {set: [[lora_rank=4], [lora_rank=8]]}\n")
    asked = {
        each.tuning.set
        for cell, each in cells_of(_load(ranks, "--set", "lora_alpha=8"), _rows)
        if cell.arm == "lora"
    }
    assert asked == {("lora_alpha=8", f"lora_rank={rank}", "max_steps=1") for rank in (4, 8)}
    with pytest.raises(UserError, match="--seed: is set by the study's sizes and draws"):
        _load(name, "--seed", 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("draws: 3", "drawz: 3", "draws: Field required"),
        ("draws: 3", "draws: 3\ndrawz: 3", "drawz: "),
        ("sizes: [32, all]", "sizes: [32, most]", "sizes.1"),
        ("once: true", "twice: true", "arms.zero_shot.twice"),
        ("test_samples: 50", "tests: 50", "tests is no option of `run`"),
        ("test_samples: 50", "seed: 50", "seed is set by sizes and draws"),
        ("[[lora, tfidf]]", "[[lora, tf-idf]]", "compare: tf-idf is none of tfidf, zero_shot, lora"),
        ("test_samples: 50", "test_samples: many", "data.test_samples"),
        ("tfidf: {}", "tfidf: {system: tf-idf}", "tf-idf is no system; known: majority"),
    ],
)
def test_a_bad_card_is_refused_in_one_line(
    command: Command, tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SMALL
    done = command("study", _write(tmp_path, SMALL.replace(old, new)), "--output", tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tfidf: {}", "tfidf: {once: true}", "tfidf: once is for what reads no labels: zero_shot"),
        (
            "tfidf: {}",
            "tfidf: {options: {dataset: demo}}",
            "tfidf: with dataset of its own, `all` is another",
        ),
        ("[32, all]", "[]", "sizes: Tuple should have at least 1 item"),
        ("draws: 2}", "draws: 0}", "arms.lora.draws: Input should be greater than or equal to 1"),
        (SMALL[SMALL.index("arms:") :], "arms: {}", "arms: Dictionary should have at least 1 item"),
        ("draws: 3", "draws: 3\ngrid: {prompt: []}", "grid.prompt: Tuple should have at least 1 item"),
        ("tfidf: {}", "tfidf: {vary: [seed]}", "tfidf: vary has nothing that changes its runs"),
        ("draws: 2}", "draws: 2, vary: [seed]}", "the draws of lora and tfidf are of different rows"),
        (
            "draws: 2}",
            "draws: 2}\n  head: {}",
            "head: is called as a method, and its runs are of",
        ),
    ],
)
def test_a_card_that_asks_for_nothing_or_for_a_false_line_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SMALL
    with pytest.raises(UserError, match=message):
        _load(_write(tmp_path, SMALL.replace(old, new)))


def test_arms_are_compared_draw_by_draw_or_against_what_no_draw_changes(tmp_path: Path) -> None:
    fixed = SMALL.replace("tfidf: {}", "tfidf: {vary: []}\n  probe: {vary: []}")
    seeds = fixed.replace("draws: 2}", "draws: 2, vary: [seed]}").replace(
        "tfidf]]", "tfidf], [lora, zero_shot]]"
    )
    assert len(_load(_write(tmp_path, seeds)).compare) == 2  # the seed alone, on the same rows
    alone = fixed.replace("[lora, tfidf]", "[probe, tfidf]")
    with pytest.raises(
        UserError, match="no draw changes probe or tfidf, by their `vary`; one draw says nothing"
    ):
        _load(_write(tmp_path, alone))


def test_files_of_ones_own_are_found_from_anywhere_and_are_no_part_of_a_smoke_study(tmp_path: Path) -> None:
    own = "data_file: own.csv, text_column: t, label_column: l, labels: '差,好', test_samples"
    name = _write(tmp_path, SMALL.replace("test_samples", own))
    (data,) = {each.data.data_file for _, each in cells_of(_load(name), _rows)}
    assert data == str(Path.cwd() / "own.csv")
    assert {each.data.data_file for _, each in cells_of(_load(name, smoke=True), _rows)} == {None}


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ("tfidf: {options: {split: course}}", "split: arms that differ in it are tested on other rows; put"),
        (
            "tfidf: {options: {test_dataset: waimai}}",
            "test_dataset: the arms are tested on rows of other data",
        ),
        ("tfidf: {options: {dataset: waimai}}", "test_dataset: the arms are tested on rows of other data"),
        ("tfidf: {options: {dataset: waimai, test_dataset: demo}}", None),
        (
            "tfidf: {options: {test_samples: [200, 400]}}",
            "test_samples: arms that differ in it are tested on",
        ),
    ],
)
def test_arms_are_tested_on_the_same_rows(tmp_path: Path, arms: str, message: str | None) -> None:
    own = _write(tmp_path, SMALL.replace("tfidf: {}", arms).replace(", all]", "]"))
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        _load(own)


def test_files_of_one_name_in_two_folders_are_not_taken_for_one(tmp_path: Path) -> None:
    arms = "tfidf: {options: {apply: a/audit.csv}}\n  bo: {system: tfidf, options: {apply: b/audit.csv}}"
    study = _load(_write(tmp_path, SMALL.replace("tfidf: {}", arms).replace(", all]", "]")))
    with pytest.raises(UserError, match="files or folders of one name lie in different places"):
        find_runs(study, tmp_path / "out", {}, _rows)


def test_numbers_are_not_right_or_wrong(tmp_path: Path) -> None:
    arms, head = SMALL[SMALL.index("arms:") :], "arms: {head: {options: {method: head}}}"
    name = _write(tmp_path, SMALL.replace("test_samples: 50", "dataset: dianping-stars").replace(arms, head))
    with pytest.raises(UserError, match="dianping-stars has numbers"):
        list(cells_of(_load(name), _rows))


def test_an_unknown_study_is_told_the_known_ones(command: Command) -> None:
    done = command("study", "learning-curv")
    assert "Did you mean learning-curve?" in done.stderr
    listed = command("list", "studies").stdout
    assert all(name in listed for name in names_of(STUDIES))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_card_of_the_documentation_is_one(tmp_path: Path, language: str) -> None:
    page = (ROOT / "docs" / language / "studies.md").read_text(encoding="utf-8")
    (card,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    study = _load(_write(tmp_path, card))
    assert {cell.panel for cell, _ in cells_of(study, _rows)} == {("zh-question",), ("zh-system",)}
    assert all(f"| `{name}` |" in page for name in names_of(STUDIES))


def test_more_rows_than_there_are_are_not_asked_for(tmp_path: Path) -> None:
    study = _load(_write(tmp_path, SMALL.replace("[32, all]", "[16, 32, 64, all]")))
    cells = list(cells_of(study, lambda experiment: {"train": 40, "val": 5, "test": 50}))
    assert {cell.size for cell, _ in cells if cell.arm == "tfidf"} == {16, 32, "all"}
    assert {each.data.test_samples for _, each in cells} == {None}
    assert {each.data.test_samples for _, each in cells_of(study, lambda experiment: {"test": 51})} == {50}


def test_what_reads_no_labels_is_asked_once_with_the_fewest_rows_there_are(tmp_path: Path) -> None:
    card = SMALL.replace("[32, all]", "[320, all]").replace("sizes: [32]", "sizes: [320]")
    study = _load(_write(tmp_path, card))
    cells = cells_of(study, lambda experiment: {"train": 250, "val": 30, "test": 50})
    assert {(cell.arm, cell.size, each.data.train_samples) for cell, each in cells} == {
        ("tfidf", "all", None),
        ("zero_shot", "all", None),
    }
    arms = "arms: {zero_shot: {once: true}, zero_shot_labels: {once: true}}"
    study = _load(_write(tmp_path, SMALL[: SMALL.index("arms:")] + arms))
    assert {cell.size for cell, _ in cells_of(study, _rows)} == {32}


def test_a_prompt_that_shows_training_rows_is_asked_at_every_draw(tmp_path: Path) -> None:
    study = _load(_write(tmp_path), "--prompt", "zh-few-shot")
    asked = {
        (each.data.train_samples, each.data.sample_seed)
        for cell, each in cells_of(study, _rows)
        if cell.arm == "zero_shot"
    }
    assert asked == {(32, 1), (32, 2), (32, 3), (None, None)}
    (tmp_path / "alone.yaml").write_text(
        'question: {en: "?", zh: ？}\narms: {zero_shot: {once: true}}\nsizes: [32, 64]\ndraws: 1\n',
        encoding="utf-8",
    )
    with pytest.raises(UserError, match="prompt zh-few-shot shows training rows"):
        _load(str(tmp_path / "alone.yaml"), "--prompt", "zh-few-shot")


def test_a_default_that_is_named_goes_before_the_cards_own() -> None:
    words = ["seeds", "--split", "standard", "--probe-rows=2000", "--model", "tiny"]
    flags = read_options(*words[1:])
    assert load_study("seeds", flags, False, None).options["split"] == "course"
    named = named_in(words)
    study = load_study("seeds", flags, False, None, named)
    assert (study.options["split"], study.options["probe_rows"]) == ("standard", 2000)
    assert [*flags_of(flags, named)] == ["--split", "standard", "--model", "tiny", "--probe-rows", "2000"]
    words = ["--balance=false"]  # which takes the card's own away
    assert [*flags_of(read_options(*words), named_in(words))] == words


def test_where_all_sizes_are_beyond_the_rows_there_is_no_study(tmp_path: Path) -> None:
    study = _load(_write(tmp_path, SMALL.replace("[32, all]", "[32, 64]")))
    with pytest.raises(UserError, match="fewer training rows than each of its sizes, 32, 64; give"):
        find_runs(study, tmp_path / "out", {}, lambda experiment: {"train": 31})


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("base-against-instruct", ("--model", "tiny"), "--model: would change no run"),
        ("methods", ("--method", "head"), "--method: would change no run"),
        ("transfer", ("--data-file", "own.csv"), "--data-file: the arms of study transfer differ"),
        ("transfer", ("--dataset", "waimai"), "--dataset: would change no run"),
    ],
)
@pytest.mark.parametrize("smoke", [True, False])
def test_an_option_that_would_change_nothing_or_make_arms_alike_is_refused(
    name: str, flags: tuple[str, ...], message: str, smoke: bool
) -> None:
    with pytest.raises(UserError, match=message):
        _load(name, *flags, smoke=smoke)


def test_an_arm_called_lora_gets_no_other_method(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lora: is called as a method, and its runs are of method head"):
        _load(_write(tmp_path), "--method", "head")


def test_a_smoke_study_without_any_arm_is_refused(tmp_path: Path) -> None:
    arms, alone = SMALL[SMALL.index("arms:") :], "arms: {tfidf: {smoke: false}}"
    with pytest.raises(UserError, match="none of its arms is part of --scale smoke"):
        _load(_write(tmp_path, SMALL.replace(arms, alone)), smoke=True)


def test_what_is_called_lora_is_lora_whatever_the_method_of_the_others() -> None:
    for name in ("seeds", "noise", "transfer", "lora-against-full", "mixing"):
        study = _load(name)
        for arm in study.arms:
            called = str(study.title(arm))
            tuned = study.system(arm) == "tuned"
            own = study.arms[arm].options.get("method")
            assert not tuned or ("LoRA" in called or arm == "lora") is (own == "lora"), (name, arm)


def test_a_file_of_ones_own_takes_the_place_of_the_data_sets() -> None:
    flags = "--data-file", "own.csv", "--text-column", "t", "--label-column", "l", "--labels", "差,好"
    study = _load("learning-curve", *flags)
    assert {each.dataset.name for _, each in cells_of(study, _rows)} == {"own"}
    assert study.grid == {}
    # Each label keeps its share of the test rows, as the split of the card's own files does not see to.
    assert {each.data.split for _, each in cells_of(study, _rows)} == {"standard"}
    assert _load("learning-curve", *flags, "--split", "course").options["split"] == "course"
