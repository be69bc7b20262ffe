"""A study: a question, and the runs that answer it; one YAML card in this folder, or a file of one's own.

A card holds options of `run` under their names in experiment/options.py; docs/en/studies.md explains it.
Every combination of its `grid` is a panel of the page, in which the arms are compared, size by size.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field

from workflows.core.errors import UserError
from workflows.core.texts import Text, texts
from workflows.experiment.cards import (
    METHODS,
    NAME,
    NO_NAME,
    STUDIES,
    card_or_file,
    from_mapping,
    load_prompt,
    names_of,
    read_yaml,
)
from workflows.experiment.experiment import Experiment
from workflows.experiment.options import RunOptions, SourceOptions, TuningOptions, asked
from workflows.experiment.resolve import GROUPS, options_of, resolve
from workflows.model.swift_names import check_settings

Options = dict[str, Any]
Rows = dict[str, int]  # by split; empty where nothing is known
Size = Annotated[int, Field(ge=1)] | Literal["all"]  # training rows
Sizes = Annotated[tuple[Size, ...], Field(min_length=1)]
Draws = Annotated[int, Field(ge=1)]
SOURCE = {each.name for each in fields(SourceOptions)}
REPEATED = ("set", "mix")  # options whose values add up
OF_A_STUDY = ("train_samples", "sample_seed", "seed")  # what it varies itself
OF_A_PANEL = ("split", "data_seed", "test_samples", "test_file")  # which rows are tested
READ_NO_LABELS = ("zero_shot", "zero_shot_labels")
# The systems that may be looked at, and the stages that make their answers.
SYSTEMS = {
    **dict.fromkeys(("majority", "tfidf"), ("baselines",)),
    **dict.fromkeys(("zero_shot", "zero_shot_labels", "zero_shot_threshold"), ("zero_shot",)),
    "probe": ("baselines", "probe"),  # of few rows there is no probe, and something must be scored
    "tuned": ("tokens", "derive", "train", "tuned"),
}
SMOKE: Options = {"dataset": "demo", "model": "tiny", "test_samples": 100}
NOT_IN_SMOKE = {*SOURCE, *SMOKE, "test_dataset"}  # of the embedded data sets none has another's labels
SMOKE_SIZES: tuple[Size, ...] = (32, 64)
SMOKE_DRAWS = 2


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared: what its runs are asked, and which of their systems answers."""

    options: Options = field(default_factory=dict)
    system: str | None = None  # default: the arm's name where it is that of one, else tuned
    title: Text | None = None  # default: the system's, or the arm's name
    sizes: Sizes | None = None  # default: the study's
    draws: Draws | None = None  # default: the study's
    vary: tuple[Literal["sample_seed", "seed"], ...] = ("sample_seed", "seed")  # what a draw's number sets
    once: bool = False  # it reads no labels: one run, of the smallest size there is, stands for all
    smoke: bool = True  # whether it is there at --scale smoke
    optional: bool = False  # whether it is left out where its model cannot be had


@dataclass(frozen=True)
class Study:
    """What a card holds."""

    name: str
    question: Text
    arms: Annotated[dict[str, Arm], Field(min_length=1)]
    sizes: Sizes
    draws: Draws
    compare: tuple[tuple[str, str], ...] = ()  # pairs of arms
    options: Options = field(default_factory=dict)  # of all runs
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = field(default_factory=dict)

    def system(self, arm: str) -> str:
        """The system that answers for an arm."""
        return self.arms[arm].system or (arm if arm in texts("systems") else "tuned")

    def title(self, arm: str) -> Text | str:
        """What an arm is called in tables and sentences."""
        systems: dict[str, Text | str] = {**texts("systems_in_a_sentence")}
        return self.arms[arm].title or systems.get(arm, arm)

    def varied(self, arm: str) -> set[str]:
        """What changes with an arm's draws: the sample of the rows, and of a tuned model the seed."""
        changed = set[str]() if self.arms[arm].once else {*map(str, self.arms[arm].vary)}
        return changed if self.system(arm) == "tuned" else changed - {"seed"}

    @property
    def reads_labels(self) -> bool:
        """Whether any arm depends on labels."""
        return not all(arm.once for arm in self.arms.values())

    def without(self, left_out: Collection[str]) -> "Study":
        """The study without some of its arms, and the pairs that they are in."""
        arms = {name: arm for name, arm in self.arms.items() if name not in left_out}
        pairs = tuple(pair for pair in self.compare if arms.keys() >= set(pair))
        return replace(self, arms=arms, compare=pairs)


@dataclass(frozen=True)
class Cell:
    """One set of answers to the test rows: of an arm, trained on a draw of so many rows."""

    panel: tuple[Any, ...]  # the grid's values
    arm: str
    size: Size
    draw: int
    varies: bool  # whether another draw is another run


