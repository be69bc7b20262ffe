"""A report as one HTML page that needs no network, and as Markdown to paste."""

import html
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from workflows.core.files import open_whole
from workflows.core.texts import LANGUAGES, Text, in_language
from workflows.reporting.blocks import Command, Links, Paragraph, Picture, Report

MARKS = re.compile(r"([\\`*_{}\[\]#|~$])")
LONGEST_CELL = 300  # characters of a review in a Markdown table


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=select_autoescape(["html.jinja"]), undefined=StrictUndefined
    )
    for kind in (Paragraph, Command, Picture, Links):
        environment.tests[kind.__name__.lower()] = lambda block, kind=kind: isinstance(block, kind)
    return environment


def write_report(report: Report, folder: Path, language: str) -> None:
    """Write report.html and report.md into `folder`, whose figures/ has their pictures."""
    with open_whole(folder / "report.html") as file:
        file.write(render_page(report, folder / "figures", language))
    with open_whole(folder / "report.md") as file:
        file.write(render_markdown(report, folder / "figures", language))


def render_page(report: Report, figures: Path, language: str) -> str:
    """The page, opening in `language`, with the SVG of `figures` in it; all texts are escaped."""
    pictures = {
        block.name: {lang: _inline_svg(figures / f"{block.name}.{lang}.svg") for lang in LANGUAGES}
        for section in report.sections
        for block in section.blocks
        if isinstance(block, Picture)
    }
    template = _environment().get_template("page.html.jinja")
    return template.render(report=report, language=language, pictures=pictures) + "\n"


def _inline_svg(path: Path) -> str:
    """An SVG file as it stands inside HTML, its ids made its own, so that figures do not share clip paths."""
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    prefix = path.name.replace(".", "-")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", svg)


def render_markdown(report: Report, figures: Path, language: str) -> str:
    """The same content in Markdown, in one language; pictures are links into figures/."""

    def plain(said: Text | str, longest: int | None = None) -> str:
        words = in_language(said, language)
        if longest and len(words) > longest:
            words = f"{words[:longest]} … ({len(words):,})"
        return plain_in_markdown(words)

    def drawn(name: str) -> str:
        here = (figures / f"{name}.{language}.png").exists()
        return f"{figures.name}/{name}.{language if here else 'en'}.png"

    environment = _environment()
    environment.filters |= {"plain": plain, "cell": lambda said: plain(said, LONGEST_CELL), "drawn": drawn}
    return environment.get_template("report.md.jinja").render(report=report) + "\n"


def plain_in_markdown(words: str) -> str:
    """Words on one line that mean nothing to Markdown or HTML, a table's bar among them."""
    return MARKS.sub(r"\\\1", html.escape(" ".join(words.split()), quote=False))
