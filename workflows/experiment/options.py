"""Every option of a run, once: its name, type, default and help.

Flags, --help, experiment.yaml and the command that repeats a run are all derived from these fields; nothing
else knows an option by name before it is used.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token
from cyclopts.validators import Number

from workflows.core.errors import UserError


def absolute(path: str) -> str:
    """The path from the root, so that a run can be repeated from another folder; a UserError where it cannot
    be told.
    """
    try:
        # Unlike Path.resolve it takes a loop of links, of which the reader says more.
        found = os.path.realpath(Path(path).expanduser())
        Path(found).exists()  # fails where there can be no such file
        found.encode("utf-8")  # as experiment.yaml has it
    except UnicodeEncodeError as error:
        raise UserError(f"{found!r}: the name is not UTF-8; rename it.") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{path!r}: is no path: {error}.") from error
    return found


def _absolute(kind: Any, tokens: tuple[Token, ...]) -> str:
    return absolute(tokens[0].value)


Count = Annotated[int, Parameter(validator=Number(gte=1))]
File = Annotated[str, Parameter(converter=_absolute)]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Pairs = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]
Language = Literal["zh", "en"]
Port = Annotated[int, Parameter(validator=Number(gte=1, lte=65535))]
DATA = Group("Data", sort_key=1)
TUNING = Group("Model and tuning", sort_key=2)
PROCESSES = Group("Several processes", sort_key=4)


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class SourceOptions:
    """Which rows there are, and which of them are training rows."""

    dataset: str | None = None
    """a data set by name (default: demo, the embedded one)"""
    data_file: File | None = None
    """your reviews: CSV, TSV, JSONL, Parquet or XLSX"""
    val_file: File | None = None
    """validation reviews, where you have them apart"""
    test_file: File | None = None
    """test reviews, where you have them apart"""
    data_dir: File | None = None
    """a folder with data sets' files (or set REVIEW_DATA_DIR)"""
    text_column: str | None = None
    """the column with the review"""
    label_column: str | None = None
    """the column with the label"""
    labels: str | None = None
    """labels in order, as the file and the model write them: 差评,好评; or each value of the file with its
    label: 0=差评,1=好评, where one without a label is left out"""
    neutral: str | None = None
    """count neutral ratings as this label (default: leave them out)"""
    keep_near_copies: Flag = False
    """keep training rows that stand in the test set in nearly the same words (default: remove them)"""
    apply: File | None = None
    """labels corrected by hand: audit.csv with its column `correction` filled"""
    split: Literal["standard", "course"] = "standard"
    """standard: 80/10/10 stratified; course: 72/8/20 as the course's code cut it"""
    data_seed: int = 42
    """seed of splits and samples"""


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class DataOptions(SourceOptions):
    """Which rows a run uses, and how they are written."""

    train_samples: Count | None = None
    """train on a stratified sample of so many rows"""
    sample_seed: int | None = None
    """draw the sample by this seed, a larger one around a smaller one, whatever the data seed"""
    mix: Pairs = ()
    """NAME=RATIO: add training rows of another data set, RATIO for each row of this one; may be repeated"""
    balance: Flag = False
    """train on equally many rows of each label"""
    test_samples: Count | None = None
    """test on a stratified sample of so many rows"""
    test_dataset: str | None = None
    """take the test rows of another data set with the same labels, by name"""
    flip_labels: float = 0.0
    """make so large a share of the training and validation labels wrong, to see what suffers by it"""
    format: Literal["messages", "query-response"] = "messages"
    """of the files for SWIFT"""

    @property
    def draws(self) -> bool:
        """Whether anything is drawn by the sample seed: rows to use, to leave out or to mix in, or labels to
        flip.
        """
        return self.train_samples is not None or self.balance or bool(self.mix) or self.flip_labels > 0


