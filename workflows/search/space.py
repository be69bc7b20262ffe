"""The space of a search: which settings of a run are tried with which values.

A YAML file with SWIFT's own argument names, recipe.NAME and `prompt`; space.yaml is the default one.  What
the run has anyway belongs to the space, so the first trial is the run as it was asked, the default.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from workflows.core.errors import UserError
from workflows.experiment.cards import from_mapping, read_yaml
from workflows.experiment.experiment import Experiment
from workflows.experiment.options import parse_overrides
from workflows.experiment.resolve import resolve
from workflows.model.swift_names import check_settings

DEFAULT = Path(__file__).with_suffix(".yaml")
Value = bool | int | float | str | None  # None: not set


@dataclass(frozen=True)
class Range:
    """Anything from `low` to `high`, both within; whole numbers where both are."""

    low: int | float
    high: int | float
    log: bool = False


@dataclass(frozen=True)
class Setting:
    """One thing that is searched: its value in the run as it was asked, and where to look."""

    own: Value
    values: Range | tuple[Value, ...]

    @property
    def distribution(self) -> BaseDistribution:
        """It as optuna has it, the own value within."""
        if not isinstance(self.values, Range):
            missing = () if self.own in self.values else (self.own,)
            return CategoricalDistribution([*missing, *self.values])
        assert isinstance(self.own, int | float)
        ends = min(self.values.low, self.own), max(self.values.high, self.own)
        if all(isinstance(each, int) for each in ends):
            return IntDistribution(int(ends[0]), int(ends[1]), log=self.values.log)
        return FloatDistribution(*ends, log=self.values.log)


@dataclass(frozen=True)
class Space:
    """What is searched around a run."""

    asked: Experiment
    settings: dict[str, Setting]

    @property
    def default(self) -> dict[str, Value]:
        """The values of the run as it was asked."""
        return {name: setting.own for name, setting in self.settings.items()}

    def changed(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Those of `values` that the run as it was asked does not have, as they are set: of numbers that were
        drawn three digits.
        """
        changed = {}
        for name, value in values.items():
            short = float(f"{value:.3g}") if isinstance(value, float) else value
            if self.settings[name].own not in (value, short):
                changed[name] = short
        return changed

    def experiment(self, values: Mapping[str, Value]) -> Experiment:
        """The run with these values; a UserError where they do not go together."""
        changed, options = self.changed(values), self.asked.options
        prompt = changed.pop("prompt", options.tuning.prompt)
        if not isinstance(prompt, str | None):
            raise UserError(f"prompt: {prompt!r} is no name of a prompt.")
        pairs = [pair_of(name, each) for name, each in changed.items() if each is not None]
        tuning = replace(options.tuning, prompt=prompt, set=(*options.tuning.set, *pairs))
        experiment = resolve(replace(options, tuning=tuning))
        check_settings(experiment)
        return experiment


def _as_number(value: Value) -> Value:
    """A text that is a number as that: YAML takes 2e-4 for a text."""
    if isinstance(value, str):
        with suppress(ValueError):
            return int(value)
        with suppress(ValueError):
            return float(value)
    return value


def load_space(file: str | None, asked: Experiment) -> Space:
    """The space of a YAML file, or the default one, around a run.

    What the command line sets by --set or --prompt is not searched, nor, in the default space, what the
    method does not have.  Raises UserError for a setting that no run has, and for a value that does not fit.
    """
    path = DEFAULT if file is None else Path(file)
    if not path.is_file():
        raise UserError(f"--space {path}: no such file.")
    found: dict[str, Range | tuple[Value, ...]] = from_mapping(
        dict[str, Range | tuple[Value, ...]], read_yaml(path), path
    )
    overrides, recipe = parse_overrides(asked.tuning.set)
    fixed = {*overrides, *(f"recipe.{name}" for name in recipe)}
    fixed |= set() if asked.tuning.prompt is None else {"prompt"}
    has: dict[str, Any] = {**asked.arguments, **asked.recipe_settings}
    if not asked.has_head and asked.tuning.from_run is None:
        has["prompt"] = asked.prompt.name
    settings = {}
    for name, values in found.items():
        if name in fixed or (file is None and name not in has):
            continue
        own = has.get(name)
        own = " ".join(map(str, own)) if isinstance(own, list) else own
        if name != "prompt":
            own = _as_number(own)
        searched = values
        if not isinstance(values, Range):
            if None in values and own is not None:
                raise UserError(f"{path}: {name}: null would leave it at {own}; leave null out.")
            searched = values if name == "prompt" else tuple(map(_as_number, values))
        else:
            if not 0 < values.high - values.low < float("inf"):
                raise UserError(f"{path}: {name}: low must be below high.")
            if values.log and values.low <= 0:
                raise UserError(f"{path}: {name}: on a log scale low must be above 0.")
            if isinstance(own, bool) or not isinstance(own, int | float):
                raise UserError(
                    f"{path}: {name}: method {asked.method} has no number for it, so there is none to begin "
                    "with; give a list of values."
                )
            if values.log and own <= 0:
                raise UserError(
                    f"{path}: {name}: method {asked.method} has {own} for it, which is searched too and has "
                    "no place on a log scale; leave out `log`, or --set another."
                )
        settings[name] = Setting(own, searched)
    space = Space(asked, settings)
    if not settings:
        raise UserError(
            f"{path}: leaves nothing to search; name a setting that --set and --prompt do not fix."
        )
    for name, setting in settings.items():
        ends = setting.values
        for value in (ends.low, ends.high) if isinstance(ends, Range) else ends:
            try:
                space.experiment({name: value})
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
    return space


def pair_of(name: str, value: Value) -> str:
    """A setting as --set has it."""
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"
