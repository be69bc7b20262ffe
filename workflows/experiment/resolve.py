"""From the command line's options to an `Experiment`: every name looked up, every contradiction refused."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.permissions import is_off
from workflows.core.run_folder import RunFolder, checkpoint_of, finished_stages
from workflows.experiment.cards import (
    COMMAND,
    METHODS,
    MODELS,
    DatasetCard,
    Label,
    Layout,
    did_you_mean,
    from_mapping,
    has_head,
    load_dataset_card,
    load_preset,
    load_prompt,
    names_of,
)
from workflows.experiment.checks import check_environment, check_experiment
from workflows.experiment.experiment import Experiment, Mix, load_experiment
from workflows.experiment.labels import can_be_named, labels_flag, normalise_label, parse_labels
from workflows.experiment.model_cards import load_model_card
from workflows.experiment.options import (
    DataOptions,
    File,
    RunOptions,
    TuningOptions,
    absolute,
    parse_overrides,
)
from workflows.experiment.recipes import FROM_RUN, SAME_MODEL, Recipe

GROUPS = {  # of RunOptions, by the name of an option
    each.name: group
    for group, kind in (("data", DataOptions), ("tuning", TuningOptions))
    for each in fields(kind)
}
PATHS = {
    each.name for kind in (DataOptions, TuningOptions) for each in fields(kind) if each.type == File | None
}


def options_of(named: Mapping[str, Any], where: str) -> RunOptions:
    """The options of a run, each by its name alone; `where` they stand is said in the UserError for one that
    is not known, or whose value does not fit.
    """
    grouped: dict[str, Any] = {"data": {}, "tuning": {}}
    for name, value in named.items():
        if name == "lang":
            grouped[name] = value
        elif name not in GROUPS:
            raise UserError(f"{where}: {name} is no option of `run`.{did_you_mean(name, list(GROUPS))}")
        else:
            grouped[GROUPS[name]][name] = absolute(str(value)) if value and name in PATHS else value
    return from_mapping(RunOptions, grouped, where)


def resolve(options: RunOptions) -> Experiment:
    """The experiment that the options describe; a UserError for what does not fit together."""
    data, tuning = options.data, options.tuning
    # Else a hub's data would be taken in place of those that a wrong name stands for.
    if data.data_dir is not None and not Path(data.data_dir).is_dir():
        raise UserError(f"--data-dir {data.data_dir}: there is no such folder.")
    dataset = choose_dataset(data)
    overrides, settings = parse_overrides(tuning.set)
    preset, recipe = load_preset(tuning.method, settings)
    if tuning.method not in names_of(METHODS):
        tuning = replace(tuning, method=absolute(tuning.method))
    source = open_source(tuning, recipe)
    if source is not None and recipe is not None and recipe.kind in SAME_MODEL:
        model, prompt = source.model, source.prompt
    else:
        name = tuning.model or "tiny"
        model = load_model_card(name)
        if name not in names_of(MODELS) and Path(absolute(name)).is_dir():
            tuning = replace(tuning, model=absolute(name))
        asked = {**preset, **model.arguments, **overrides}
        chat_or_base = "zh-continue" if is_off(asked.get("use_chat_template", True)) else "zh-question"
        in_words = not has_head(preset) and dataset.task == "single_label"
        prompt = load_prompt(tuning.prompt or (chat_or_base if in_words else "review-only"))
        tuning = replace(tuning, prompt=prompt.file or tuning.prompt)
    check_environment(model, tuning.engine)
    mixed, tested = parse_mixes(data, dataset), choose_tested(data, dataset)
    if tested is None:
        data = replace(data, test_dataset=None)  # it named its own: an ordinary run
    experiment = Experiment(
        data, tuning, options.lang, dataset, model, prompt, preset, overrides, mixed, recipe, tested
    )
    check_experiment(experiment, source)
    return experiment


def open_source(options: TuningOptions, recipe: Recipe | None) -> Experiment | None:
    """The experiment of the run that --from-run names, or None where the method needs none.

    Raises UserError where the option and the method do not go together, or the run is not finished.
    """
    kind = None if recipe is None else recipe.kind
    if kind == "pseudo-label" and options.unlabelled is None:
        raise UserError(f"method {options.method} needs reviews without labels: --unlabelled FILE.")
    if kind != "pseudo-label" and options.unlabelled is not None:
        raise UserError(f"method {options.method} takes no --unlabelled.")
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
    if "tuned" not in finished_stages(run) or not run.training.exists():
        raise UserError(
            f"--from-run {options.from_run}: is not finished; finish it first: "
            f"{COMMAND} run {options.from_run}"
        )
    checkpoint_of(run)
    if kind in SAME_MODEL and source.has_head:
        raise UserError(f"--from-run {options.from_run}: its head writes no words; name a run that does.")
    if kind in ("pseudo-label", "distill") and source.prompt.shots:
        raise UserError(
            f"--from-run {options.from_run}: its prompt {source.prompt.name} shows solved rows, which method "
            f"{options.method} does not; name a run without them."
        )
    for flag in ("model", "prompt") if kind in SAME_MODEL else ():
        if getattr(options, flag) is not None:
            raise UserError(f"--{flag}: --from-run gives the {flag}; leave it out.")
    return source


def choose_dataset(options: DataOptions) -> DatasetCard:
    """The card that --dataset names, or one made of --data-file, with the options' columns and labels."""
    for flag, file in (("--val-file", options.val_file), ("--test-file", options.test_file)):
        if file is not None and options.data_file is None:
            raise UserError(f"{flag} goes with --data-file, which names the training file.")
    text, label = options.text_column, options.label_column
    if options.dataset is None and options.data_file is not None:
        path = Path(options.data_file)
        if text is None or label is None or options.labels is None:
            raise UserError(_missing_flags(path, options))
        name = re.sub(r"[^\w.-]+", "-", path.stem).strip("-._")[:60] or "reviews"
        card = DatasetCard(name, path.name, (), (Layout(text, label),))
    else:
        card = load_dataset_card(options.dataset or "demo")
    labels, layouts = card.labels, card.layouts
    if options.labels is not None:
        values, left_out = parse_labels(options.labels)
        words = {each.name: each.words for each in labels}
        labels = tuple(Label(name, words.get(name, name)) for name in values)
        layouts = tuple(replace(layout, values=values, neutral=(), unlabelled=left_out) for layout in layouts)
    if text is not None or label is not None:
        # The meaning of the values goes with the label column where the card knows that.
        known = next((layout for layout in layouts if layout.label == label), layouts[0])
        layouts = (replace(known, text=text or known.text, label=label or known.label),)
    for layout in layouts:
        if layout.text == layout.label:
            raise UserError(
                f"column {layout.text!r} is named for both text and label; name two with --text-column and "
                "--label-column."
            )
    return replace(card, labels=labels, layouts=layouts)


