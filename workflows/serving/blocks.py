"""Answers the rows of tables block by block, here or on the machines of a Ray cluster.

A block is answered by one call wherever that is, so its answers are the same: a row's last digits depend on
which others share its batch.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from workflows.core.screen import Screen
from workflows.core.tables import Table, read_chunks
from workflows.data.reviews import why_no_review
from workflows.model.gpu import settle_gpu
from workflows.pipeline.cluster import check_seen, in_order, on_cluster
from workflows.serving.kept_answers import whole_blocks
from workflows.serving.systems import Answer, System, open_system

# Answered and kept at a time: rows of like length share a batch.  `tiny` on a CPU core takes as long with 256
# as with 4,096 rows; a real model takes minutes for so many, which a stop would lose.
BLOCK_ROWS = 1024


def answer_rows(
    system: System,
    tables: list[Table],
    column: str,
    file: BinaryIO,
    rows: int,
    screen: Screen,
    ray: str | None = None,
) -> None:
    """Write the answer to each row into `file`, from the first block on that it does not have yet.

    `ray`: the cluster that answers, as of `on_cluster`.  Raises UserError as that does.
    """
    done, whole = whole_blocks(file, rows, BLOCK_ROWS)
    if done:
        screen.say(f"  going on after {done:,} rows that were answered before")
    file.truncate(whole)
    if done == rows:
        return
    blocks = partial(read_blocks, [replace(each, path=each.path.resolve()) for each in tables], column, done)
    with screen.progress("answering", rows) as bar:
        bar.update(done)
        if ray is None:
            for block in blocks():
                file.write(_answer_block(system, block, bar.update))
                file.flush()
            return
        answer = partial(answer_there, system.run.path.resolve(), system.name)
        with on_cluster(ray) as has:
            screen.say(f"  {has}")
            for lines in in_order(blocks, answer, with_model=system.name != "tfidf"):
                file.write(lines)
                file.flush()
                bar.update(lines.count(b"\n"))


def read_blocks(tables: list[Table], column: str, done: int) -> Iterator[list[str]]:
    """The texts of all rows but the first `done`, block by block."""
    chunks = (chunk for table in tables for chunk in read_chunks(table))
    # An object of JSONL may lack some keys.
    texts = (text for each in chunks for text in each.reindex(columns=[column], fill_value="")[column])
    left = islice(texts, done, None)
    while block := list(islice(left, BLOCK_ROWS)):
        yield block


def answer_there(folder: Path, name: str, texts: list[str]) -> bytes:
    """The answers to a block, a line each, of a process on any machine that sees the run `folder`.

    Raises UserError where it does not, and as `open_system`.
    """
    return _answer_block(_opened(folder, name), texts)


@cache
def _opened(folder: Path, name: str) -> System:
    check_seen(folder)
    settle_gpu()
    return open_system(folder, name)


def _answer_block(system: System, texts: list[str], done: Callable[[int], Any] = lambda count: None) -> bytes:
    said = answer_texts(system, texts, done)
    return b"".join(json.dumps(each, ensure_ascii=True).encode("ascii") + b"\n" for each in said)


def answer_texts(
    system: System, texts: list[str], done: Callable[[int], Any] = lambda count: None
) -> list[Answer | None]:
    """The prediction and probabilities of each text, in order; None for what is no review.  `done` is told
    how many more are answered.
    """
    full = [at for at, text in enumerate(texts) if not why_no_review(text)]
    found: list[Answer | None] = [None] * len(texts)
    done(len(texts) - len(full))
    for batch in system.answers([texts[at] for at in full]):
        for at, said in batch:
            found[full[at]] = {name: said[name] for name in ("prediction", "probabilities")}
        done(len(batch))
    return found
