"""The way back: from an `Experiment` to the command line that starts it anew."""

import json
from dataclasses import replace

from workflows.experiment.cards import (
    DATASETS,
    METHODS,
    MODELS,
    DatasetCard,
    Layout,
    load_dataset_card,
    load_preset,
    names_of,
)
from workflows.experiment.experiment import DataOptions, Experiment
from workflows.experiment.model_cards import load_model_card
from workflows.experiment.recipes import SAME_MODEL
from workflows.experiment.resolve import DEFAULT_DATASET, DEFAULT_MODEL, default_prompt


def command_of(experiment: Experiment) -> list[str]:
    """The command line that starts the same experiment anew."""
    line = ["python", "run_swift.py", "run", *_dataset_flags(experiment.dataset, experiment.data)]
    arguments, data = experiment.model.arguments, experiment.data
    by_name = load_model_card(experiment.model.name) if experiment.model.name in names_of(MODELS) else None
    model = experiment.model.name if by_name == experiment.model else arguments["model"]
    prompt = experiment.prompt.file or experiment.prompt.name
    usual_prompt = default_prompt(experiment.model, experiment.preset)
    from_source = experiment.recipe is not None and experiment.recipe.kind in SAME_MODEL
    flags = {
        "val-file": data.val_file,
        "test-file": data.test_file,
        "data-dir": data.data_dir,
        "neutral": data.neutral,
        "apply": data.corrections,
        "split": data.split,
        "train-samples": data.train_samples,
        "test-samples": data.test_samples,
        "format": data.format,
        "data-seed": data.data_seed,
        "model": None if from_source else model,
        "method": experiment.method,
        "from-run": experiment.from_run,
        "unlabelled": experiment.unlabelled,
        "prompt": None if from_source or prompt == usual_prompt else prompt,
        "best-by": experiment.best_by,
        "eval-rows": experiment.eval_rows,
        "window": experiment.window,
        "engine": experiment.engine,
        "seed": experiment.seed,
        "lang": experiment.lang,
    }
    usual = {"split": "standard", "format": "messages", "data-seed": 42, "seed": 42, "engine": "fast"}
    usual |= {"best-by": "loss", "lang": "zh", "model": DEFAULT_MODEL, "method": "lora"}
    for name, value in flags.items():
        if value is not None and value != usual.get(name):
            line += [f"--{name}", str(value)]
    line += ["--balance"] * data.balance + ["--keep-near-copies"] * data.keep_near_copies
    for mix in experiment.mixed:
        line += ["--mix", f"{mix.dataset.name}={mix.ratio}"]
    settings = [f"{name}={value}" for name, value in experiment.overrides.items()]
    preset = load_preset(experiment.method)[1] if experiment.method in names_of(METHODS) else None
    usual_settings = replace(experiment, recipe=preset).recipe_settings
    for name, value in experiment.recipe_settings.items():
        if value != usual_settings.get(name):
            settings.append(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
    for setting in settings:
        line += ["--set", setting]
    return line


def _dataset_flags(card: DatasetCard, data: DataOptions) -> list[str]:
    flags = ["--data-file", data.data_file] if data.data_file is not None else []
    by_name = load_dataset_card(card.name) if card.name in names_of(DATASETS) else None
    if by_name is None or by_name.title != card.title:  # a card made of a file, whatever the file's name
        return [*flags, *_column_flags(card.layouts[0]), _labels_flag(card)]
    named = [] if card.name == DEFAULT_DATASET and not flags else ["--dataset", card.name]
    if card == by_name:
        return [*named, *flags]
    same_columns = [(each.text, each.label) for each in card.layouts] == [
        (each.text, each.label) for each in by_name.layouts
    ]
    same_meaning = card.labels == by_name.labels and card.layouts[0].values in [
        each.values for each in by_name.layouts if each.unlabelled == card.layouts[0].unlabelled
    ]
    columns = [] if same_columns else _column_flags(card.layouts[0])
    return [*named, *flags, *columns, *([] if same_meaning else [_labels_flag(card)])]


def _column_flags(layout: Layout) -> list[str]:
    return ["--text-column", layout.text, "--label-column", layout.label]


def _labels_flag(card: DatasetCard) -> str:
    layout = card.layouts[0]
    pairs = [f"{value}={label.name}" for label in card.labels for value in layout.values[label.name]]
    return f"--labels={','.join([*pairs, *(f'{value}=' for value in layout.unlabelled)])}"
