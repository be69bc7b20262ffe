"""What the report of one run says: results first, then what they were made of (data_content.py)."""

from typing import Any

from workflows.core.costs import cost_of_the_cheapest, rows_left_out
from workflows.core.texts import Text, label_text, number, one_after_another, text, texts, with_interval
from workflows.experiment.experiment import Experiment
from workflows.reporting.blocks import Block, Command, Grid, Paragraph, Picture, Report, Section
from workflows.reporting.data_content import describe_data, describe_labels, describe_run
from workflows.reporting.figures import EVALUATED, series_of
from workflows.reporting.files import Files
from workflows.reporting.results import costs_grid, pairs_blocks, systems_grid

SHOWN_MISTAKES = 20


def build_report(files: Files, experiment: Experiment, command: str, reproduce: str) -> Report:
    """The report; `command` starts the same run anew, `reproduce` repeats it from its own file."""
    scores, systems = files.scores, texts("systems")
    cost = cost_of_the_cheapest(scores["cheapest"], files.costs)
    verdict = one_after_another([Text(**scores["verdict"]), *cost])
    summary: list[Block] = [Paragraph(Text(**said), strong=True) for said in scores.get("unusual", [])]
    if verdict.en:
        summary.append(Paragraph(verdict, strong=True))
    if experiment.model.name == "tiny":
        summary.append(Paragraph(text("tiny_in_the_report")))
    note = text(
        "rows_intervals_and_reading",
        count=scores["test_rows"],
        outputs=Text(**scores["reading"]),
        scores=texts("how_scores_are_read")[scores["task"]],
    )
    missing = scores["missing"]
    result: list[Block] = [*summary, systems_grid(scores["systems"], systems, missing)]
    for system, why in missing.items():
        result.append(Paragraph(text("why_a_row_is_empty", system=systems[system], why=Text(**why))))
    result += [Paragraph(note), *map(Paragraph, rows_left_out(scores))]
    if files.costs:
        result += [Paragraph(text("seconds_of_each_system")), costs_grid(files.costs, systems)]
    again: list[Block] = [Command(command), Paragraph(text("repeat_from_the_folder")), Command(reproduce)]
    sections = [
        Section(text("result"), result),
        Section(text("how_to_repeat"), again),
        *_training(files, experiment),
        *_errors(files),
        *_calibration(files, experiment),
        *_mistakes(files),
        describe_data(files),
        *describe_labels(files),
        Section(text("pair_by_pair"), pairs_blocks(scores["comparisons"], systems), folded=True),
        describe_run(files, experiment),
    ]
    title = f"{experiment.dataset.name} · {experiment.model.name} · {experiment.method}"
    shipped = {said.en: said for said in texts("data_titles").values()}
    return Report(title, shipped.get(experiment.data_title, experiment.data_title), sections)


def _training(files: Files, experiment: Experiment) -> list[Section]:
    if files.training is None:
        return []
    training, best = files.training, files.training["best_by"]
    figures = {"loss": text("loss"), **{name: texts("metrics")[name] for name in EVALUATED}}
    logged = {
        name: dict(zip(*series_of(training["log_history"], f"eval_{name}"), strict=True)) for name in figures
    }
    shown = [name for name in figures if logged[name]]
    steps = sorted({step for each in logged.values() for step in each})
    checkpoint, count = training["checkpoint"], training["steps"]
    kept = (
        text("last_checkpoint_kept", checkpoint=checkpoint, steps=count)
        if best["value"] is None
        else text(
            "checkpoint_kept",
            checkpoint=checkpoint,
            metric=figures.get(best["metric"], best["metric"]),
            value=number(best["value"], 4),
            steps=count,
        )
    )
    blocks: list[Block] = [Picture("curves", text("curves_caption")), Paragraph(kept)]
    val, train = training["rows"]["val"]["given"], training["rows"]["train"]
    looked_at, left_out = training.get("evaluated_rows", val), train["given"] - train["used"]
    if steps and looked_at < val:
        blocks.append(Paragraph(text("rows_evaluated", looked_at=looked_at, given=val)))
    if left_out:
        ids = "data/derived.json" if experiment.derives_rows else "data/tokens.json"
        said = text("rows_left_out_of_training", left_out=left_out, given=train["given"], ids=ids)
        blocks.append(Paragraph(said))
    headings = [text("step"), *(text("validation_figure", figure=figures[name]) for name in shown)]
    rows = [[f"{step:,}", *(number(logged[name].get(step), 4) for name in shown)] for step in steps]
    if rows:
        blocks.append(Grid(headings, rows, texts=()))
    return [Section(text("the_training"), blocks)]


