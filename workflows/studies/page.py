"""The page of a study: question, answer, and for each panel its figure and tables; then runs and command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflows.core.texts import Text, text
from workflows.reporting.blocks import Block, Command, Grid, Links, Paragraph, Picture, Report, Section
from workflows.reporting.figures import draw_learning_curves, save_figure
from workflows.studies.card import Study


def build_page(study: Study, found: dict[str, Any], figures: Path) -> Report:
    """The page of what study.json holds; its figures are drawn into `figures`."""
    result: list[Block] = [Paragraph(Text(**said), strong=True) for said in found["answer"]]
    if found["stands_in"]:
        result.append(Paragraph(text("answers_nothing_of_a_real_qwen"), strong=True))
    for each in found["left_out"]:
        result.append(Paragraph(text("arm_left_out", arm=each["arm"], model=each["model"])))
    sections = [Section(text("result"), result)]
    runs: dict[str, Text] = {}
    titles = {arm: study.title(arm) for arm in study.arms}
    for number, panel in enumerate(found["panels"], start=1):
        points = [point for each in panel["arms"].values() for point in each]
        counts = [len(point["accuracies"]) for point in points]
        draws = f"{min(counts)} – {max(counts)}" if min(counts) < max(counts) else f"{max(counts)}"
        note = text("curve_note", draws=draws, rows=panel["test_rows"])
        name = f"accuracy-{number}"
        save_figure(figures, name, draw_learning_curves, titles, panel["arms"], note)
        blocks: list[Block] = [Picture(name, note), _accuracies(titles, panel)]
        blocks.append(Paragraph(text("how_a_study_is_read")))
        if panel["pairs"]:
            blocks += [_differences(titles, panel["pairs"]), Paragraph(text("how_differences_are_read"))]
        where = ", ".join(f"{option} {value}" for option, value in panel["grid"].items())
        sections.append(Section(Text(where, where) if where else text("accuracy_by_labels"), blocks))
        for point in points:
            for run in point["runs"]:
                runs.setdefault(
                    f"{run}/report.html", text("a_run", run=Path(run).name, labels=point["labels"])
                )
    return Report(
        study.name,
        study.question,
        [
            *sections,
            Section(text("how_to_repeat"), [Command(found["command"])]),
            Section(text("the_runs"), [Links([(said, path) for path, said in runs.items()])], folded=True),
        ],
    )


def _accuracies(titles: Mapping[str, Text | str], panel: dict[str, Any]) -> Grid:
    """A line for each number of labels, a column for each arm."""
    by_size = {arm: {point["size"]: point for point in points} for arm, points in panel["arms"].items()}
    rows: list[list[Text | str]] = []
    for size, labels in panel["labels"].items():
        total = f"{sum(labels.values()):,} ({labels['train']:,} + {labels['val']:,})"
        rows.append([total, *(_accuracy(points.get(size)) for points in by_size.values())])
    return Grid([text("labels_of_training_and_validation"), *(titles[arm] for arm in by_size)], rows)


def _accuracy(point: dict[str, Any] | None) -> str:
    if point is None:
        return "–"
    spread = "" if point["sd"] is None else f" ± {point['sd']:.3f}"
    return f"{point['accuracy']:.3f}{spread} ({len(point['accuracies'])})"


def _differences(titles: Mapping[str, Text | str], pairs: list[dict[str, Any]]) -> Grid:
    rows: list[list[Text | str]] = []
    for pair in pairs:
        ahead: dict[int | None, Text | str] = {None: "?", 0: "–"}
        ahead |= {1: titles[pair["a"]], -1: titles[pair["b"]]}
        for point in pair["points"]:
            interval = "({:+.3f} … {:+.3f})".format(*point["holm_interval"])
            rows.append(
                [
                    text("b_minus_a", b=titles[pair["a"]], a=titles[pair["b"]]),
                    f"{point['labels']:,}",
                    f"{point['difference']:+.3f} {interval}",
                    f"{point['draws']}",
                    ahead[point["ahead"]],
                ]
            )
    headings = [
        text("pair"),
        text("labels_of_training_and_validation"),
        text("difference_in_accuracy"),
        text("draws"),
        text("ahead"),
    ]
    return Grid(headings, rows, texts=(0, 4))
