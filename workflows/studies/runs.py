"""The runs of a study: ordinary ones, in runs/ under their name and a hash of their experiment.yaml.

They do the stages that make the answers that are looked at; `run FOLDER` does the others.  A run that is
finished already, in this study, another or alone, is taken as it is.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.files import fingerprint
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment, save_experiment
from workflows.model.swift_names import check_overrides
from workflows.pipeline.run import OUTPUTS, are_done
from workflows.studies.card import SYSTEMS, Cell, Size, Study, cells_of

Kind = tuple[str, ...]  # what a run's time depends on beside its rows


@dataclass
class Run:
    """A run, which one or more cells take."""

    name: str
    folder: RunFolder
    experiment: Experiment
    size: Size
    makes: set[str] = field(default_factory=set)  # the stages that make the answers

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that it does."""
        return ("prepare", *self.makes, "score", "report")

    @property
    def is_done(self) -> bool:
        """Whether all its stages are done, on what they would read now."""
        return are_done(self.folder, self.experiment, self.stages)

    @property
    def kind(self) -> Kind:
        """Its name and the stages that it has beside those that all have."""
        return (self.experiment.name, *sorted(self.makes))


Taken = list[tuple[Cell, Run]]


def find_runs(study: Study, folder: Path) -> Taken:
    """Each cell with its run, which is there or not; a UserError where options do not go together."""
    runs: dict[str, Run] = {}
    taken: Taken = []
    for cell, experiment in cells_of(study):
        text = save_experiment(experiment)
        name = f"{experiment.name}-{fingerprint(text)}"
        if name not in runs:
            check_overrides(experiment.overrides, experiment.recipe)
            size: Size = "all"
            if experiment.data.train_samples is not None:
                size = experiment.data.train_samples
            runs[name] = Run(name, RunFolder(folder / "runs" / name), experiment, size)
        runs[name].makes.update(SYSTEMS[study.system(cell.arm)])
        taken.append((cell, runs[name]))
    for run in runs.values():
        if not run.folder.experiment.exists():
            run.folder = _finished_elsewhere(run) or run.folder
    return taken


def without_missing_models(
    study: Study, taken: Taken, folder: Path, weights: bool, screen: Screen
) -> tuple[Study, Taken, list[dict[str, str]]]:
    """The study and its cells without the optional arms whose model cannot be had; these arms, each with its
    `model` and `why`.

    An arm whose runs are all finished stays.  `weights`: whether models are fetched whole, or what describes
    them only.  Raises UserError where no arm is left.
    """
    whys: dict[str, str | None] = {}  # by model, which is asked for once
    left_out: dict[str, dict[str, str]] = {}
    for cell, run in taken:
        arm, model = cell.arm, run.experiment.model.name
        if not study.arms[arm].optional or arm in left_out or run.is_done:
            continue
        if model not in whys:
            screen.say(f"asking for model {model} …")
            whys[model] = _why_no_model(run.experiment, weights, screen)
        if (why := whys[model]) is not None:
            left_out[arm] = {"arm": arm, "model": model, "why": why}
            screen.say(f"arm {arm} is left out: {why}")
    if not left_out:
        return study, taken, []
    study = study.without(left_out)
    if not study.arms:
        raise UserError(f"study {study.name}: the models of all its arms could not be had.")
    return study, find_runs(study, folder), [*left_out.values()]


def _why_no_model(experiment: Experiment, weights: bool, screen: Screen) -> str | None:
    with tempfile.TemporaryDirectory() as folder, screen.output_to(Path(folder) / "swift.log"):
        from workflows.model.folder import fetch_model

        try:
            fetch_model(experiment.arguments, weights)
        except UserError as error:
            return str(error)
    return None


def _finished_elsewhere(run: Run) -> RunFolder | None:
    """A finished run of the same experiment, of another study or alone."""
    text = save_experiment(run.experiment)
    for pattern in (f"studies/*/runs/{run.name}", f"{run.experiment.name}-*"):
        for there in map(RunFolder, sorted(OUTPUTS.glob(pattern))):
            same = there.experiment.exists() and there.experiment.read_text(encoding="utf-8") == text
            if same and are_done(there, run.experiment, run.stages):
                return there
    return None
