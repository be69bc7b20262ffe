"""Reviews become rows that SWIFT reads: its messages format, or query and response.

A row: {"id", "messages": [system?, user, assistant?], "label": index, "review": text}.  Where a row may have
several labels, `label` is the list of their indices; in a regression it is the number.  SWIFT itself uses the
messages, and `label` where a head is tuned; `id` joins a model's output to its gold label, `label` and
`review` serve the baselines and the scores.  `examples` has the ids of the training rows that a few-shot
prompt shows.
"""

import json
from collections.abc import Callable
from typing import Any, Literal, cast

from workflows.data.labels import LabelValue
from workflows.data.reviews import Review
from workflows.experiment.cards import PLACEHOLDER, Label, Prompt

# Where id and review go in a line; no text of a YAML file can hold a NUL.
ID_MARK, REVIEW_MARK = "\0id", "\0review"


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
    head reads `label` itself. `examples` are from `choose_examples`.
    """
    listed = join_label_words(prompt, labels)
    solved = [
        fill(prompt.example or "", review=each.text, labels=listed, label=labels[cast(int, each.label)].words)
        for each in examples
    ]
    described = [
        f"{label.words}: {prompt.descriptions[label.name]}" for label in labels if prompt.descriptions
    ]
    values = {
        "review": review.text,
        "labels": listed,
        "descriptions": "\n".join(described),
        "examples": "\n".join(solved),
    }
    system = fill(prompt.system, **values) if prompt.system else None
    query = fill(prompt.user, **values)
    response = labels[review.label].words if answered and isinstance(review.label, int) else None
    rest: dict[str, Any] = {"label": review.label, "review": review.text}
    if examples:
        rest["examples"] = [each.id for each in examples]
    if format == "query-response":
        return {
            "id": review.id,
            **({"system": system} if system else {}),
            "query": query,
            **({"response": response} if response is not None else {}),
            **rest,
        }
    messages = [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": query},
        *([{"role": "assistant", "content": response}] if response is not None else []),
    ]
    return {"id": review.id, "messages": messages, **rest}


def fill(template: str, **values: str) -> str:
    """The template with its placeholders filled in one pass: braces in what is filled in are text."""
    return PLACEHOLDER.sub(lambda found: values[found.group(1)], template)


def line_writer(
    prompt: Prompt,
    labels: tuple[Label, ...],
    format: Literal["messages", "query-response"],
    meanings: list[LabelValue],
    answered: bool = True,
) -> Callable[[str, str, int], str]:
    """A function of id, text and index into `meanings` that gives the line of SWIFT's data file.

    The line is `json.dumps(write_row(...), ensure_ascii=False)`; of it, only what differs between the rows of
    a label is encoded each time.
    """
    encode = json.JSONEncoder(ensure_ascii=False).encode
    marks = [encode(mark)[1:-1] for mark in (ID_MARK, REVIEW_MARK)]
    parts: list[tuple[str, list[str]]] = []
    for meaning in meanings:
        line = encode(
            write_row(Review(ID_MARK, REVIEW_MARK, meaning), prompt, labels, format, answered=answered)
        )
        before_id, after_id = line.split(marks[0])
        parts.append((before_id, after_id.split(marks[1])))

    def write_line(id: str, text: str, label: int) -> str:
        before_id, after_id = parts[label]
        return f"{before_id}{id}{encode(text)[1:-1].join(after_id)}\n"

    return write_line
