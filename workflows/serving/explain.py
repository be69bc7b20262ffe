"""Which parts of a text carried its label: each clause, and each word, is left out in turn (Li et al. 2016,
Understanding Neural Networks through Representation Erasure), all in one batch.

python run_swift.py explain outputs/RUN --text "房间很大，但是隔音太差。"

A part's weight is how far the label's log-odds fall without it.  Parts act together ("不" and "好"), so the
weights need not add up to what the whole text says; both are shown.  It explains the model, not the review.
"""

import logging
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workflows.core.errors import UserError
from workflows.core.files import read_jsonl, sha256, write_jsonl
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen, as_typed
from workflows.data.reviews import strip_text, why_no_review
from workflows.experiment.experiment import load_experiment
from workflows.pipeline.run import do_stages, open_run
from workflows.reporting.content import confident_mistakes
from workflows.serving.systems import System, made_system, open_system

# A clause ends at these, but not inside 3.5, 1,000 or a.com; what follows a mark directly, such as a closing
# quote, is still its own.
MARK = r"(?:[，。！？；、…!?;~～\n]|[.,](?!(?<=[A-Za-z0-9].)[A-Za-z0-9]))"
CLAUSE = re.compile(rf"(?:(?!{MARK}).)*(?:{MARK}[”』」）)\"'\s]*)*")
MOST_PARTS = 200  # of a kind: as many texts are answered
SHOWN_WORDS = 8  # on the screen, of the weightiest


@dataclass(frozen=True)
class Part:
    """A piece of a text, where it stands, and how far the label's log-odds fall without it."""

    text: str
    start: int
    weight: float


@dataclass(frozen=True)
class Explanation:
    """What one text's label hangs on."""

    text: str
    label: str
    probability: float  # of the label
    log_odds: float
    clauses: tuple[Part, ...]  # in the text's order
    words: tuple[Part, ...]  # none where they were not asked for
    left_out: int  # parts beyond MOST_PARTS, which were not tried

    @property
    def sums(self) -> tuple[float, float]:
        """The sums of the clauses' and the words' weights, to be held against `log_odds`."""
        clauses, words = (sum(part.weight for part in parts) for parts in (self.clauses, self.words))
        return clauses, words


def explain_mistakes(folder: Path, screen: Screen) -> None:
    """Find the clause that carried each confident mistake of a run's report, write explained.jsonl, and make
    the report anew with it; raises UserError as `explain` does.
    """
    run, experiment = open_run(folder)
    name = made_system(experiment)
    if not run.predictions(name).exists() or experiment.dataset.task != "single_label":
        raise UserError(f"explain {folder} --mistakes: needs a finished run, of one label a text.")
    answers = sha256(run.predictions(name))
    wrong = confident_mistakes(read_jsonl(run.predictions(name)))
    screen.say(f"loading {name} of {as_typed(folder)} …")
    with screen.output_to(run.log("explain")):
        explained = explain(open_system(folder, name), [row["text"] for row in wrong], with_words=False)
    rows = []
    for row, found in zip(wrong, explained, strict=True):
        clause = max(found.clauses, key=lambda part: part.weight)
        said = {"label": found.label, "clause": clause.text.strip(), "weight": clause.weight}
        rows.append({"id": row["id"], "text": row["text"], **said, "answers": answers})
    write_jsonl(run.explained, rows)
    do_stages(run, experiment, ("report",), screen)


def explain_texts(folder: Path, name: str, texts: tuple[str, ...], screen: Screen) -> None:
    """Explain texts by a system of a finished run, on the screen; raises UserError as `explain` does."""
    load_experiment(RunFolder(folder).experiment)  # no log is begun where there is no run
    screen.say(f"loading {name} of {as_typed(folder)} …")
    with screen.output_to(folder / "logs" / "explain.log"):
        explained = explain(open_system(folder, name), [*texts])
    for each in explained:
        screen.say("\n" + "\n".join(render(each)))


