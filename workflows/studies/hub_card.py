"""The card of a study for a hub: its page, and before it the accuracy of each arm as a model-index."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from workflows.core.files import open_whole
from workflows.core.texts import LANGUAGES
from workflows.reporting.blocks import Block, Command, Report
from workflows.reporting.render import render_markdown
from workflows.studies.answers import Point, listed
from workflows.studies.records import without_folders

FILES = ["README.md", "figures/*.png"]  # what is pushed: study.json and the runs name places of this machine


def write_hub_card(
    found: dict[str, Any], page: Report, tested: Mapping[str, tuple[str, str]], folder: Path
) -> None:
    """Write README.md into `folder`, which has the page's figures.

    `found`: what study.json holds; `tested`: by a run's key, name and title of the data set of its test rows.
    """
    index: list[dict[str, Any]] = []
    for arm in found["titles"]:
        reads = arm not in found["once"]
        panels = [panel for panel in found["panels"] if arm in panel["arms"]]
        results = [_result(panel, panel["arms"][arm][-1], reads, tested) for panel in panels]
        if results:
            index += eval_results_to_model_index(f"{found['study']}: {arm}", results)
    tags = ["sentiment", "text-classification", "ms-swift"]
    # ModelCardData would take one model alone.
    front = CardData(language="zh", tags=tags, metrics=["accuracy"], **{"model-index": index}).to_yaml()
    sections = [
        replace(section, blocks=[_without_places(block) for block in section.blocks])
        for section in page.sections
        if not section.folded
    ]
    without_places = replace(page, sections=sections)
    pages = [render_markdown(without_places, folder / "figures", language) for language in LANGUAGES]
    with open_whole(folder / "README.md") as file:
        file.write("\n".join(["---", front, "---", "", *pages]))


def _without_places(block: Block) -> Block:
    """A block of the page; the command that repeats the study names its files as one sees them elsewhere."""
    if not isinstance(block, Command):
        return block
    return Command(shlex.join(without_folders(shlex.split(block.text))))


def _result(
    panel: dict[str, Any], point: Point, reads_labels: bool, tested: Mapping[str, tuple[str, str]]
) -> EvalResult:
    """The accuracy of an arm at one number of labels: the mean over its draws."""
    name, title = tested[point["runs"][0]]
    return EvalResult(
        task_type="text-classification",
        dataset_type=name,
        dataset_name=title,
        dataset_config=listed(panel["grid"]) or None,
        dataset_split="test",
        dataset_args={"rows": panel["test_rows"]},
        metric_type="accuracy",
        metric_name=f"accuracy with {point['labels']} labels" if reads_labels else "accuracy",
        metric_value=point["accuracy"],
        metric_args={"interval_95": point["accuracy_interval"], "draws": len(point["draws"])},
    )
