"""Which base model to tune: the candidates answer the same few cases untuned, side by side.

python run_swift.py select-model --models qwen2-0.5b-instruct,qwen2.5-0.5b-instruct --dataset jd --cases 50

The cases are balanced rows of the training split.  A model chosen by its answers to test rows would have its
later test score flattered by that choice; rows that it will be trained on anyway cost nothing.
"""

import shutil
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import fingerprint, read_json, read_jsonl, sha256, write_json, write_jsonl
from workflows.core.rows import Rows
from workflows.core.run_folder import RunFolder, listed_in, locked
from workflows.core.screen import Screen
from workflows.core.texts import one_after_another, text
from workflows.data.examples import example_chooser
from workflows.data.messages import write_row
from workflows.data.prepare import prepare
from workflows.data.reviews import Review
from workflows.data.sources import find_local_files
from workflows.experiment.experiment import Experiment, save_experiment
from workflows.experiment.job import Job
from workflows.experiment.options import RunOptions
from workflows.experiment.resolve import choose_dataset, resolve
from workflows.model.folder import with_local_model
from workflows.model.loaded import LoadedModel
from workflows.model.machine import find_machine, fit_to_machine, peak_memory, reset_peak_memory
from workflows.model.swift_names import check_settings
from workflows.pipeline.run import OUTPUTS, timed_folder
from workflows.scoring.score import compare_answers, measure_system
from workflows.scoring.uncertainty import SIGNIFICANCE, conclude


def select_model(
    models: str, asked: RunOptions, cases: int, output: Path | None, screen: Screen
) -> tuple[Path, dict[str, Any]]:
    """Let each model answer the cases; write selection.json and each model's answers into `output`, by
    default a new folder or that of the same selection unfinished; return folder and selection.

    `models`: names with commas between them; `asked`: everything else.  A model whose answers are there is
    not asked again.  Raises UserError for fewer than two models, where `output` holds anything else, there
    are too few rows, or a model cannot be had.
    """
    experiments = _experiments(models, asked)
    settings = {"cases": cases, "models": {name: save_experiment(each) for name, each in experiments.items()}}
    mark = f"asked-{fingerprint(settings)}.json"  # a folder that has it is of the same selection
    begun = [path.parent for path in sorted(OUTPUTS.glob(f"select-*/{mark}"))]
    unfinished = [each for each in begun if not (each / "selection.json").exists()]
    folder = output or (unfinished[-1] if unfinished else timed_folder("select"))
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not (folder / mark).exists()):
        raise UserError(f"--output {folder}: is not empty and not of this selection; name another.")
    runs: dict[str, RunFolder] = {}
    with locked(RunFolder(folder)), screen.output_to(folder / "selection.log"):
        write_json(folder / mark, settings)
        cases_of, first = RunFolder(folder / "cases"), next(iter(experiments.values()))
        _check_unchanged(cases_of, first)
        try:
            rows = _draw_cases(cases_of, first, cases, screen)
        except UserError as error:
            said = str(error)
            if not (folder / "models").exists():  # no model has answered yet
                shutil.rmtree(folder)
                said = said.replace(listed_in(cases_of), "")
            said = said.replace("--train-samples", "--cases").replace("--balance", "--cases")
            raise UserError(said) from error
        for number, (name, experiment) in enumerate(experiments.items(), start=1):
            runs[name] = RunFolder(folder / "models" / f"{number}-{name.replace('/', '-')}")
            if runs[name].predictions("zero_shot").exists():
                screen.say(f"{name}: answered before")
            else:
                screen.say(name)
                _ask(runs[name], experiment, rows, screen)
        selection = _sum_up(runs, experiments, len(rows))
        write_json(folder / "selection.json", selection)
    return folder, selection


def _experiments(models: str, asked: RunOptions) -> dict[str, Experiment]:
    """An experiment for each model of a list with commas, otherwise as asked, by the model's name."""
    given = [name.strip() for name in models.split(",")]
    if len(set(given)) < len(given) or len(given) < 2:
        raise UserError(f"--models {models}: name two models or more, each once.")
    dataset = choose_dataset(asked.data)
    if dataset.task != "single_label":
        raise UserError(f"select-model asks for one label a row; {dataset.name} is {dataset.task}.")
    found = [resolve(replace(asked, tuning=replace(asked.tuning, model=name))) for name in given]
    check_settings(found[0])
    short = [experiment.model.name for experiment in found]
    names = [name if short.count(each) > 1 else each for name, each in zip(given, short, strict=True)]
    return dict(zip(names, found, strict=True))


