"""The figures of a report, each in English and Chinese, as SVG and PNG.

SVG keeps text as text, so whoever opens it shows it in a font of theirs.  PNG needs the glyphs here: where no
installed font has Chinese ones, only the English PNG is drawn, and label names that cannot be drawn are
written as `label 0`, `label 1`.
"""

import logging
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

from workflows.core.files import open_whole, whole
from workflows.core.texts import LANGUAGES, Text, in_language, text, texts

CHINESE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "PingFang SC"),
    *("Hiragino Sans GB", "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Noto Sans CJK JP", "Droid Sans Fallback", "Arial Unicode MS"),
)
# Told apart by colour-blind readers too (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", GREY)
PNG_DPI = 150

EVALUATED = ("accuracy", "macro_f1", "mae", "rmse")  # what training measures on validation beside the loss

Say = Callable[[Text | str], str]  # a text in the figure's language; a label's name as it can be drawn


def chinese_fonts() -> list[str]:
    """The fonts installed here that have Chinese letters."""
    if not {*CHINESE_FONTS} & {*fontManager.get_font_names()}:
        # Matplotlib keeps the list that it made at its first use: fonts installed since are not on it.
        for path in {*findSystemFonts()} - {font.fname for font in fontManager.ttflist}:
            with suppress(Exception):  # whatever a font is that matplotlib cannot read
                fontManager.addfont(path)
    installed = fontManager.get_font_names()
    return [font for font in CHINESE_FONTS if font in installed]


def save_figure(
    folder: Path, name: str, draw: Callable[..., Figure], *data: Any, labels: Sequence[str] = ()
) -> None:
    """Write <name>.<language>.svg and .png into `folder`.

    `draw` makes the figure, given a `Say` and `data`; `labels` are the names of labels in it.
    """
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of each absent font
    folder.mkdir(parents=True, exist_ok=True)
    fonts = [*chinese_fonts(), "DejaVu Sans"]
    style: dict[str, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": False,
        "text.parse_math": False,  # a $ in a label is a $
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # the same figure gives the same bytes
    }
    faces = [FT2Font(findfont(FontProperties(family=font))) for font in fonts]
    drawable = {
        label: label
        if all(any(face.get_char_index(ord(letter)) for face in faces) for letter in label)
        else f"label {index}"
        for index, label in enumerate(labels)
    }
    for language in LANGUAGES:
        with matplotlib.rc_context({**style, "font.family": fonts}):
            svg = StringIO()
            with warnings.catch_warnings():  # of glyphs that this machine lacks: the reader's has them
                warnings.filterwarnings("ignore", "Glyph .* missing")
                figure = draw(partial(_say, {}, language), *data)
                _lay_out(figure)
                figure.savefig(svg, format="svg", metadata={"Date": None})
            with open_whole(folder / f"{name}.{language}.svg") as file:
                file.write(re.sub(r"font-family: [^;\"]+", "font-family: sans-serif", svg.getvalue()))
            if language == "zh" and len(fonts) == 1:
                continue
            if any(label != name for label, name in drawable.items()):
                figure = draw(partial(_say, drawable, language), *data)
            with whole(folder / f"{name}.{language}.png") as path:
                figure.savefig(path, format="png", dpi=PNG_DPI)


def _lay_out(figure: Figure) -> None:
    """Put all in its place once: `savefig` draws a figure that has a layout engine twice, for each file."""
    FigureCanvasSVG(figure)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)


def _say(drawable: dict[str, str], language: str, said: Text | str) -> str:
    return drawable.get(said, said) if isinstance(said, str) else in_language(said, language)


