"""The page's own pieces of HTML.  All that is typed, uploaded or named by a person is escaped here."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workflows.core.rows import Rows
from workflows.core.texts import in_language, label_text, number, text, texts
from workflows.experiment.experiment import Experiment
from workflows.reporting.figures import BLUE, GREY, ORANGE, series_of
from workflows.serving.counts import MOST_LABELS
from workflows.serving.desk import Progress
from workflows.serving.explain import Explanation
from workflows.serving.systems import Answer

STRONGEST = 0.6  # of a clause's colour
FULL_COLOUR = 4.0  # log-odds: without that clause the label's odds are a 55th

STYLE = f"""
.gradio-container {{ max-width: 62rem !important; margin: 0 auto !important; }}
.gradio-container, .gradio-container .main, .gradio-container .wrap, .gradio-container .contain {{
  width: 100%; min-width: 0; }}
.card, .page iframe {{ border: 1px solid var(--border-color-primary); border-radius: .5rem; }}
.card {{ padding: .75rem; margin: 0 0 .75rem; }}
.card p, .note {{ overflow-wrap: anywhere; margin: 0 0 .5rem; }}
.card mark {{ color: inherit; border-radius: .2rem; padding: .1rem 0; margin: 0 .1rem 0 0; }}
.card sup {{ font-size: .7em; opacity: .7; }}
.sides {{ display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; }}
.sides > div {{ flex: 1 1 15rem; }}
.bar {{ display: grid; grid-template-columns: 4.5rem 1fr 3.2rem; gap: .5rem; align-items: center; }}
.bar i {{ display: block; height: .7rem; background: {BLUE}; border-radius: .2rem; min-width: 1px; }}
.bar b {{ font-weight: normal; text-align: right; font-variant-numeric: tabular-nums; }}
.wide {{ overflow-x: auto; }}
.wide table {{ width: max-content; }}
.wide td, .wide th {{ padding: .25rem .5rem; text-align: left; max-width: 20rem; font-size: .9em; }}
.said {{ white-space: pre-wrap; overflow-wrap: anywhere; font: .85em/1.5 ui-monospace, monospace; }}
.stages span {{ display: inline-block; margin: 0 .8rem .3rem 0; opacity: .55; }}
.stages .done {{ opacity: 1; }}
.losses {{ width: 100%; height: 10rem; border-left: 1px solid {GREY}; border-bottom: 1px solid {GREY}; }}
.losses polyline {{ fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; }}
.page iframe {{ width: 100%; height: 75vh; }}
"""


def show_answers(
    reviews: Sequence[str],
    systems: Sequence[tuple[str, Experiment, Sequence[Answer]]],
    explained: Mapping[str, Explanation],
    language: str,
) -> str:
    """A card a review: its clauses, coloured where they are explained; each system's answer with its bars."""
    titles = texts("systems")
    cards = []
    for at, review in enumerate(reviews):
        sides = "".join(
            f"<div>{escape(in_language(titles[name], language))} "
            f"{_show_answer(experiment, answers[at], language)}</div>"
            for name, experiment, answers in systems
        )
        written = _show_clauses(explained[review]) if review in explained else escape(review)
        cards.append(f'<div class="card"><p>{written}</p><div class="sides">{sides}</div></div>')
    return "".join(cards)


def _show_clauses(explanation: Explanation) -> str:
    written, end = "", 0
    for part in explanation.clauses:
        opacity = round(255 * STRONGEST * min(1.0, abs(part.weight) / FULL_COLOUR))
        style = f"background: {BLUE if part.weight > 0 else ORANGE}{opacity:02x}"
        written += escape(explanation.text[end : part.start])
        written += f'<mark style="{style}">{escape(part.text)}<sup>{part.weight:+.2f}</sup></mark>'
        end = part.start + len(part.text)
    return written + escape(explanation.text[end:])


def _show_answer(experiment: Experiment, said: Answer, language: str) -> str:
    words = {label.name: label.words if language == "zh" else label.name for label in experiment.labels}
    prediction = said["prediction"]
    if isinstance(prediction, list):
        prediction = [words[name] for name in prediction]
    given = words.get(prediction, prediction) if isinstance(prediction, str) else prediction
    shown = in_language(text("unreadable"), language) if given is None else label_text(given)
    bars = "".join(
        f'<div class="bar"><span>{escape(words[name])}</span>'
        f'<i style="width: {share:.1%}"></i><b>{share:.3f}</b></div>'
        for name, share in (said["probabilities"] or {}).items()
    )
    return f'<b class="label">{escape(shown)}</b>{bars}'


