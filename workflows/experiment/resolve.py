"""From the command line's options to an `Experiment`: every name looked up, every contradiction refused."""

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.run_folder import RunFolder, finished_stages
from workflows.experiment.cards import (
    COMMAND,
    MODELS,
    Arguments,
    DatasetCard,
    Label,
    Layout,
    ModelCard,
    has_head,
    load_dataset_card,
    load_preset,
    load_prompt,
    names_of,
    set_recipe,
)
from workflows.experiment.checks import (
    check_beginnings,
    check_environment,
    check_labels,
    check_method,
    check_prompt,
    check_task,
)
from workflows.experiment.experiment import Experiment, Mix, load_experiment
from workflows.experiment.labels import labels_flag, normalise_label, parse_labels
from workflows.experiment.model_cards import load_model_card
from workflows.experiment.options import DataOptions, RunOptions, TuningOptions, absolute, parse_overrides
from workflows.experiment.recipes import FROM_RUN, SAME_MODEL, Recipe

DEFAULT_DATASET = "demo"
DEFAULT_MODEL = "tiny"


def resolve(options: RunOptions) -> Experiment:
    """The experiment that the options describe, every name looked up; a UserError for what does not fit
    together.
    """
    data, tuning = options.data, options.tuning
    dataset = choose_dataset(data)
    preset, recipe = load_preset(tuning.method)
    source = open_source(tuning, recipe)
    if source is not None and recipe is not None and recipe.kind in SAME_MODEL:
        model, prompt = source.model, source.prompt
    else:
        model = load_model_card(tuning.model or DEFAULT_MODEL)
        prompt = load_prompt(tuning.prompt or default_prompt(model, preset))
        tuning = replace(tuning, model=_from_anywhere(tuning.model), prompt=prompt.file or tuning.prompt)
    check_environment(model, tuning.engine)
    check_prompt(prompt, dataset)
    overrides, settings = parse_overrides(tuning.set)
    recipe = set_recipe(recipe, settings, tuning.method)
    mixed = parse_mixes(data.mix, dataset)
    experiment = Experiment(
        data, tuning, options.lang, dataset, model, prompt, preset, overrides, mixed, recipe
    )
    check_method(experiment)
    check_task(experiment)
    if not experiment.ends_after_label:
        check_beginnings(experiment.labels, tuning.method)
    if source is not None:
        check_labels(experiment, source)
    return experiment


def _from_anywhere(model: str | None) -> str | None:
    """The model as --model names it from any folder: a folder's path from the root, else as it is."""
    is_folder = model is not None and model not in names_of(MODELS) and Path(model).expanduser().is_dir()
    return absolute(str(model)) if is_folder else model


def open_source(options: TuningOptions, recipe: Recipe | None) -> Experiment | None:
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
    run = RunFolder(Path(options.from_run))
    source = load_experiment(run.experiment)
    if not source.tunes:
        raise UserError(f"--from-run {options.from_run}: its method tunes no model; name a run that did.")
    if "tuned" not in finished_stages(run):
        raise UserError(
            f"--from-run {options.from_run}: is not finished; finish it first: "
            f"{COMMAND} run {options.from_run}"
        )
    for flag in ("model", "prompt") if kind in SAME_MODEL else ():
        if getattr(options, flag) is not None:
            raise UserError(f"--{flag}: --from-run gives the {flag}; leave it out.")
    return source


def choose_dataset(options: DataOptions) -> DatasetCard:
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


def _card_of_file(options: DataOptions) -> DatasetCard:
    path = Path(str(options.data_file))
    text, label, words = options.text_column, options.label_column, options.labels
    if text is None or label is None or words is None:
        raise UserError(_missing_flags(path, options))
    labels, values, left_out = parse_labels(words)
    layout = Layout(text, label, values, unlabelled=left_out)
    name = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") or "reviews"
    return DatasetCard(name=name, title=path.name, labels=labels, layouts=(layout,))


def _missing_flags(path: Path, options: DataOptions) -> str:
    """What to add to the command line, read off the file itself."""
    from workflows.core.tables import open_table, read_chunks  # pandas takes 0.3 s to import

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


def parse_mixes(pairs: tuple[str, ...], target: DatasetCard) -> tuple[Mix, ...]:
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
