"""From the command line's options to an `Experiment`: every name looked up, every contradiction refused."""

import argparse
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from workflows.data.reviews import labels_flag, normalise_label
from workflows.data.tables import open_table, read_chunks
from workflows.errors import UserError
from workflows.experiment import (
    Arguments,
    DataOptions,
    DatasetCard,
    Experiment,
    Label,
    Layout,
    Mix,
    ModelCard,
    Prompt,
    has_head,
    load_dataset_card,
    load_experiment,
    load_preset,
    load_prompt,
    set_recipe,
)
from workflows.models import check_environment, check_method, load_model_card
from workflows.recipes import FROM_RUN, SAME_MODEL, Recipe
from workflows.run_folder import RunFolder, finished_stages

DEFAULT_DATASET = "demo"
DEFAULT_MODEL = "tiny"


def assemble_experiment(options: argparse.Namespace) -> Experiment:
    """The experiment that the options of `run` or `prepare` describe; a UserError for what does not fit
    together.
    """
    dataset = choose_dataset(options)
    preset, recipe = load_preset(options.method)
    source = open_source(options, recipe)
    if source is not None and recipe is not None and recipe.kind in SAME_MODEL:
        model, prompt = source.model, source.prompt
    else:
        model = load_model_card(options.model or DEFAULT_MODEL)
        prompt = load_prompt(options.prompt or default_prompt(model, preset))
    check_environment(model, options.engine)
    check_prompt(prompt, dataset)
    overrides, settings = parse_overrides(options.set)
    experiment = Experiment(
        dataset=dataset,
        model=model,
        method=options.method,
        prompt=prompt,
        data=DataOptions(
            data_file=_absolute(options.data_file),
            val_file=_absolute(options.val_file),
            test_file=_absolute(options.test_file),
            data_dir=_absolute(options.data_dir),
            split=options.split,
            train_samples=options.train_samples,
            test_samples=options.test_samples,
            balance=options.balance,
            neutral=options.neutral,
            keep_near_copies=options.keep_near_copies,
            corrections=_absolute(options.apply),
            format=options.format,
            data_seed=options.data_seed,
        ),
        preset=preset,
        overrides=overrides,
        seed=options.seed,
        engine=options.engine,
        lang=options.lang,
        best_by=options.best_by,
        eval_rows=options.eval_rows,
        mixed=parse_mixes(options.mix, dataset),
        window=options.window,
        recipe=set_recipe(recipe, settings, options.method),
        from_run=_absolute(options.from_run),
        unlabelled=_absolute(options.unlabelled),
    )
    check_method(experiment)
    check_task(options, dataset)
    if not experiment.ends_after_label:
        check_beginnings(experiment.labels, experiment.method)
    if source is not None:
        check_labels(experiment, source)
    return experiment


def open_source(options: argparse.Namespace, recipe: Recipe | None) -> Experiment | None:
    """The experiment of the run that --from-run names, or None where the method needs none.

    Raises UserError where the option and the method do not go together, or the run is not finished.
    """
    kind = None if recipe is None else recipe.kind
    if (options.unlabelled is not None) != (kind == "pseudo-label"):
        need = (
            "needs reviews without labels: --unlabelled FILE."
            if kind == "pseudo-label"
            else "takes no --unlabelled."
        )
        raise UserError(f"method {options.method} {need}")
    if kind not in FROM_RUN:
        if options.from_run is not None:
            raise UserError(f"--from-run: method {options.method} starts from no other run; leave it out.")
        return None
    if options.from_run is None:
        raise UserError(f"method {options.method} starts from a finished run: name it with --from-run RUN.")
    run = RunFolder(Path(options.from_run).expanduser().resolve())
    source = load_experiment(run.experiment)
    if "tuned" not in finished_stages(run):
        raise UserError(
            f"--from-run {options.from_run}: is not finished; finish it first: "
            f"python run_swift.py run {options.from_run}"
        )
    for flag in ("model", "prompt") if kind in SAME_MODEL else ():
        if getattr(options, flag) is not None:
            raise UserError(f"--{flag}: --from-run gives the {flag}; leave it out.")
    return source


