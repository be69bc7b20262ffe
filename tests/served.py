"""What every kind of run is held to, once it is served, and a model to ask directly."""

from pathlib import Path
from typing import Any

import pytest
from swift.pipelines.utils import prepare_model_template

from workflows.core.files import read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.experiment.experiment import Experiment
from workflows.model.arguments import build_infer_arguments
from workflows.model.folder import with_local_model
from workflows.model.machine import Machine
from workflows.serving.models import Models
from workflows.serving.systems import open_system


def assert_served_as_answered(run: RunFolder, name: str = "tuned", models: Models | None = None) -> None:
    """A system of a finished run says to the test rows what is in its predictions."""
    written = read_jsonl(run.predictions(name))
    found = open_system(run.path, name, models).answer([f" {row['text']}\n" for row in written])
    for said, row in zip(found, written, strict=True):
        assert said["text"] == row["text"]
        assert "gold" not in said
        if row["probabilities"] is None:
            assert said["prediction"] == pytest.approx(row["prediction"], abs=1e-3)
        else:
            assert said["prediction"] == row["prediction"]
            assert said["probabilities"] == pytest.approx(row["probabilities"], abs=1e-3)


def load_for_answers(experiment: Experiment, folder: Path, checkpoint: Path | None = None) -> tuple[Any, Any]:
    """Model and template as inference loads them on a CPU, in float32; `folder`: where answers would go."""
    file, machine = folder / "none.jsonl", Machine("cpu", "", "float32", "")
    arguments = build_infer_arguments(with_local_model(experiment), machine, file, file, checkpoint)
    model, template = prepare_model_template(arguments)
    return model.eval(), template
