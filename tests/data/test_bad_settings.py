"""Cards, presets, prompts, studies and experiment.yaml as strangers write them, and bad command lines."""

import os
from pathlib import Path
from typing import Any

import pytest

from run_swift import main
from tests.data.bad_files import MADE, Make, assert_refused, loop
from workflows.core.errors import UserError
from workflows.experiment import cards
from workflows.experiment.cards import load_dataset_card, load_preset, load_prompt
from workflows.experiment.experiment import load_experiment
from workflows.experiment.options import DEFAULTS
from workflows.studies.card import load_study

# What is in the file, the line that refuses it.
CARD = """
name: own
title: Own
labels: [{name: bad, words: 差}, {name: good, words: 好}]
layouts: [{text: t, label: l, values: {bad: ["0"], good: ["1"]}}]
local: [{train: own.csv}]
"""
TWICE = ["--text-column", "label", "--label-column", "label"]
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML: dict[str, tuple[str | bytes, str]] = {
    "a billion laughs": (LAUGHS, r"line 2: references \(\*name\) are not read; write it out"),
    "a reference to itself": ("a: &a [*a]\n", "line 1: references"),
    "a key twice": ("name: a\nname: b\n", "line 2: key 'name' stands twice"),
    "deep brackets": ("[" * 1200, "not readable as YAML: "),
    "Python in it": (
        "a: !!python/object/apply:os.system [ls]\n",
        "not readable as YAML: could not determine",
    ),
    "a day that is none": ("a: 2024-13-41\n", "not readable as YAML: month must be in 1..12"),
    "a list": ("- a\n", "holds list, not a mapping"),
    "nothing": ("", "holds NoneType, not a mapping"),
    "GB18030": ("name: 评论".encode("gb18030"), "not readable as YAML: 'utf-8' codec can't decode"),
    "a NUL": ("a: \0\n", "not readable as YAML: unacceptable character"),
    "an open quote": ('a: "b\n', "not readable as YAML: "),
}


def _load_card(path: Path) -> Any:
    return load_dataset_card(path.stem)


def _load_preset(path: Path) -> Any:
    return load_preset(path.stem)


def _load_prompt(path: Path) -> Any:
    return load_prompt(str(path))


def _load_study(path: Path) -> Any:
    return load_study(str(path), DEFAULTS, False, None)


