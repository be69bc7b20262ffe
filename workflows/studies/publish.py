"""Makes the pages of docs/results/ and the tables of figures in both READMEs of the JSON files there.

python -m workflows.studies.publish [STUDY.JSON ...]

A study.json that is named is taken into docs/results/ first.  measurements.json, there, holds what no study
measured: each entry with its device, versions and command.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from workflows.core.files import open_whole, read_json, write_json
from workflows.core.texts import LANGUAGES, Text, in_language, text, texts, with_interval
from workflows.experiment.cards import ROOT
from workflows.reporting.render import render_markdown
from workflows.studies.answers import listed, points_to_show
from workflows.studies.page import build_page, how_many_draws

RESULTS = ROOT / "docs" / "results"
MEASUREMENTS = "measurements"
SHOWN = ("dataset", "set")  # options that a README names where a study has one panel
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README_zh.md"}
TABLE = re.compile(r"(?<=<!-- results -->\n)(.*?)(?=<!-- /results -->)", re.DOTALL)


def published() -> list[dict[str, Any]]:
    """The studies of docs/results/, by name."""
    return [read_json(path) for path in sorted(RESULTS.glob("*.json")) if path.stem != MEASUREMENTS]


def pages_of(found: dict[str, Any], figures: Path) -> dict[Path, str]:
    """The Markdown pages of a published study, and where each stands; its figures are drawn into `figures`.

    A page shows the figures that are published, whatever can be drawn on this machine.
    """
    page = build_page(found, figures, linked=False)
    folder = RESULTS / found["study"]
    return {
        folder / f"{language}.md": render_markdown(page, folder / "figures", language)
        for language in LANGUAGES
    }


def readme_table(language: str) -> str:
    """A README's table of figures: of measurements.json, then of the studies."""
    rows: list[list[Text | str]] = [[*texts("columns_of_a_readme").values()], ["---"] * 3]
    for each in read_json(RESULTS / f"{MEASUREMENTS}.json"):
        filled = {name: each["result"][name].format(**each["figures"]) for name in LANGUAGES}
        rows.append([Text(**each["what"]), Text(**each["n"]), Text(**filled)])
    for found in published():
        for panel in found["panels"]:
            if panel["arms"]:
                rows.append(_row(found, panel, language))
    lines = ["| " + " | ".join(in_language(cell, language) for cell in row) + " |" for row in rows]
    return "\n" + "\n".join(lines) + "\n\n"  # a comment beside a table must stand apart from it


def _row(found: dict[str, Any], panel: dict[str, Any], language: str) -> list[Text | str]:
    """A study's panel as a row: each arm at the size that the most arms have, the largest of them."""
    where = listed(panel["grid"] or {name: of for name, of in found["options"].items() if name in SHOWN})
    link = f"[{found['study']}](docs/results/{found['study']}/{language}.md)"
    shown, results = points_to_show(panel), []
    for arm, point in shown.items():
        title = found["titles"][arm]
        said = title if isinstance(title, str) else in_language(Text(**title), language)
        results.append(f"{said} {with_interval(point['accuracy'], point['accuracy_interval'])}")
    (labels,) = {point["labels"] for point in shown.values()}
    draws = how_many_draws(list(shown.values()))
    n = text("n_of_a_study", rows=panel["test_rows"], labels=labels, draws=draws)
    return [f"{link} {where}".strip(), n, ("；" if language == "zh" else "; ").join(results)]


def publish(studies: list[Path]) -> None:
    """Take the study.json files `studies` into docs/results/, and make all pages and tables anew."""
    for path in studies:
        found = read_json(path)
        write_json(RESULTS / f"{found['study']}.json", found | {"folders": {}})
    for found in published():
        figures = RESULTS / found["study"] / "figures"
        shutil.rmtree(figures, ignore_errors=True)  # with what may not be drawn anew here
        for path, page in pages_of(found, figures).items():
            _write(path, page)
    for language, readme in READMES.items():
        before, _, after = re.split(TABLE, readme.read_text(encoding="utf-8"))
        _write(readme, before + readme_table(language) + after)


def _write(path: Path, content: str) -> None:
    with open_whole(path) as file:
        file.write(content)


if __name__ == "__main__":
    publish([Path(name) for name in sys.argv[1:]])
