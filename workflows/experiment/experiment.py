"""What one run is: a data-set card, a model card, a preset, a prompt, overrides and seeds, in one value.

Model cards and presets hold SWIFT's own argument names and nothing else, so `swift sft FILE` takes them too;
only a preset whose method SWIFT does not have holds one key more, `recipe`.  An `Experiment` holds all cards
resolved: the YAML that it is stored as repeats the run even when a card has changed since.
"""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from workflows.core.errors import UserError
from workflows.core.permissions import check_arguments
from workflows.experiment.cards import (
    COMMAND,
    Arguments,
    DatasetCard,
    Gold,
    Label,
    ModelCard,
    Prompt,
    from_mapping,
    has_head,
    read_yaml,
)
from workflows.experiment.options import (
    DataOptions,
    Language,
    RunOptions,
    TuningOptions,
    asked,
    listed,
    parse_overrides,
)
from workflows.experiment.recipes import DERIVED, Probe, Reasoning, Recipe

FORMAT = 2  # of experiment.yaml
LOWER_IS_BETTER = ("loss", "label_loss", "mae", "rmse")  # of what evaluations measure
ASKED = {"data", "tuning", "lang", "overrides"}  # fields of Experiment that its `options` tell


@dataclass(frozen=True)
class Mix:
    """A data set whose training rows are added to the target's."""

    dataset: DatasetCard
    ratio: float  # rows added for each training row of the target, above 0


@dataclass(frozen=True)
class Saved:
    """What experiment.yaml holds: what was asked, and what the names in it meant then, since cards change."""

    format: int
    options: RunOptions
    resolved: dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """Everything needed to repeat a run: what was asked, and what the names in it meant then."""

    data: DataOptions
    tuning: TuningOptions
    lang: Language
    dataset: DatasetCard
    model: ModelCard
    prompt: Prompt
    preset: Arguments
    overrides: dict[str, str]  # of --set, unparsed: SWIFT's own parser gives them their types
    mixed: tuple[Mix, ...] = ()
    recipe: Recipe | None = None  # what the method does that SWIFT's arguments cannot say
    tested: DatasetCard | None = None  # whose test rows are taken, where they are not the data set's own

    @property
    def options(self) -> RunOptions:
        """What was asked, as the command line has it."""
        return RunOptions(self.data, self.tuning, self.lang)

    @property
    def data_title(self) -> str:
        """The title of the data set, or the name of --data-file: a card may name rows that these are not."""
        own = self.data.data_file
        return self.dataset.title if own is None else Path(own).name

    @property
    def tested_on(self) -> tuple[str, str]:
        """Name and title of the data set that the test rows are of."""
        own = self.data.data_file
        if self.tested is None and own is not None:
            return Path(own).stem, self.data_title
        card = self.tested or self.dataset
        return card.name, card.title

    @property
    def labels(self) -> tuple[Label, ...]:
        """The data set's labels in index order, with the prompt's words where it has its own."""
        own = self.prompt.label_words
        return tuple(replace(label, words=own.get(label.name, label.words)) for label in self.dataset.labels)

    @property
    def has_head(self) -> bool:
        """Whether a classification (or regression) head answers, instead of label words being written; so it
        is, too, where a probe answers what label words could not say: several labels, or a number.
        """
        return has_head(self.preset) or not (self.tunes or self.dataset.task == "single_label")

    @property
    def for_encoders(self) -> bool:
        """Whether the method is for BERT-size encoders."""
        return self.preset.get("model_type") == "bert"

    @property
    def arguments(self) -> Arguments:
        """SWIFT's: of the preset, --best-by, the data set's task, the model card, the overrides."""
        arguments = dict(self.preset)
        if self.tuning.best_by == "macro_f1":
            arguments |= {"metric_for_best_model": "macro_f1", "greater_is_better": True}
        if self.has_head:
            arguments["task_type"] = "seq_cls"
        if self.has_head and self.dataset.task == "regression":
            arguments |= {"num_labels": 1, "problem_type": "regression"}
        elif self.has_head:
            kind = f"{self.dataset.task}_classification"
            arguments |= {"num_labels": len(self.dataset.labels), "problem_type": kind}
        arguments |= self.model.arguments | self.overrides
        metric = arguments.get("metric_for_best_model")
        if metric is not None and "greater_is_better" not in self.overrides:  # a preset's may be of another
            arguments["greater_is_better"] = str(metric).removeprefix("eval_") not in LOWER_IS_BETTER
        return arguments

    def named(self, label: Gold) -> str | list[str] | float:
        """What a data file's `label` stands for: a label's name, several names, or the number itself."""
        if isinstance(label, float):
            return label
        return self.labels[label].name if isinstance(label, int) else [self.labels[i].name for i in label]

    def written(self, label: Gold) -> str:
        """A data file's `label` in words, as a model would write it."""
        if isinstance(label, float):
            return f"{label:.4f}"
        return "、".join(self.labels[i].words for i in ([label] if isinstance(label, int) else label))

    @property
    def trackers(self) -> list[str]:
        """What report_to names: the trackers that the run's losses and scores go to."""
        return [name for name in listed(self.arguments.get("report_to", "none")) if name.lower() != "none"]

    @property
    def recipe_settings(self) -> Arguments:
        """The recipe's settings, by the names that --set has for them."""
        settings = {} if self.recipe is None else vars(self.recipe)
        return {f"recipe.{name}": value for name, value in settings.items() if name != "kind"}

    @property
    def pinned(self) -> set[str]:
        """The argument names that the machine may not change: the model card's and the overrides'."""
        return {*self.model.arguments, *self.overrides}

    @property
    def ends_after_label(self) -> bool:
        """Whether a tuned answer is the label's words alone, or goes on after them."""
        return not isinstance(self.recipe, Reasoning)

    @property
    def tunes(self) -> bool:
        """Whether the method tunes the model at all."""
        return not isinstance(self.recipe, Probe)

    @property
    def derives_rows(self) -> bool:
        """Whether training reads rows that the stage `derive` makes."""
        return self.recipe is not None and self.recipe.kind in DERIVED

    @property
    def name(self) -> str:
        """<data set>-<model>-<method>, as run folders are named."""
        return f"{self.dataset.name}-{self.model.name}-{self.method}"

    @property
    def method(self) -> str:
        """The name of the preset, or of one's own file without folder and ending."""
        return Path(self.tuning.method).name.removesuffix(".yaml")


