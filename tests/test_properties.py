"""What holds for any rows, outputs, options and cuts, tried on drawn examples, the same in every run."""

import json
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import read_demo_rows, read_options
from workflows.core.table_writers import NOT_IN_XML, harmless, open_table_writer
from workflows.core.tables import FORMATS, open_table, read_chunks, read_table
from workflows.experiment.cards import Label, from_mapping
from workflows.experiment.options import DEFAULTS, File, RunOptions, asked, flags_of
from workflows.inference.reading import read_label
from workflows.inference.swift_engine import read_whole_lines
from workflows.serving.predict import _whole_blocks

FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
REVIEWS = [row["text"] for row in read_demo_rows()]
# Neither halves of surrogate pairs nor NUL nor U+FFFD: such files are refused.
LETTERS = st.characters(codec="utf-8", exclude_characters="\0\ufffd")
TEXTS = st.one_of(
    st.sampled_from(REVIEWS), st.text(LETTERS), st.text(st.sampled_from("\",;\t\n\r\\'=+-@ 好1"))
)
TABLES = st.lists(st.tuples(st.sampled_from("01"), TEXTS), min_size=1, max_size=8)


def _expected(text: str, kind: str) -> str:
    """What a format keeps of a text."""
    if kind != "xlsx":
        return harmless(text) if kind in ("csv", "tsv") else text
    return NOT_IN_XML.sub("", text).replace("\r\n", "\n").replace("\r", "\n")  # as XML has line ends


@pytest.mark.parametrize("kind", sorted(set(FORMATS.values())))
@FEW
@given(rows=TABLES)
@example(rows=[("1", "好\r吃"), ("1", "_x0041_"), ("0", "'=1"), ("1", "nan"), ("0", "#N/A"), ("1", "5.0")])
def test_a_table_that_was_written_is_read_again(kind: str, rows: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}"
        with open_table_writer(path, ["label", "review"], kind) as write:
            write(pd.DataFrame(rows, columns=["label", "review"], dtype=object))
        frame = read_table(path)
        assert frame["review"].tolist() == [_expected(text, kind) for _, text in rows]
        assert frame["label"].tolist() == [label for label, _ in rows]
        assert sum(map(len, read_chunks(open_table(path)))) == len(rows)


@FEW
@given(
    texts=st.lists(st.sampled_from(REVIEWS), min_size=3, max_size=9),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16"]),
    ends=st.sampled_from(["\n", "\r\n"]),
)
def test_reviews_are_read_in_every_encoding(texts: list[str], encoding: str, ends: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tsv"
        path.write_bytes(ends.join(["review", *texts, ""]).encode(encoding))
        assert read_table(path)["review"].tolist() == texts


LETTERS_OF_WORDS = st.sampled_from("好差负正面.*+(|[\\^aAßİ ")
LABELS = st.lists(
    st.text(LETTERS_OF_WORDS, min_size=1, max_size=4),
    min_size=2,
    max_size=4,
    unique_by=lambda words: words.strip().casefold(),
)


@FEW
@given(
    words=LABELS,
    output=st.text(st.one_of(st.sampled_from("好差负正面.*+(|[\\^aAßİ "), LETTERS)),
    at=st.integers(0, 3),
)
def test_any_output_is_read_as_a_label_or_as_none(words: list[str], output: str, at: int) -> None:
    labels = tuple(Label(f"label{number}", each) for number, each in enumerate(words))
    names = {label.name for label in labels}
    assert read_label(output, labels) in {None, *names}
    said = labels[at % len(labels)]
    assert read_label(said.words, labels) == said.name


def _values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of an option, by its type."""
    text = st.text(LETTERS, min_size=1, max_size=8)
    plain = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    choices = [each for each in get_args(plain) if isinstance(each, str)]
    if choices:
        return st.sampled_from(choices)
    if plain is bool:
        return st.booleans()
    if plain is float:
        return st.floats(0, 1)
    if plain is int or int in get_args(plain) or "int" in str(plain):
        return st.integers(1, 10**6)
    if "tuple" in str(plain):
        return st.lists(text, max_size=3).map(tuple)
    if hint == File | None:
        return text.map(lambda name: str(Path("/nowhere").joinpath(name.strip("/.~ ") or "a")))
    return text


def _options(kind: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    return st.fixed_dictionaries({}, optional={each.name: _values(hints[each.name]) for each in fields(kind)})


@FEW
@given(data=_options(type(DEFAULTS.data)), tuning=_options(type(DEFAULTS.tuning)))
def test_options_come_back_from_flags_and_from_yaml(data: dict[str, Any], tuning: dict[str, Any]) -> None:
    options = RunOptions(replace(DEFAULTS.data, **data), replace(DEFAULTS.tuning, **tuning))
    assert read_options(*flags_of(options)) == options
    assert from_mapping(RunOptions, json.loads(json.dumps(asked(options))), "here") == options


@FEW
@given(texts=st.lists(st.text(LETTERS), max_size=4), cut=st.integers(0, 200))
def test_lines_that_were_cut_at_any_byte_go_on_after_the_last_whole_one(texts: list[str], cut: int) -> None:
    rows = [{"id": f"test:{at}", "response": text} for at, text in enumerate(texts)]
    lines = [(json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows]
    written = b"".join(lines)[:cut]
    whole = next(count for count in range(len(lines), -1, -1) if written.startswith(b"".join(lines[:count])))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(written)
        blocks = (whole, len(written)) if whole == len(lines) else (0, 0)  # all lines are one block
        assert _whole_blocks(path, len(lines)) == blocks
        assert read_whole_lines(path) == rows[:whole]
        with open(path, "ab") as file:
            file.write(b"".join(lines[whole:]))
        assert path.read_bytes() == b"".join(lines)
        assert read_whole_lines(path) == rows
