"""Each option once: fields, flags, experiment.yaml and the line that repeats a run say the same."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from tests.conftest import TINY, make_experiment, read_options
from workflows.core.errors import UserError
from workflows.core.run_folder import RunFolder
from workflows.experiment.experiment import Experiment, content_of, load_experiment, save_experiment
from workflows.experiment.options import DEFAULTS, RunOptions, asked, flags_of
from workflows.pipeline.stages import STAGES

MODEL = str(TINY)
OWN = ["--text-column", "文 本", "--label-column", "星"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dataset", "jd", "--model", "qwen2.5-0.5b-instruct", "--data-dir", "/tmp", "--seed", "3"],
        ["--data-file", "reviews.csv", *OWN, "--labels", "差评,好评"],
        ["--data-file", "a b.csv", *OWN, "--labels=-1=差评,3=,5=好评"],
        ["--dataset", "dianping", "--neutral", "negative", "--test-samples", "5", "--train-samples", "9"],
        ["--dataset", "dianping", *OWN, "--neutral", "negative"],
        ["--dataset", "dianping", "--labels", "1=negative,2=positive,3="],
        ["--dataset", "waimai", "--text-column", "text", "--balance", "--keep-near-copies"],
        ["--dataset", "chnsenticorp", "--data-file", "x.csv", "--split", "course", "--data-seed", "1"],
        ["--model", MODEL, "--prompt", "zh-continue", "--method", "course-chnsenticorp", "--lang", "en"],
        ["--model", "Qwen/Qwen2.5-7B-Instruct", "--set", "learning_rate=1e-3", "--set", "system=你好 世界"],
        ["--dataset", "waimai", "--test-dataset", "chnsenticorp", "--flip-labels", "0.05"],
        ["--prompt", "mine.yaml", "--dataset", "jd", "--mix", "waimai=0.5", "--mix", "dianping=1"],
        ["--model", "here", "--data-file", "~/reviews.csv", *OWN, "--labels", "0=差评,1=好评"],
        ["--method", "head", "--dataset", "demo-aspects"],
        ["--method", "encoder", "--model", "bert-base-chinese", "--window", "256"],
        ["--method", "label-loss", "--set", "recipe.beta=0.25", "--set", "recipe.class_weights=balanced"],
        [
            "--method",
            "cot",
            "--set",
            "recipe.samples=9",
            "--set",
            "recipe.prompt=评论: {review} 为何{label}？",
        ],
        ["--best-by", "macro_f1", "--engine", "swift", "--format", "query-response", "--apply", "a.csv"],
    ],
)
def test_an_experiment_comes_back_from_its_flags_and_from_its_yaml(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text('user: "{review}"', encoding="utf-8")
    Path("here").symlink_to(MODEL)
    experiment = make_experiment(*arguments)
    Path("experiment.yaml").write_text(save_experiment(experiment), encoding="utf-8")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")  # paths hold from any folder
    assert load_experiment(tmp_path / "experiment.yaml") == experiment
    assert make_experiment(*flags_of(experiment.options)) == experiment


def _leaves(options: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for each in fields(options):
        value, here = getattr(options, each.name), (*path, each.name)
        found += _leaves(value, here) if is_dataclass(value) else [here]
    return found


def _changed(options: Any, path: tuple[str, ...]) -> Any:
    """The options with another value of the field at `path`, of its type."""
    name, *rest = path
    value = getattr(options, name)
    if rest:
        return replace(options, **{name: _changed(value, tuple(rest))})
    hint = get_type_hints(type(options))[name]
    choices = [each for each in get_args(hint) if isinstance(each, str) and each != value]
    if isinstance(value, bool):
        other: Any = not value
    elif isinstance(value, tuple):
        other = ("jd=0.5", "- a=b,c")
    elif isinstance(value, int) or int in get_args(hint):
        other = 7
    elif isinstance(value, float):
        other = 0.25
    else:
        other = choices[0] if choices else "/-1=差 评,x"
    return replace(options, **{name: other})


@pytest.mark.parametrize("path", _leaves(DEFAULTS), ids=".".join)
def test_every_field_goes_through_flags_and_yaml_and_back(path: tuple[str, ...], tmp_path: Path) -> None:
    options: RunOptions = _changed(DEFAULTS, path)
    assert options != DEFAULTS
    flags = list(flags_of(options))
    assert flags[0].split("=")[0] == f"--{path[-1].replace('_', '-')}"
    assert read_options(*flags) == options
    made = make_experiment()
    experiment = Experiment(
        options.data, options.tuning, options.lang, made.dataset, made.model, made.prompt, made.preset, {}
    )
    saved = tmp_path / "experiment.yaml"
    text = save_experiment(experiment)
    saved.write_text(text, encoding="utf-8")
    if path[-1] != "set":  # not one that --set would take
        assert load_experiment(saved).options == options


def test_a_run_that_does_not_ask_for_them_knows_nothing_of_later_options(tmp_path: Path) -> None:
    """Else runs that were made before them would not be found, or be done again."""
    plain = make_experiment("--dataset", "waimai")
    for flags in (["--flip-labels", "0"], ["--test-dataset", "waimai"]):
        assert make_experiment("--dataset", "waimai", *flags) == plain
    run = RunFolder(tmp_path)
    settings = {name for stage in STAGES[:1] for name in stage.depends(run, plain)}
    for later in ("test_dataset", "flip_labels", "tested"):
        assert f"{later}:" not in save_experiment(plain)
        assert f"--{later.replace('_', '-')}" not in settings
        assert later not in str(content_of(plain))
    assert "what is tested on" not in settings


def test_nothing_asked_is_nothing_written() -> None:
    assert asked(DEFAULTS) == {}
    assert list(flags_of(DEFAULTS)) == []
    text = save_experiment(make_experiment("--dataset", "jd", "--set", "learning_rate=2e-4"))
    assert text.splitlines()[:7] == [
        "format: 2",
        "options:",
        "  data:",
        "    dataset: jd",
        "  tuning:",
        "    set:",
        "    - learning_rate=2e-4",
    ]


def test_every_option_has_its_help_in_its_own_field(capsys: pytest.CaptureFixture[str]) -> None:
    from run_swift import app

    app(["run", "--help"], exit_on_error=False)
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for *_, name in _leaves(DEFAULTS):
        flag = f"--{name.replace('_', '-')} "
        assert flag in shown
        words = shown.split(flag, 1)[1].split()[:3]
        assert not words[1].startswith(("--", "[")), f"{flag}has no help"


def test_a_folder_of_an_older_format_is_told_from_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("dataset:\n  name: demo\n", encoding="utf-8")
    with pytest.raises(UserError, match="written by another version, in format 1"):
        load_experiment(path)
    text = save_experiment(make_experiment("--seed", "3"))
    path.write_text(text.replace("seed: 3", "sed: 3"), encoding="utf-8")
    with pytest.raises(UserError, match="sed"):
        load_experiment(path)


def test_a_preset_of_ones_own_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("{tuner_type: lora, lora_rank: 2}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    experiment = make_experiment("--method", "mine.yaml")
    assert (experiment.name, experiment.arguments["lora_rank"]) == ("demo-tiny-mine", 2)
    assert experiment.tuning.method == str(tmp_path / "mine.yaml")  # from another folder, too
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.experiment.write_text(save_experiment(experiment), encoding="utf-8")
    assert load_experiment(run.experiment) == experiment
    with pytest.raises(UserError, match=r"method 'none\.yaml' is not known"):
        make_experiment("--method", "none.yaml")


def test_the_default_prompt_goes_by_whether_the_model_chats() -> None:
    model = ["--model", "someone/my-qwen", "--set"]
    assert make_experiment(*model, "use_chat_template=true").prompt.name == "zh-question"
    assert make_experiment(*model, "use_chat_template=false").prompt.name == "zh-continue"
    assert make_experiment(*model[:2]).prompt.name == "zh-continue"
