"""A report as one HTML page that needs no network, and as Markdown to paste."""

import html
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from workflows.core.texts import LANGUAGES, in_language
from workflows.reporting.blocks import Block, Command, Grid, Paragraph, Picture, Report

PAGE = "page.html.jinja"
MARKS = re.compile(r"([\\`*_{}\[\]#|~$])")
LONGEST_CELL = 300  # characters of a review in a Markdown table


def render_page(report: Report, figures: Path, language: str) -> str:
    """The page, opening in `language`, with the SVG of `figures` in it; all texts are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    for kind in (Paragraph, Command, Picture):
        environment.tests[kind.__name__.lower()] = lambda block, kind=kind: isinstance(block, kind)
    pictures = {
        block.name: {lang: _inline_svg(figures / f"{block.name}.{lang}.svg") for lang in LANGUAGES}
        for section in report.sections
        for block in section.blocks
        if isinstance(block, Picture)
    }
    return environment.get_template(PAGE).render(report=report, language=language, pictures=pictures) + "\n"


def _inline_svg(path: Path) -> str:
    """An SVG file as it stands inside HTML, its ids made its own, so that figures do not share clip paths."""
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    prefix = path.name.replace(".", "-")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", svg)


def render_markdown(report: Report, figures: Path, language: str) -> str:
    """The same content in Markdown, in one language; pictures are links into figures/."""
    lines = [f"# {_plain(report.title)}", "", _plain(in_language(report.subtitle, language)), ""]
    for section in report.sections:
        lines += [f"## {_plain(in_language(section.title, language))}", ""]
        for block in section.blocks:
            lines += [*_markdown(block, figures, language), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown(block: Block, figures: Path, language: str) -> list[str]:
    if isinstance(block, Paragraph):
        text = _plain(in_language(block.text, language))
        return [f"**{text}**" if block.strong else text]
    if isinstance(block, Command):
        return ["```bash", block.text, "```"]
    if isinstance(block, Picture):
        drawn = f"{block.name}.{language}.png"
        name = drawn if (figures / drawn).exists() else f"{block.name}.en.png"
        return [f"![{_plain(in_language(block.caption, language))}]({figures.name}/{name})"]
    return _markdown_table(block, language)


def _markdown_table(grid: Grid, language: str) -> list[str]:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    headings = [_plain(in_language(heading, language)) for heading in grid.headings]
    ruler = ["---" if index in grid.texts else "---:" for index in range(len(headings))]
    rows = [[_cell(in_language(text, language)) for text in row] for row in grid.rows]
    return [line(headings), line(ruler), *map(line, rows)]


def _cell(text: str) -> str:
    return _plain(text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]} … ({len(text):,})")


def _plain(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    return MARKS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