def explain(system: System, texts: list[str], with_words: bool = True) -> list[Explanation]:
    """What the label of each text hangs on: its clauses and, `with_words`, its words.

    Raises UserError where rows may have several labels, or a number, and where a text is empty or no text.
    """
    if system.experiment.dataset.task != "single_label":
        raise UserError(f"explain: is about one label a text; {system.run.path} has another task.")
    pieces = [[_bounded(clauses_of(text)), _bounded(words_of(text) if with_words else [])] for text in texts]
    asked: list[str] = []
    for text, kinds in zip(texts, pieces, strict=True):
        if reason := why_no_review(text):
            raise UserError(f"explain: {reason}: {text[:20]!a}; give a review.")
        asked += [text, *(_without(text, part) for parts, _ in kinds for part in parts)]
    # A text of one part leaves nothing: it is not asked.
    asked = [text for text in asked if strip_text(text)]
    said = iter(system.answer(asked) if asked else ())
    explained = []
    for text, kinds in zip(texts, pieces, strict=True):
        whole = next(said)
        shares = whole["probabilities"]
        label = whole["prediction"] or max(shares, key=shares.__getitem__)
        odds = log_odds(shares, label)
        found = []
        for parts, _ in kinds:
            weights = []
            for start, part in parts:
                rest = strip_text(_without(text, (start, part)))  # of nothing, nothing is known: log-odds 0
                without = log_odds(next(said)["probabilities"], label) if rest else 0.0
                weights.append(Part(part, start, odds - without))
            found.append(tuple(weights))
        clauses, words = found
        left_out = sum(beyond for _, beyond in kinds)
        explained.append(Explanation(text, label, shares[label], odds, clauses, words, left_out))
    return explained


def clauses_of(text: str) -> list[tuple[int, str]]:
    """The clauses of a text with their places, each with the marks that end it."""
    return [(each.start(), each.group()) for each in CLAUSE.finditer(text) if each.group().strip()]


def words_of(text: str) -> list[tuple[int, str]]:
    """The words of a text with their places, as jieba cuts it; without blanks and marks."""
    with warnings.catch_warnings():  # that a package which it tries to import is outdated
        warnings.simplefilter("ignore")
        import jieba

    jieba.setLogLevel(logging.WARNING)  # it says how long its dictionary took
    return [
        (start, word) for word, start, _ in jieba.tokenize(text) if any(letter.isalnum() for letter in word)
    ]


def _bounded(parts: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], int]:
    return parts[:MOST_PARTS], max(0, len(parts) - MOST_PARTS)


def _without(text: str, part: tuple[int, str]) -> str:
    start, piece = part
    return text[:start] + text[start + len(piece) :]


def log_odds(shares: Mapping[str, float], label: str) -> float:
    """Of a label against all others; by their sum, since the difference to 1 of a large share is rounded."""
    others = sum(share for name, share in shares.items() if name != label)
    return math.log(max(shares[label], sys.float_info.min)) - math.log(max(others, sys.float_info.min))


def render(explanation: Explanation) -> Iterator[str]:
    """An explanation as lines of the screen: all clauses in the text's order, the weightiest words."""
    yield f"{explanation.text}"
    yield f"  {explanation.label}, probability {explanation.probability:.3f}"
    largest = max((abs(part.weight) for part in (*explanation.clauses, *explanation.words)), default=0.0)
    heavy = sorted(explanation.words, key=lambda part: -abs(part.weight))[:SHOWN_WORDS]
    for title, parts in (("clauses", explanation.clauses), (f"words, the {len(heavy)} heaviest", heavy)):
        yield f"  {title}: log-odds of {explanation.label} that go without it"
        for part in parts:
            bar = ("+" if part.weight > 0 else "-") * round(20 * abs(part.weight) / (largest or 1.0))
            yield f"  {part.weight:+7.2f} {bar:<20} {part.text.strip()}"
    clauses, in_words = explanation.sums
    if len(explanation.clauses) == 1:
        yield "  there is one clause: without it nothing is left, for which log-odds of 0 are taken"
    yield (
        f"  the text's own log-odds: {explanation.log_odds:+.2f}; its clauses add up to {clauses:+.2f}, all "
        f"its words to {in_words:+.2f}: parts act together, so these need not be equal"
    )
    if explanation.left_out:
        yield f"  {explanation.left_out} parts behind the first {MOST_PARTS} of a kind were not tried"
