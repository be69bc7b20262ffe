"""The notebook runs from top to bottom on a machine without a GPU, as it is."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import PATIENCE
from workflows.experiment.cards import ROOT

NOTEBOOK = Path("workflows/notebooks/modelscope_gpu.ipynb")


@pytest.mark.slow
def test_the_notebook_runs_and_shows_its_results(project_copy: Path) -> None:
    shutil.copy(ROOT / "requirements.txt", project_copy)  # all is here: nothing is installed
    notebook = nbformat.read(project_copy / NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it ships without any
    (small,) = [cell for cell in notebook.cells if '"train_samples": 320, "test_samples": 100' in cell.source]
    small.source = small.source.replace("320", "64").replace("100", "40")
    # Where it sees a test, a kernel does not show what is written to the process's own output.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    folder = {"metadata": {"path": (project_copy / NOTEBOOK).parent}}  # where Jupyter starts it
    NotebookClient(notebook, timeout=PATIENCE, resources=folder).execute(env=environment)
    shown = "\n".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    assert "ERROR" not in shown
    assert "微调后" in shown
    assert "image/svg+xml" in shown
    assert "[1/10] prepare" in shown
    assert "INFO:swift" not in shown  # it is in the logs, as on the command line
    assert "test rows, the same for all" in shown
    assert (project_copy / "outputs" / "my_reviews.csv").exists()
