"""`pip install .` gives a `run-swift` that works in any folder: data sets, presets and model are inside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workflows.core.files import read_json, read_jsonl
from workflows.experiment.cards import DATASETS, METHODS, MODELS, PROMPTS, ROOT, names_of

# Says what an installed copy finds.
FIND = """
import json
from workflows.experiment.cards import DATASETS, METHODS, MODELS, PROMPTS, ROOT, load_preset, names_of
from workflows.experiment.model_cards import load_model_card
names = [names_of(folder) for folder in (DATASETS, METHODS, MODELS, PROMPTS)]
model = ROOT / load_model_card('tiny').arguments['model']
print(json.dumps([str(ROOT), names, load_preset('lora')[0], sorted(path.name for path in model.iterdir())]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the project's wheel was installed into; the libraries that it needs are here already."""
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    offline = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    for arguments in (
        ["wheel", str(ROOT), *offline, "--no-build-isolation", "--wheel-dir", str(wheels)],
        ["install", "run-swift", *offline, "--find-links", str(wheels), "--target", str(folder)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return folder


def _run(folder: Path, installed: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A Python program in `folder`, for which the installed copy is all there is of the project."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=False,
    )


def _files(folder: Path) -> set[str]:
    every = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(folder)) for path in every}


def test_every_file_is_inside(installed: Path) -> None:
    package = installed / "workflows"
    for source, copy in (
        ("workflows", package),
        ("datasets", package / "datasets"),
        ("sft_args", package / "sft_args"),
    ):
        assert _files(ROOT / source) <= _files(copy)
    # At the top, a folder of this name would stand in the place of Hugging Face's library.
    assert not (installed / "datasets").exists()


def test_cards_presets_prompts_and_the_model_are_found(installed: Path, tmp_path: Path) -> None:
    done = _run(tmp_path, installed, "-c", FIND)
    assert done.returncode == 0, done.stderr
    root, names, preset, files = json.loads(done.stdout)
    assert root == str(installed)
    assert names == [names_of(folder) for folder in (DATASETS, METHODS, MODELS, PROMPTS)]
    assert preset["tuner_type"] == "lora"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)


def test_the_command_works_in_an_empty_folder_and_writes_there(installed: Path, tmp_path: Path) -> None:
    run_swift = str(installed / "bin" / "run-swift")
    helped = _run(tmp_path, installed, run_swift, "--help")
    assert (helped.returncode, "prepare" in helped.stdout) == (0, True), helped.stderr
    listed = _run(tmp_path, installed, run_swift, "list", "datasets")
    assert "JD product reviews" in listed.stdout, listed.stderr
    assert "embedded" in listed.stdout
    assert list(tmp_path.iterdir()) == []
    prepared = _run(tmp_path, installed, run_swift, "prepare", "--test-samples", "20")
    assert prepared.returncode == 0, prepared.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    assert prepared.stdout.splitlines()[-1] == f"run folder: outputs/{run.name}"
    assert len(read_jsonl(run / "data" / "test.jsonl")) == 20
    assert read_json(run / "data" / "manifest.json")["files"]["train"]["rows"] == 3000
    refused = _run(tmp_path, installed, run_swift, "export", f"outputs/{run.name}")
    assert refused.stderr.splitlines()[-1].endswith(f"finish it first: run-swift run outputs/{run.name}")
