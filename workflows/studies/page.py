"""The page of a study: question, answer, and for each panel its figure and tables; then runs and command."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from workflows.core.texts import Text, one_after_another, text, with_interval
from workflows.reporting.blocks import Block, Command, Grid, Links, Paragraph, Picture, Report, Section
from workflows.reporting.figures import draw_accuracies, draw_learning_curves, save_figure
from workflows.studies.answers import listed


def build_page(found: dict[str, Any], figures: Path, linked: bool = True) -> Report:
    """The page of what study.json holds; its figures are drawn into `figures`.

    `linked`: whether the run folders are there, to be linked.
    """
    result: list[Block] = [Paragraph(Text(**said), strong=True) for said in found["answer"]]
    if found["stands_in"]:
        result.append(Paragraph(text("answers_nothing_of_a_real_qwen"), strong=True))
    for each in found["left_out"]:
        result.append(Paragraph(text("arm_left_out", arm=each["arm"], model=each["model"])))
    if found["options"]:
        result.append(Paragraph(text("options_of_all_runs", options=listed(found["options"]))))
    sections = [Section(text("result"), result)]
    runs: dict[str, Text] = {}
    titles = {arm: said if isinstance(said, str) else Text(**said) for arm, said in found["titles"].items()}
    for number, panel in enumerate(found["panels"], start=1):
        where = listed(panel["grid"])
        blocks = [*_measured(f"accuracy-{number}", titles, panel, figures), *_unfinished(titles, panel)]
        sections.append(Section(Text(where, where) if where else text("accuracy_by_labels"), blocks))
        for point in (point for each in panel["arms"].values() for point in each):
            for run in point["runs"]:
                if linked and run in found["folders"]:
                    path = f"{found['folders'][run]}/report.html"
                    runs.setdefault(path, text("a_run", run=Path(path).parent.name, labels=point["labels"]))
    repeat: list[Block] = [Command(found["command"]), *map(Paragraph, _environments(found))]
    if not linked:
        repeat.insert(1, Paragraph(text("folders_of_the_command")))
    sections.append(Section(text("how_to_repeat"), repeat))
    if runs:
        links = Links([(said, path) for path, said in runs.items()])
        sections.append(Section(text("the_runs"), [links], folded=True))
    return Report(found["study"], Text(**found["question"]), sections)


def _measured(
    name: str, titles: Mapping[str, Text | str], panel: dict[str, Any], figures: Path
) -> Iterator[Block]:
    """The figure and the tables of a panel, where anything of it is measured."""
    points = [point for each in panel["arms"].values() for point in each]
    if not points:
        return
    note = text("curve_note", draws=how_many_draws(points), rows=panel["test_rows"])
    draw = draw_learning_curves if len({point["labels"] for point in points}) > 1 else draw_accuracies
    save_figure(figures, name, draw, titles, panel["arms"], note)
    yield from (Picture(name, note), _accuracies(titles, panel), Paragraph(text("how_a_study_is_read")))
    if any(len(point["draws"]) == 1 for point in points):
        yield Paragraph(text("intervals_of_one_draw"))
    if panel["pairs"]:
        yield from (_differences(titles, panel["pairs"]), Paragraph(text("how_differences_are_read")))


def how_many_draws(points: list[dict[str, Any]]) -> str:
    """From the fewest to the most draws of points of arms; those that no draw changes do not count."""
    counts = [len(point["draws"]) for point in points if point["varies"]] or [1]
    return f"{min(counts)} – {max(counts)}" if min(counts) < max(counts) else f"{max(counts)}"


def _unfinished(titles: Mapping[str, Text | str], panel: dict[str, Any]) -> Iterator[Block]:
    """What a panel has not measured yet, or cannot."""
    left: list[Text | str] = []
    by_arm = groupby(sorted(panel["unfinished"], key=itemgetter("arm")), key=itemgetter("arm"))
    for arm, group in by_arm:
        each = ", ".join(f"{at['size']} ({at['draws']}/{at['of']})" for at in group)
        left.append(
            text("unfinished_arm", arm=titles[arm], sizes=each) if arm in panel["arms"] else titles[arm]
        )
    if left:
        yield Paragraph(text("not_measured_yet", left=_enumerated(left)))
    if panel["without_answers"]:
        without = _enumerated([titles[arm] for arm in panel["without_answers"]])
        yield Paragraph(text("arms_without_answers", arms=without))
    if panel["beyond"]:
        yield Paragraph(text("sizes_beyond", sizes=", ".join(map(str, panel["beyond"]))))


def _enumerated(parts: list[Text | str]) -> Text:
    as_texts = [each if isinstance(each, Text) else Text(each, each) for each in parts]
    return one_after_another(as_texts, "; ", "；")


def _environments(found: dict[str, Any]) -> Iterator[Text]:
    """With what the runs were made: each device and its versions once."""
    said: dict[str, None] = {}
    for each in filter(None, found["environments"].values()):
        versions = ", ".join(f"{name} {version}" for name, version in each["packages"].items())
        said[f"{each['device']}, {each['torch_dtype']}; Python {each['python']}, {versions}"] = None
    for each in said:
        yield text("measured_with", environment=each)
    nowhere = [name for name, each in found["environments"].items() if each is None]
    if count := sum(run["environment"] in nowhere for run in found["runs"].values()):
        yield text("machine_not_recorded", count=count)


def _accuracies(titles: Mapping[str, Text | str], panel: dict[str, Any]) -> Grid:
    """A line for each number of labels and a column for each arm; of one number a line for each arm."""
    by_size = {arm: {point["size"]: point for point in points} for arm, points in panel["arms"].items()}
    labels = {
        size["size"]: f"{size['train'] + size['val']:,} ({size['train']:,} + {size['val']:,})"
        for size in panel["sizes"]
    }
    cells = {size: [_accuracy(points.get(size)) for points in by_size.values()] for size in labels}
    if len(labels) == 1:
        ((size, column),) = cells.items()
        heading = text("accuracy_with_labels", labels=labels[size])
        rows = [[titles[arm], cell] for arm, cell in zip(by_size, column, strict=True)]
        return Grid([text("system"), heading], rows)
    headings = [text("labels_of_training_and_validation"), *(titles[arm] for arm in by_size)]
    return Grid(headings, [[labels[size], *row] for size, row in cells.items()])


def _accuracy(point: dict[str, Any] | None) -> str:
    if point is None:
        return "–"
    spread = "" if point["sd"] is None else f" ± {point['sd']:.3f}"
    found = with_interval(point["accuracy"], point["accuracy_interval"])
    return f"{found}{spread} ({len(point['accuracies'])})"


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
