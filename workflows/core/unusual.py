"""What makes a run no ordinary one; said wherever its figures are, so that nobody takes it for one."""

from collections.abc import Iterator
from typing import Any

from workflows.core.texts import Text, text


def say_unusual(manifest: dict[str, Any]) -> Iterator[Text]:
    """That test rows are another data set's, and that labels were made wrong, by a run's manifest."""
    if (tested := manifest.get("tested")) is not None:
        yield text(
            "tested_on_another",
            dataset=manifest["dataset"],
            name=tested["dataset"],
            rows=manifest["splits"]["test"]["rows"],
            read=tested["rows"]["read"],
            kept=tested["rows"]["kept"],
            own=tested["own_test_rows"],
        )
    if (flipped := manifest.get("flipped")) is not None:
        rows = {f"{name}_rows": manifest["splits"][name]["rows"] for name in flipped}
        yield text("labels_flipped", **flipped, **rows)
