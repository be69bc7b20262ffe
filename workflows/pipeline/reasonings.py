"""Reasonings for training rows: what the model is asked, which texts are usable, and the answers they make.

The answer is the label's words, a line break, then the reasoning: five tokens still hold the label, and the
break keeps tokenizers from joining the label's last character to what follows.
"""

import random
import re
from difflib import SequenceMatcher

from workflows.core.rows import Rows
from workflows.data.messages import as_text
from workflows.experiment.cards import Label
from workflows.experiment.recipes import Reasoning

COPY = 0.8  # share of a text's characters from which on it counts as a copy of the review


def choose_rows(rows: Rows, samples: int | None, seed: int) -> Rows:
    """The rows that get a reasoning: all, or `samples` of them drawn by `seed`."""
    if samples is None or samples >= len(rows):
        return rows
    chosen = set(random.Random(seed).sample(range(len(rows)), samples))
    return [row for index, row in enumerate(rows) if index in chosen]


def questions(rows: Rows, recipe: Reasoning, labels: tuple[Label, ...]) -> Rows:
    """What the model is asked for each row: {"id", "messages"}."""
    asked = []
    for row in rows:
        text = recipe.prompt.replace("{label}", labels[row["label"]].words)
        text = text.replace("{review}", as_text(row["review"]))  # last: braces in a review are text
        asked.append({"id": row["id"], "messages": [{"role": "user", "content": text}]})
    return asked


def with_reasonings(
    rows: Rows, texts: dict[str, str], recipe: Reasoning, labels: tuple[Label, ...]
) -> tuple[Rows, Rows]:
    """All rows, a usable text put after the label; and the rejected texts with reasons.

    `rows`: in the messages format.  `texts`: what the model wrote, by id.  A row without a text, or with a
    rejected one, keeps the label alone.
    """
    made, rejected = [], []
    seen: set[str] = set()
    for row in rows:
        made.append(row)
        if row["id"] not in texts:
            continue
        text = " ".join(texts[row["id"]].split())
        reason = judge(text, row["review"], labels[row["label"]], labels, recipe, seen)
        if reason is not None:
            rejected.append({"id": row["id"], "reason": reason, "text": text})
            continue
        seen.add(_letters(text))
        *turns, answer = row["messages"]
        answer = {**answer, "content": f"{answer['content']}\n{text}"}
        made[-1] = {**row, "messages": [*turns, answer], "reasoning": text}
    return made, rejected


def judge(
    text: str, review: str, gold: Label, labels: tuple[Label, ...], recipe: Reasoning, seen: set[str]
) -> str | None:
    """Why a text is no usable reasoning for `gold`, or None; `seen`: letters of those used so far."""
    letters, of_review = _letters(text), _letters(review)
    if len(text) < recipe.min_characters:
        return "too short"
    if len(text) > recipe.max_characters:
        return "too long"
    longest_first = sorted((label.words for label in labels), key=len, reverse=True)
    named = set(re.findall("|".join(map(re.escape, longest_first)), text))
    if gold.words not in named:
        return "does not say the label"
    if len(named) > 1:
        return "names another label"
    if SequenceMatcher(None, letters, of_review, autojunk=False).ratio() >= COPY:
        return "copy of the review"
    if letters in seen:
        return "copy of another reasoning"
    return None


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())
