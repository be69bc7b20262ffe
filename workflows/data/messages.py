"""Reviews become rows that SWIFT reads: its messages format, or query and response.

A row: {"id", "messages": [system?, user, assistant?], "label": index, "review": text}.  Where a row may have
several labels, `label` is the list of their indices; in a regression it is the number.  SWIFT itself uses the
messages, and `label` where a head is tuned; `id` joins a model's output to its gold label, `label` and
`review` serve the baselines and the scores.  `examples` has the ids of the training rows that a few-shot
prompt shows.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Literal, cast

from workflows.core.files import json_line
from workflows.data.labels import LabelValue
from workflows.data.reviews import Review
from workflows.experiment.cards import PLACEHOLDER, Label, Prompt

# Where id, review, and review as a model reads it go in a line; no text of a YAML file can hold a NUL.
ID_MARK, REVIEW_MARK, READ_MARK = "\0id", "\0review", "\0read"
# What a tokenizer takes for one of its special tokens, or SWIFT for a picture: of Qwen (<|im_end|>, <think>),
# of BERT ([SEP]), and of SWIFT's templates (<image>).
SPECIAL = re.compile(
    r"<\|[^<>|\s]+\|>"
    r"|</?(?:think|tool_call|tool_response|s|pad|unk|mask)>"
    r"|<tts_(?:pad|text_bos|text_eod|text_bos_single)>"
    r"|<(?:image|video|audio|bbox|ref-object|cot-process|start-image)>"
    r"|\[(?:CLS|SEP|PAD|MASK|UNK|unused\d+)\]"
)


def as_text(review: str) -> str:
    """A review in which nothing is a special token: a blank after the first character keeps it text."""
    return SPECIAL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", review)


def join_label_words(prompt: Prompt, labels: tuple[Label, ...]) -> str:
    """What {labels} stands for in a prompt, such as 正面还是负面."""
    words = [label.words for label in labels]
    if prompt.order == "reverse":
        words.reverse()
    if len(words) < 2:
        return "".join(words)
    return prompt.last_joiner.join([prompt.joiner.join(words[:-1]), words[-1]])


def write_row(
    review: Review,
    prompt: Prompt,
    labels: tuple[Label, ...],
    format: Literal["messages", "query-response"],
    examples: tuple[Review, ...] = (),
    answered: bool = True,
) -> dict[str, Any]:
    """One row of SWIFT's data file, the gold label's words as the answer; none where not `answered`, as a
    head reads `label` itself. `examples` are from `example_chooser`.
    """
    return _write_row(review, as_text(review.text), prompt, labels, format, examples, answered)


def _write_row(
    review: Review,
    read: str,
    prompt: Prompt,
    labels: tuple[Label, ...],
    format: Literal["messages", "query-response"],
    examples: tuple[Review, ...],
    answered: bool,
) -> dict[str, Any]:
    """The row; `read` is the review as the model reads it."""
    listed = join_label_words(prompt, labels)
    solved = [
        fill(
            prompt.example or "",
            review=as_text(each.text),
            labels=listed,
            label=labels[cast(int, each.label)].words,
        )
        for each in examples
    ]
    described = [f"{each.words}: {prompt.descriptions.get(each.name)}" for each in labels]
    values = {
        "review": read,
        "labels": listed,
        "descriptions": "\n".join(described),
        "examples": "\n".join(solved),
    }
    answer = labels[review.label].words if answered and isinstance(review.label, int) else ""
    turns = [
        ("system", "system", fill(prompt.system or "", **values)),
        ("user", "query", fill(prompt.user, **values)),
        ("assistant", "response", answer),
    ]
    said: dict[str, Any] = {key: words for _, key, words in turns if words}
    if format == "messages":
        said = {"messages": [{"role": role, "content": words} for role, _, words in turns if words]}
    shown = {"examples": [each.id for each in examples]} if examples else {}
    return {"id": review.id, **said, "label": review.label, "review": review.text, **shown}


def fill(template: str, **values: str) -> str:
    """The template with its placeholders filled in one pass: braces in what is filled in are text, as are
    other words in braces, which `load_prompt` refuses in new prompts.
    """
    return PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def line_writer(
    prompt: Prompt,
    labels: tuple[Label, ...],
    format: Literal["messages", "query-response"],
    meanings: list[LabelValue],
    answered: bool = True,
) -> Callable[[str, str, int], str]:
    """A function of id, text and index into `meanings` that gives the line of SWIFT's data file.

    The line is that of `write_row`; of it, only what differs between the rows of a label is encoded each
    time, which is ten times as fast.
    """
    encode = json.JSONEncoder(ensure_ascii=False).encode
    marks = [encode(mark)[1:-1] for mark in (ID_MARK, REVIEW_MARK, READ_MARK)]
    lines = [
        # The line cut at its marks: filled in one pass, since a review may hold what looks like a mark.
        re.split(
            "|".join(f"({re.escape(mark)})" for mark in marks),
            json_line(
                _write_row(
                    Review(ID_MARK, REVIEW_MARK, meaning), READ_MARK, prompt, labels, format, (), answered
                )
            ),
        )
        for meaning in meanings
    ]

    def write_line(id: str, text: str, label: int) -> str:
        values = [id, encode(text)[1:-1], encode(as_text(text))[1:-1]]
        filled = dict(zip(marks, values, strict=True))
        return "".join(filled.get(piece, piece) for piece in lines[label] if piece)

    return write_line
