"""The notebook runs from top to bottom on a machine without a GPU, as it is."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path("workflows/notebooks/modelscope_gpu.ipynb")


@pytest.mark.slow
def test_the_notebook_runs_and_shows_its_results(project_copy: Path) -> None:
    notebook = nbformat.read(project_copy / NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it ships without any
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": project_copy}}).execute()
    shown = "\n".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    assert "微调后" in shown
    assert "<svg" in shown
    assert "test rows, the same for all" in shown
    assert (project_copy / "outputs" / "my_reviews.csv").exists()
