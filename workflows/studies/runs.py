"""The runs of a study: ordinary ones, in runs/ under their name and a hash of their experiment.yaml.

They do the stages that make the answers that are looked at; `run FOLDER` does the others.  A run that is
finished already, in this study, another or alone, is taken as it is.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.files import fingerprint, read_json
from workflows.core.run_folder import RunFolder, finished_stages, listed_in
from workflows.core.screen import Screen
from workflows.experiment.experiment import Experiment, save_experiment
from workflows.pipeline.run import OUTPUTS, are_done, do_stages
from workflows.studies.card import SYSTEMS, Cell, Rows, Size, Study, cells_of, sizes_of
from workflows.studies.records import Record, key_of, record_of, stages_of

Kind = tuple[str, ...]  # what a run's time depends on beside its rows


@dataclass
class Run:
    """A run, which one or more cells take."""

    name: str
    key: str  # the same on every machine
    folder: RunFolder
    experiment: Experiment
    size: Size
    makes: set[str] = field(default_factory=set)  # the stages that make the answers
    arms: dict[str, None] = field(default_factory=dict)  # whose it is, in order
    known: Record | None = None  # what another study.json says of it
    without_model: bool = False  # its model cannot be had now: it is left for later

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that it does."""
        return ("prepare", *sorted(self.makes), "score", "report")

    @property
    def is_done(self) -> bool:
        """Whether all its stages are done, on what they would read now, or known of another machine."""
        return self.known is not None or are_done(self.folder, self.experiment, self.stages)

    @property
    def record(self) -> Record:
        """What study.json keeps of it; it is done."""
        return record_of(self.folder, self.stages) if self.known is None else self.known

    @property
    def seconds(self) -> float | None:
        """What it took on this machine; None where its report is not written."""
        done = finished_stages(self.folder)
        took = sum(done[name]["seconds"] for name in self.stages if name in done)
        return took if "report" in done else None

    @property
    def kind(self) -> Kind:
        """Its name, what else its time depends on, and the stages that it has beside those that all have."""
        data, tuning = self.experiment.data, self.experiment.tuning
        asked = [asdict(replace(tuning, seed=0)), data.mix, data.test_dataset, data.test_samples]
        return (self.experiment.name, fingerprint(asked), *sorted(self.makes))


Taken = list[tuple[Cell, Run]]


def find_runs(
    study: Study, folder: Path, known: dict[str, Record], rows_of: Callable[[Experiment], Rows]
) -> Taken:
    """Each cell with its run, which is there, known by the records `known`, or missing.

    `rows_of`: as of `cells_of`.  Raises UserError where options do not go together.
    """
    runs: dict[str, Run] = {}
    names: dict[str, str] = {}  # by key
    taken: Taken = []
    for cell, experiment in cells_of(study, rows_of):
        text = save_experiment(experiment)
        name = f"{experiment.name}-{fingerprint(text)}"
        if name not in runs:
            size: Size = "all"
            if experiment.data.train_samples is not None:
                size = experiment.data.train_samples
            there = RunFolder(folder / "runs" / name)
            runs[name] = Run(name, key := key_of(experiment), there, experiment, size)
            if names.setdefault(key, name) != name:
                raise UserError(
                    f"study {study.name}: files or folders of one name lie in different places, so study.json"
                    f" could not tell {name} from {names[key]}; give them different names."
                )
        runs[name].makes.update(SYSTEMS[study.system(cell.arm)])
        runs[name].arms[cell.arm] = None
        taken.append((cell, runs[name]))
    if not taken:
        sizes = ", ".join(map(str, sizes_of(study)))
        raise UserError(
            f"study {study.name}: there are fewer training rows than each of its sizes, {sizes}; give more "
            "rows, or a card of your own with smaller sizes."
        )
    for run in runs.values():
        if not run.folder.experiment.exists():
            run.folder = _finished_elsewhere(run) or run.folder
        record = known.get(run.key)
        if record is not None and {*run.stages} <= stages_of(record) and not run.is_done:
            run.known = record
    return taken


