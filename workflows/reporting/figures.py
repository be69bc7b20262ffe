"""The figures of a report, each in English and Chinese, as SVG and PNG.

SVG keeps text as text, so whoever opens it shows it in a font of theirs.  PNG needs the glyphs here: where no
installed font has Chinese ones, only the English PNG is drawn, and label names that cannot be drawn are
written as `label 0`, `label 1`.
"""

import logging
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

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

Words = Callable[[Text], str]  # picks the language
Labels = Callable[[str], str]  # a label's name as it can be drawn
Draw = Callable[[Words, Labels], Figure]


def save_figure(folder: Path, name: str, draw: Draw, labels: list[str]) -> list[Path]:
    """Write <name>.<language>.svg and .png into `folder`; return the paths.

    `draw` makes the figure, given a choice of words and of label names; `labels` are the names in it.
    """
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of each absent font
    folder.mkdir(parents=True, exist_ok=True)
    fonts = [*installed_chinese_fonts(), "DejaVu Sans"]
    written: list[Path] = []
    style: dict[str, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": False,
        "text.parse_math": False,  # a $ in a label is a $
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # the same figure gives the same bytes
    }
    drawable = {label: label if can_draw(label, fonts) else f"label {i}" for i, label in enumerate(labels)}

    def label_here(label: str) -> str:
        return drawable.get(label, label)

    for language in LANGUAGES:
        words = partial(in_language, language=language)
        with matplotlib.rc_context({**style, "font.family": [*CHINESE_FONTS, "DejaVu Sans", "sans-serif"]}):
            path = folder / f"{name}.{language}.svg"
            with warnings.catch_warnings():  # of glyphs that this machine lacks: the reader's has them
                warnings.filterwarnings("ignore", "Glyph .* missing")
                draw(words, str).savefig(path, metadata={"Date": None})
            svg = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r"font-family: [^;\"]+", "font-family: sans-serif", svg), encoding="utf-8")
            written.append(path)
        if language == "zh" and len(fonts) == 1:
            continue
        with matplotlib.rc_context({**style, "font.family": fonts}):
            path = folder / f"{name}.{language}.png"
            draw(words, label_here).savefig(path, dpi=PNG_DPI)
            written.append(path)
    return written


def installed_chinese_fonts() -> list[str]:
    """Of CHINESE_FONTS those that matplotlib can draw with here."""
    known = {font.name for font in fontManager.ttflist}
    return [name for name in CHINESE_FONTS if name in known]


def can_draw(name: str, fonts: list[str]) -> bool:
    """Whether the installed `fonts` have a glyph for each character of `name`."""
    faces = [FT2Font(findfont(FontProperties(family=font))) for font in fonts]
    return all(any(face.get_char_index(ord(letter)) for face in faces) for letter in name)


def draw_curves(history: list[dict[str, Any]], kept_step: int) -> Draw:
    """Training and validation loss, and the task's figures on validation, over the steps."""

    def series(key: str) -> tuple[list[int], list[float]]:
        points = {entry["step"]: entry[key] for entry in history if key in entry}
        return list(points), list(points.values())

    def draw(words: Words, labels: Labels) -> Figure:
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        splits, metrics = texts("splits"), texts("metrics")
        left.plot(*series("loss"), color=BLUE, label=words(splits["train"]))
        left.plot(*series("eval_loss"), "o-", color=ORANGE, label=words(splits["val"]))
        left.set_title(words(text("loss")))
        for name, colour, mark in zip(EVALUATED, COLOURS, ("s-", "o--", "s-", "o--"), strict=False):
            if series(f"eval_{name}")[0]:
                right.plot(*series(f"eval_{name}"), mark, color=colour, label=words(metrics[name]))
        right.set_title(words(text("on_validation")))
        for axes in (left, right):
            axes.axvline(kept_step, color=GREY, linewidth=0.8, linestyle=":")
            axes.set_xlabel(words(text("step_and_checkpoint_kept")))
            axes.grid(alpha=0.25)
            axes.legend(frameon=False)
        return figure

    return draw


def draw_losses_of_runs(runs: dict[str, list[dict[str, Any]]]) -> Draw:
    """Validation and training loss of several runs over the share of their training."""

    def draw(words: Words, labels: Labels) -> Figure:
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        panels = figure.subplots(1, 2)
        keys = {"loss": text("training_loss"), "eval_loss": text("validation_loss")}
        for axes, (key, title) in zip(panels, keys.items(), strict=True):
            for colour, (name, history) in zip(COLOURS * len(runs), runs.items(), strict=False):
                points = {entry["step"]: entry[key] for entry in history if key in entry}
                if points:
                    last = max(entry["step"] for entry in history)
                    axes.plot([step / last for step in points], points.values(), color=colour, label=name)
            axes.set_title(words(title))
            axes.set_xlabel(words(text("share_of_the_training")))
            axes.grid(alpha=0.25)
        if runs:
            handles, names = panels[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=1)
        return figure

    return draw


