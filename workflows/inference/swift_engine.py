"""SWIFT's own inference as it is (`--engine swift`): outputs by id, resumable, with progress."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swift import InferArguments, infer_main
from tqdm import tqdm

from workflows.core.files import write_jsonl
from workflows.core.rows import Rows, conversation
from workflows.inference.scorer import prompt_tokens


def ask_swift(test: Rows, arguments: InferArguments, questions: Path, raw: Path, bar: tqdm) -> dict[str, Any]:
    """Output by id of every row of `test`, from `infer_main`.

    `arguments` read `questions`, which is written here, and write `raw`, where outputs of an interrupted
    inference are kept: only the other rows are asked for.
    """
    outputs = read_outputs(raw)
    remaining = [row for row in test if row["id"] not in outputs]
    if remaining:
        write_jsonl(questions, map(_as_question, sorted(remaining, key=lambda row: -len(row["review"]))))
        with _watched(raw, bar):
            infer_main(arguments)
        questions.unlink()
    return read_outputs(raw)


def without_prefix(template: Any, output: str) -> str:
    """What the model wrote itself: SWIFT puts before it what the prompt ended with, as Qwen3's empty
    thoughts.
    """
    return output.removeprefix(template.decode_generate_ids([]))


def limit_vllm(arguments: InferArguments, rows: Rows) -> None:
    """Let vLLM keep room for the longest of `rows` with its answer, not for all that the model could read,
    unless --set says for how much.
    """
    if arguments.vllm_max_model_len is not None:
        return
    template = arguments.get_template()
    longest = max(len(prompt_tokens(template, row)) for row in rows)
    arguments.vllm_max_model_len = longest + arguments.max_new_tokens


def _as_question(row: dict[str, Any]) -> dict[str, Any]:
    """A test row as SWIFT's inference reads it.

    SWIFT keeps few columns of a row; `label` is one that generation passes through unread, so it carries the
    id. SWIFT takes the gold answer off the conversation before the model sees it.
    """
    return {"messages": conversation(row), "label": row["id"]}


def read_outputs(raw: Path) -> dict[str, Any]:
    """Output by id, from what SWIFT has written so far; of a head: a label's index, several, or a number."""
    outputs: dict[str, Any] = {}
    for row in read_whole_lines(raw):
        id = row["label"] if "label" in row else row["labels"]  # where SWIFT puts it for a head
        if id in outputs:
            raise RuntimeError(f"{raw}: row {id} was answered twice.")
        outputs[id] = row["response"]
    return outputs


def read_whole_lines(path: Path) -> Rows:
    """The rows of a JSONL file that may have been cut off by a stop; a line without its end is cut away."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if len(whole) < len(lines):
        path.write_bytes(b"".join(whole))
    return [json.loads(line) for line in whole]


@contextmanager
def _watched(path: Path, bar: tqdm) -> Iterator[None]:
    """Move `bar` as lines appear in `path`: SWIFT writes each batch as it is done."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            if path.exists():
                with open(path, "rb") as file:
                    bar.update(sum(1 for _ in file) - bar.n)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
