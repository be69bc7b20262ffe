"""What runs of a study would take, before one of their kind is finished.

Of the runs that differ in rows and seeds alone the largest is prepared and its tokens are counted, as for the
plan of a run; a smaller one takes its share of that.  Speed is measured once for models of one shape, with a
method that `plan` covers; a token of another method takes as much longer as it has more passes.

Not covered: downloads, and fitting the probe; encoders, and methods that make training rows.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from workflows.commands.plan.devices import passes
from workflows.commands.plan.estimate import (
    PROBED,
    Training,
    measure,
    rows_looked_at,
    training_of,
    with_description,
)
from workflows.commands.plan.plan import NOTICEABLE, busy_line, covers
from workflows.core.errors import UserError
from workflows.core.files import fingerprint, read_json
from workflows.core.run_folder import RunFolder, finished_stages, listed_in
from workflows.core.screen import Screen
from workflows.data.sources import find_files
from workflows.experiment.experiment import Experiment, save_experiment
from workflows.experiment.options import RunOptions, TuningOptions
from workflows.experiment.recipes import Plain
from workflows.experiment.resolve import resolve
from workflows.model.machine import Machine, find_machine, memory_within_reach
from workflows.model.memory import PROCESS, Workload, load_of, memory, read_sizes
from workflows.pipeline.run import do_stages
from workflows.pipeline.training import SCORE_AND_REPORT

WITH_MODEL = {"probe", "zero_shot", "train", "tuned"}  # stages
Figures = dict[str, float]
Stages = Sequence[str]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Kind:
    """What is known of runs that differ in rows and seeds alone, from the largest of them."""

    why: str | None = None  # something is not known
    rows: dict[str, int] = field(default_factory=dict)  # of each split
    seconds: Figures = field(default_factory=dict)  # of stages that need no model
    bytes: float = 0.0  # of these
    tokens: Figures = field(default_factory=dict)  # of a row of each split, the mean
    described: Experiment | None = None  # with its model as a local folder, where that is to be measured
    training: Training | None = None
    load: Workload | None = None  # of the training


@dataclass(frozen=True)
class Speeds:
    """What the stages with a model take here."""

    load: float  # seconds
    answered: float  # seconds a token
    evaluated: float  # seconds a token
    start: float  # seconds, of a training
    trained: float  # seconds a token and pass
    reading: float  # bytes, of answers
    extra: float  # bytes, of a training beside what the formula says


def estimate_each(
    asked: Sequence[tuple[Experiment, Stages]], folder: Path, screen: Screen
) -> list[dict[str, Any]]:
    """Of runs, each with the stages that it does, in the order in which they are run: the rows `train` and
    `test`, `seconds` and `bytes`, None where they are not known, and `why` they are not.

    Everything is written to `folder`.
    """
    largest: dict[str, Experiment] = {}
    stages: dict[str, set[str]] = defaultdict(set)
    keys = [_key(experiment) for experiment, _ in asked]
    for key, (experiment, does) in zip(keys, asked, strict=True):
        stages[key].update(does)
        largest[key] = max(largest.get(key, experiment), experiment, key=_size)
    machine, refused = find_machine(), dict[str, str]()
    kinds: dict[str, Kind] = {}
    for key, experiment in largest.items():
        screen.say(f"counting rows and tokens: {experiment.name}")
        kinds[key] = _count(experiment, stages[key], folder, machine, refused, screen)
    measured: dict[Any, Speeds] = {}
    speeds: dict[str, Speeds] = {}
    # What `plan` covers is measured as it is, with many rows if there are.
    for key in sorted(kinds, key=lambda key: (not covers(largest[key]), -_size(largest[key]))):
        described = kinds[key].described
        if described is not None:
            sizes = read_sizes(Path(described.model.arguments["model"]))
            shape = (sizes.parameters, sizes.linears)
            try:
                speeds[key] = measured.get(shape) or _measure(described, kinds[key], folder, machine, screen)
                measured[shape] = speeds[key]
            except UserError as error:
                kinds[key] = replace(kinds[key], why=str(error))
    read: dict[str, dict[int | None, float]] = defaultdict(dict)
    trained = set[str]()
    return [
        _estimate(experiment, does, kinds[key], speeds.get(key), read[key], trained)
        for key, (experiment, does) in zip(keys, asked, strict=True)
    ]


def _key(experiment: Experiment) -> str:
    data = replace(experiment.data, train_samples=None, sample_seed=None)
    tuning = replace(experiment.tuning, seed=0)
    return fingerprint(save_experiment(replace(experiment, data=data, tuning=tuning)))


def _size(experiment: Experiment) -> float:
    rows = experiment.data.train_samples
    return math.inf if rows is None else rows


def _folder_of(experiment: Experiment, folder: Path) -> RunFolder:
    """A run folder of `folder`: the same for experiments with the same data files."""
    share = experiment.arguments.get("split_dataset_ratio")
    parts = [asdict(each) for each in (experiment.data, experiment.dataset, experiment.prompt)]
    return RunFolder(
        folder / fingerprint([*parts, *map(asdict, experiment.mixed), experiment.has_head, share])
    )


def _count(
    experiment: Experiment,
    stages: set[str],
    folder: Path,
    machine: Machine,
    refused: dict[str, str],
    screen: Screen,
) -> Kind:
    """Rows, tokens and training of an experiment, as far as they can be known.

    `refused`: why files or a model could not be had before; they are asked for once.
    """
    run, kind = _folder_of(experiment, folder), Kind()
    files, model = f"files of {experiment.dataset.name}", f"model {experiment.model.name}"
    with screen.silenced() as silent:
        try:
            _ask_once(files, lambda: find_files(experiment.dataset, experiment.data), refused)
            do_stages(run, experiment, ("prepare", "baselines"), silent)
            done = {name: finished_stages(run)[name] for name in ("prepare", "baselines")}
            kind = Kind(
                rows={name: split["rows"] for name, split in read_json(run.manifest)["splits"].items()},
                seconds={name: record["seconds"] for name, record in done.items()},
                bytes=max(max(record["peak_memory_bytes"].values()) for record in done.values()),
            )
            if not stages & WITH_MODEL:
                return kind
            if experiment.for_encoders or experiment.derives_rows or isinstance(experiment.recipe, Plain):
                raise UserError(f"plan does not cover method {experiment.method}")
            described = _ask_once(model, lambda: with_description(experiment), refused)
            do_stages(run, described, ("tokens",), silent)
            splits = read_json(run.tokens)["splits"]
            training, load = None, None
            if experiment.tunes:
                training = training_of(run, described, machine, memory_within_reach(machine.device), silent)
                load = load_of(run, training.arguments, training.fitted, machine)
                load = replace(load, piece_tokens=training.piece_tokens)
            return replace(
                kind,
                seconds={**kind.seconds, "tokens": finished_stages(run)["tokens"]["seconds"]},
                tokens={name: split["mean"] for name, split in splits.items()},
                described=described,
                training=training,
                load=load,
            )
        except UserError as error:
            return replace(kind, why=str(error).replace(listed_in(run), ""))


def _ask_once(what: str, ask: Callable[[], Answer], refused: dict[str, str]) -> Answer:
    if what in refused:
        raise UserError(refused[what])
    try:
        return ask()
    except UserError as error:
        refused[what] = str(error)
        raise


def _measure(described: Experiment, kind: Kind, folder: Path, machine: Machine, screen: Screen) -> Speeds:
    """The speeds of a model here, with its experiment's own method, or LoRA where `plan` does not cover that.

    Raises UserError where LoRA cannot be had of it either.
    """
    if not covers(described):
        tuning = TuningOptions(described.tuning.model, eval_rows=described.tuning.eval_rows)
        described = replace(resolve(RunOptions(described.data, tuning)), model=described.model)
        kind = _count(described, {"train"}, folder, machine, {}, screen)
    training, load, run = kind.training, kind.load, _folder_of(described, folder)
    if training is None or load is None:
        raise UserError(str(kind.why))
    seconds, peaks, taken = measure(run, training, machine, screen)
    if taken > NOTICEABLE:
        screen.say(busy_line(taken))
    first, looked_at = training.batches[0][1], len(rows_looked_at(run, described))
    a_token = seconds["token"] or seconds["train"] / first  # there is one batch only
    needed = memory(training.sizes, load) - (PROCESS["cuda"] if machine.device == "cuda" else 0.0)
    return Speeds(
        load=seconds["load"],
        answered=seconds["answering"] / (kind.rows["test"] * kind.tokens["test"]),
        evaluated=seconds["evaluation"] / (looked_at * kind.tokens["val"]),
        start=max(0.0, seconds["train"] - a_token * first),
        trained=a_token / passes(load),
        reading=peaks["zero_shot"],
        extra=max(peaks.values()) - needed,
    )


def _estimate(
    experiment: Experiment,
    stages: Stages,
    kind: Kind,
    speeds: Speeds | None,
    read: dict[int | None, float],
    trained: set[str],
) -> dict[str, Any]:
    """What is said of a run.  `read`: rows that the frozen model has read for runs before it, by their draw;
    `trained`: the trainings of runs before it, as of any that differ in their test rows alone.  Both are
    brought up to date.
    """
    rows, tokens, data = kind.rows, kind.tokens, experiment.data
    train = data.train_samples or rows.get("train")
    found = {"train": train, "test": rows.get("test"), "seconds": None, "bytes": None, "why": kind.why}
    with_model = WITH_MODEL.intersection(stages)
    if not rows or train is None or (with_model and speeds is None):
        return found
    share = train / rows["train"]
    seconds = kind.seconds["prepare"] + SCORE_AND_REPORT
    if "baselines" in stages:
        seconds += share * kind.seconds["baselines"]
    if speeds is None or not with_model:
        return found | {"seconds": seconds, "bytes": kind.bytes, "why": None}
    needed = max(kind.bytes, speeds.reading)
    seconds += speeds.load
    val = math.ceil(share * rows["val"])
    labelled, tested = min(train + val, experiment.tuning.probe_rows), rows["test"] * tokens["test"]
    if "probe" in stages:  # draws overlap by chance only, as long as none is all there is
        all_there_is = labelled if data.train_samples is None else math.inf
        new = max(0, min(labelled - read.get(data.sample_seed, 0), all_there_is - sum(read.values())))
        seconds += PROBED * speeds.answered * (new * tokens["train"] + (0 if read else tested))
        read[data.sample_seed] = read.get(data.sample_seed, 0) + new
    if "zero_shot" in stages:
        seconds += speeds.answered * (labelled * tokens["train"] + tested)
    if kind.training is not None and kind.load is not None:
        training, looked_at = kind.training, min(val, experiment.tuning.eval_rows)
        seconds += share * kind.seconds["tokens"] + speeds.answered * tested
        untested = replace(data, test_samples=None, test_dataset=None)
        alone = fingerprint(save_experiment(replace(experiment, data=untested, tested=None)))
        if alone not in trained:
            trained.add(alone)
            seconds += speeds.start + share * training.computed * passes(kind.load) * speeds.trained
            seconds += training.evaluations * looked_at * tokens["val"] * speeds.evaluated
        needed = max(needed, memory(training.sizes, kind.load) + speeds.extra)
    return found | {"seconds": seconds, "bytes": needed, "why": None}
