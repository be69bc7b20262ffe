"""What makes a run no ordinary one; said wherever its figures are, so that nobody takes it for one."""

from collections.abc import Iterator
from typing import Any

from workflows.core.texts import Text, text


def say_unusual(manifest: dict[str, Any]) -> Iterator[Text]:
    """That test rows are another data set's, and that labels were made wrong, by a run's manifest."""
    if (tested := manifest.get("tested")) is not None:
        yield text(
            "tested_on_another",
            dataset=manifest.get("data_title", manifest["dataset"]),
            name=tested["dataset"],
            rows=manifest["splits"]["test"]["rows"],
            read=tested["rows"]["read"],
            kept=tested["rows"]["kept"],
            own=tested["own_test_rows"],
        )
    if (flipped := manifest.get("flipped")) is not None:
        rows = {f"{name}_rows": manifest["splits"][name]["rows"] for name in flipped}
        yield text("labels_flipped", **flipped, **rows)


def say_unread(systems: dict[str, Any], rows: int) -> Iterator[Text]:
    """That most outputs of the tuned model name no label, which its accuracy alone does not say; `systems`:
    as scores.json has them, `rows`: the test rows.
    """
    unread = systems.get("tuned", {}).get("unparsed", 0)
    if unread > rows / 2:
        yield text("tuned_names_no_label", unread=unread, rows=rows)