def without_missing_models(
    study: Study, taken: Taken, weights: bool, screen: Screen
) -> tuple[Study, Taken, list[dict[str, str]]]:
    """The study and its cells without the optional arms whose model cannot be had; these arms, each with its
    `model` and `why`.

    An arm of which a run is finished stays; its other runs are left for later.  `weights`: whether all models
    are fetched, whole, or, of optional arms, what describes them only.  Raises UserError where no arm is left
    and, with `weights`, where the model of another arm cannot be had, or cannot write the labels: before the
    first run, not in each.
    """
    places: dict[str, Path | str] = {}  # by model: its folder, or why there is none
    checked = set[tuple[str, ...]]()  # models and label words
    left_out: dict[str, dict[str, str]] = {}
    begun = {cell.arm for cell, run in taken if study.arms[cell.arm].optional and run.is_done}
    for cell, run in taken:
        arm, model, optional = cell.arm, run.experiment.model.name, study.arms[cell.arm].optional
        needed = optional or (weights and run.makes - {"baselines"})
        if not needed or arm in left_out or run.without_model or run.is_done:
            continue
        if model not in places:
            screen.say(f"asking for model {model} …")
            places[model] = _folder_of(run.experiment, weights, screen)
        why = places[model]
        if isinstance(why, Path):
            asked = (model, *(label.words for label in run.experiment.labels))
            if weights and asked not in checked and not run.experiment.has_head:
                _check_words(run.experiment, why, f"study {study.name}, {arm}")
                checked.add(asked)
            continue
        if not optional:
            raise UserError(f"study {study.name}, {arm}: {why}")
        if arm in begun:
            run.without_model = True
            screen.say(f"arm {arm}, {run.size} training rows: left for later: {why}")
        else:
            left_out[arm] = {"arm": arm, "model": model, "why": why}
            screen.say(f"arm {arm} is left out: {why}")
    if not left_out:
        return study, taken, []
    study = study.without(left_out)
    if not study.arms:
        raise UserError(f"study {study.name}: the models of all its arms could not be had.")
    return study, [each for each in taken if each[0].arm not in left_out], [*left_out.values()]


def _folder_of(experiment: Experiment, weights: bool, screen: Screen) -> Path | str:
    """The folder of an experiment's model, or why it cannot be had."""
    with tempfile.TemporaryDirectory() as folder, screen.output_to(Path(folder) / "swift.log"):
        from workflows.model.folder import fetch_model

        try:
            return fetch_model(experiment.arguments, weights)
        except UserError as error:
            return str(error)


def _check_words(experiment: Experiment, folder: Path, where: str) -> None:
    """Raise UserError where the model in `folder` cannot write the labels."""
    from workflows.model.folder import check_words

    try:
        check_words(experiment, folder)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _finished_elsewhere(run: Run) -> RunFolder | None:
    """A finished run of the same experiment, of another study or right in outputs/."""
    text = save_experiment(run.experiment)
    for pattern in (f"studies/*/runs/{run.name}", "*"):
        for there in map(RunFolder, sorted(OUTPUTS.glob(pattern))):
            same = there.experiment.exists() and there.experiment.read_text(encoding="utf-8") == text
            if same and are_done(there, run.experiment, run.stages):
                return there
    return None


def row_counter(folder: Path, counted: Path, needed: bool, screen: Screen) -> Callable[[Experiment], Rows]:
    """What counts the rows of an experiment's splits: its data are prepared, whole, in folder/data, unless
    counted/data has them.

    `needed`: whether data that cannot be had raise their UserError; else nothing is known of their rows.
    """
    counts: dict[str, Rows] = {}

    def rows_of(experiment: Experiment) -> Rows:
        data = replace(
            experiment.data, train_samples=None, sample_seed=None, test_samples=None, flip_labels=0.0
        )
        name = f"{experiment.dataset.name}-{fingerprint([asdict(data), asdict(experiment.dataset)])}"
        if name not in counts:
            run, whole = RunFolder(counted / "data" / name), replace(experiment, data=data, mixed=())
            if not are_done(run, whole, ("prepare",)):
                path = folder / "data" / name
                run = RunFolder(path, is_new=not path.exists())
                screen.say(f"counting the rows of {experiment.dataset.name}")
                try:
                    do_stages(run, whole, ("prepare",), screen)
                except UserError as error:
                    for each in (path.parent, folder):
                        with suppress(OSError):  # it holds something
                            each.rmdir()
                    # What is listed in a temporary folder is gone when it is read.
                    why = str(error) if folder == counted else str(error).replace(listed_in(run), "")
                    if needed:
                        raise UserError(why) from error
                    screen.say(f"not known how many rows there are: {why}")
                    return counts.setdefault(name, {})
            splits = read_json(run.manifest)["splits"]
            counts[name] = {split: splits[split]["rows"] for split in splits}
        return counts[name]

    return rows_of
