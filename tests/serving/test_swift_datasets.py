"""SWIFT's own command line finds our data sets by name, with the rows that `prepare` gives them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder

PLUGIN = "workflows/serving/swift_datasets.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "waimai"])
def test_swift_trains_on_a_data_set_by_name(
    project_copy: Path, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("shared_data") if name == "waimai" else tmp_path
    model = project_copy / "workflows" / "tiny" / "model"
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "swift"), "sft", "sft_args/lora.yaml"),
            *("--external_plugins", PLUGIN, "--dataset", name, "--val_dataset", f"{name}:val"),
            *("--model", str(model), "--model_type", "qwen2", "--template", "qwen"),
            *("--max_steps", "1", "--use_cpu", "true", "--torch_dtype", "float32"),
            *("--output_dir", str(tmp_path / "sft"), "--add_version", "false"),
        ],
        capture_output=True,
        text=True,
        cwd=project_copy,
        env={**os.environ, "REVIEW_DATA_DIR": str(folder)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    splits = read_json(RunFolder(project_copy / "outputs" / "swift" / name).manifest)["splits"]
    log = done.stdout + done.stderr
    for split in ("train", "val"):  # SWIFT says the rows of both
        assert f"'num_rows': {splits[split]['rows']}" in log or f"num_rows: {splits[split]['rows']}" in log
    with open(tmp_path / "sft" / "logging.jsonl", encoding="utf-8") as file:
        assert any("eval_loss" in json.loads(line) for line in file)