def content_of(experiment: Experiment) -> dict[str, Any]:
    """All of an experiment as plain values; what older runs do not know is left out where it was not asked,
    so that they stay done.
    """
    content = asdict(experiment)
    for part, later in ((content, ("tested",)), (content["data"], ("test_dataset", "flip_labels"))):
        for name in later:
            if not part[name]:
                del part[name]
    return content


def save_experiment(experiment: Experiment) -> str:
    """The YAML text of an experiment: what was asked, in a few lines, then what the names meant."""
    resolved = {name: value for name, value in content_of(experiment).items() if name not in ASKED}
    content = {"format": FORMAT, "options": asked(experiment.options), "resolved": resolved}
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=110)


def load_experiment(path: Path) -> Experiment:
    """The experiment stored at `path`; a UserError where it does not exist, does not fit, or would run code
    that the command line does not trust: it may be anybody's.
    """
    if not os.path.lexists(path):  # which no name makes fail
        raise UserError(
            f"{path.parent}: not a run folder (it has no {path.name}); `{COMMAND} prepare` starts one."
        )
    content = read_yaml(path)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path}: was written by another version, in format {content.get('format', 1)}; this one reads "
            f"format {FORMAT}. Start the run anew, or work on it with the version that made it."
        )
    saved = from_mapping(Saved, content, path)
    overrides, _ = parse_overrides(saved.options.tuning.set)
    content = {**saved.resolved, **vars(saved.options), "overrides": overrides}
    experiment: Experiment = from_mapping(Experiment, content, f"{path}: resolved")
    check_arguments(experiment.arguments, f"{path}:")
    return experiment
