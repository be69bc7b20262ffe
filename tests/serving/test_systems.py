"""The systems of a finished run answer any text as the run answered its test rows."""

from pathlib import Path

import pytest

from workflows.core.errors import UserError
from workflows.core.files import read_jsonl
from workflows.core.run_folder import RunFolder
from workflows.serving.systems import Models, open_system


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["tuned", "zero_shot", "probe", "tfidf"])
def test_answers_are_those_of_the_run(demo_run: tuple[RunFolder, str], name: str, shared: bool) -> None:
    run, _ = demo_run
    written = read_jsonl(run.predictions(name))
    models = Models() if shared else None
    if shared:
        open_system(run.path, "tuned", models)  # its adapter is on the base that the others read
    system = open_system(run.path, name, models)
    found = system.answer([f" {row['text']}\n" for row in written])
    for said, row in zip(found, written, strict=True):
        assert said["text"] == row["text"]
        assert said["prediction"] == row["prediction"]
        assert said["probabilities"] == pytest.approx(row["probabilities"], abs=1e-4)
        assert "gold" not in said


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        open_system(tmp_path)
