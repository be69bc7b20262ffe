"""What is published: each page of docs/results/, and each table of a README, is that of its JSON."""

import re
from collections import Counter
from pathlib import Path

import pytest

from workflows.core.files import read_json
from workflows.core.texts import LANGUAGES
from workflows.experiment.cards import ROOT
from workflows.studies.publish import RESULTS, TABLE, pages_of, published, readme_table

STUDIES = {found["study"]: found for found in published()}


@pytest.mark.parametrize("name", STUDIES)
def test_pages_are_those_of_their_figures(name: str, tmp_path: Path) -> None:
    pages = pages_of(STUDIES[name], tmp_path / "figures")
    assert {path: path.read_text(encoding="utf-8") for path in pages} == pages
    shown, drawn = (
        {path.name: _words_of(path) for path in folder.glob("*.svg")}
        for folder in (RESULTS / name / "figures", tmp_path / "figures")
    )
    assert shown.keys() == drawn.keys() != set()
    for figure in drawn:  # in Chinese they depend on the fonts that are there
        assert shown[figure] == drawn[figure] or not figure.endswith(".en.svg"), figure


def _words_of(figure: Path) -> list[str]:
    """What is written in an SVG: arms, numbers of labels, draws and test rows."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", figure.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("readme", "language"), [("README.md", "en"), ("README_zh.md", "zh")])
def test_the_table_of_a_readme_is_that_of_the_files(readme: str, language: str) -> None:
    assert TABLE.findall((ROOT / readme).read_text(encoding="utf-8")) == [readme_table(language)]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_stands_in_the_readme_with_the_most_labels_that_most_systems_have(name: str) -> None:
    rows = [row for row in readme_table("en").splitlines() if f"[{name}]" in row]
    for row, panel in zip(rows, STUDIES[name]["panels"], strict=True):
        counts = Counter(point["labels"] for points in panel["arms"].values() for point in points)
        (labels,) = (int(each.replace(",", "")) for each in re.findall(r"\| ([\d,]+) labels;", row))
        assert max((count, labels) for labels, count in counts.items()) == (counts[labels], labels)
        there = [
            point["accuracy"]
            for points in panel["arms"].values()
            for point in points
            if point["labels"] == labels
        ]
        assert re.findall(r" (0\.\d{3}) \(", row) == [f"{each:.3f}" for each in there]


def test_each_measurement_says_on_what_it_was_made() -> None:
    for each in read_json(RESULTS / "measurements.json"):
        assert each["device"] and each["versions"]["torch"], each["what"]["en"]
        assert all(each[part].keys() == {*LANGUAGES} for part in ("what", "n", "result"))


@pytest.mark.parametrize("name", STUDIES)
def test_a_published_study_names_no_place_of_the_machine_that_made_it(name: str) -> None:
    found = STUDIES[name]
    assert found["folders"] == {}
    assert not any(word.startswith(("/", "~")) for word in found["command"].split())
    assert all(each is None or each["packages"]["torch"] for each in found["environments"].values())
