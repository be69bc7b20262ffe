"""Which base model to tune: the candidates answer the same few cases untuned, side by side.

python run_swift.py select-model --models qwen2-0.5b-instruct,qwen2.5-0.5b-instruct --dataset jd --cases 50

The cases are balanced rows of the training split.  A model chosen by its answers to test rows would have its
later test score flattered by that choice; rows that it will be trained on anyway cost nothing.
"""

import re
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from workflows.core.errors import UserError
from workflows.core.files import open_whole, read_json, read_jsonl, write_json, write_jsonl
from workflows.core.run_folder import RunFolder, locked
from workflows.core.screen import Screen
from workflows.core.texts import Text, one_after_another, text
from workflows.data.examples import choose_examples
from workflows.data.messages import write_row
from workflows.data.prepare import prepare
from workflows.data.reviews import Review
from workflows.experiment.experiment import Experiment, save_experiment
from workflows.experiment.job import Job
from workflows.experiment.options import RunOptions
from workflows.experiment.resolve import resolve
from workflows.model.folder import with_local_model
from workflows.model.loaded import LoadedModel
from workflows.model.machine import find_machine, fit_to_machine, peak_memory, reset_peak_memory
from workflows.model.swift_names import check_overrides
from workflows.pipeline.run import OUTPUTS, timed_folder
from workflows.reporting.blocks import Grid, Paragraph, Report, Section
from workflows.reporting.render import render_markdown
from workflows.reporting.results import pairs_blocks, systems_grid
from workflows.scoring.score import measure
from workflows.scoring.uncertainty import SIGNIFICANCE, compare_systems, conclude

SETTINGS = "settings.json"


def experiments_of(models: str, asked: RunOptions) -> dict[str, Experiment]:
    """An experiment for each model of a list with commas, otherwise as asked, by the model's name.

    Raises UserError for fewer than two models, or one twice.
    """
    given = [name.strip() for name in models.split(",")]
    if len(set(given)) < len(given) or len(given) < 2:
        raise UserError(f"--models {models}: name two models or more, each once.")
    found = [(name, resolve(replace(asked, tuning=replace(asked.tuning, model=name)))) for name in given]
    short = [experiment.model.name for _, experiment in found]
    return {
        name if short.count(experiment.model.name) > 1 else experiment.model.name: experiment
        for name, experiment in found
    }


def select_model(
    experiments: dict[str, Experiment], cases: int, output: Path | None, screen: Screen
) -> tuple[Path, dict[str, Any]]:
    """Let each model answer the cases; write selection.json, selection.md and each model's answers into
    `output`, by default a new folder or that of the same selection unfinished; return folder and selection.

    `experiments`: by the model's name, alike but for model and prompt.  A model whose answers are there is
    not asked again.  Raises UserError where `output` holds anything else, there are too few rows, or a model
    cannot be had.
    """
    settings = {"cases": cases, "models": {name: save_experiment(each) for name, each in experiments.items()}}
    folder = output or _unfinished(settings) or timed_folder("select")
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not _is_of(folder, settings)):
        raise UserError(
            f"--output {folder}: is a file, or not empty and not of this selection; name another."
        )
    with locked(RunFolder(folder)):
        write_json(folder / SETTINGS, settings)
        slugs = [re.sub(r"[^\w.-]+", "-", name) for name in experiments]
        runs = {
            name: RunFolder(folder / "models" / f"{number}-{slug}")
            for number, (name, slug) in enumerate(zip(experiments, slugs, strict=True), start=1)
        }
        with screen.output_to(folder / "selection.log"):
            first = next(iter(experiments.values()))
            try:
                check_overrides(first.overrides)
                rows = _draw_cases(RunFolder(folder / "cases"), first, cases, screen)
            except UserError:
                shutil.rmtree(folder)
                raise
            for name, experiment in experiments.items():
                if runs[name].predictions("zero_shot").exists():
                    screen.say(f"{name}: answered before")
                else:
                    screen.say(name)
                    _ask(runs[name], experiment, rows, screen)
        selection = _sum_up(runs, experiments, len(rows))
        write_json(folder / "selection.json", selection)
        with open_whole(folder / "selection.md") as file:
            file.write(render_markdown(_report(selection), folder, first.lang))
    return folder, selection


def _unfinished(settings: dict[str, Any]) -> Path | None:
    """The newest folder of the same selection in outputs/ that did not come to its end."""
    folders = sorted((path.parent for path in OUTPUTS.glob(f"select-*/{SETTINGS}")), reverse=True)
    unfinished = [folder for folder in folders if not (folder / "selection.json").exists()]
    return next((folder for folder in unfinished if _is_of(folder, settings)), None)


def _is_of(folder: Path, settings: dict[str, Any]) -> bool:
    return (folder / SETTINGS).exists() and read_json(folder / SETTINGS) == settings