def _check_unchanged(run: RunFolder, experiment: Experiment) -> None:
    """Raise UserError where the files of cases that were drawn before are others now."""
    if not run.manifest.exists():
        return
    if (local := find_local_files(experiment.dataset, experiment.data)) is not None:
        known = {file["sha256"] for file in read_json(run.manifest)["files"].values()}
        if {sha256(path) for path in local[0].values()} != known:
            raise UserError(f"{run.path.parent}: its rows have changed since; name a new folder by --output.")


def _draw_cases(run: RunFolder, experiment: Experiment, cases: int, screen: Screen) -> list[Review]:
    """Balanced, seeded rows of the training split, as the data stage cleans and cuts it."""
    if not run.manifest.exists():
        data = replace(experiment.data, train_samples=cases, balance=True)
        prepare(Job(run, replace(experiment, data=data), screen))
    return [Review(row["id"], row["review"], row["label"]) for row in read_jsonl(run.split("train"))]


def _ask(run: RunFolder, experiment: Experiment, cases: list[Review], screen: Screen) -> None:
    """Write the model's answers to `cases`, and before them what they cost."""
    from swift.pipelines.utils import prepare_model_template

    from workflows.inference.infer import answer_batches
    from workflows.inference.predictions import join_answers
    from workflows.model.arguments import build_infer_arguments

    prompt, labels = experiment.prompt, experiment.labels
    choose = example_chooser(cases, prompt, experiment.data.data_seed)  # never a case's own
    rows = [
        write_row(case, prompt, labels, "messages", solved)
        for case, solved in zip(cases, choose(cases), strict=True)
    ]
    write_jsonl(run.split("test"), rows)
    machine = find_machine()
    reset_peak_memory()
    ready = with_local_model(experiment)
    arguments = build_infer_arguments(ready, machine, run.split("test"), run.path / "none", None)
    with LoadedModel().reused():
        model, template = prepare_model_template(arguments)
    loaded, answers = time.monotonic(), Rows()
    with screen.progress("answering", total=len(rows)) as bar:
        for batch in answer_batches(model, template, rows, labels, arguments.get_request_config()):
            answers += batch
            bar.update(len(batch))
    cost = {
        "seconds_a_row": (time.monotonic() - loaded) / len(rows),
        "parameters": sum(each.numel() for each in model.parameters()),
        "peak_memory_bytes": peak_memory(),
        "device": f"{machine.device} ({machine.name})",
        "torch_dtype": fit_to_machine(ready.arguments, ready.pinned, machine)["torch_dtype"],
    }
    write_json(run.path / "cost.json", cost)
    write_jsonl(run.predictions("zero_shot"), join_answers(rows, answers, labels))


def _sum_up(runs: dict[str, RunFolder], experiments: dict[str, Experiment], cases: int) -> dict[str, Any]:
    """The figures of each model, the pairwise tests, and what may be concluded."""
    answers = {name: read_jsonl(run.predictions("zero_shot")) for name, run in runs.items()}
    models = {
        name: {
            "model": experiment.model.arguments["model"],
            "prompt": experiment.prompt.name,
            **measure_system(answers[name], experiment),
            "cost": read_json(runs[name].path / "cost.json"),
        }
        for name, experiment in experiments.items()
    }
    experiment = next(iter(experiments.values()))
    pairs = compare_answers(answers, experiment.dataset.task)
    first = max(models, key=lambda name: models[name]["accuracy"])
    with_first = [pair for pair in pairs if first in (pair["a"], pair["b"])]
    close = [pair for pair in with_first if pair["holm_p"] >= SIGNIFICANCE]
    verdict = [text("no_best_model") if close else text("best_model", model=first)]
    asked = text("cases", count=cases)
    verdict += [conclude(pair, pair["a"], pair["b"], asked) for pair in close or with_first]
    golds = Counter(str(row["gold"]) for row in answers[first])
    verdict.append(text("one_label_of_the_cases", share=max(golds.values()) / cases, count=cases))
    return {
        "dataset": experiment.dataset.name,
        "cases": cases,
        "data_seed": experiment.data.data_seed,
        "models": models,
        "comparisons": pairs,
        "best": None if close else first,
        "verdict": asdict(one_after_another(verdict)),
    }
