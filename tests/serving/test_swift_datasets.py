"""SWIFT's own command line finds our data sets by name, with the rows that `prepare` gives them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workflows.core.files import read_json, read_jsonl
from workflows.core.run_folder import RunFolder

PLUGIN = "workflows/serving/swift_datasets.py"
# Says what SWIFT loads by each of the names that follow: JSON lines of rows.
LOAD = f"""
import json, sys
from swift.dataset import load_dataset
from swift.utils import import_external_file
import_external_file({PLUGIN!r})
for name in sys.argv[1:]:
    print('@', json.dumps([*load_dataset([name])[0]]))
"""


def _loaded(project: Path, *names: str, **variables: str) -> list[list[dict[str, Any]]]:
    """The rows that SWIFT loads by each name."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *names],
        capture_output=True,
        text=True,
        cwd=project,
        env={**os.environ, **variables},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line[2:]) for line in done.stdout.splitlines() if line.startswith("@ ")]


@pytest.mark.slow
def test_swift_loads_files_by_the_name_of_their_data_set(project_copy: Path, shared_data: Path) -> None:
    loaded = _loaded(project_copy, "waimai", "waimai:val", REVIEW_DATA_DIR=str(shared_data))
    run = RunFolder(project_copy / "outputs" / "swift" / "waimai")
    for split, rows in zip(("train", "val"), loaded, strict=True):
        written = read_jsonl(run.split(split))
        assert [row["messages"] for row in rows] == [row["messages"] for row in written] != []


@pytest.mark.slow
def test_swift_trains_on_a_data_set_by_name(project_copy: Path, tmp_path: Path) -> None:
    model = project_copy / "workflows" / "tiny" / "model"
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "swift"), "sft", "sft_args/lora.yaml"),
            *("--external_plugins", PLUGIN, "--dataset", "demo", "--val_dataset", "demo:val"),
            *("--model", str(model), "--model_type", "qwen2", "--template", "qwen"),
            *("--max_steps", "1", "--use_cpu", "true", "--torch_dtype", "float32"),
            *("--output_dir", str(tmp_path / "sft"), "--add_version", "false"),
        ],
        capture_output=True,
        text=True,
        cwd=project_copy,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    splits = read_json(RunFolder(project_copy / "outputs" / "swift" / "demo").manifest)["splits"]
    log = done.stdout + done.stderr
    for split in ("train", "val"):  # SWIFT says the rows of both
        assert f"'num_rows': {splits[split]['rows']}" in log or f"num_rows: {splits[split]['rows']}" in log
    with open(tmp_path / "sft" / "logging.jsonl", encoding="utf-8") as file:
        assert any("eval_loss" in json.loads(line) for line in file)


@pytest.mark.slow
def test_only_the_bare_name_is_ours(project_copy: Path, tmp_path: Path) -> None:
    """A folder of one's own may be called as a data set is; data sets for heads have rows for heads."""
    own = {"messages": [{"role": "user", "content": "自己的"}, {"role": "assistant", "content": "好评"}]}
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "data.jsonl").write_text(json.dumps(own) + "\n", encoding="utf-8")
    (mine,), aspects = _loaded(project_copy, str(tmp_path / "demo"), "demo-aspects:test")
    assert mine["messages"] == own["messages"]
    written = read_jsonl(RunFolder(project_copy / "outputs" / "swift" / "demo-aspects").split("test"))
    assert [(row["messages"], row["label"], row["dataset"]) for row in aspects] == [
        (row["messages"], row["label"], "demo-aspects") for row in written
    ]
