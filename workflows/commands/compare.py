"""Several runs on the same test rows: one table, pairwise tests, loss curves, and the rows where they differ.

python run_swift.py compare outputs/RUN outputs/RUN --common
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from workflows.core.errors import UserError
from workflows.core.files import open_whole, read_json, read_jsonl, write_json
from workflows.core.rows import Row, Rows
from workflows.core.run_folder import RunFolder
from workflows.core.table_writers import write_csv
from workflows.core.texts import Text, label_text, one_after_another, text, texts
from workflows.core.unusual import say_unusual
from workflows.experiment.cards import COMMAND
from workflows.experiment.experiment import Experiment
from workflows.pipeline.run import check_answers, open_run
from workflows.reporting.blocks import Block, Grid, Paragraph, Picture, Report, Section
from workflows.reporting.figures import draw_losses_of_runs, save_figure
from workflows.reporting.render import write_report
from workflows.reporting.results import pairs_blocks, systems_grid
from workflows.scoring.score import compare_answers, measure_system
from workflows.scoring.uncertainty import conclude

BASELINES = ("majority", "mean", "tfidf")
SHOWN_DIFFERENCES = 50
SAID = {"model", "method", "prompt", "seed", "set"}  # options that the table of settings has by other names
TOLD_PAIRS = 6  # sentences for so many pairs at most; the table has them all


def compare(folders: list[Path], common: bool, folder: Path, lang: str) -> dict[str, Any]:
    """Write comparison.json, differences.csv, report.html, report.md and figures/ into `folder`; return the
    comparison.

    `common`: compare on the test rows (text and gold label) that all runs share, where they are not the same.
    Raises UserError where a run has no answers, label names differ, or the test rows do and `common` is off.
    """
    runs = [RunFolder(each) for each in folders]
    if len({each.resolve() for each in folders}) < len(runs) or len(runs) < 2:
        raise UserError("compare needs two runs or more, each named once.")
    if folder.is_file() or (folder / "experiment.yaml").exists():
        raise UserError(f"--output {folder}: is a file, or a run; name another folder.")
    short = [each.resolve().name for each in folders]
    names = short if len(set(short)) == len(runs) else [str(each) for each in folders]
    by_name = dict(zip(names, runs, strict=True))
    experiments = {name: open_run(run.path)[1] for name, run in by_name.items()}
    _check_labels(experiments)
    answers = {name: _answers(run) for name, run in by_name.items()}
    for name, run in by_name.items():
        check_answers(run, experiments[name])
    _check_ends(answers, experiments)
    rows = _same_rows(answers, common)
    last = {name: list(by_system.values())[-1] for name, by_system in rows.items()}
    systems: dict[str, Any] = {}
    seen: set[str] = set()
    for name, by_system in rows.items():
        for system, predictions in by_system.items():
            content = repr([(row["text"], row["prediction"], row["probabilities"]) for row in predictions])
            if system not in BASELINES or content not in seen:  # the same baseline on the same data once
                systems[f"{name}/{system}"] = measure_system(predictions, experiments[name])
            seen.add(content)
    task = experiments[names[0]].dataset.task
    pairs = compare_answers(last, task)
    test_rows = text("test_rows", count=len(last[names[0]]))
    told = [conclude(pair, pair["a"], pair["b"], test_rows) for pair in pairs]
    differing: list[tuple[str, ...]] = [
        (same[0]["text"], label_text(same[0]["gold"]), *map(_shown, same))
        for same in zip(*last.values(), strict=True)
        if len({repr(row["prediction"]) for row in same}) > 1
    ]
    unusual = [
        text("of_panel", panel=name, said=said)
        for name, run in by_name.items()
        if run.manifest.exists()
        for said in say_unusual(read_json(run.manifest))
    ]
    comparison = {
        "runs": {name: str(run.path) for name, run in by_name.items()},
        "compared": {name: list(by_system)[-1] for name, by_system in rows.items()},
        "test_rows": len(last[names[0]]),
        "rows_of_each": {name: len(next(iter(each.values()))) for name, each in answers.items()},
        "common": common,
        "systems": systems,
        "comparisons": pairs,
        "settings": _differing_settings(list(experiments.values())),
        "rows_that_differ": len(differing),
        "verdict": asdict(one_after_another([*unusual, *told])),
    }
    write_json(folder / "comparison.json", comparison)
    with open_whole(folder / "differences.csv") as file:
        file.write("\ufeff")  # spreadsheets take the file for UTF-8 by it
        write_csv(file, [("text", "gold", *names), *differing])
    trainings = {name: run.training for name, run in by_name.items() if run.training.exists()}
    if trainings:
        histories = {name: read_json(path)["log_history"] for name, path in trainings.items()}
        save_figure(folder / "figures", "losses", draw_losses_of_runs, histories)
    told = [*unusual, *told[:TOLD_PAIRS]]
    write_report(_report(comparison, told, differing, bool(trainings)), folder, lang)
    return comparison


def _check_labels(experiments: dict[str, Experiment]) -> None:
    """Raise UserError where scores do not compare: tasks or labels are not the same."""
    labels: dict[str, str] = {}
    for name, each in experiments.items():
        names = [label.name for label in each.labels]
        if each.dataset.task == "single_label":
            names.sort()  # everything below goes by name, but for lists of labels, which have their order
        labels[name] = f"{', '.join(names) or 'none'} ({each.dataset.task})"
        first, of_first = next(iter(labels.items()))
        if labels[name] != of_first:
            raise UserError(f"{name} has the labels {labels[name]}, {first} {of_first}: they do not compare.")


def _answers(run: RunFolder) -> dict[str, Rows]:
    """The predictions of each system of a run, all on the same rows.

    Raises UserError where there are none, or those of a system are of other rows, which were there before.
    """
    paths = {system: run.predictions(system) for system in texts("systems")}
    found = {system: read_jsonl(path) for system, path in paths.items() if path.exists()}
    finish = f"finish it first: {COMMAND} run {run.path}"
    if not found:
        raise UserError(f"{run.path}: has no predictions; {finish}")
    first, *others = ([_key(row) for row in rows] for rows in found.values())
    for system, keys in zip([*found][1:], others, strict=True):
        if keys != first:
            raise UserError(f"{run.path}: its answers of {system} are of other rows, from before; {finish}")
    return found


def _key(row: Row) -> tuple[str, str]:
    return row["text"], repr(row["gold"])


def _check_ends(answers: dict[str, Any], experiments: dict[str, Experiment]) -> None:
    """Raise UserError where some runs have come to their end and others have not."""
    last = {name: list(by_system)[-1] for name, by_system in answers.items()}
    ended = [system == ("tuned" if experiments[name].tunes else "probe") for name, system in last.items()]
    if not all(ended) and len(set(last.values())) > 1:
        listed = ", ".join(f"{name} {texts('systems')[system].en}" for name, system in last.items())
        raise UserError(
            f"the runs end with answers of different kinds ({listed}); finish them with `run` first."
        )


def _same_rows(answers: dict[str, dict[str, Rows]], common: bool) -> dict[str, dict[str, Rows]]:
    """The predictions on the same rows in the same order, rows being text and gold label.

    Raises UserError where the runs' last systems are not the same, or their rows differ and `common` is off.
    """

    def picked(rows: Rows) -> Rows:
        by_key = {_key(row): row for row in rows}
        return [by_key[each] for each in first if each in shared]

    keys = {name: [_key(row) for row in next(iter(each.values()))] for name, each in answers.items()}
    first, *others = keys.values()
    if all(other == first for other in others):
        return answers
    shared = set(first).intersection(*others)
    if not common:
        sizes = ", ".join(f"{name} {len(each)}" for name, each in keys.items())
        raise UserError(
            f"the runs have different test rows ({sizes}; {len(shared)} in common); --common compares them "
            "on those."
        )
    if not shared:
        raise UserError("the runs have no test row in common.")
    return {name: {system: picked(rows) for system, rows in each.items()} for name, each in answers.items()}


def _shown(row: Row) -> str:
    read = row["prediction"]
    if read is None:
        return f"? {row['output']!r}"
    return f"{read} {row['probabilities'][read]:.3f}" if isinstance(read, str) else label_text(read)


def _differing_settings(experiments: list[Experiment]) -> dict[str, list[str]]:
    """Each setting that is not the same in all runs, with its values in their order."""
    flat = [
        {
            "data set": each.dataset.name,
            "model": each.model.name,
            "method": each.method,
            "prompt": each.prompt.name,
            "seed": each.tuning.seed,
            **{f"data: {name}": value for name, value in asdict(each.data).items()},
            **{f"tuning: {name}": value for name, value in asdict(each.tuning).items() if name not in SAID},
            **each.arguments,
            **each.recipe_settings,
        }
        for each in experiments
    ]
    names = dict.fromkeys(name for each in flat for name in each)
    values = {name: [str(each.get(name, "–")) for each in flat] for name in names}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def _report(
    comparison: dict[str, Any], told: list[Text], differing: list[tuple[str, ...]], has_losses: bool
) -> Report:
    names, count = list(comparison["runs"]), comparison["test_rows"]
    titles: dict[str, Text] = {}
    for key in comparison["systems"]:
        run, _, system = key.rpartition("/")
        titles[key] = text("run_and_system", run=run, system=texts("systems")[system])
    result: list[Block] = [
        *(Paragraph(each, strong=True) for each in told),
        systems_grid(comparison["systems"], titles),
        Paragraph(text("rows_and_intervals", count=count)),
    ]
    ends = [texts("systems")[system] for system in dict.fromkeys(comparison["compared"].values())]
    compared = Paragraph(text("system_compared", system=one_after_another(ends, ", ", "，")))
    pairs = pairs_blocks(comparison["comparisons"], {name: name for name in names})
    settings = [(name, *values) for name, values in comparison["settings"].items()]
    settings_grid = Grid((text("setting"), *names), settings, texts=tuple(range(len(names) + 1)))
    shown = differing[:SHOWN_DIFFERENCES]
    note = text("rows_that_differ_note", differing=len(differing), count=count, shown=len(shown))
    answers = Grid((text("review"), text("gold_label"), *names), shown)
    sections = [
        Section(text("result"), result),
        Section(text("run_by_run"), [compared, *pairs]),
        *([Section(text("losses"), [Picture("losses", text("losses_caption"))])] if has_losses else []),
        Section(text("different_settings"), [settings_grid]),
        Section(text("rows_that_differ"), [Paragraph(note), answers], folded=True),
    ]
    return Report(" / ".join(names), text("comparison_of_runs"), sections)