def _draw_cases(run: RunFolder, experiment: Experiment, cases: int, screen: Screen) -> list[Review]:
    """Balanced, seeded rows of the training split, as the data stage cleans and cuts it."""
    if not run.manifest.exists():
        data = replace(experiment.data, train_samples=cases, balance=True)
        try:
            prepare(Job(run, replace(experiment, data=data), screen))
        except UserError as error:
            raise UserError(str(error).replace("--train-samples", "--cases")) from error
    return [Review(row["id"], row["review"], row["label"]) for row in read_jsonl(run.split("train"))]


def _ask(run: RunFolder, experiment: Experiment, cases: list[Review], screen: Screen) -> None:
    """Write the model's answers to `cases`, and before them what they cost."""
    from swift.pipelines.utils import prepare_model_template

    from workflows.inference.infer import answer_batches, join_answers
    from workflows.model.arguments import build_infer_arguments

    prompt, labels, seed = experiment.prompt, experiment.labels, experiment.data.data_seed
    examples = choose_examples(cases, cases, prompt, seed)  # with answers, but never a case's own
    rows = [
        write_row(case, prompt, labels, "messages", shown)
        for case, shown in zip(cases, examples, strict=True)
    ]
    write_jsonl(run.split("test"), rows)
    machine, start = find_machine(), time.monotonic()
    reset_peak_memory()
    ready = with_local_model(experiment)
    arguments = build_infer_arguments(ready, machine, run.split("test"), run.path / "none", None)
    with LoadedModel().reused():
        model, template = prepare_model_template(arguments)
    loaded = time.monotonic()
    answers = []
    with screen.progress("answering", total=len(rows)) as bar:
        for batch in answer_batches(model, template, rows, labels, arguments.get_request_config()):
            answers += batch
            bar.update(len(batch))
    cost = {
        "seconds_to_load": loaded - start,
        "seconds_a_row": (time.monotonic() - loaded) / len(rows),
        "parameters": sum(each.numel() for each in model.parameters()),
        "peak_memory_bytes": peak_memory(),
        "device": f"{machine.device} ({machine.name})",
        "torch_dtype": fit_to_machine(ready.arguments, ready.pinned, machine)["torch_dtype"],
    }
    write_json(run.path / "cost.json", cost)
    with open_whole(run.experiment) as file:
        file.write(save_experiment(experiment))
    write_jsonl(run.predictions("zero_shot"), join_answers(rows, answers, labels))


def _sum_up(runs: dict[str, RunFolder], experiments: dict[str, Experiment], cases: int) -> dict[str, Any]:
    """The figures of each model, the pairwise tests, and what may be concluded."""
    models: dict[str, Any] = {}
    right: dict[str, np.ndarray] = {}
    for name, run in runs.items():
        labels = experiments[name].labels
        answers = read_jsonl(run.predictions("zero_shot"))
        models[name] = {
            "model": experiments[name].model.arguments["model"],
            "prompt": experiments[name].prompt.name,
            **measure(answers, [label.name for label in labels], {each.name: each.words for each in labels}),
            "cost": read_json(run.path / "cost.json"),
        }
        right[name] = np.array([row["gold"] == row["prediction"] for row in answers])
    pairs = compare_systems(right)
    first = max(models, key=lambda name: models[name]["accuracy"])
    with_first = [pair for pair in pairs if first in (pair["a"], pair["b"])]
    told = all(pair["holm_p"] < SIGNIFICANCE for pair in with_first)
    asked = text("cases", count=cases)
    sentences = [text("best_model", model=first) if told else text("no_best_model")]
    sentences += [
        conclude(pair, pair["a"], pair["b"], asked)
        for pair in with_first
        if told or pair["holm_p"] >= SIGNIFICANCE
    ]
    experiment = next(iter(experiments.values()))
    return {
        "dataset": experiment.dataset.name,
        "cases": cases,
        "data_seed": experiment.data.data_seed,
        "models": models,
        "comparisons": pairs,
        "best": first if told else None,
        "verdict": asdict(one_after_another(sentences)),
    }


def _report(selection: dict[str, Any]) -> Report:
    """The selection as selection.md shows it."""
    names = {name: name for name in selection["models"]}
    costs: list[tuple[Text | str, ...]] = [
        (
            name,
            figures["prompt"],
            f"{figures['cost']['seconds_a_row']:.3f}",
            f"{figures['cost']['parameters']:,}",
            f"{max(figures['cost']['peak_memory_bytes'].values()) / 2**30:.2f}",
            figures["cost"]["torch_dtype"],
        )
        for name, figures in selection["models"].items()
    ]
    headings = (
        text("model"),
        text("prompt"),
        text("seconds_a_row"),
        text("parameters"),
        text("peak_memory_in_gib"),
        "dtype",
    )
    verdict = Paragraph(Text(**selection["verdict"]), strong=True)
    return Report(
        "select-model",
        text("balanced_training_rows", dataset=selection["dataset"], cases=selection["cases"]),
        [
            Section(text("result"), [verdict, systems_grid(selection["models"], names)]),
            Section(text("cost"), [Grid(headings, costs, texts=(0, 1))]),
            Section(text("pairs"), pairs_blocks(selection["comparisons"], names)),
        ],
    )