def series_of(history: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """The steps at which `key` was logged, and what was logged."""
    points = {entry["step"]: entry[key] for entry in history if key in entry}
    return list(points), list(points.values())


def draw_curves(say: Say, history: list[dict[str, Any]], kept_step: int) -> Figure:
    """Training and validation loss, and the task's figures on validation, over the steps."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    splits, metrics = texts("splits"), texts("metrics")
    left.plot(*series_of(history, "loss"), color=BLUE, label=say(splits["train"]))
    evaluated = series_of(history, "eval_loss")
    if evaluated[0]:
        left.plot(*evaluated, "o-", color=ORANGE, label=say(splits["val"]))
    for name, colour, mark in zip(EVALUATED, COLOURS, ("s-", "o--", "s-", "o--"), strict=False):
        steps, values = series_of(history, f"eval_{name}")
        if steps:
            right.plot(steps, values, mark, color=colour, label=say(metrics[name]))
    left.set_title(say(text("loss")))
    right.set_title(say(text("on_validation")))
    if not right.lines:  # nothing was evaluated
        right.remove()
    for axes in figure.axes:
        axes.axvline(kept_step, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlabel(say(text("step_and_checkpoint_kept")))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return figure


def draw_losses_of_runs(say: Say, runs: dict[str, list[dict[str, Any]]]) -> Figure:
    """Validation and training loss of several runs over the share of their training."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    keys = {"loss": text("training_loss"), "eval_loss": text("validation_loss")}
    for axes, (key, title) in zip(panels, keys.items(), strict=True):
        for colour, (name, history) in zip(COLOURS * len(runs), runs.items(), strict=False):
            steps, losses = series_of(history, key)
            if steps:
                last = max(entry["step"] for entry in history)
                axes.plot([step / last for step in steps], losses, color=colour, label=name)
        axes.set_title(say(title))
        axes.set_xlabel(say(text("share_of_the_training")))
        axes.grid(alpha=0.25)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=1)
    return figure