def show_table(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of data."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def show_counts(counts: dict[str, Any], language: str) -> str:
    """How often each label was given, and how many rows have none."""
    reasons = {name: in_language(said, language) for name, said in texts("rejection_reasons").items()}
    without = {reasons.get(why, why): count for why, count in counts["without_label"].items()}
    labels = dict(sorted(counts["labels"].items())[:MOST_LABELS])
    given = [f"{name} {count:,}" for name, count in {**labels, **without}.items()]
    if others := len(counts["labels"]) - len(labels):
        given.append(in_language(text("other_answers", count=others), language))
    return f'<p class="note">{escape(" · ".join(given))}</p>'


def show_plan(figures: dict[str, Any], said: str, language: str) -> str:
    """What a run would take on each machine, and all that the command line says of it."""
    words = {name: in_language(each, language) for name, each in texts("page_plan").items()}
    rows = []
    for each in figures["machines"]:
        low, high = (f"{seconds / 60:.1f}" for seconds in each["seconds"])
        fits = "yes" if not each["changes"] else "with_changes" if each["fits_with_changes"] else "no"
        there = "" if each["bytes_there"] is None else f" / {each['bytes_there'] / 1e9:.0f}"
        minutes = low if low == high else f"{low} – {high}"
        name = words["here"] if each["name"].startswith("this machine") else each["name"]
        rows.append([name, minutes, f"{each['bytes'] / 1e9:.1f}{there}", words[fits]])
    table = show_table([words[name] for name in ("machine", "minutes", "memory", "fits")], rows)
    return (
        f'{table}<details class="wide"><summary>{escape(words["more"])}</summary>'
        f"<pre>{escape(said)}</pre></details>"
    )


def show_page(address: str, title: str, language: str) -> str:
    """A report inside the page, in the page's language."""
    source = f"{escape(quote(address))}?lang={language}"
    return f'<div class="page"><iframe src="{source}" title="{escape(title)}"></iframe></div>'


def in_its_language(report: Path, language: str) -> str:
    """A report that opens in `language`, whichever it was written to open in."""
    return re.sub(
        r'<body class="language-\w+">',
        f'<body class="language-{language}">',
        report.read_text(encoding="utf-8"),
        count=1,
    )


def show_progress(progress: Progress, state: str, language: str) -> str:
    """The stages, the losses so far, the latest line."""
    names = {**texts("stages"), "report": text("report_stage")}
    stages = "".join(
        f'<span class="{"done" if done else "open"}">{"✓" if done else "·"} '
        f"{escape(in_language(names[name], language))}</span>"
        for name, done in progress.stages.items()
    )
    lines = {"works": progress.last_lines[-1:], "finished": []}.get(progress.state, progress.last_lines)
    said = "\n".join(lines)
    return (
        f'<div class="card"><p><b>{escape(state)}</b></p><div class="stages">{stages}</div>'
        f'{_draw_losses(progress.history, language)}<div class="said">{escape(said)}</div></div>'
    )


def _draw_losses(history: Rows, language: str) -> str:
    """Training and validation loss over the steps, as SVG."""
    if not history:
        return ""
    step, last = history[-1]["step"], history[-1]["steps"]
    most = (
        max((each[key] for each in history for key in ("loss", "eval_loss") if key in each), default=0) or 1
    )
    lines, legend = "", f"{step:,} / {last:,}"
    for split, key, colour in (("train", "loss", BLUE), ("val", "eval_loss", ORANGE)):
        steps, losses = series_of(history, key)
        points = " ".join(
            f"{at / last:.4f},{1 - loss / most:.4f}" for at, loss in zip(steps, losses, strict=True)
        )
        lines += f'<polyline stroke="{colour}" points="{points}"/>'
        if losses:
            name = in_language(texts("splits")[split], language)
            legend += f' <b style="color: {colour}">{escape(name)} {number(losses[-1])}</b>'
    drawn = f'<svg class="losses" viewBox="0 0 1 1" preserveAspectRatio="none">{lines}</svg>'
    return f"<p>{escape(in_language(text('loss'), language))} {legend}</p>{drawn}"