def _errors(files: Files) -> list[Section]:
    systems = texts("systems")
    system, figures = list(files.scores["systems"].items())[-1]
    if "per_class" not in figures:
        return []
    names = {**texts("metrics"), "weighted_f1": text("weighted_f1")}
    averages = [
        text("name_and_figure", name=names[name], figure=number(figures[name]))
        for name in ("micro_f1", "macro_f1", "weighted_f1")
    ]
    blocks: list[Block] = []
    if "confusion" in figures:
        blocks.append(Picture("confusion", text("confusion_caption")))
        averages.append(text("name_and_figure", name="Matthews", figure=number(figures["matthews"])))
    headings = text("label"), text("rows"), text("precision"), text("recall"), "F1"
    rows = [
        [name, f"{each['rows']:,}"]
        + [with_interval(each[key], each.get(f"{key}_interval")) for key in ("precision", "recall", "f1")]
        for name, each in figures["per_class"].items()
    ]
    blocks += [
        Paragraph(
            text(
                "averages_of_system",
                system=systems[system],
                averages=one_after_another(averages, ", ", "，"),
            )
        ),
        Grid(headings, rows),
    ]
    for name, each in files.scores["systems"].items():
        unread = each.get("unparsed_most_frequent")
        if unread:
            outputs = "；".join(f"{item['output']!r} × {item['rows']}" for item in unread)
            blocks.append(Paragraph(text("unreadable_outputs", system=systems[name], outputs=outputs)))
    return [Section(text("right_and_wrong_by_label"), blocks)]


def _calibration(files: Files, experiment: Experiment) -> list[Section]:
    """How far probabilities can be trusted."""
    if files.scores["task"] != "single_label":
        return []
    probabilities = {system: each["probabilities"] for system, each in files.scores["systems"].items()}
    headings = (
        text("system"),
        text("average_precision"),
        text("probability_on_the_labels"),
        text("greedy_answer_is_not_likeliest"),
    )
    rows: list[list[Text | str]] = [
        [
            texts("systems")[system],
            number(each["average_precision"]),
            number(each["mean_label_mass"]),
            f"{each['disagreements']:,}",
        ]
        for system, each in probabilities.items()
        if each["mean_label_mass"] is not None
    ]
    blocks: list[Block] = [Picture("reliability", text("reliability_caption"))]
    if rows:
        whole = experiment.ends_after_label
        said = text("probabilities_of_whole_answers" if whole else "probabilities_of_words")
        blocks += [Grid(headings, rows), Paragraph(said)]
    elif experiment.has_head:
        blocks.append(Paragraph(text("probabilities_of_a_head")))
    return [Section(text("trust_in_probabilities"), blocks)]


def confident_mistakes(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The wrong rows of a system's predictions that a report shows, the most confident first; labels only."""
    wrong = [row for row in predictions if row["prediction"] != row["gold"]]
    return sorted(wrong, key=_surety, reverse=True)[:SHOWN_MISTAKES]


def _surety(row: dict[str, Any]) -> float:
    """How sure a system was of what is wrong in its answer."""
    shares, gold = row["probabilities"], row["gold"]
    if isinstance(gold, list):
        return max(abs((name in gold) - shares[name]) for name in {*gold} ^ {*row["prediction"]})
    return max(share for name, share in shares.items() if name != gold)


def _mistakes(files: Files) -> list[Section]:
    system = list(files.scores["systems"])[-1]
    wrong = [row for row in files.predictions[system] if row["prediction"] != row["gold"]]
    if not wrong:
        return []
    tfidf = {row["id"]: row["prediction"] for row in files.predictions.get("tfidf", [])}
    values: dict[str, Any] = {"wrong": len(wrong), "system": texts("systems")[system]}
    rows: list[list[Text | str]] = []
    if files.scores["task"] == "regression":
        wrong.sort(key=lambda row: abs(row["prediction"] - row["gold"]), reverse=True)
        for row in wrong[:SHOWN_MISTAKES]:
            other = label_text(tfidf[row["id"]]) if tfidf else "–"
            rows.append([row["text"], label_text(row["gold"]), label_text(row["prediction"]), other])
        title, note = text("largest_errors"), text("largest_errors_note", shown=len(rows), **values)
        headings = [text("review"), text("gold_number"), text("prediction")]
    else:
        for row in confident_mistakes(wrong):
            shares = ", ".join(f"{name} {share:.3f}" for name, share in row["probabilities"].items())
            hit = text("right" if tfidf[row["id"]] == row["gold"] else "wrong") if tfidf else "–"
            rows.append([row["text"], label_text(row["gold"]), row["output"] or "", shares, hit])
        title, note = text("confident_mistakes"), text("confident_mistakes_note", shown=len(rows), **values)
        headings = [text("review"), text("gold_label"), text("output"), text("probabilities")]
    more: list[Text | str] = ["TF-IDF"]
    if files.explained:
        more.append(text("clause_that_carried_it"))
        for row, shown in zip(confident_mistakes(wrong), rows, strict=True):
            found = files.explained.get(row["id"])
            shown.append("–" if found is None else f"{found['clause']} ({found['weight']:+.2f})")
    table = Grid([*headings, *more], rows, texts=(0, 2, 3, 5))
    return [Section(title, [Paragraph(note), table], folded=True)]