@Parameter(name="*", group=TUNING)
@dataclass(frozen=True)
class TuningOptions:
    """What is tuned, how, and what answers."""

    model: str | None = None
    """a model by name, a folder, or a hub id (default: tiny, embedded)"""
    method: str = "lora"
    """a preset in sft_args/, or a YAML file"""
    prompt: str | None = None
    """a prompt by name, or a YAML file (default: by the kind of model)"""
    from_run: File | None = None
    """the finished run that the method starts from (dpo, distill, pseudo-label)"""
    unlabelled: File | None = None
    """reviews without labels (pseudo-label)"""
    set: Pairs = ()
    """NAME=VALUE: any SWIFT argument, or recipe.NAME; may be repeated"""
    best_by: Literal["loss", "macro_f1"] = "loss"
    """keep the checkpoint that is best by this on validation"""
    eval_rows: Count = 128
    """validation rows at most in each evaluation during training: a stratified sample, the same each time"""
    probe_rows: Count = 2000
    """labelled rows at most that the untuned model reads, for what is fitted to it without tuning"""
    window: Count | None = None
    """let an encoder read long texts in windows, one every so many tokens (default: the beginning)"""
    engine: Literal["fast", "swift", "vllm"] = "fast"
    """what writes the answers: our scorer, SWIFT's infer_main, or that on vLLM"""
    seed: int = 42
    """seed of training"""


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """What is asked of a run."""

    data: DataOptions = DataOptions()
    tuning: TuningOptions = TuningOptions()
    lang: Language = "zh"
    """language that the report opens in"""


DEFAULTS = RunOptions()  # nothing was asked


@Parameter(name="*")
@dataclass(frozen=True)
class NewRun:
    """A run to start."""

    options: RunOptions = DEFAULTS
    run_folder: Path | None = None
    """where the run goes (default: a new one in outputs/)"""


NEW_RUN = NewRun()


@Parameter(name="*", group=PROCESSES)
@dataclass(frozen=True)
class ProcessOptions:
    """How many processes tune and answer together; what is learned and answered is the same, but where a
    preset draws an odd number of rows without sorting them by length: SWIFT then has another order.  It is no
    part of an experiment: the same run may go on with more or fewer.
    """

    nproc: Count = 1
    """processes on this machine: as many as it has GPUs"""
    nnodes: Count = 1
    """machines that share the run folder by their file system, each with the same command"""
    node_rank: Annotated[int, Parameter(validator=Number(gte=0))] = 0
    """which of the machines this one is: 0, which does the other stages too, 1, ..."""
    master_addr: str = "127.0.0.1"
    """where the others find machine 0"""
    master_port: Port = 29500
    """its port for that"""

    @property
    def total(self) -> int:
        """Processes on all machines."""
        return self.nproc * self.nnodes


ONE_PROCESS = ProcessOptions()


def asked(options: Any, named: Collection[str] = ()) -> dict[str, Any]:
    """The options that are not their defaults, or are `named`, by name, those of a group together."""
    kind: Any = type(options)
    dump = partial(_adapter(kind).dump_python, options, mode="json")
    changed = dict(dump(exclude_defaults=True))
    if not named:
        return changed
    found = {
        name: asked(getattr(options, name), named) if isinstance(value, dict) else value
        for name, value in dump().items()
        if isinstance(value, dict) or name in named or name in changed
    }
    return {name: value for name, value in found.items() if value != {}}


def named_in(words: Iterable[str]) -> frozenset[str]:
    """The names of the options on a command line."""
    flags = (word.partition("=")[0] for word in words if word.startswith("--"))
    return frozenset(flag.removeprefix("--").replace("-", "_") for flag in flags)


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # not for --help

    return TypeAdapter(kind)


def flags_of(options: Any, named: Collection[str] = ()) -> Iterator[str]:
    """The flags that make these options on a command line, each one argument; `named`: as of `asked`."""
    for name, value in asked(options, named).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, dict):
            yield from flags_of(getattr(options, name), named)
        elif isinstance(value, bool):
            yield flag if value else f"{flag}=false"
        else:
            for each in map(str, value if isinstance(value, list) else [value]):
                yield from [f"{flag}={each}"] if each.startswith("-") else [flag, each]


def listed(value: Any) -> list[str]:
    """The values of a SWIFT argument that takes several: a list, or a text with blanks or commas between."""
    return value if isinstance(value, list) else re.findall(r"[^\s,\[\]\"']+", str(value))


def parse_overrides(pairs: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """--set NAME=VALUE pairs: SWIFT's, which model/swift_names.py checks, and the recipe's
    (recipe.NAME=VALUE).  Raises UserError for what is no such pair.
    """
    overrides: dict[str, str] = {}
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {pair}: write NAME=VALUE, such as --set learning_rate=2e-4.")
        name = name.strip().replace("-", "_")
        if name.startswith("recipe."):
            settings[name.removeprefix("recipe.")] = value.strip()
        else:
            overrides[name] = value.strip()
    return overrides, settings
