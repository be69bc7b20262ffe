"""What a report is made of, free of any form: sections of paragraphs, tables, pictures and commands.

A str is the same in both languages: data, names, figures.  render.py makes HTML and Markdown of the blocks,
so both say the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from workflows.core.texts import Text


@dataclass(frozen=True)
class Paragraph:
    """Running text; `strong` for the sentence that matters."""

    text: Text | str
    strong: bool = False


@dataclass(frozen=True)
class Grid:
    """A table; `texts` are the columns that hold running text, set to the left and wrapped."""

    headings: Sequence[Text | str]
    rows: Sequence[Sequence[Text | str]]
    texts: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Picture:
    """A figure of figures/, by its name without language and ending."""

    name: str
    caption: Text


@dataclass(frozen=True)
class Command:
    """Something to copy into a terminal."""

    text: str


@dataclass(frozen=True)
class Links:
    """A list of files beside the page: what each is called, and its path from there."""

    items: Sequence[tuple[Text | str, str]]


Block = Paragraph | Grid | Picture | Command | Links


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `folded` sections open on a click."""

    title: Text
    blocks: Sequence[Block]
    folded: bool = False


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str
    subtitle: Text | str
    sections: list[Section]
