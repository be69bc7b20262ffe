"""What can be named: data sets, models, methods, prompts, with a line on each."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from workflows.core.screen import as_text
from workflows.data.sources import at_hand
from workflows.experiment.cards import (
    DATASETS,
    METHODS,
    MODELS,
    PROMPTS,
    load_dataset_card,
    names_of,
    read_yaml,
)


def render_list(kind: str, data_dir: str | None) -> str:
    """The table of one kind, as text."""
    table = Table(box=SIMPLE_HEAD)
    if kind == "datasets":
        for heading in ("name", "title", "labels", "sources", "at hand"):
            table.add_column(heading, overflow="fold")
        for name in names_of(DATASETS):
            card = load_dataset_card(name)
            labels = ", ".join(f"{label.name} {label.words}" for label in card.labels) or "a number"
            labels = f"several of {labels}" if card.task == "multi_label" else labels
            here = at_hand(card, data_dir)
            local = "shipped with the project" if here == "embedded" else "a local file"
            sources = [source.place for source in card.sources] or [local]
            table.add_row(name, card.title, labels, "\n".join(sources), f"yes: {here}" if here else "no")
    else:
        folder = {"models": MODELS, "methods": METHODS, "prompts": PROMPTS}[kind]
        table.add_column("name")
        if kind == "models":
            table.add_column("hub id or folder")
        table.add_column("what it is")
        for name in names_of(folder):
            path = folder / f"{name}.yaml"
            model = [read_yaml(path)["model"]] if kind == "models" else []
            table.add_row(name, *model, first_comment(path))
    return as_text(table)


def first_comment(path: Path) -> str:
    """The first line of a card, which says what it is."""
    with open(path, encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()
