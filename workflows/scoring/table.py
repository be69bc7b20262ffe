"""The scores as tables for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from workflows.core.costs import Costs, cost_cells, cost_of_the_cheapest, rows_left_out
from workflows.core.screen import as_text
from workflows.core.texts import Text, in_both_languages, number, one_after_another, text, texts


def render_scores(scores: dict[str, Any], costs: Costs) -> str:
    """The table of systems, what each took, the per-class table of the last one, and what must be known to
    read them.
    """
    rows, systems = scores["test_rows"], scores["systems"]
    titles = {system: in_both_languages(said) for system, said in texts("systems").items()}
    data, empty = scores["experiment"], scores["missing"]
    on = f", tested on {data['test_dataset']}" if "test_dataset" in data else ""
    title = f"{data['dataset']}{on}: {rows:,} test rows"
    tables = [_overview(title, systems, titles, rows, list(empty))]
    if costs:
        headings: list[Text | str] = [text("system"), *texts("cost_parts").values()]
        lines = [[titles[system], *cost_cells(cost)] for system, cost in costs.items()]
        tables.append(_table(in_both_languages(text("seconds_of_each_system")), headings, lines))
    last = list(systems)[-1]
    if "per_class" in systems[last]:
        tables.append(_per_label(titles[last], systems[last]))
    notes = [f"{said['en']}  {said['zh']}" for said in scores.get("unusual", [])]
    notes += [f"{titles[system]}: {why['en']}  {why['zh']}" for system, why in empty.items()]
    notes += [f"{said.en}  {said.zh}" for said in rows_left_out(scores)]
    said = [Text(**scores["verdict"]), *cost_of_the_cheapest(scores["cheapest"], costs)]
    notes += [each for each in vars(one_after_another(said)).values() if each]
    reading = [Text(**scores["reading"]), texts("intervals_and_tests")[scores["task"]]]
    notes += vars(one_after_another(reading)).values()
    if scores["experiment"]["model"] == "tiny":
        stand_in = text("tiny_on_the_screen")
        notes.append(f"{stand_in.en}  {stand_in.zh}")
    return "\n".join([as_text(*tables), *notes])


def render_comparison(comparison: dict[str, Any]) -> str:
    """The table of a comparison of runs, and what may be concluded."""
    rows, systems = comparison["test_rows"], comparison["systems"]
    named = {key: key.rpartition("/") for key in systems}  # a run that is named by its path has slashes
    titles = {key: f"{run}\n  {texts('systems')[system].en}" for key, (run, _, system) in named.items()}
    overview = as_text(_overview(f"{rows:,} test rows, the same for all", systems, titles, rows))
    return "\n".join([overview, comparison["verdict"]["en"], comparison["verdict"]["zh"]])


def render_selection(selection: dict[str, Any]) -> str:
    """The table of a selection of base models, and what may be concluded."""
    models, cases = selection["models"], selection["cases"]
    overview = _overview(f"{selection['dataset']}: {cases:,} cases", models, {n: n for n in models}, cases)
    seconds, memory = text("seconds_a_row_on_the_screen"), text("peak_memory")
    costs = []
    for name, figures in models.items():
        each = figures["cost"]
        peak = f"{max(each['peak_memory_bytes'].values()) / 2**30:.2f} GiB"
        numbers = f"{each['seconds_a_row']:.3f}", f"{each['parameters']:,}", peak
        costs.append([name, figures["prompt"], *numbers, each["torch_dtype"]])
    cost = _table(None, [text("model"), "prompt", seconds, text("parameters"), memory, "dtype"], costs)
    return "\n".join([as_text(overview, cost), selection["verdict"]["en"], selection["verdict"]["zh"]])


def _table(title: str | None, headings: list[Text | str], rows: list[list[str]]) -> Table:
    """A table of names, to the left, and figures."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    first, *others = map(in_both_languages, headings)
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _overview(
    title: str, systems: dict[str, Any], titles: dict[str, str], rows: int, empty: Sequence[str] = ()
) -> Table:
    """Each figure that the systems have, beside its interval; those in `empty` have none."""
    first = next(iter(systems.values()))
    metrics = {name: said for name, said in texts("metrics").items() if f"{name}_interval" in first}
    headings: list[Text | str] = [text("system")]
    for metric in metrics.values():
        headings += [metric, "95 % interval"]
    if "strict_accuracy" in first:
        headings += ["strict acc.", "unreadable"]
    lines = []
    for system, figures in systems.items():
        line = [titles[system]]
        for name in metrics:
            bounds = figures[f"{name}_interval"]
            line += [number(figures[name]), "–" if bounds is None else f"{bounds[0]:.3f} – {bounds[1]:.3f}"]
        if "strict_accuracy" in first:
            strict, unread = figures["strict_accuracy"], figures["unparsed"]
            line += [number(strict), "–" if strict is None else f"{unread} ({unread / rows:.1%})"]
        lines.append(line)
    lines += [[titles[system], *["–"] * (len(headings) - 1)] for system in empty]
    return _table(title, headings, lines)


def _per_label(title: str, figures: dict[str, Any]) -> Table:
    """Precision, recall and F1 of each label; where a row has one label, what was predicted for it too."""
    confusion = figures.get("confusion")
    what = ", and gold (rows) against predicted (columns)" if confusion else ""
    headings: list[Text | str] = [text("gold_label"), "rows", "precision", "recall", "F1"]
    headings += [f"→ {name}" for name in confusion["predicted"]] if confusion else []
    rows = []
    for index, (name, each) in enumerate(figures["per_class"].items()):
        counts = map(str, confusion["counts"][index]) if confusion else ()
        shares = (number(each[key]) for key in ("precision", "recall", "f1"))
        rows.append([name, str(each["rows"]), *shares, *counts])
    return _table(f"{title}: per class{what}", headings, rows)
