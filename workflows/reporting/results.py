"""The tables of systems and of pairs of systems, and how to read them, by the data set's task."""

from collections.abc import Mapping
from typing import Any

from workflows.core.texts import Text, number, p_value, text, texts, with_interval, with_signed_interval
from workflows.reporting.blocks import Block, Grid, Paragraph


def systems_blocks(scores: dict[str, Any], titles: Mapping[str, Text]) -> list[Block]:
    """The table of systems and how to read it; `scores` as in scores.json."""
    note = text(
        "rows_intervals_and_reading",
        count=scores["test_rows"],
        outputs=Text(**scores["reading"]),
        scores=texts("how_scores_are_read")[scores["task"]],
    )
    return [systems_grid(scores["systems"], titles), Paragraph(note)]


def systems_grid(systems: dict[str, Any], titles: Mapping[str, Text | str]) -> Grid:
    """The table of systems, each figure with its interval; `systems` as in scores.json."""
    first = next(iter(systems.values()))
    metrics = {name: title for name, title in texts("metrics").items() if f"{name}_interval" in first}
    more: tuple[Text | str, ...] = ()
    if "probabilities" in first:
        more = ("AUROC", "Brier", "ECE", text("strict_accuracy"), text("unreadable"))
    rows: list[tuple[Text | str, ...]] = [
        (
            titles[system],
            *(with_interval(figures[name], figures[f"{name}_interval"]) for name in metrics),
            *(_probabilities_and_outputs(figures) if more else ()),
        )
        for system, figures in systems.items()
    ]
    return Grid((text("system"), *metrics.values(), *more), rows)


def _probabilities_and_outputs(figures: dict[str, Any]) -> tuple[str, ...]:
    probabilities = figures["probabilities"]
    per_label = list(probabilities["per_label"].values())
    # Of two labels each has the AUROC of the other; of more, the table has their mean alone.
    two = len(figures["confusion"]["gold"]) == 2
    interval = per_label[0]["auroc_interval"] if two and per_label else None
    writes = figures["strict_accuracy"] is not None
    return (
        with_interval(probabilities["auroc"], interval),
        with_interval(probabilities["brier"], probabilities["brier_interval"]),
        number(probabilities["ece"]),
        number(figures["strict_accuracy"]),
        f"{figures['unparsed']:,}" if writes else "–",
    )


def pairs_blocks(pairs: list[dict[str, Any]], titles: Mapping[str, Text | str]) -> list[Block]:
    """The table of pairwise tests, and what the figures in it are; `pairs` as in scores.json."""
    numbers = bool(pairs) and "mae_difference" in pairs[0]
    rows: list[tuple[Text | str, ...]] = [
        (
            text("b_minus_a", b=titles[pair["b"]], a=titles[pair["a"]]),
            with_signed_interval(pair["mae_difference" if numbers else "accuracy_difference"], pair["ci95"]),
            f"{pair['b_closer']:,} : {pair['a_closer']:,}"
            if numbers
            else f"{pair['only_b_right']:,} : {pair['only_a_right']:,}",
            p_value(pair["holm_p"]).removeprefix("= "),
            *(() if numbers else (number(pair["rows_to_tell"], 0),)),
        )
        for pair in pairs
    ]
    headings = (
        text("pair"),
        text("difference_in_mae" if numbers else "difference_in_accuracy"),
        text("rows_closer_to_gold" if numbers else "rows_only_one_got_right"),
        "p (Holm)",
        *(() if numbers else (text("rows_that_would_tell"),)),
    )
    note = text("tests_of_errors" if numbers else "tests_of_right_and_wrong")
    return [Grid(headings, rows), Paragraph(note)]