def _missing_flags(path: Path, options: DataOptions) -> str:
    """What to add to the command line, read off the file itself."""
    # pandas takes 0.3 s to import
    from workflows.core.tables import NO_HEADER, name_columns, open_table, read_chunks, shorten

    counts: Counter[str] = Counter()
    for frame in read_chunks(open_table(path)):
        columns = list(frame.columns)
        if not counts and not {options.label_column, options.text_column} <= {*columns}:
            example = "--text-column TEXT --label-column LABEL"
            return (
                f"{path}: say which columns hold text and label: {example}. The file has "
                f"{name_columns(columns)}. {NO_HEADER}"
            )
        counts.update(map(normalise_label, frame.get(options.label_column, [])))
    if not counts:
        return f"{path}: has no rows."
    most = counts.most_common(8)
    values = sorted(value for value, _ in most if value)
    listed = ", ".join(f"{shorten(value)} in {count} rows" for value, count in most)
    has = f"Column {options.label_column!r} has {len(counts)} values: {listed}."
    named = [value for value in values if can_be_named(value)]
    if not named or (named != values and 2 * sum(counts[value] for value in named) < counts.total()):
        return f"{path}: --label-column names no column of labels, it seems; name another. {has}"
    return (
        f"{path}: say what the labels mean, in words that a model can write, such as 差评 and 好评: "
        f"{labels_flag(','.join(f'{value}=…' for value in named))}. {has}"
    )


def choose_tested(options: DataOptions, target: DatasetCard) -> DatasetCard | None:
    """The card that --test-dataset names; None where it names none, or the target's own."""
    name = options.test_dataset
    if name is None or (name == target.name and options.data_file is None):
        return None
    if options.test_file is not None:
        raise UserError("--test-dataset: --test-file names the test rows already; leave one of them out.")
    return _load_alike(name, target, f"--test-dataset {name}")


def _load_alike(name: str, target: DatasetCard, flag: str) -> DatasetCard:
    """The card of a data set that joins the target; a UserError where its labels are not the target's."""
    card = load_dataset_card(name)
    here, there = (
        f"{', '.join(sorted(label.name for label in each.labels))} ({each.task})" for each in (card, target)
    )
    if here != there:
        raise UserError(
            f"{flag}: {name} has the labels {here}, {target.name} {there}; both must have the same label "
            "names, one a row."
        )
    return card


def parse_mixes(options: DataOptions, target: DatasetCard) -> tuple[Mix, ...]:
    """The data sets of --mix NAME=RATIO; a UserError for one whose labels are not the target's."""
    mixes: dict[str, Mix] = {}
    for pair in options.mix:
        name, _, text = (part.strip() for part in pair.partition("="))
        try:
            ratio = float(text)
        except ValueError:
            ratio = 0.0
        if not 0 < ratio < math.inf:
            raise UserError(f"--mix {pair}: write NAME=RATIO, such as --mix waimai=0.5, the ratio above 0.")
        card = _load_alike(name, target, f"--mix {pair}")
        if (name == target.name and options.data_file is None) or name in mixes:
            raise UserError(f"--mix {pair}: {name} is in the training rows already; name each data set once.")
        mixes[name] = Mix(card, ratio)
    return tuple(mixes.values())
