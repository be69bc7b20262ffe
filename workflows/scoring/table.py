"""The scores as tables for the terminal."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from workflows.core.screen import as_text
from workflows.core.texts import in_both_languages, number, text, texts
from workflows.experiment.cards import Task

INTERVALS_AND_TESTS: dict[Task, str] = {
    "single_label": "95 % intervals: Wilson for accuracy, BCa bootstrap for macro F1; "
    "p: exact McNemar, Holm-corrected.",
    "multi_label": "Accuracy: the whole set of labels is right. 95 % intervals: "
    "Wilson for accuracy, BCa bootstrap for F1; p: exact McNemar on whole sets, Holm-corrected.",
    "regression": "95 % intervals: BCa bootstrap; p: Wilcoxon's signed-rank test on absolute errors, "
    "Holm-corrected.",
}


def render_scores(scores: dict[str, Any]) -> str:
    """The table of systems, the per-class table of the last one, and what must be known to read them."""
    rows = scores["test_rows"]
    titles = {system: in_both_languages(texts("systems")[system]) for system in scores["systems"]}
    title = f"{scores['experiment']['dataset']}: {rows:,} test rows"
    overview = _overview(title, scores["systems"], titles, rows)
    last, figures = list(scores["systems"].items())[-1]
    detail = [_per_label(titles[last], figures)] if "per_class" in figures else []
    notes = [scores["verdict"][language] for language in ("en", "zh") if scores["verdict"][language]]
    notes.append(f"{scores['reading']['en']} {INTERVALS_AND_TESTS[scores['task']]}")
    if scores["experiment"]["model"] == "tiny":
        stand_in = text("tiny_on_the_screen")
        notes.append(f"{stand_in.en}  {stand_in.zh}")
    return "\n".join([as_text(overview, *detail), *notes])


def render_comparison(comparison: dict[str, Any]) -> str:
    """The table of a comparison of runs, and what may be concluded."""
    rows, systems = comparison["test_rows"], comparison["systems"]
    named = {key: key.rpartition("/") for key in systems}  # a run that is named by its path has slashes
    titles = {key: f"{run}\n  {texts('systems')[system].en}" for key, (run, _, system) in named.items()}
    overview = as_text(_overview(f"{rows:,} test rows, the same for all", systems, titles, rows))
    return "\n".join([overview, comparison["verdict"]["en"], comparison["verdict"]["zh"]])


def render_selection(selection: dict[str, Any]) -> str:
    """The table of a selection of base models, and what may be concluded."""
    models = selection["models"]
    overview = _overview(
        f"{selection['dataset']}: {selection['cases']:,} cases",
        models,
        {n: n for n in models},
        selection["cases"],
    )
    cost = Table(box=SIMPLE_HEAD)
    cost.add_column(in_both_languages(text("model")), overflow="fold")
    headings = text("seconds_a_row_on_the_screen"), text("parameters"), text("peak_memory")
    for heading in ("prompt", *map(in_both_languages, headings), "dtype"):
        cost.add_column(heading, justify="right")
    for name, figures in models.items():
        each = figures["cost"]
        memory = f"{max(each['peak_memory_bytes'].values()) / 2**30:.2f} GiB"
        numbers = f"{each['seconds_a_row']:.3f}", f"{each['parameters']:,}", memory
        cost.add_row(name, figures["prompt"], *numbers, each["torch_dtype"])
    return "\n".join([as_text(overview, cost), selection["verdict"]["en"], selection["verdict"]["zh"]])


def _overview(title: str, systems: dict[str, Any], titles: dict[str, str], rows: int) -> Table:
    """Each figure that the systems have, beside its interval."""
    first = next(iter(systems.values()))
    shown = [name for name in texts("metrics") if f"{name}_interval" in first]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(in_both_languages(text("system")), overflow="fold")
    for name in shown:
        table.add_column(in_both_languages(texts("metrics")[name]), justify="right")
        table.add_column("95 % interval", justify="right")
    writes = "strict_accuracy" in first
    for heading in ("strict acc.", "unreadable") if writes else ():
        table.add_column(heading, justify="right")
    for system, figures in systems.items():
        cells: list[str] = []
        for name in shown:
            cells += [number(figures[name]), _interval(figures[f"{name}_interval"])]
        if writes:
            strict, unread = figures["strict_accuracy"], figures["unparsed"]
            cells += [number(strict), "–" if strict is None else f"{unread} ({unread / rows:.1%})"]
        table.add_row(titles[system], *cells)
    return table


def _per_label(title: str, figures: dict[str, Any]) -> Table:
    """Precision, recall and F1 of each label; where a row has one label, what was predicted for it too."""
    confusion = figures.get("confusion")
    what = ", and gold (rows) against predicted (columns)" if confusion else ""
    table = Table(title=f"{title}: per class{what}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column(in_both_languages(text("gold_label")))
    predicted = confusion["predicted"] if confusion else []
    for heading in ("rows", "precision", "recall", "F1", *(f"→ {name}" for name in predicted)):
        table.add_column(heading, justify="right")
    for index, (name, per_class) in enumerate(figures["per_class"].items()):
        shares = (f"{per_class[key]:.3f}" for key in ("precision", "recall", "f1"))
        counts = map(str, confusion["counts"][index]) if confusion else []
        table.add_row(name, str(per_class["rows"]), *shares, *counts)
    return table


def _interval(bounds: list[float] | None) -> str:
    return "–" if bounds is None else f"{bounds[0]:.3f} – {bounds[1]:.3f}"
