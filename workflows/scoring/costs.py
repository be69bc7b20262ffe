"""What each system's answers took: seconds of each part, from the stages that made them."""

from typing import Any

from workflows.core.run_folder import RunFolder, finished_stages
from workflows.core.texts import texts

Costs = dict[str, dict[str, Any]]  # by system: seconds by part, and `resumed`


def costs_of(run: RunFolder) -> Costs:
    """Seconds by part of each system, where they are known; `resumed`: whether a part was taken up again, so
    that it took longer than that.
    """
    costs: Costs = {}
    for record in finished_stages(run).values():
        for system, parts in record.get("systems", {}).items():
            before = costs.get(system, {"resumed": False})
            costs[system] = {**before, **parts, "resumed": before["resumed"] or parts.get("resumed", False)}
    known = {system for system, parts in costs.items() if parts.keys() - {"resumed"}}
    return {system: costs[system] for system in texts("systems") if system in known}


def cost_cells(cost: dict[str, Any]) -> list[str]:
    """A system's seconds, part by part, for a table; a dash where it has no such part."""
    at_least = "≥ " if cost["resumed"] else ""
    return [f"{at_least}{cost[part]:,.1f}" if part in cost else "–" for part in texts("cost_parts")]


def total(cost: dict[str, Any]) -> float:
    """All seconds of a system."""
    return sum(cost.get(part, 0.0) for part in texts("cost_parts"))
