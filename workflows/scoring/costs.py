"""What each system's answers took: seconds of each part, from the stages that made them."""

from typing import Any

from workflows.core.run_folder import RunFolder, finished_stages

PARTS = ("features", "fitting", "tuning", "answering")


def costs_of(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Seconds by part of each system, where they are known; `resumed`: whether a part was taken up again, so
    that it took longer than that.
    """
    costs: dict[str, dict[str, Any]] = {}
    for record in finished_stages(run).values():
        for system, parts in record.get("systems", {}).items():
            known = costs.setdefault(system, {"resumed": False})
            costs[system] = {**known, **parts, "resumed": known["resumed"] or parts.get("resumed", False)}
    return costs


def total(cost: dict[str, Any]) -> float:
    """All seconds of a system."""
    return sum(cost.get(part, 0.0) for part in PARTS)