def load_study(
    name: str, flags: RunOptions, smoke: bool, draws: int | None, named: Collection[str] = ()
) -> Study:
    """The study of a card, by name or YAML file; `flags` go before its options and its grid, also where they
    are defaults but `named`; `smoke` makes it small, `draws` is the number of draws of all arms.  Raises
    UserError for what does not fit together.
    """
    path = card_or_file(STUDIES, name, "study")
    study = from_mapping(Study, {"name": path.stem, **read_yaml(path)}, path)
    names = [*study.options, *study.grid, *(each for arm in study.arms.values() for each in arm.options)]
    systems, compared = map(study.system, study.arms), (each for pair in study.compare for each in pair)
    unusual = [] if NAME.fullmatch(study.name) else [study.name]
    wrong = [
        *(f"name {each!r}: {NO_NAME}" for each in unusual),
        *(f"{each} is set by sizes and draws" for each in names if each in OF_A_STUDY),
        *(f"{each} is no option of `run`" for each in names if each not in GROUPS),
        *(f"{each} is no system; known: {', '.join(SYSTEMS)}" for each in systems if each not in SYSTEMS),
        *(
            f"{name}: once is for what reads no labels: {', '.join(READ_NO_LABELS)}"
            for name, arm in study.arms.items()
            if arm.once and study.system(name) not in READ_NO_LABELS
        ),
        *(
            f"{name}: with {option} of its own, `all` is another number of labels than the others have"
            for name, arm in study.arms.items()
            for option in arm.options
            if option in {*SOURCE, "balance"} and "all" in sizes_of(study)
        ),
        *(
            f"{option}: arms that differ in it are tested on other rows; put it into grid"
            for option in OF_A_PANEL
            if len({repr(arm.options.get(option, study.options.get(option))) for arm in study.arms.values()})
            > 1
        ),
        *(
            ["test_dataset: the arms are tested on rows of other data sets; name one, or several in grid"]
            if len({repr(_tested_on(study, arm)) for arm in study.arms.values()}) > 1
            else []
        ),
        *(
            f"compare: {each} is none of {', '.join(study.arms)}"
            for each in compared
            if each not in study.arms
        ),
        *(
            f"{name}: vary has nothing that changes its runs; leave it out"
            for name, arm in study.arms.items()
            if arm.vary and not arm.once and not study.varied(name)
        ),
        *_unfit_pairs(study),
    ]
    if wrong:
        raise UserError(f"{path}: {wrong[0]}.")
    groups = asked(flags, named)
    given: Options = {**groups.get("data", {}), **groups.get("tuning", {})}
    for flag in (f"--{each.replace('_', '-')}" for each in OF_A_STUDY if each in given):
        raise UserError(f"{flag}: is set by the study's sizes and draws; leave it out.")
    whole, study = study, _smoke(study) if smoke else study
    without_effect = [
        option
        for option in given
        if option not in REPEATED and not (_has_effect(whole, option) and _has_effect(study, option))
    ]
    if without_effect:
        flag = without_effect[0].replace("_", "-")
        raise UserError(
            f"--{flag}: would change no run of study {study.name}: its arms have their own; leave it out."
        )
    if "data_file" in given and "dataset" not in given:  # it takes the place of the study's own
        if any("dataset" in arm.options for arm in whole.arms.values()):
            raise UserError(
                f"--data-file: the arms of study {study.name} differ by their data sets; leave it out."
            )
        study = _without(study, "dataset", "split")  # a split for the card's own files
    if draws is not None:
        arms = {arm: replace(each, draws=None) for arm, each in study.arms.items()}
        study = replace(study, draws=draws, arms=arms)
    grid = {
        option: tuple(tuple(each) if isinstance(each, list) else each for each in values)
        for option, values in study.grid.items()
        if option not in given or option in REPEATED
    }
    study = replace(study, options=_joined(study.options, given), grid=grid)
    known = names_of(METHODS)
    for name, arm in study.arms.items():
        method = {**study.options, **arm.options}.get("method", TuningOptions.method)
        if "method" not in study.grid and study.system(name) == "tuned" and name in known and name != method:
            raise UserError(
                f"{path}: {name}: is called as a method, and its runs are of method {method}; give it "
                f"`options: {{method: {name}}}`."
            )
    if not study.reads_labels:  # no number of labels changes anything
        _refuse_shown_rows(study)
        arms = {name: replace(arm, sizes=None) for name, arm in study.arms.items()}
        study = replace(study, arms=arms, sizes=(sizes_of(study)[0],))
    return study


def _unfit_pairs(study: Study) -> Iterator[str]:
    """What is wrong with pairs whose draws do not go together."""
    for a, b in study.compare:
        if not {a, b} <= study.arms.keys():
            continue
        both = study.varied(a), study.varied(b)
        if all(both) and len({"sample_seed" in each for each in both}) > 1:
            yield f"compare: the draws of {a} and {b} are of different rows, by their `vary`"
        if not any(both) and not (study.arms[a].once and study.arms[b].once):
            yield f"compare: no draw changes {a} or {b}, by their `vary`; one draw says nothing"


def _tested_on(study: Study, arm: Arm) -> Any:
    """The data set, or the files, that an arm's test rows are from; None where the grid says it."""
    options = {**study.options, **dict.fromkeys(study.grid), **arm.options}
    if "test_dataset" in options:
        return options["test_dataset"]
    return options.get("test_file") or options.get("data_file") or options.get("dataset", "demo")