def draw_confusions(say: Say, systems: dict[str, Any]) -> Figure:
    """Gold (rows) against predicted (columns) of each system; shaded by the share of the gold label's rows.

    `systems` as in scores.json.
    """
    size = len(next(iter(systems.values()))["confusion"]["gold"])
    side = max(2.6, 0.55 * size + 1.2)
    columns = min(len(systems), 2 if size > 4 else 4)
    lines = -(-len(systems) // columns)
    figure = Figure(figsize=(side * columns, side * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes, (system, figures) in zip(panels, systems.items(), strict=False):
        confusion = figures["confusion"]
        unread = any(row[-1] for row in confusion["counts"])
        names = [say(name) for name in confusion["gold"]]
        headings = names + [say(text("unreadable"))] * unread
        shares = [[cell / max(1, sum(row)) for cell in row] for row in confusion["counts"]]
        shown = [row[: len(headings)] for row in shares]
        axes.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for y, row in enumerate(shown):
            for x, share in enumerate(row):
                colour = "white" if share > 0.5 else "black"
                count = f"{confusion['counts'][y][x]:,}"
                axes.text(x, y, count, ha="center", va="center", color=colour)
        turned = 90 if len(headings) > 4 else 0 if len(headings) < 3 else 30
        upright = 90 if len(names) < 4 else 0
        axes.set_xticks(range(len(headings)), headings, rotation=turned, fontsize=8)
        axes.set_yticks(range(len(names)), names, rotation=upright, va="center", fontsize=8)
        axes.set_xlabel(say(text("predicted")), fontsize=8)
        axes.set_ylabel(say(text("gold_label")), fontsize=8)
        axes.spines[:].set_visible(False)
        axes.set_title(say(texts("systems")[system]), fontsize=10)
    for axes in list(figure.axes)[len(systems) :]:
        axes.remove()
    return figure


def draw_reliability(say: Say, systems: dict[str, Any]) -> Figure:
    """How often a system is right, by how sure it is, with 95 % intervals; bars: the share of rows there.

    `systems` as in scores.json.
    """
    figure = Figure(figsize=(2.9 * len(systems), 3.2), layout="constrained")
    panels = figure.subplots(1, len(systems), squeeze=False, sharey=True).flat
    for axes, (system, figures) in zip(panels, systems.items(), strict=True):
        bins = figures["probabilities"]["reliability"]
        rows = sum(bin["rows"] for bin in bins)
        for bin in bins:
            width, share = bin["to"] - bin["from"], bin["rows"] / rows
            axes.bar(bin["from"], share, width, align="edge", color=BLUE, alpha=0.18)
        middle, right = [bin["confidence"] for bin in bins], [bin["accuracy"] for bin in bins]
        spread = [
            [bin["accuracy"] - bin["accuracy_interval"][0] for bin in bins],
            [bin["accuracy_interval"][1] - bin["accuracy"] for bin in bins],
        ]
        axes.errorbar(middle, right, spread, fmt="o", color=ORANGE, markersize=4, linewidth=1)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title(say(texts("systems")[system]), fontsize=10)
        axes.set_xlabel(say(text("probability_of_its_label")), fontsize=8)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
    figure.axes[0].set_ylabel(say(text("share_right")), fontsize=8)
    return figure


def draw_lengths(say: Say, characters: dict[str, list[int]], tokens: dict[str, Any] | None) -> Figure:
    """Histograms of the splits' lengths, in characters and (where counted) in tokens, as shares of the
    rows.
    """
    names = texts("splits")
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    longest = max(map(max, characters.values()))
    for colour, (split, lengths) in zip(COLOURS, characters.items(), strict=False):
        weights, title = [1 / len(lengths)] * len(lengths), say(names[split])
        left.hist(lengths, 30, (0, longest), weights=weights, histtype="step", color=colour, label=title)
    left.set_xlabel(say(text("characters_of_a_review")))
    left.set_ylabel(say(text("share_of_rows")))
    left.legend(frameon=False)
    if tokens is None:
        right.remove()
        return figure
    edges = tokens["histogram_edges"]
    for colour, (split, figures) in zip(COLOURS, tokens["splits"].items(), strict=False):
        shares = [count / figures["rows"] for count in figures["histogram"]]
        right.stairs(shares, edges, color=colour, label=say(names[split]))
    limit = tokens["max_length"]
    if limit is not None and limit < edges[-1]:
        right.axvline(limit, color=GREY, linestyle=":", label=f"max_length {limit}")
        right.legend(frameon=False)
    right.set_xlabel(say(text("tokens_of_prompt_and_answer")))
    return figure


def draw_learning_curves(
    say: Say, titles: dict[str, Text | str], arms: dict[str, list[dict[str, Any]]], note: Text
) -> Figure:
    """Accuracy against the number of labels, on a log axis: a line, a band and the single draws of each arm.

    `arms`: points as in study.json; `note` stands below, so that it is there where the figure is pasted.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    marks = "os^Dv<>Pp*"
    for at, (arm, points) in enumerate(arms.items()):
        colour, mark = COLOURS[at % len(COLOURS)], marks[at % len(marks)]
        labels = [point["labels"] for point in points]
        low, high = zip(*(point["accuracy_interval"] for point in points), strict=True)
        accuracies = [point["accuracy"] for point in points]
        axes.plot(labels, accuracies, f"{mark}-", color=colour, markersize=4, label=say(titles[arm]))
        axes.fill_between(labels, low, high, color=colour, alpha=0.15, linewidth=0)
        if len(points) == 1:
            axes.vlines(labels, low, high, color=colour, alpha=0.4)
        single = [
            (point["labels"], each) for point in points if point["varies"] for each in point["accuracies"]
        ]
        if single:
            axes.plot(*zip(*single, strict=True), ".", color=colour, markersize=3, alpha=0.4)
    ticks = sorted({point["labels"] for points in arms.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(say(text("labels_on_the_axis")))
    axes.set_ylabel(say(texts("metrics")["accuracy"]))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)  # clear of all lines
    figure.supxlabel(say(note), fontsize=8, color=GREY)
    return figure


def draw_accuracies(
    say: Say, titles: dict[str, Text | str], arms: dict[str, list[dict[str, Any]]], note: Text
) -> Figure:
    """Accuracy of arms that have one number of labels: below each other, with band and single draws.

    `arms`, `note`: as of `draw_learning_curves`.
    """
    figure = Figure(figsize=(7.2, 1.4 + 0.32 * len(arms)), layout="constrained")
    axes = figure.subplots()
    for at, points in enumerate(arms.values()):
        point = points[-1]  # of a number that is all rows, and `all`, the latter
        axes.hlines(at, *point["accuracy_interval"], color=BLUE, alpha=0.2, linewidth=10)
        if point["varies"]:
            axes.plot(point["accuracies"], [at] * len(point["accuracies"]), ".", color=BLUE, alpha=0.5)
        axes.plot(point["accuracy"], at, "D", color=ORANGE, markersize=5)
    axes.set_yticks(range(len(arms)), [say(titles[arm]) for arm in arms])
    axes.invert_yaxis()  # the first arm is on top, as in the tables
    axes.set_xlabel(say(text("accuracy_with_labels", labels=f"{point['labels']:,}")))
    axes.grid(axis="x", alpha=0.25)
    figure.supxlabel(say(note), fontsize=8, color=GREY)
    return figure
