"""Several runs on the same test rows: one table, pairwise tests, loss curves, and the rows where they differ.

python run_swift.py compare outputs/RUN outputs/RUN --common
"""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import open_whole, read_json, read_jsonl, write_json
from workflows.core.rows import Rows
from workflows.core.run_folder import RunFolder
from workflows.core.texts import Text, label_text, one_after_another, text, texts
from workflows.experiment.cards import COMMAND
from workflows.experiment.experiment import Experiment, load_experiment
from workflows.reporting.blocks import Block, Grid, Paragraph, Picture, Report, Section
from workflows.reporting.figures import draw_losses_of_runs, save_figure
from workflows.reporting.render import render_markdown, render_page
from workflows.reporting.results import pairs_blocks, systems_grid
from workflows.scoring.score import compare_answers, measure_system
from workflows.scoring.uncertainty import conclude

BASELINES = ("majority", "mean", "tfidf")
SHOWN_DIFFERENCES = 50
TOLD_PAIRS = 6  # sentences for so many pairs at most; the table has them all


def compare(runs: list[RunFolder], common: bool, folder: Path, lang: str) -> dict[str, Any]:
    """Write comparison.json, differences.csv, report.html, report.md and figures/ into `folder`; return the
    comparison.

    `common`: compare on the test rows (text and gold label) that all runs share, where they are not the same.
    Raises UserError where a run has no answers, label names differ, or the test rows do and `common` is off.
    """
    if len({run.path.resolve() for run in runs}) < len(runs) or len(runs) < 2:
        raise UserError("compare needs two runs or more, each named once.")
    if folder.is_file() or (folder / "experiment.yaml").exists():
        raise UserError(f"--output {folder}: is a file, or a run; name another folder.")
    names = _names(runs)
    experiments = {name: load_experiment(run.experiment) for name, run in zip(names, runs, strict=True)}
    tasks = {name: each.dataset.task for name, each in experiments.items()}
    label_names = {name: [label.name for label in each.labels] for name, each in experiments.items()}
    first = names[0]
    for name in names:
        if tasks[name] != tasks[first]:
            raise UserError(f"{name} is {tasks[name]}, {first} {tasks[first]}: their scores do not compare.")
        if label_names[name] != label_names[first]:
            raise UserError(
                f"{name} has the labels {', '.join(label_names[name])}, "
                f"{first} {', '.join(label_names[first])}."
            )
    answers = {name: _answers(run) for name, run in zip(names, runs, strict=True)}
    compared = {name: list(each)[-1] for name, each in answers.items()}
    if len(set(compared.values())) > 1:
        listed = ", ".join(f"{name} {texts('systems')[system].en}" for name, system in compared.items())
        raise UserError(
            f"the runs end with answers of different kinds ({listed}); finish them with `run` first."
        )
    rows = _same_rows(answers, common)
    systems: dict[str, Any] = {}
    titles: dict[str, Text | str] = {}
    seen: set[str] = set()
    for name, by_system in rows.items():
        for system, predictions in by_system.items():
            content = repr([(row["text"], row["prediction"], row["probabilities"]) for row in predictions])
            if system in BASELINES and content in seen:  # the same baseline on the same data
                continue
            seen.add(content)
            key = f"{name}/{system}"
            systems[key] = measure_system(predictions, experiments[name])
            titles[key] = text("run_and_system", run=name, system=texts("systems")[system])
    last = {name: next(reversed(by_system.values())) for name, by_system in rows.items()}
    task = experiments[first].dataset.task
    pairs = compare_answers(last, task)
    count = len(last[first])
    test_rows = text("test_rows", count=count)
    told = [conclude(pair, pair["a"], pair["b"], test_rows) for pair in pairs]
    histories = {
        name: read_json(run.training)["log_history"]
        for name, run in zip(experiments, runs, strict=True)
        if run.training.exists()
    }
    differing = _differing(last)
    comparison = {
        "runs": {name: str(run.path) for name, run in zip(experiments, runs, strict=True)},
        "compared": next(iter(compared.values())),
        "test_rows": count,
        "rows_of_each": {name: len(next(iter(each.values()))) for name, each in answers.items()},
        "common": common,
        "systems": systems,
        "comparisons": pairs,
        "settings": _differing_settings(experiments),
        "rows_that_differ": len(differing),
        "verdict": asdict(one_after_another(told)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", comparison)
    _write_differences(folder / "differences.csv", differing, list(last))
    if histories:
        save_figure(folder / "figures", "losses", draw_losses_of_runs, histories)
    report = _report(comparison, titles, told[:TOLD_PAIRS], differing, list(last), bool(histories))
    with open_whole(folder / "report.html") as file:
        file.write(render_page(report, folder / "figures", lang))
    with open_whole(folder / "report.md") as file:
        file.write(render_markdown(report, folder / "figures", lang))
    return comparison


def _names(runs: list[RunFolder]) -> list[str]:
    """What the runs are called: their folders' names, or whole paths where two have the same."""
    names = [run.path.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _answers(run: RunFolder) -> dict[str, Rows]:
    """The predictions of each system of a run."""
    found = {
        system: read_jsonl(run.predictions(system))
        for system in texts("systems")
        if run.predictions(system).exists()
    }
    if not found:
        raise UserError(f"{run.path}: has no predictions; finish it first: {COMMAND} run {run.path}")
    return found


def _same_rows(answers: dict[str, dict[str, Rows]], common: bool) -> dict[str, dict[str, Rows]]:
    """The predictions on the same rows in the same order, rows being text and gold label."""

    def key(row: dict[str, Any]) -> tuple[str, str]:
        return row["text"], repr(row["gold"])

    keys = {name: [key(row) for row in next(iter(each.values()))] for name, each in answers.items()}
    first, *others = keys
    if all(keys[name] == keys[first] for name in others):
        return answers
    shared = set.intersection(*map(set, keys.values()))
    if not common:
        sizes = ", ".join(f"{name} {len(each)}" for name, each in keys.items())
        raise UserError(
            f"the runs have different test rows ({sizes}; {len(shared)} in common); --common compares "
            "them on "
            "those."
        )
    if not shared:
        raise UserError("the runs have no test row in common.")
    order = [each for each in keys[first] if each in shared]

    def picked(rows: Rows) -> Rows:
        by_key = {key(row): row for row in rows}
        return [by_key[each] for each in order]

    return {name: {system: picked(rows) for system, rows in each.items()} for name, each in answers.items()}


def _differing(last: dict[str, Rows]) -> list[tuple[str, str, list[str]]]:
    """Text, gold label, and each run's answer, where the runs read different labels."""
    found = []
    for same in zip(*last.values(), strict=True):
        if len({repr(row["prediction"]) for row in same}) > 1:
            found.append((same[0]["text"], label_text(same[0]["gold"]), [_shown(row) for row in same]))
    return found


def _shown(row: dict[str, Any]) -> str:
    read = row["prediction"]
    if read is None:
        return f"? {row['output']!r}"
    return f"{read} {row['probabilities'][read]:.3f}" if isinstance(read, str) else label_text(read)


def _differing_settings(experiments: dict[str, Experiment]) -> dict[str, list[str]]:
    """Each setting that is not the same in all runs, with its values in their order."""
    flat = [
        {
            "data set": each.dataset.name,
            "model": each.model.name,
            "method": each.tuning.method,
            "prompt": each.prompt.name,
            "seed": each.tuning.seed,
            **{f"data: {name}": value for name, value in asdict(each.data).items()},
            **each.arguments,
            **each.recipe_settings,
        }
        for each in experiments.values()
    ]
    names = list(dict.fromkeys(name for each in flat for name in each))
    values = {name: [str(each.get(name, "–")) for each in flat] for name in names}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def _write_differences(path: Path, differing: list[tuple[str, str, list[str]]], names: list[str]) -> None:
    with open_whole(path) as file:
        file.write("\ufeff")  # spreadsheets take the file for UTF-8 by it
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "gold", *names])
        writer.writerows([review, gold, *shown] for review, gold, shown in differing)


def _report(
    comparison: dict[str, Any],
    titles: dict[str, Text | str],
    told: list[Text],
    differing: list[tuple[str, str, list[str]]],
    names: list[str],
    has_losses: bool,
) -> Report:
    count = comparison["test_rows"]
    result: list[Block] = [Paragraph(each, strong=True) for each in told]
    result += [
        systems_grid(comparison["systems"], titles),
        Paragraph(text("rows_and_intervals", count=count)),
    ]
    compared = Paragraph(text("system_compared", system=texts("systems")[comparison["compared"]]))
    pairs = pairs_blocks(comparison["comparisons"], {name: name for name in names})
    settings: list[tuple[Text | str, ...]] = [
        (name, *values) for name, values in comparison["settings"].items()
    ]
    columns = tuple(range(len(names) + 1))
    shown: list[tuple[Text | str, ...]] = [
        (review, gold, *each) for review, gold, each in differing[:SHOWN_DIFFERENCES]
    ]
    note = text("rows_that_differ_note", differing=len(differing), count=count, shown=len(shown))
    answers = Grid((text("review"), text("gold_label"), *names), shown)
    sections = [
        Section(text("result"), result),
        Section(text("run_by_run"), [compared, *pairs]),
        *([Section(text("losses"), [Picture("losses", text("losses_caption"))])] if has_losses else []),
        Section(text("different_settings"), [Grid((text("setting"), *names), settings, texts=columns)]),
        Section(text("rows_that_differ"), [Paragraph(note), answers], folded=True),
    ]
    return Report(" / ".join(names), text("comparison_of_runs"), sections)