def _refuse_shown_rows(study: Study) -> None:
    """Raise UserError where a prompt of a study shows training rows, though all its arms read none."""
    asked = [*study.grid.get("prompt", ()), study.options.get("prompt")]
    asked += [arm.options.get("prompt") for arm in study.arms.values()]
    if shows := [name for name in asked if name is not None and load_prompt(name).shots]:
        raise UserError(
            f"study {study.name}: prompt {shows[0]} shows training rows, so answers depend on their labels; "
            "take `once` away from an arm."
        )


def _has_effect(study: Study, option: str) -> bool:
    """Whether an option for all runs reaches any: an arm's own goes before it, and tuned arms alone have a
    method.
    """
    return any(
        option not in arm.options and (option != "method" or study.system(name) == "tuned")
        for name, arm in study.arms.items()
    )


def _smoke(study: Study) -> Study:
    """The study with the embedded model and data, few sizes and draws."""

    small = study.without([name for name, arm in study.arms.items() if not arm.smoke])
    if not small.arms:
        raise UserError(f"study {study.name}: none of its arms is part of --scale smoke.")
    arms = {name: replace(arm, sizes=None, draws=None) for name, arm in small.arms.items()}
    small = replace(small, arms=arms, sizes=SMOKE_SIZES, draws=SMOKE_DRAWS)
    small = _without(small, *NOT_IN_SMOKE)
    return replace(small, options=small.options | SMOKE)


def _without(study: Study, *names: str) -> Study:
    """The study without some options, wherever it has them."""

    def kept(options: Options) -> Options:
        return {option: value for option, value in options.items() if option not in names}

    arms = {name: replace(arm, options=kept(arm.options)) for name, arm in study.arms.items()}
    return replace(study, arms=arms, options=kept(study.options), grid=kept(study.grid))


def cells_of(study: Study, rows_of: Callable[[Experiment], Rows]) -> Iterator[tuple[Cell, Experiment]]:
    """All cells and what their runs are asked, whole draws first, so that a study that was stopped has all
    sizes of some draws.

    `rows_of`: how many rows each split of an experiment has before any sample is taken; sizes beyond that are
    left out, and of fewer test rows than are asked all are taken.  Raises UserError where options do not go
    together.
    """
    panels = list(product(*study.grid.values()))
    asked_of = {(panel, arm): _resolve(study, panel, arm) for panel in panels for arm in study.arms}
    draws = max(arm.draws or study.draws for arm in study.arms.values())
    sizes = sizes_of(study)
    for draw, panel, size in product(range(1, draws + 1), panels, sizes):
        for name, arm in study.arms.items():
            if size not in (arm.sizes or study.sizes) or draw > (arm.draws or study.draws):
                continue
            experiment = asked_of[panel, name]
            data, tuning, there = experiment.data, experiment.tuning, rows_of(experiment)
            once = arm.once and not experiment.prompt.shots  # which are training rows
            if size != "all" and size > there.get("train", size):
                continue
            rows = size
            if once:
                rows = next(each for each in sizes if each == "all" or each <= there.get("train", each))
            if (data.test_samples or 0) >= there.get("test", math.inf):
                data = replace(data, test_samples=None)
            # A tuned model depends on its seed; what is fitted to a frozen one does not.
            reseeded = "seed" in arm.vary and study.system(name) == "tuned" and not once
            if rows != "all":
                data = replace(data, train_samples=rows)
            redrawn = "sample_seed" in arm.vary and data.draws and not once
            if data.draws:
                data = replace(data, sample_seed=draw if redrawn else 1)
            if reseeded:
                tuning = replace(tuning, seed=draw)
            cell = Cell(panel, name, size, draw, reseeded or redrawn)
            yield cell, replace(experiment, data=data, tuning=tuning)


def sizes_of(study: Study) -> list[Size]:
    """The sizes of all arms, from small to large."""
    found = dict.fromkeys(size for arm in study.arms.values() for size in (arm.sizes or study.sizes))
    return sorted(found, key=lambda size: float("inf") if size == "all" else size)


def _resolve(study: Study, panel: tuple[Any, ...], arm: str) -> Experiment:
    """What an arm's runs are asked, but for rows and seeds."""
    cheap = {} if study.system(arm) == "tuned" else {"method": "probe"}  # which tunes nothing
    own = study.arms[arm].options
    options = _joined(study.options, cheap, dict(zip(study.grid, panel, strict=True)), own)
    where = f"study {study.name}, {arm}"
    asked_of = options_of(options, where)
    try:
        experiment = resolve(asked_of)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    check_settings(experiment)
    if experiment.dataset.task == "regression":
        raise UserError(f"study {study.name}: is about accuracy; {experiment.dataset.name} has numbers.")
    return experiment


def _joined(*parts: Options) -> Options:
    """Options of which later ones go before earlier ones; those that may be repeated add up."""
    joined: Options = {}
    for part in parts:
        for option, value in part.items():
            both = option in REPEATED and option in joined
            joined[option] = [*joined[option], *value] if both else value
    return joined
