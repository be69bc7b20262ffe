"""What a search is of: noted in its folder when it begins, with the rows that all its trials share."""

import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import fingerprint, read_json, read_jsonl, write_json
from workflows.core.run_folder import RunFolder, finished_stages, hold, listed_in
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment, save_experiment
from workflows.pipeline.run import are_done, do_stages, start_run
from workflows.pipeline.stages import STAGES
from workflows.search.space import Space

LOCKS = "locks"  # the folder of what processes hold
NOTE = "asked.json"


def begin(folder: Path, space: Space, screen: Screen) -> None:
    """Note in `folder` what is searched, and prepare the rows of the run as it was asked.

    Raises UserError where the folder holds something else, another search, or rows that have changed since it
    began, and as the data stage does.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = {name for name in names - {LOCKS} if not name.startswith(".")}
    if folder.is_file() or (others and NOTE not in names):
        raise UserError(f"--output {folder}: is no search and not empty; name a new folder.")
    asked = {
        "experiment": save_experiment(space.asked),
        "space": fingerprint({name: asdict(each) for name, each in space.settings.items()}),
    }
    note = folder / NOTE
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    with hold(folder / LOCKS / "begin.lock", wait=True):
        known: dict[str, Any] = read_json(note) if note.exists() else {}
        if known and any(known[name] != value for name, value in asked.items()):
            raise UserError(f"{folder}: holds a search of other options; name a new folder by --output.")
        write_json(note, known or asked)
        run = run_in(folder, space.asked)
        try:
            if not are_done(run, space.asked, ("prepare",)):
                do_stages(start_run(space.asked, run.path, screen), space.asked, ("prepare",), screen)
        except UserError as error:
            if known:
                raise
            note.unlink()
            for made in (LOCKS, "runs"):  # what else is hidden there is not ours
                shutil.rmtree(folder / made, ignore_errors=True)
            with suppress(OSError):
                folder.rmdir()
            raise UserError(str(error).replace(listed_in(run), "")) from error
        # The trials read the files themselves.
        stage = STAGES[0]
        depends = stage.depends(RunFolder(folder / "none"), space.asked)
        now = {name: fingerprint(value) for name, value in depends.items()}
        if now != finished_stages(run)[stage.name]["inputs"]:
            raise UserError(
                f"{folder}: the files of its rows are others now, or gone; bring them back (--data-file, "
                "--data-dir, REVIEW_DATA_DIR), or name a new folder by --output."
            )
        rows = fingerprint([_rows(run, split) for split in ("train", "val")])
        if known.get("rows", rows) != rows:
            raise UserError(f"{folder}: its rows have changed since it began; name a new folder by --output.")
        write_json(note, {**asked, "rows": rows})


def run_in(folder: Path, experiment: Experiment) -> RunFolder:
    """Where a search in `folder` has the run of an experiment."""
    return RunFolder(folder / "runs" / f"{experiment.name}-{fingerprint(save_experiment(experiment))}")


def _rows(run: RunFolder, split: str) -> list[tuple[Any, ...]]:
    return [(row["id"], row["review"], row["label"]) for row in read_jsonl(run.split(split))]
