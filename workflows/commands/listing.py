"""What can be named: data sets, models, methods, prompts, studies, with a line on each."""

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from workflows.core.screen import as_text
from workflows.data.sources import at_hand
from workflows.experiment.cards import (
    DATASETS,
    METHODS,
    MODELS,
    PROMPTS,
    STUDIES,
    load_dataset_card,
    names_of,
)


def render_list(kind: str, data_dir: str | None) -> str:
    """The table of one kind (datasets, models, methods, prompts or studies), as text."""
    if kind == "datasets":
        headings = ["name", "title", "labels", "sources", "at hand"]
        rows = [[name, *_describe_dataset(name, data_dir)] for name in names_of(DATASETS)]
    else:
        folders = {"models": MODELS, "methods": METHODS, "prompts": PROMPTS, "studies": STUDIES}
        folder = folders[kind]
        headings, rows = ["name", "what it is"], []
        for name in names_of(folder):
            with open(folder / f"{name}.yaml", encoding="utf-8") as file:
                rows.append([name, file.readline().lstrip("# ").strip()])
    table = Table(*(Column(heading, overflow="fold") for heading in headings), box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    return as_text(table)


def _describe_dataset(name: str, data_dir: str | None) -> list[str]:
    """Title, labels, where its files come from, and whether they are here."""
    card = load_dataset_card(name)
    labels = ", ".join(f"{label.name} {label.words}" for label in card.labels) or "a number"
    labels = f"several of {labels}" if card.task == "multi_label" else labels
    here = at_hand(card, data_dir)
    local = "shipped with the project" if here == "embedded" else "a local file"
    sources = "\n".join(source.place for source in card.sources) or local
    return [card.title, labels, sources, f"yes: {here}" if here else "no"]