LOADERS = {
    "card": _load_card,
    "preset": _load_preset,
    "prompt": _load_prompt,
    "study": _load_study,
    "experiment": load_experiment,
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A YAML file that is found as a card, too."""
    monkeypatch.setattr(cards, "DATASETS", tmp_path)
    monkeypatch.setattr(cards, "METHODS", tmp_path)
    return tmp_path / "own.yaml"


@pytest.mark.parametrize("files", ["{train: a.csv, dev: b.csv}", "{test: a.csv}"])
def test_a_card_names_files_of_splits_that_there_are(own: Path, files: str) -> None:
    own.write_text(CARD.replace("{train: own.csv}", files), encoding="utf-8")
    with pytest.raises(UserError, match="files are for train, val and test, and train is needed"):
        load_dataset_card("own")


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("case", YAML)
def test_a_yaml_file_that_is_no_card_is_refused(own: Path, loader: str, case: str) -> None:
    content, message = YAML[case]
    own.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"own\.yaml: .*{message}") as caught:
        LOADERS[loader](own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, loop], ids=["a folder", "a pipe", "a loop"])
def test_what_is_no_yaml_file_is_not_waited_for(own: Path, loader: str, make: Make) -> None:
    make(own)
    with pytest.raises(UserError, match=r"own"):
        LOADERS[loader](own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("local: [{train: own.csv}]", "local: [{train: ../own.csv}]"),
            "'../own.csv' lies outside of the folder",
        ),
        (
            ("local: [{train: own.csv}]", "local: [{train: /etc/passwd}]"),
            "'/etc/passwd' lies outside of the folder",
        ),
        (("local: [{train: own.csv}]", "local: [{train: a/../../b.csv}]"), "lies outside of the folder"),
        (
            ("local:", "sources: [{hub: modelscope, id: a/b, files: {train: ../../x}}]\nlocal:"),
            "'../../x' lies outside of the folder",
        ),
        (("name: own", "name: ../../own"), "data set '../../own': a folder is called by it"),
        (("name: own", "name: .."), "data set '..': a folder is called by it"),
        (("name: own", "name: ''"), "data set '': a folder is called by it"),
        (("name: own", "name: a/b"), "data set 'a/b': a folder is called by it"),
        (("words: 差", "words: 好"), "each label needs words of its own"),
        (("words: 差", "words: ' '"), "each label needs words of its own"),
        (("name: bad, words", "name: good, words"), "each label needs name of its own"),
        (("name: bad, words", "name: 1, words"), "labels.0.name: Input should be a valid string"),
        (("title: Own", "titel: Own"), "title: Field required"),
        (("title: Own", "title: Own\ncode: os.system"), "code: Unexpected keyword argument"),
        (("name: own", "name: jd"), r"own\.yaml: has the name 'jd'; write `name: own`"),
        (('"1"]', '"1", " ０.0"]'), "layout t/l has the value '0' under both bad and good; leave it in one"),
        (('"1"]}', '"1"]}, neutral: ["3"], unlabelled: ["3"]'), "'3' under both neutral and unlabelled"),
        (('"1"]}', '"1"]}, unlabelled: ["1"]'), "'1' under both good and unlabelled"),
        (("bad: [", "worse: ["), "maps .'good', 'worse'., labels are .'bad', 'good'."),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_card_of_a_strangers_cannot_name_what_lies_outside(
    own: Path, change: tuple[str, str], message: str
) -> None:
    own.write_text(CARD, encoding="utf-8")
    assert load_dataset_card("own").local == ({"train": "own.csv"},)
    assert change[0] in CARD
    own.write_text(CARD.replace(*change, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_dataset_card("own")


@pytest.mark.parametrize("name", ["../../own", "..", "", "a/b"])
def test_a_study_writes_into_no_folder_of_its_own_choice(own: Path, name: str) -> None:
    own.write_text(
        f"name: '{name}'\nquestion: {{en: a, zh: b}}\narms: {{tfidf: {{}}}}\nsizes: [9]\ndraws: 1\n"
    )
    with pytest.raises(UserError, match="a folder is called by it"):
        load_study(str(own), DEFAULTS, False, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data-file", "{loop}"], "loop.csv: cannot be read: Too many levels of symbolic links"),
        (["--dataset", "waimai", "--data-file", "x" * 300], "is no path: .* File name too long"),
        (
            ["--data-file", os.fsdecode("评论.csv".encode("gbk"))],  # as out of an archive from Windows
            r"udcc6\\udcc0\\udcc2\\udcdb.csv': the name is not UTF-8; rename it",
        ),
        (["--data-file", "~nobody-here/a.csv"], "is no path: Could not determine home directory"),
        (
            ["--dataset", "waimai", "--data-file", "{good}", "--val-file", "{loop}"],
            "loop.csv: cannot be read",
        ),
        (
            ["--dataset", "waimai", "--data-file", "{good}", "--test-file", "/dev/zero"],
            "/dev/zero: is a device",
        ),
        (["--dataset", "waimai", "--data-file", "{good}", "--apply", "{pipe}"], "pipe.csv: is a pipe"),
        (
            ["--dataset", "waimai", "--data-file", "{good}", "--test-file", "{named}"],
            r"named.csv: .* which hold for all files of the data set, or rename them in this one",
        ),
        (
            ["--dataset", "waimai", "--data-file", "{good}", "--apply", "{good}"],
            "has no column id, text, correction",
        ),
        (["--dataset", "../demo"], "data set '../demo' is not known"),
        (["--dataset", "/etc/passwd"], "data set '/etc/passwd' is not known"),
        (["--method", "../models/tiny"], "method '../models/tiny' is not known"),
        (["--prompt", "/dev/zero"], "prompt '/dev/zero' is not known"),
        (["--data-file", "{good}", "--text-column", "review", "--label-column", "label"], "--labels 0=…,1=…"),
        (
            ["--data-file", "{good}", *TWICE, "--labels", "0=差,1=好"],
            "column 'label' is named for both text and label; name two",
        ),
        (
            ["--dataset", "waimai", "--data-file", "{good}", *TWICE[:2]],
            "column 'label' is named for both text and label; name two",
        ),
        (["--data-file", "{good}"], "The file has 'label', 'review'"),
        (["--dataset", "waimai", "--data-file", "{good}", "--labels", "好,好"], "value '好' is named twice"),
        (
            ["--dataset", "waimai", "--data-file", "{good}", "--labels", "0=A,1=a"],
            "each label needs name of its own",
        ),
        (
            ["--dataset", "waimai", "--data-file", "{good}", "--labels", "1=好"],
            "at least two labels are needed",
        ),
        (["--run-folder", "{good}"], "good.csv: is no run folder"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_bad_command_line_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {name: tmp_path / f"{name}.csv" for name in ("good", "named", "loop", "pipe")}
    places["good"].write_text(MADE, encoding="utf-8")
    places["named"].write_text(MADE.replace("label,review", "标签,评论"), encoding="utf-8")
    loop(places["loop"])
    os.mkfifo(places["pipe"])
    folder = [] if "--run-folder" in arguments else ["--run-folder", str(tmp_path / "run")]
    code = main(["prepare", *(each.format(**places) for each in arguments), *folder])
    assert_refused(code, capfd, message)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in places.values()}