def check_labels(experiment: Experiment, source: Experiment) -> None:
    """Raise UserError unless the run that a method starts from has the same labels, by name.

    A method that goes on with its model needs the same words too.
    """
    same_words = experiment.model == source.model and experiment.prompt == source.prompt
    own, other = (
        [(label.name, label.words) if same_words else (label.name,) for label in each.labels]
        for each in (experiment, source)
    )
    if set(own) != set(other):
        listed = (", ".join(" ".join(label) for label in labels) for labels in (other, own))
        raise UserError(
            "--from-run: its labels are {}, here they are {}; they must be the same.".format(*listed)
        )


def check_beginnings(labels: tuple[Label, ...], method: str) -> None:
    """Raise UserError where one label's words begin another's: without an end mark they look alike."""
    for label in labels:
        for other in labels:
            if label != other and other.words.startswith(label.words):
                raise UserError(
                    f"method {method}: label words {other.words!r} begin with {label.words!r}, and an answer "
                    "that goes on after its label cannot tell them apart: take other words."
                )


def choose_dataset(options: argparse.Namespace) -> DatasetCard:
    """The card that --dataset names, with --text-column, --label-column and --labels applied; or a card made
    of them.
    """
    if options.data_file is None:
        for flag in ("val_file", "test_file"):
            if getattr(options, flag) is not None:
                raise UserError(
                    f"--{flag.replace('_', '-')} goes with --data-file, which names the training file."
                )
    if options.dataset is None and options.data_file is not None:
        return _card_of_file(options)
    card = load_dataset_card(options.dataset or DEFAULT_DATASET)
    columns = [options.text_column, options.label_column]
    if options.labels is None and columns == [None, None]:
        return card
    layouts = card.layouts
    if options.labels is not None:
        labels, values, left_out = parse_labels(options.labels)
        words = {label.name: label.words for label in card.labels}
        card = replace(
            card, labels=tuple(Label(label.name, words.get(label.name, label.words)) for label in labels)
        )
        layouts = tuple(replace(layout, values=values, neutral=(), unlabelled=left_out) for layout in layouts)
    if columns != [None, None]:
        # The meaning of the values goes with the label column where the card knows that.
        known = next((layout for layout in layouts if layout.label == columns[1]), layouts[0])
        layouts = (replace(known, text=columns[0] or known.text, label=columns[1] or known.label),)
    return replace(card, layouts=layouts)


def _card_of_file(options: argparse.Namespace) -> DatasetCard:
    path = Path(options.data_file).expanduser()
    if None in (options.text_column, options.label_column, options.labels):
        raise UserError(_missing_flags(path, options))
    labels, values, left_out = parse_labels(options.labels)
    layout = Layout(options.text_column, options.label_column, values, unlabelled=left_out)
    name = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") or "reviews"
    return DatasetCard(name=name, title=path.name, labels=labels, layouts=(layout,))


def _missing_flags(path: Path, options: argparse.Namespace) -> str:
    """What to add to the command line, read off the file itself."""
    counts: Counter[str] = Counter()
    for frame in read_chunks(open_table(path)):
        columns = list(frame.columns)
        if not counts and not {options.label_column, options.text_column} <= {*columns}:
            example = "--text-column TEXT --label-column LABEL --labels 差评,好评"
            return (
                f"{path}: say which columns hold text and label: {example}. The file has "
                f"{', '.join(map(repr, columns))}."
            )
        counts.update(map(normalise_label, frame.get(options.label_column, [])))
    most = counts.most_common(8)
    mapping = ",".join(f"{value}=…" for value in sorted(value for value, _ in most if value))
    listed = ", ".join(f"{value!r} in {count} rows" for value, count in most)
    return (
        f"{path}: say what the labels mean, in words that a model can write, such as 差评 and 好评: "
        f"{labels_flag(mapping)}. "
        f"Column {options.label_column!r} has {len(counts)} values: {listed}."
    )


