"""What each system's answers took: seconds of each part, from the stages that made them."""

from typing import Any

from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.texts import Text, one_after_another, text, texts

FITTED = ("zero_shot_threshold", "probe")  # without tuning
Costs = dict[str, dict[str, Any]]  # by system: seconds by part, and `resumed`


def costs_of(run: RunFolder) -> Costs:
    """Seconds by part of each system, where they are known; `resumed`: whether a part was taken up again, so
    that it took longer than that.
    """
    costs: Costs = {}
    for record in finished_stages(run).values():
        for system, parts in record.get("systems", {}).items():
            before = costs.get(system, {"resumed": False})
            resumed = before["resumed"] or parts.get("resumed", False)
            added = {part: before.get(part, 0.0) + parts[part] for part in parts if part != "resumed"}
            costs[system] = {**before, **added, "resumed": resumed}
    known = {system for system, parts in costs.items() if parts.keys() - {"resumed"}}
    return {system: costs[system] for system in texts("systems") if system in known}


def rows_left_out(scores: dict[str, Any]) -> list[Text]:
    """That what is fitted without tuning saw some labelled rows only, where that is so; as in scores.json."""
    rows, fitted = scores["fitted_to"], [name for name in FITTED if name in scores["systems"]]
    if rows is None or not fitted or rows["used"] == rows["labelled"]:
        return []
    systems = one_after_another([texts("systems")[name] for name in fitted], ", ", "、")
    return [text("fitted_to_some_rows", systems=systems, used=rows["used"], known=rows["labelled"])]


def cost_cells(cost: dict[str, Any]) -> list[str]:
    """A system's seconds, part by part, for a table; a dash where it has no such part."""
    at_least = "≥ " if cost["resumed"] else ""
    return [f"{at_least}{cost[part]:,.1f}" if part in cost else "–" for part in texts("cost_parts")]


def cost_of_the_cheapest(cheapest: str | None, costs: Costs) -> list[Text]:
    """How long the cheapest unbeaten system took beside the tuned one; nothing where that is not known, or
    where it is the tuned one.
    """
    known = [costs[name] for name in (cheapest, "tuned") if name in costs and not costs[name]["resumed"]]
    if cheapest == "tuned" or len(known) < 2:
        return []
    seconds, tuned = (sum(cost.get(part, 0.0) for part in texts("cost_parts")) for cost in known)
    times = tuned / max(seconds, 0.1)
    times = f"{times:,.0f}" if times >= 10 else f"{times:.1f}"
    return [text("cost_of_the_cheapest", seconds=f"{seconds:,.1f}", tuned=f"{tuned:,.1f}", times=times)]