def draw_confusions(systems: dict[str, Text], scores: dict[str, Any]) -> Draw:
    """Gold (rows) against predicted (columns) of each system; shaded by the share of the gold label's
    rows.
    """

    def draw(words: Words, labels: Labels) -> Figure:
        size = len(scores[next(iter(systems))]["confusion"]["gold"])
        side = max(2.6, 0.55 * size + 1.2)
        columns = min(len(systems), 2 if size > 4 else 4)
        lines = -(-len(systems) // columns)
        figure = Figure(figsize=(side * columns, side * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).flat
        for axes, (system, title) in zip(panels, systems.items(), strict=False):
            _draw_confusion(axes, scores[system]["confusion"], words, labels)
            axes.set_title(words(title), fontsize=10)
        for axes in list(figure.axes)[len(systems) :]:
            axes.remove()
        return figure

    return draw


def _draw_confusion(axes: Axes, confusion: dict[str, Any], words: Words, labels: Labels) -> None:
    counts = confusion["counts"]
    unread = any(row[-1] for row in counts)
    shown = [row if unread else row[:-1] for row in counts]
    shares = [[cell / max(1, sum(row)) for cell in row] for row in counts]
    axes.imshow([row[: len(shown[0])] for row in shares], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(shown):
        for x, cell in enumerate(row):
            axes.text(
                x, y, f"{cell:,}", ha="center", va="center", color="white" if shares[y][x] > 0.5 else "black"
            )
    names = [labels(name) for name in confusion["gold"]]
    columns = names + [words(text("unreadable"))] * unread
    turned = 90 if len(columns) > 4 else 0 if len(columns) < 3 else 30
    axes.set_xticks(range(len(columns)), columns, rotation=turned, fontsize=8)
    axes.set_yticks(range(len(names)), names, rotation=90 if len(names) < 4 else 0, va="center", fontsize=8)
    axes.set_xlabel(words(text("predicted")), fontsize=8)
    axes.set_ylabel(words(text("gold_label")), fontsize=8)
    axes.spines[:].set_visible(False)


def draw_reliability(systems: dict[str, Text], scores: dict[str, Any]) -> Draw:
    """How often a system is right, by how sure it is, with 95 % intervals; bars: the share of rows there."""

    def draw(words: Words, labels: Labels) -> Figure:
        figure = Figure(figsize=(2.9 * len(systems), 3.2), layout="constrained")
        panels = figure.subplots(1, len(systems), squeeze=False, sharey=True).flat
        for axes, (system, title) in zip(panels, systems.items(), strict=True):
            bins = scores[system]["probabilities"]["reliability"]
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
            axes.set_title(words(title), fontsize=10)
            axes.set_xlabel(words(text("probability_of_its_label")), fontsize=8)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
        figure.axes[0].set_ylabel(words(text("share_right")), fontsize=8)
        return figure

    return draw


def draw_lengths(characters: dict[str, list[int]], tokens: dict[str, Any] | None) -> Draw:
    """Histograms of the splits' lengths, in characters and (where counted) in tokens, as shares of the
    rows.
    """

    def draw(words: Words, labels: Labels) -> Figure:
        names = texts("splits")
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        longest = max(max(lengths) for lengths in characters.values())
        for colour, (split, lengths) in zip(COLOURS, characters.items(), strict=False):
            weights = [1 / len(lengths)] * len(lengths)
            left.hist(
                lengths,
                bins=30,
                range=(0, longest),
                weights=weights,
                histtype="step",
                color=colour,
                label=words(names[split]),
            )
        left.set_xlabel(words(text("characters_of_a_review")))
        left.set_ylabel(words(text("share_of_rows")))
        left.legend(frameon=False)
        if tokens is None:
            right.remove()
            return figure
        edges = tokens["histogram_edges"]
        for colour, (split, figures) in zip(COLOURS, tokens["splits"].items(), strict=False):
            shares = [count / figures["rows"] for count in figures["histogram"]]
            right.stairs(shares, edges, color=colour, label=words(names[split]))
        limit = tokens["max_length"]
        if limit is not None and limit < edges[-1]:
            right.axvline(limit, color=GREY, linestyle=":", label=f"max_length {limit}")
            right.legend(frameon=False)
        right.set_xlabel(words(text("tokens_of_prompt_and_answer")))
        return figure

    return draw
