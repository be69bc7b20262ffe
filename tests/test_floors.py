"""The floor plan: modules import only from floors below their own, or from their own room."""

import ast
from collections.abc import Iterator

from workflows.experiment.cards import ROOT

FLOORS = (
    {"core"},
    {"experiment"},
    {"data", "model", "scoring", "baselines", "reporting"},
    {"inference", "tuning"},
    {"pipeline"},
    {"commands", "studies", "search", "serving"},
    {"command_line"},
)


def _imports() -> Iterator[tuple[str, str, str]]:
    """(file, its room, a room that it imports from), wherever in the file the import stands."""
    for path in sorted((ROOT / "workflows").rglob("*.py")):
        inside = path.relative_to(ROOT / "workflows")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workflows."):
                yield str(inside), inside.parts[0], str(node.module).split(".")[1]


def test_imports_run_downwards() -> None:
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    found = list(_imports())
    assert len(found) > 300
    upwards = [
        f"{file} imports from {other}"
        for file, room, other in found
        if room in floor_of and room != other and floor_of[other] >= floor_of[room]
    ]
    assert upwards == []


def test_nothing_lies_loose() -> None:
    loose = [path.name for path in (ROOT / "workflows").iterdir() if path.is_file()]
    assert loose == ["__init__.py"]
    rooms = {path.name for path in (ROOT / "workflows").iterdir() if path.is_dir()} - {"__pycache__"}
    assert rooms == {room for rooms in FLOORS for room in rooms} | {"tiny", "notebooks"}


def test_no_file_is_longer_than_can_be_read() -> None:
    long = [
        path.name for path in (ROOT / "workflows").rglob("*.py") if path.read_text("utf-8").count("\n") > 400
    ]
    assert long == []
