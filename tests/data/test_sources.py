"""A data set is found in a folder, in an environment variable's folder, on either hub; else one error names
them all.

The hubs are served on loopback; the clients are the real ones, in processes of their own.
"""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Command, make_experiment
from tests.fake_hub import FakeHub
from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.hubs import HUBS
from workflows.core.run_folder import RunFolder
from workflows.data.sources import at_hand, find_files
from workflows.experiment.cards import HubSource, load_dataset_card
from workflows.experiment.options import DataOptions

JD = (
    b"sentence,label,dataset\n"
    + "".join(f"手机很好{i},1.0,jd\n衣服很差{i},0.0,jd\n" for i in range(30)).encode()
)
NOWHERE = {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9", "HF_ENDPOINT": "http://127.0.0.1:9"}


def test_modelscope_hub_is_asked_for_the_files_of_the_card(
    command: Command, hub: FakeHub, tmp_path: Path
) -> None:
    hub.put("datasets", "DAMO_NLP/jd", "train.csv", JD)
    hub.put(
        "datasets",
        "DAMO_NLP/jd",
        "dev.csv",
        "sentence,label,dataset\n不错的书,1.0,jd\n无聊的书,0.0,jd\n".encode(),
    )
    done = command("prepare", "--dataset", "jd", "--run-folder", tmp_path / "run", env=hub.env)
    assert done.returncode == 0, done.stderr
    manifest = read_json(RunFolder(tmp_path / "run").manifest)
    assert manifest["from"] == "modelscope: DAMO_NLP/jd"
    assert manifest["rows"] == {"read": 62, "kept": 62, "rejected": 0}
    assert manifest["splits"]["test"]["rows"] == 2
    # What was downloaded once is at hand without a network.
    offline = {**hub.env, **NOWHERE}
    assert "modelscope cache" in command("list", "datasets", env=offline).stdout
    again = command("prepare", "--dataset", "jd", "--run-folder", tmp_path / "again", env=offline)
    assert again.returncode == 0, again.stderr
    assert (
        "done before" in command("prepare", tmp_path / "again", env={**offline, "REVIEW_DATA_DIR": ""}).stdout
    )


def test_hugging_face_hub_is_asked_for_the_files_of_the_card(
    command: Command, hub: FakeHub, tmp_path: Path
) -> None:
    files = load_dataset_card("chnsenticorp").sources[0].files
    for split, name in files.items():
        frame = pd.DataFrame({"label": [0, 1] * 10, "text": [f"{split}里的评论{i}" for i in range(20)]})
        frame.to_parquet(tmp_path / "part.parquet")
        hub.put("datasets", "lansinuote/ChnSentiCorp", name, (tmp_path / "part.parquet").read_bytes())
    done = command("prepare", "--dataset", "chnsenticorp", "--run-folder", tmp_path / "run", env=hub.env)
    assert done.returncode == 0, done.stderr
    manifest = read_json(RunFolder(tmp_path / "run").manifest)
    assert manifest["from"] == "huggingface: lansinuote/ChnSentiCorp"
    assert {name: split["rows"] for name, split in manifest["splits"].items()} == {
        "train": 20,
        "val": 20,
        "test": 20,
    }


def test_no_source_gives_one_error_with_each_reason_and_the_flag(
    command: Command, hub: FakeHub, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = command(
        *("prepare", "--dataset", "jd", "--data-dir", tmp_path / "empty", "--run-folder", tmp_path / "run"),
        env={**hub.env, **NOWHERE},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for part in (
        f"{tmp_path / 'empty'}: no ",
        "modelscope DAMO_NLP/jd",
        "does not answer",
        "or with --data-dir DIR (or REVIEW_DATA_DIR=DIR) the folder that has jd_train.csv, jd_dev.csv or jd/",
    ):
        assert part in done.stderr
    assert not (tmp_path / "run").exists()
    mixed = command(
        *("prepare", "--mix", "jd=0.1", "--data-dir", tmp_path / "empty", "--run-folder", tmp_path / "run"),
        env={**hub.env, **NOWHERE},
    )
    assert (
        "give with --data-dir DIR (or REVIEW_DATA_DIR=DIR) the folder that has jd_train.csv" in mixed.stderr
    )
    assert "--data-file" not in mixed.stderr  # which is the other set's


def test_a_folder_that_is_not_there_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--data-dir {tmp_path / 'gone'}: there is no such folder"):
        make_experiment("--data-dir", tmp_path / "gone")


def test_a_variable_that_names_no_folder_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVIEW_DATA_DIR", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=f"REVIEW_DATA_DIR={tmp_path / 'gone'}: there is no such folder"):
        find_files(load_dataset_card("jd"), DataOptions())


@pytest.mark.parametrize(
    ("local", "message"),
    [
        (
            ({"train": "a.csv"},),
            r"reached. No hub has it. .* --data-file FILE, or .* the folder that has a.csv",
        ),
        ((), r"reached. No hub has it. To work offline, give the file with --data-file FILE\.$"),
    ],
)
def test_a_data_set_that_is_nowhere_says_what_is_wanted(
    local: tuple[dict[str, str], ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_files(replace(load_dataset_card("jd"), local=local, sources=()), DataOptions())


def test_a_data_set_that_one_hub_does_not_give_comes_from_the_next(hub_here: FakeHub) -> None:
    hub_here.put("datasets", "DAMO_NLP/jd", "train.csv", JD)
    files = {"train": "train.csv"}
    card = replace(
        load_dataset_card("jd"),
        local=(),
        sources=tuple(HubSource(name, "DAMO_NLP/jd", files) for name in HUBS),
    )
    hub_here.fail("/api/v1/", 401)
    found, place = find_files(card, DataOptions())
    assert (place, found["train"].read_bytes()) == ("huggingface: DAMO_NLP/jd", JD)
    assert at_hand(card, None) == "huggingface cache"


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_local_folder_comes_before_the_hubs(command: Command, tmp_path: Path, by: str) -> None:
    folder = tmp_path / "data"
    (folder / "jd").mkdir(parents=True)
    (folder / "jd" / "train.csv").write_bytes(JD)
    (folder / "jd" / "dev.csv").write_bytes("sentence,label\n好书,1\n坏书,0\n".encode())
    flags = ["--data-dir", folder] if by == "flag" else []
    env = {**NOWHERE, "REVIEW_DATA_DIR": "" if by == "flag" else str(folder)}
    done = command("prepare", "--dataset", "jd", "--run-folder", tmp_path / "run", *flags, env=env)
    assert done.returncode == 0, done.stderr
    assert read_json(RunFolder(tmp_path / "run").manifest)["from"] == str(folder)
    listed = command("list", "datasets", *flags, env=env).stdout
    assert str(folder) in re.sub(r"[\s│]", "", listed.split("jd", 1)[1])
