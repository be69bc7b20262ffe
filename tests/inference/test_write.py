"""Longer texts are written for every prompt, and those of an interrupted call are kept."""

import json
from pathlib import Path

from tests.conftest import make_experiment
from workflows.core.run_folder import RunFolder
from workflows.experiment.job import Job
from workflows.inference.write import write_texts
from workflows.model.loaded import LoadedModel
from workflows.model.machine import Machine


def test_only_the_missing_texts_are_written(demo_rows: list[dict[str, str]], tmp_path: Path) -> None:
    experiment = make_experiment()
    prompts = [
        {"id": str(i), "messages": [{"role": "user", "content": row["text"]}]}
        for i, row in enumerate(demo_rows[:5])
    ]
    written = tmp_path / "data" / "written.jsonl"
    written.parent.mkdir()
    kept = [json.dumps({"id": str(i), "text": f"理由{i}"}) + "\n" for i in range(3)]
    written.write_text("".join(kept) + '{"id": "3", "te', encoding="utf-8")  # stopped within a line
    job, machine = Job(RunFolder(tmp_path), experiment, base=LoadedModel()), Machine("cpu", "", "float32", "")
    texts = write_texts(job, machine, prompts, 12, written)
    assert set(texts) == set("01234")
    assert [texts[str(i)] for i in range(3)] == ["理由0", "理由1", "理由2"]
    assert texts["3"]
    assert len(written.read_text(encoding="utf-8").splitlines()) == 5
    # Nothing is left to be written: no model is loaded.
    job.base.release()
    assert write_texts(job, machine, prompts, 12, written) == texts
    assert job.base.model is None
