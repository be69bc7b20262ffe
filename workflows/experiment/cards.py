"""What can be named: data sets, presets and prompts, each a YAML file; types and look-up."""

import difflib
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from workflows.core.errors import UserError
from workflows.core.files import check_file
from workflows.experiment.labels import normalise_label
from workflows.experiment.options import absolute
from workflows.experiment.recipes import Recipe

ROOT = Path(__file__).resolve().parents[2]  # the checkout; of an installed copy, the folder it is in
# A wheel has the cards inside the package, where no other library's folder is called `datasets`.
INSTALLED = (ROOT / "workflows" / "datasets").is_dir()
_CARDS = ROOT / "workflows" if INSTALLED else ROOT
DATASETS = _CARDS / "datasets"
METHODS = _CARDS / "sft_args"
MODELS = METHODS / "models"
PROMPTS = ROOT / "workflows" / "data" / "prompts"
STUDIES = ROOT / "workflows" / "studies"
COMMAND = "run-swift" if INSTALLED else "python run_swift.py"  # as a person types it

MAX_NEW_TOKENS = 5  # both source systems decode five tokens greedily; a label word must fit in them
NAME = re.compile(r"[^\W_][^/\\\x00-\x1f]{0,99}")  # a folder is called by it
NO_NAME = "a folder is called by it: begin it with a letter or a digit, and leave out '/'"
PLACEHOLDER = re.compile(r"\{( *[^\W\d]\w* *)\}")  # a word in a prompt's braces; all others are text
Arguments = dict[str, Any]  # SWIFT's argument names and values
Task = Literal["single_label", "multi_label", "regression"]
Gold = int | list[int] | float  # a row's label: an index, the indices of several labels, or a number
THRESHOLD = 0.5  # of a label's probability where a row may have several


@dataclass(frozen=True)
class Label:
    """One class: its name in tables, and the words that the model reads and writes for it."""

    name: str
    words: str


@dataclass(frozen=True)
class Layout:
    """One way in which files of a data set are laid out: two columns, and what the label's values mean."""

    text: str
    label: str
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)  # label name -> values in the file
    neutral: tuple[str, ...] = ()  # rejected, unless --neutral gives them a label
    unlabelled: tuple[str, ...] = ()  # rejected
    separator: Annotated[str, Field(min_length=1)] = ";"  # between the values of a row that has several


@dataclass(frozen=True)
class HubSource:
    """Files of one data set on a hub."""

    hub: Literal["modelscope", "huggingface"]
    id: str
    files: dict[str, str]  # train, val, test -> name in the repository

    @property
    def place(self) -> str:
        """The source as manifests and lists name it."""
        return f"{self.hub}: {self.id}"


@dataclass(frozen=True)
class DatasetCard:
    """A data set by name: see datasets/README.md for what each key means."""

    name: str
    title: str
    labels: tuple[Label, ...]
    layouts: tuple[Layout, ...]
    local: tuple[dict[str, str], ...] = ()
    sources: tuple[HubSource, ...] = ()
    task: Task = "single_label"

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(f"data set {self.name!r}: {NO_NAME}.")
        files = (*self.local, *(source.files for source in self.sources))
        for each in files:
            if "train" not in each or not each.keys() <= {"train", "val", "test"}:
                raise UserError(
                    f"data set {self.name}: files are for train, val and test, and train is needed; here "
                    f"they are for {', '.join(each) or 'none'}."
                )
        for name in (name for each in files for name in each.values()):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(
                    f"data set {self.name}: file {name!r} lies outside of the folder with the data; name it "
                    "from there, without '..', or give it with --data-file."
                )
        for kind in ("name", "words"):
            told = [getattr(label, kind).strip().casefold() for label in self.labels]
            if "" in told or len({*told}) < len(told):
                raise UserError(f"data set {self.name}: each label needs {kind} of its own.")


@dataclass(frozen=True)
class ModelCard:
    """A model by name: its SWIFT arguments (model, model_type, template, …)."""

    name: str
    arguments: Arguments


@dataclass(frozen=True)
class Prompt:
    """How a review becomes what the model reads.

    `user` and `system` may hold {review}, {labels}, {descriptions} and {examples}; `example`, the form of one
    of {examples}, may hold {review}, {labels} and {label}, its answer.
    """

    name: str
    user: str
    system: str | None = None
    joiner: str = "、"  # between the label words of {labels} …
    last_joiner: str = "还是"  # … and before the last of them
    order: Literal["index", "reverse"] = "reverse"  # of {labels}: 正面 before 负面, as in the course
    label_words: dict[str, str] = field(default_factory=dict)  # label name -> words, instead of the card's
    descriptions: dict[str, str] = field(default_factory=dict)  # label name -> what it means
    shots: int = 0  # so many training rows are shown with their answers as {examples} …
    shots_by: Literal["seed", "similarity"] = "seed"  # … the same for all, or those most like the review
    example: str | None = None
    file: str | None = None  # where a prompt of one's own was read from


def has_head(preset: Arguments) -> bool:
    """Whether a preset tunes a head on the model instead of the words that it writes."""
    return preset.get("task_type") == "seq_cls"


