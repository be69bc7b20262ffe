"""The tables of systems and of pairs of systems."""

from collections.abc import Mapping
from typing import Any

from workflows.core.costs import Costs, cost_cells
from workflows.core.texts import Text, number, p_value, text, texts, with_interval
from workflows.reporting.blocks import Block, Grid, Paragraph


def systems_grid(
    systems: dict[str, Any], titles: Mapping[str, Text | str], missing: Mapping[str, Any] | None = None
) -> Grid:
    """The table of systems, each figure with its interval; `systems` and `missing` as in scores.json."""
    first = next(iter(systems.values()))
    metrics = {name: title for name, title in texts("metrics").items() if f"{name}_interval" in first}
    headings: list[Text | str] = [text("system"), *metrics.values()]
    if "probabilities" in first:
        headings += ["AUROC", "Brier", "ECE", text("strict_accuracy"), text("unreadable")]
    rows: list[list[Text | str]] = []
    for system, figures in systems.items():
        cells = [with_interval(figures[name], figures[f"{name}_interval"]) for name in metrics]
        if "probabilities" in figures:
            probabilities, strict = figures["probabilities"], figures["strict_accuracy"]
            labels = list(probabilities["per_label"].values())
            # Of two labels each has the AUROC of the other; of more, the table has their mean alone.
            interval = labels[0]["auroc_interval"] if len(figures["per_class"]) == 2 and labels else None
            by_chance = probabilities.get("ece_if_calibrated")  # not in scores of an older version
            cells += [
                with_interval(probabilities["auroc"], interval),
                with_interval(probabilities["brier"], probabilities["brier_interval"]),
                number(probabilities["ece"]) + ("" if by_chance is None else f" (≤ {number(by_chance)})"),
                number(strict),
                "–" if strict is None else f"{figures['unparsed']:,}",
            ]
        rows.append([titles[system], *cells])
    for system in missing or {}:
        rows.append([titles[system], *["–"] * (len(headings) - 1)])
    return Grid(headings, rows)


def costs_grid(costs: Costs, titles: Mapping[str, Text]) -> Grid:
    """What the answers of each system took, in seconds."""
    rows: list[list[Text | str]] = [[titles[system], *cost_cells(cost)] for system, cost in costs.items()]
    return Grid([text("system"), *texts("cost_parts").values()], rows)


def pairs_blocks(pairs: list[dict[str, Any]], titles: Mapping[str, Text | str]) -> list[Block]:
    """The table of pairwise tests, and what the figures in it are; `pairs` as in scores.json."""
    numbers = bool(pairs) and "mae_difference" in pairs[0]
    difference, a, b = (
        ("mae_difference", "a_closer", "b_closer")
        if numbers
        else ("accuracy_difference", "only_a_right", "only_b_right")
    )
    headings: list[Text | str] = [
        text("pair"),
        text("difference_in_mae" if numbers else "difference_in_accuracy"),
        text("rows_closer_to_gold" if numbers else "rows_only_one_got_right"),
        "p (Holm)",
    ]
    if not numbers:
        headings.append(text("rows_that_would_tell"))
    rows: list[list[Text | str]] = []
    for pair in pairs:
        interval = "" if pair["ci95"] is None else " ({:+.3f} … {:+.3f})".format(*pair["ci95"])
        cells = [
            f"{pair[difference]:+.3f}{interval}",
            f"{pair[b]:,} : {pair[a]:,}",
            p_value(pair["holm_p"]).removeprefix("= "),
        ]
        if not numbers:
            cells.append(number(pair["rows_to_tell"], 0))
        rows.append([text("b_minus_a", b=titles[pair["b"]], a=titles[pair["a"]]), *cells])
    note = text("tests_of_errors" if numbers else "tests_of_right_and_wrong")
    return [Grid(headings, rows), Paragraph(note)]