def parse_labels(text: str) -> tuple[tuple[Label, ...], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Labels in index order, the file's values of each, and the values whose rows are left out.

    "差评,好评": the file holds these names, or 0 and 1.  "1=差评,2=差评,3=,5=好评": values and their names; a
    value without a name is left out.
    """
    items = [item.strip() for item in re.split("[,，]", text) if item.strip()]
    values: dict[str, list[str]] = {}
    left_out: list[str] = []
    if any("=" in item for item in items):
        for item in items:
            value, equals, name = (part.strip() for part in item.partition("="))
            if not equals or not value:
                raise UserError(
                    f"--labels {text}: {item!r} is not VALUE=NAME; give all labels that way, or none."
                )
            (values.setdefault(name, []) if name else left_out).append(normalise_label(value))
    else:
        numeric = any(item.isdigit() for item in items)
        for index, name in enumerate(items):
            if name in values:
                raise UserError(f"--labels {text}: {name!r} is named twice.")
            values[name] = [name] if numeric else [name, str(index)]
    every = [value for group in values.values() for value in group] + left_out
    twice = next((value for value in every if every.count(value) > 1), None)
    if twice is not None:
        raise UserError(f"--labels {text}: value {twice!r} is named twice.")
    if len(values) < 2:
        raise UserError(f"--labels {text}: at least two labels are needed.")
    return (
        tuple(Label(name, name) for name in values),
        {name: tuple(group) for name, group in values.items()},
        tuple(left_out),
    )


def parse_overrides(pairs: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """--set NAME=VALUE pairs: SWIFT's, whose names are checked where SWIFT is imported, and the recipe's
    (recipe.NAME=VALUE).
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


def parse_mixes(pairs: list[str], target: DatasetCard) -> tuple[Mix, ...]:
    """--mix NAME=RATIO pairs; a UserError for a data set whose labels are not the target's."""
    mixes: dict[str, Mix] = {}
    for pair in pairs:
        name, _, text = (part.strip() for part in pair.partition("="))
        try:
            ratio = float(text)
        except ValueError:
            ratio = 0.0
        if not 0 < ratio < math.inf:
            raise UserError(f"--mix {pair}: write NAME=RATIO, such as --mix waimai=0.5, the ratio above 0.")
        card = load_dataset_card(name)
        names = [{label.name for label in each.labels} for each in (card, target)]
        if names[0] != names[1]:
            raise UserError(
                f"--mix {pair}: {name} has the labels {', '.join(sorted(names[0]))}, {target.name} "
                f"{', '.join(sorted(names[1]))}; only data sets with the same label names can be mixed."
            )
        if name == target.name or name in mixes:
            raise UserError(f"--mix {pair}: {name} is in the training rows already; name each data set once.")
        mixes[name] = Mix(card, ratio)
    return tuple(mixes.values())


def default_prompt(model: ModelCard, preset: Arguments) -> str:
    """The review alone for a head, a text to continue for base models, a question for chat models."""
    if has_head(preset):
        return "review-only"
    return "zh-continue" if model.is_base else "zh-question"


def check_prompt(prompt: Prompt, dataset: DatasetCard) -> None:
    """Raise UserError where a prompt with label words or descriptions of its own lacks a label of the data
    set.
    """
    for kind, given in (("words", prompt.label_words), ("descriptions", prompt.descriptions)):
        unknown = [label.name for label in dataset.labels if given and label.name not in given]
        if unknown:
            raise UserError(
                f"prompt {prompt.name} has {kind} for {', '.join(given)}, not for label "
                f"{', '.join(unknown)}; take another with --prompt (python run_swift.py list prompts)."
            )


def check_task(options: argparse.Namespace, dataset: DatasetCard) -> None:
    """Raise UserError for an option that means nothing where rows have several labels, or numbers."""
    one_label = {"--balance": options.balance, "--apply": options.apply, "--mix": options.mix}
    if dataset.task == "regression":
        one_label["--best-by macro_f1"] = options.best_by == "macro_f1"
    for flag, given in one_label.items():
        if given and dataset.task != "single_label":
            raise UserError(f"{flag}: means nothing for data set {dataset.name}, which is {dataset.task}.")


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().resolve())