class _Loader(yaml.SafeLoader):
    """Plain values, each written once: a few lines of references to references may stand for billions."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            where = self.peek_event().start_mark
            raise yaml.YAMLError(f"line {where.line + 1}: references (*name) are not read; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: key {key.value!r} stands twice")
            seen.update([key.value] if isinstance(key, yaml.ScalarNode) else [])
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML card; a UserError where the file holds anything else."""
    check_file(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date, say, that the calendar lacks
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, not a mapping of keys to values.")
    return content


def from_mapping(kind: Any, content: Any, where: Path | str) -> Any:
    """A `kind` from parsed YAML; a UserError names the key that is missing, unknown or of the wrong type."""
    # pydantic takes settings for a list of dataclasses, not for a dataclass.
    reader = TypeAdapter[list[Any]](list[kind], config=ConfigDict(extra="forbid"))
    try:
        return reader.validate_python([content])[0]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"][1:]))
        what = ": ".join(part for part in (str(where), key, first["msg"]) if part)
        given = shorten(repr(first["input"]), 80, placeholder=" …")
        raise UserError(f"{what} (given: {given}).") from error


def names_of(folder: Path) -> list[str]:
    """The names of the YAML cards in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def card_path(folder: Path, name: str, kind: str) -> Path:
    """The path of the card `name`; a UserError with the known names where there is none."""
    known = names_of(folder)
    if name in known:
        return folder / f"{name}.yaml"
    raise UserError(f"{kind} {name!r} is not known.{did_you_mean(name, known)}")


def card_or_file(folder: Path, name: str, kind: str) -> Path:
    """The path of the card `name`, or that of one's own YAML file; a UserError where it is neither."""
    if name not in names_of(folder) and (path := Path(absolute(name))).is_file():
        return path
    return card_path(folder, name, kind)


def did_you_mean(name: str, known: list[str]) -> str:
    """What is said of a name that is not known: those nearest to it, and all that are."""
    near = difflib.get_close_matches(name, known, n=3)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"{meant} Known: {', '.join(known)}."


def load_dataset_card(name: str) -> DatasetCard:
    """The card `datasets/<name>.yaml`; a UserError where its keys do not fit together."""
    path = card_path(DATASETS, name, "data set")
    card = from_mapping(DatasetCard, read_yaml(path), path)
    if card.name != name:
        raise UserError(f"{path}: has the name {card.name!r}; write `name: {name}`, as its file is called.")
    names = sorted(label.name for label in card.labels)
    for layout in card.layouts:
        if (mapped := sorted(layout.values)) != names:
            raise UserError(f"{path}: layout {layout.text}/{layout.label} maps {mapped}, labels are {names}.")
        _check_values(layout, path)
    return replace(card, layouts=tuple(map(_normalised, card.layouts)))


def _normalised(layout: Layout) -> Layout:
    """A layout whose values that are rejected are written as those of a file are compared."""
    neutral, unlabelled = (tuple(map(normalise_label, each)) for each in (layout.neutral, layout.unlabelled))
    return replace(layout, neutral=neutral, unlabelled=unlabelled)


def _check_values(layout: Layout, path: Path) -> None:
    """Raise UserError where a layout gives one value two meanings."""
    places = [*layout.values.items(), ("neutral", layout.neutral), ("unlabelled", layout.unlabelled)]
    meant: dict[str, str] = {}
    for place, values in places:
        for value in {*map(normalise_label, values)}:
            if value in meant:
                raise UserError(
                    f"{path}: layout {layout.text}/{layout.label} has the value {value!r} under both "
                    f"{meant[value]} and {place}; leave it in one place."
                )
            meant[value] = place


def load_preset(name: str, settings: dict[str, str] | None = None) -> tuple[Arguments, Recipe | None]:
    """The SWIFT arguments of the preset `sft_args/<name>.yaml`, or of one's own YAML file, and its recipe
    where it has one.

    `settings`: of --set recipe.NAME=VALUE. Raises UserError for what the recipe does not take.
    """
    path = card_or_file(METHODS, name, "method")
    preset = read_yaml(path)
    recipe = from_mapping(Recipe | None, preset.pop("recipe", None), f"{path}: recipe")
    content = {} if recipe is None else asdict(recipe)
    known = [each for each in content if each != "kind"]
    for setting in settings or ():
        if setting not in known:
            has = f"its recipe has {', '.join(known)}" if known else "it has no recipe settings"
            raise UserError(f"--set recipe.{setting}: not a setting of method {name}; {has}.")
    if settings:
        recipe = from_mapping(type(recipe), {**content, **settings}, "--set recipe")
    return preset, recipe


def load_prompt(name: str) -> Prompt:
    """The prompt `workflows/data/prompts/<name>.yaml`, or that of one's own YAML file.

    Raises UserError for an unknown placeholder, and where texts and the keys that fill them do not fit.
    """
    path = card_or_file(PROMPTS, name, "prompt")
    origin = {} if name in names_of(PROMPTS) else {"file": str(path)}
    prompt = from_mapping(Prompt, {"name": path.stem, **origin, **read_yaml(path)}, path)
    known = ("review", "labels", "descriptions", "examples")
    for key, names in (("user", known), ("system", known), ("example", ("review", "labels", "label"))):
        for placeholder in PLACEHOLDER.findall(getattr(prompt, key) or ""):
            if placeholder not in names:
                raise UserError(
                    f"{path}: `{key}` has the unknown placeholder {{{placeholder}}}; known: "
                    f"{', '.join(f'{{{each}}}' for each in names)}."
                )
    if "{review}" not in prompt.user:
        raise UserError(f"{path}: `user` has no {{review}}, so the model would never see the text.")
    asked = prompt.user + (prompt.system or "")
    if ("{descriptions}" in asked) != bool(prompt.descriptions):
        raise UserError(f"{path}: {{descriptions}} and the key `descriptions` go together; one is missing.")
    shown = {*PLACEHOLDER.findall(prompt.example or "")} >= {"review", "label"}
    together = {"{examples}" in asked, prompt.shots > 0, bool(prompt.example)}
    if len(together) > 1 or (prompt.example and not shown):
        raise UserError(
            f"{path}: {{examples}}, `shots` above 0 and an `example` with {{review}} and {{label}} go "
            "together; one is missing."
        )
    return prompt
