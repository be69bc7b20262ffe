"""What the report of one run says: results first, then what they were made of (data_content.py)."""

from typing import Any

from workflows.core.texts import Text, label_text, number, text, texts
from workflows.experiment.experiment import Experiment
from workflows.reporting.blocks import Block, Command, Grid, Paragraph, Picture, Report, Section
from workflows.reporting.data_content import describe_data, describe_labels, describe_run
from workflows.reporting.figures import EVALUATED
from workflows.reporting.files import Files
from workflows.reporting.results import pairs_blocks, systems_blocks

SHOWN_MISTAKES = 20


def build_report(files: Files, experiment: Experiment, command: str, reproduce: str) -> Report:
    """The report; `command` starts the same run anew, `reproduce` repeats it from its own file."""
    verdict, systems = Text(**files.scores["verdict"]), texts("systems")
    summary: list[Block] = []
    if verdict.en:
        summary.append(Paragraph(verdict, strong=True))
    if experiment.model.name == "tiny":
        summary.append(Paragraph(text("tiny_in_the_report")))
    again: list[Block] = [Command(command), Paragraph(text("repeat_from_the_folder")), Command(reproduce)]
    sections = [
        Section(text("result"), [*summary, *systems_blocks(files.scores, systems)]),
        Section(text("how_to_repeat"), again),
        *_training(files),
        *_errors(files),
        *_calibration(files),
        *_mistakes(files),
        describe_data(files),
        *describe_labels(files),
        Section(text("pair_by_pair"), pairs_blocks(files.scores["comparisons"], systems), folded=True),
        describe_run(files, experiment),
    ]
    title = f"{experiment.dataset.name} · {experiment.model.name} · {experiment.tuning.method}"
    return Report(title, experiment.dataset.title, sections)


def _training(files: Files) -> list[Section]:
    if files.training is None:
        return []
    training, best = files.training, files.training["best_by"]
    evaluations: dict[int, dict[str, Any]] = {}
    for entry in training["log_history"]:
        if any(key.startswith("eval_") for key in entry):
            evaluations.setdefault(entry["step"], {}).update(entry)
    figures = {"eval_loss": text("loss"), **{f"eval_{name}": texts("metrics")[name] for name in EVALUATED}}
    keys = [key for key in figures if any(key in entry for entry in evaluations.values())]
    rows: list[tuple[Text | str, ...]] = [
        (f"{step:,}", *(number(entry.get(key), 4) for key in keys))
        for step, entry in sorted(evaluations.items())
    ]
    headings = (text("step"), *(text("validation_figure", figure=figures[key]) for key in keys))
    said = [
        text(
            "checkpoint_kept",
            checkpoint=training["checkpoint"],
            metric=best["metric"],
            value=number(best["value"], 4),
            steps=training["steps"],
        )
    ]
    val = training["rows"]["val"]["given"]
    looked_at = training.get("evaluated_rows", val)
    if looked_at < val:
        said.append(text("rows_evaluated", looked_at=looked_at, given=val))
    given, used = training["rows"]["train"]["given"], training["rows"]["train"]["used"]
    if used < given:
        said.append(text("rows_left_out_of_training", left_out=given - used, given=given))
    curves = Picture("curves", text("curves_caption"))
    return [Section(text("the_training"), [curves, *map(Paragraph, said), Grid(headings, rows, texts=())])]


def _errors(files: Files) -> list[Section]:
    system, figures = list(files.scores["systems"].items())[-1]
    if "per_class" not in figures:
        return []
    rows: list[tuple[Text | str, ...]] = [
        (name, f"{each['rows']:,}", *(number(each[key]) for key in ("precision", "recall", "f1")))
        for name, each in figures["per_class"].items()
    ]
    headings = (text("label"), text("rows"), text("precision"), text("recall"), "F1")
    averages = ", ".join(
        f"{name} F1 {number(figures[f'{name}_f1'])}" for name in ("micro", "macro", "weighted")
    )
    blocks: list[Block] = []
    if "confusion" in figures:
        blocks.append(Picture("confusion", text("confusion_caption")))
        averages += f", Matthews {number(figures['matthews'])}"
    systems = texts("systems")
    blocks += [
        Paragraph(text("averages_of_system", system=systems[system], averages=averages)),
        Grid(headings, rows),
    ]
    for name, each in files.scores["systems"].items():
        if each.get("unparsed_most_frequent"):
            most = "；".join(
                f"{item['output']!r} × {item['rows']}" for item in each["unparsed_most_frequent"]
            )
            blocks.append(Paragraph(text("unreadable_outputs", system=systems[name], outputs=most)))
    return [Section(text("right_and_wrong_by_label"), blocks)]


def _calibration(files: Files) -> list[Section]:
    if files.scores["task"] != "single_label":
        return []
    rows: list[tuple[Text | str, ...]] = []
    for system, figures in files.scores["systems"].items():
        probabilities = figures["probabilities"]
        if probabilities["mean_label_mass"] is not None:
            rows.append(
                (
                    texts("systems")[system],
                    number(probabilities["average_precision"]),
                    number(probabilities["mean_label_mass"]),
                    f"{probabilities['disagreements']:,}",
                )
            )
    headings = (
        text("system"),
        text("average_precision"),
        text("probability_on_the_labels"),
        text("greedy_answer_is_not_likeliest"),
    )
    blocks: list[Block] = [
        Picture("reliability", text("reliability_caption")),
        *([Grid(headings, rows)] if rows else []),
        Paragraph(text("probabilities_of_whole_answers" if rows else "probabilities_of_a_head")),
    ]
    return [Section(text("trust_in_probabilities"), blocks)]


def _mistakes(files: Files) -> list[Section]:
    system = list(files.scores["systems"])[-1]
    numbers = files.scores["task"] == "regression"
    tfidf = {row["id"]: row["prediction"] for row in files.predictions.get("tfidf", [])}
    wrong = [row for row in files.predictions[system] if row["prediction"] != row["gold"]]

    def size(row: dict[str, Any]) -> float:
        """How far off, or how sure of a wrong answer."""
        return abs(row["prediction"] - row["gold"]) if numbers else max(row["probabilities"].values())

    rows: list[tuple[Text | str, ...]] = []
    for row in sorted(wrong, key=size, reverse=True)[:SHOWN_MISTAKES]:
        other = tfidf.get(row["id"])
        hit: Text | str = text("right" if other == row["gold"] else "wrong")
        if numbers:
            details: tuple[str, ...] = (label_text(row["prediction"]),)
            hit = "–" if other is None else label_text(other)
        else:
            shares = ", ".join(f"{name} {share:.3f}" for name, share in row["probabilities"].items())
            details = (row["output"] or "", shares)
        rows.append((row["text"], label_text(row["gold"]), *details, "–" if other is None else hit))
    if not rows:
        return []
    answers = (text("prediction"),) if numbers else (text("output"), text("probabilities"))
    headings = (text("review"), text("gold_number" if numbers else "gold_label"), *answers, "TF-IDF")
    note = text(
        "largest_errors_note" if numbers else "confident_mistakes_note",
        shown=len(rows),
        wrong=len(wrong),
        system=texts("systems")[system],
    )
    title = text("largest_errors" if numbers else "confident_mistakes")
    return [Section(title, [Paragraph(note), Grid(headings, rows, texts=(0, 2, 3))], folded=True)]
