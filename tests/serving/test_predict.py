"""`predict` on files as people have them: nothing lost, nothing twice, and the run's own answers."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from tqdm import tqdm

from tests.conftest import Command, make_experiment
from workflows.core import table_writers
from workflows.core.errors import UserError
from workflows.core.files import read_jsonl
from workflows.core.rows import Rows
from workflows.core.run_folder import RunFolder
from workflows.core.screen import Screen
from workflows.core.tables import open_table
from workflows.experiment.cards import ROOT
from workflows.pipeline.run import do_stages, start_run
from workflows.serving import blocks as module
from workflows.serving.predict import Wanted, predict, predict_table
from workflows.serving.systems import System, open_system

Demo = tuple[RunFolder, str]


@pytest.fixture(scope="module")
def tfidf(tmp_path_factory: pytest.TempPathFactory) -> System:
    """TF-IDF of a run whose data are prepared: it needs no more."""
    experiment = make_experiment()
    run = start_run(experiment, tmp_path_factory.mktemp("run"), Screen())
    do_stages(run, experiment, ("prepare",), Screen())
    return open_system(run.path, "tfidf")


def _table(path: Path, texts: list[str], **columns: list[str]) -> Path:
    columns = {"编号": [f"{at}" for at in range(len(texts))], **columns, "review": texts}
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def _read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_gets_the_answers_that_the_run_gave(command: Command, demo_run: Demo, tmp_path: Path) -> None:
    run, _ = demo_run
    tuned = read_jsonl(run.predictions("tuned"))
    texts = [row["text"] for row in tuned]
    gold = [row["gold"] for row in tuned]
    data = _table(tmp_path / "mine.csv", ["", *texts, " \u200b"], 标签=["positive", *gold, "?"])
    out = tmp_path / "sub" / "answers.csv"
    asked = ["--input", data, "--output", out, "--label-column", "标签", "--min-confidence", "0.9"]
    done = command("predict", run.path, *asked)
    assert done.returncode == 0, done.stderr
    rows = _read(out)
    assert [row["review"] for row in rows] == ["", *texts, " \u200b"]
    assert [row["编号"] for row in rows] == [f"{at}" for at in range(len(texts) + 2)]
    assert [rows[at]["reason"] for at in (0, -1)] == ["empty text"] * 2
    sure = [max(row["probabilities"].values()) >= 0.9 for row in tuned]
    for row, said, known in zip(rows[1:-1], tuned, sure, strict=True):
        assert row["prediction"] == (said["prediction"] if known else "")
        assert row["reason"] == ("" if known else "below 0.9")
        assert float(row["probability_positive"]) == pytest.approx(
            said["probabilities"]["positive"], abs=1e-4
        )
    answered = [row for row, known in zip(tuned, sure, strict=True) if known]
    right = sum(row["prediction"] == row["gold"] for row in answered)
    assert f"accuracy on {len(answered)} rows: {right / len(answered):.3f} (" in done.stdout
    assert "1 rows have another value in '标签'" in done.stdout
    assert "validation rows:" in done.stdout
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_lines_and_single_texts_are_printed(demo_run: Demo) -> None:
    run, _ = demo_run
    lines = [row["text"] for row in read_jsonl(run.predictions("tfidf"))[:3]]
    done = subprocess.run(
        [sys.executable, "run_swift.py", "predict", str(run.path), "--system", "tfidf", "--input", "-"],
        input="\n".join([*lines, ""]),
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        check=True,
    )
    printed = [json.loads(line) for line in done.stdout.splitlines()]  # nothing else is there
    assert "loading tfidf" in done.stderr
    assert [row["text"] for row in printed] == lines
    wanted = [row["prediction"] for row in read_jsonl(run.predictions("tfidf"))[:3]]
    assert [(row["prediction"], row["system"]) for row in printed] == [(each, "tfidf") for each in wanted]


def test_texts_of_which_none_is_a_review_have_no_answer(tfidf: System) -> None:
    assert module.answer_texts(tfidf, [" ", "\udcff"]) == [None, None]


def test_an_output_that_names_no_label_counts_as_wrong(
    tfidf: System, demo_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    def answer(rows: Rows) -> Iterator[Rows]:
        for batch in tfidf.answer_rows(rows):
            yield [{**row, "prediction": row["prediction"] if int(row["id"]) < 12 else None} for row in batch]

    gold = [row["label"] for row in demo_rows[:20]]
    texts = [row["text"] for row in demo_rows[:20]]
    table = open_table(_table(tmp_path / "t.csv", ["", *texts], label=["1", *gold]))
    wanted = Wanted("review", label_column="label")
    some = predict_table(replace(tfidf, answer_rows=answer), [table], wanted, tmp_path / "a.csv", Screen())
    names = {"0": "negative", "1": "positive"}
    said = tfidf.answer(texts[:12])
    right = sum(each["prediction"] == names[label] for each, label in zip(said, gold, strict=False))
    assert some["without_label"] == {"empty text": 1, "the output names no label": 8}
    assert some["scores"] == {"rows": 20, "right": right, "without_known_gold": 0}


@pytest.mark.parametrize("before", ["", "\n\n"])
def test_an_empty_line_of_a_single_column_is_a_row(tfidf: System, tmp_path: Path, before: str) -> None:
    path = tmp_path / "one.txt"
    path.write_text(f"{before}review\n房间很干净\n\n  \n早餐太差\n", encoding="utf-8")
    counts = predict_table(tfidf, [open_table(path)], Wanted("review"), tmp_path / "a.csv", Screen())
    assert (counts["rows"], counts["without_label"]) == (4, {"empty text": 2})
    assert [row["review"].strip() for row in _read(tmp_path / "a.csv")] == ["房间很干净", "", "", "早餐太差"]


@pytest.mark.parametrize("texts", [["好"] * 3, ["好", "好" * 32_768]])
def test_what_a_sheet_does_not_take_is_refused_before_the_model_is_asked(
    tfidf: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    monkeypatch.setattr(table_writers, "XLSX_ROWS", 3)  # with the header
    table = open_table(_table(tmp_path / "t.csv", texts))
    with pytest.raises(UserError, match=r"^\S+/a\.xlsx: more than a sheet of XLSX takes \(.+\); write CSV"):
        predict_table(tfidf, [table], Wanted("review"), tmp_path / "a.xlsx", Screen())
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "xlsx"])
def test_a_command_that_was_stopped_goes_on(
    tfidf: System, demo_rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Stopped in the midst of a block and of a line: whole blocks that were answered are not asked again."""
    monkeypatch.setattr(module, "BLOCK_ROWS", 16)
    texts = [row["text"] for row in demo_rows[:100]]
    table, out, wanted = (
        open_table(_table(tmp_path / "t.csv", texts)),
        tmp_path / f"a.{kind}",
        Wanted("review"),
    )
    asked: list[int] = []

    def counted(most: int) -> System:
        def answer(rows: Rows) -> Iterator[Rows]:
            asked.append(len(rows))
            if sum(asked) > most:
                raise KeyboardInterrupt
            yield from tfidf.answer_rows(rows)

        return replace(tfidf, answer_rows=answer)

    with pytest.raises(KeyboardInterrupt):
        predict_table(counted(50), [table], wanted, out, Screen())
    assert not out.exists()
    (kept,) = tmp_path.glob(".a.*.answers")
    with open(kept, "ab") as file:
        file.write(b'null\nnull\n{"prediction": "pos')
    asked.clear()
    counts = predict_table(counted(1000), [table], wanted, out, Screen())
    assert asked == [16, 16, 16, 4]  # in the same blocks, else last digits would differ
    assert counts["rows"] == 100
    whole = tmp_path / f"whole.{kind}"
    predict_table(tfidf, [table], wanted, whole, Screen())
    if kind != "xlsx":  # which holds the time of its making
        assert out.read_bytes() == whole.read_bytes()
    found = pd.read_excel(out, dtype=str) if kind == "xlsx" else None
    if found is not None:
        assert found["prediction"].tolist() == [each["prediction"] for each in tfidf.answer(texts)]
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", f".{kind}"}


def test_the_same_command_twice_at_a_time_is_refused(tfidf: System, tmp_path: Path) -> None:
    """Both would write the file of answers in turn."""
    table, out = open_table(_table(tmp_path / "t.csv", ["很好", "太差了"])), tmp_path / "a.csv"

    def answer(rows: Rows) -> Iterator[Rows]:
        with pytest.raises(UserError, match="another command is writing it"):
            predict_table(tfidf, [table], Wanted("review"), out, Screen())
        yield from tfidf.answer_rows(rows)

    counts = predict_table(replace(tfidf, answer_rows=answer), [table], Wanted("review"), out, Screen())
    assert counts["rows"] == len(_read(out)) == 2


def test_a_block_of_empty_texts_alone_is_answered(
    tfidf: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 2)
    table, out = open_table(_table(tmp_path / "t.csv", ["很好", "太差了", "", "　"])), tmp_path / "a.csv"
    predict_table(tfidf, [table], Wanted("review"), out, Screen())
    assert [row["reason"] for row in _read(out)] == ["", "", "empty text", "empty text"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "xlsx"])
def test_probabilities_are_numbers_where_a_format_has_numbers(
    tfidf: System, tmp_path: Path, kind: str
) -> None:
    table, out = open_table(_table(tmp_path / "t.csv", ["很好", ""])), tmp_path / f"a.{kind}"
    predict_table(tfidf, [table], Wanted("review"), out, Screen())
    readers = {"parquet": pd.read_parquet, "xlsx": pd.read_excel}
    found = pd.DataFrame(read_jsonl(out)) if kind == "jsonl" else readers[kind](out)
    shares = found[["probability_negative", "probability_positive"]]
    assert shares.sum(axis=1).tolist() == pytest.approx([1, 0], abs=1e-5)
    assert shares.isna().all(axis=1).tolist() == [False, True]


def test_keys_that_few_objects_have_are_kept(
    tfidf: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects are read some at a time: not each time is every key among them."""
    monkeypatch.setattr("workflows.core.tables.CHUNK_ROWS", 2)
    rows = [{"review": "很好"}] * 3 + [{"review": "太差了", "回复": "抱歉"}, {"review": "好"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "a.jsonl"
    predict_table(tfidf, [open_table(tmp_path / "t.jsonl")], Wanted("review"), out, Screen())
    assert [row["回复"] for row in read_jsonl(out)] == ["", "", "", "抱歉", ""]


def test_answers_of_other_rows_are_not_taken(tfidf: System, tmp_path: Path) -> None:
    """The same output, another file: what a stopped command left is of no use."""
    out, wanted = tmp_path / "a.csv", Wanted("review")
    for texts in (["房间很干净，下次还来", "太差了"], ["太差了", "房间很干净，下次还来"]):
        table = open_table(_table(tmp_path / "t.csv", texts))
        predict_table(tfidf, [table], wanted, out, Screen())
        assert [row["prediction"] for row in _read(out)] == [
            each["prediction"] for each in tfidf.answer(texts)
        ]


@pytest.mark.parametrize("when", ["answering", "writing"])
@pytest.mark.parametrize("texts", [["太差了", "很好"], ["很好", "太差了", "早餐不错"]])
def test_a_file_that_is_saved_meanwhile_gets_no_answers(
    tfidf: System, tmp_path: Path, when: str, texts: list[str]
) -> None:
    """They would be put to other rows than those that were answered."""
    path = _table(tmp_path / "t.csv", ["很好", "太差了"])

    class Saves(Screen):
        def progress(self, title: str, total: int | None, counted: bool = True) -> tqdm:
            if title == when:
                _table(path, texts)
            return super().progress(title, total, counted)

    with pytest.raises(UserError, match=r"^\S+/t\.csv: was changed while it was answered; nothing was"):
        predict_table(tfidf, [open_table(path)], Wanted("review"), tmp_path / "a.csv", Saves())
    assert [each.name for each in tmp_path.iterdir()] == ["t.csv"]


def test_several_files_follow_one_another(command: Command, demo_run: Demo, tmp_path: Path) -> None:
    run, _ = demo_run
    for name in ("day-2", "day-1"):
        _table(tmp_path / f"{name}.csv", [f"{name} 很好"])
    out, asked = tmp_path / "out.csv", ["--system", "tfidf", "--input", tmp_path / "day-*.csv"]
    done = command("predict", run.path, *asked, "--output", out)
    assert done.returncode == 0, done.stderr
    assert [(row["review"], row["system"]) for row in _read(out)] == [
        ("day-1 很好", "tfidf"),
        ("day-2 很好", "tfidf"),
    ]
    _table(tmp_path / "day-3.csv", ["很好"], 星级=["5"])
    done = command("predict", run.path, *asked, "--output", tmp_path / "more.csv")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "has not the columns of" in done.stderr
    assert "'星级'" in done.stderr
    assert not (tmp_path / "more.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --text TEXT, or --input FILE"),
        (["--input", "IN"], "name the table that takes the answers: --output FILE"),
        (
            ["--input", "IN", "--output", "OUT", "--text-column", "评论"],
            "has no column '评论' (--text-column); it has '编号', 'review'",
        ),
        (["--input", "IN", "--output", "IN"], "is an input too"),
        (["--input", "IN", "--output", "a.doc"], "name a file that ends with"),
        (["--input", "none-*.csv", "--output", "OUT"], "there is no such file"),
        (["--text", "好", "--label-column", "l"], "--label-column: goes with --input FILE"),
        (["--text", "好", "--min-confidence", "90"], "--min-confidence 90: give a probability from 0 to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(
    command: Command, demo_run: Demo, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"IN": str(_table(tmp_path / "in.csv", ["好"])), "OUT": str(tmp_path / "out.csv")}
    done = command(
        "predict", demo_run[0].path, "--system", "tfidf", *(places.get(each, each) for each in arguments)
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_the_probe_is_not_tried_on_rows_that_it_was_fitted_to(command: Command, demo_run: Demo) -> None:
    asked = ["--system", "probe", "--text", "房间很干净", "--min-confidence", "0.5"]
    done = command("predict", demo_run[0].path, *asked)
    assert done.returncode == 0, done.stderr
    assert "the probe was fitted to the validation rows, too: how accurate" in done.stderr
    assert "accuracy" not in done.stdout


def test_a_column_that_is_there_is_not_written_over(tfidf: System, tmp_path: Path) -> None:
    table = open_table(_table(tmp_path / "t.csv", ["好"], prediction=["mine"]))
    with pytest.raises(UserError, match="has a column 'prediction' already"):
        predict_table(tfidf, [table], Wanted("review"), tmp_path / "out.csv", Screen())


@pytest.mark.parametrize(
    ("files", "columns", "name", "message"),
    [
        (["a.csv"], {"prediction": ["mine"]}, "out.csv", "has a column 'prediction' already"),
        (["in.csv", "a.csv"], {"星级": ["5"]}, "out.csv", "has not the columns of"),
        (["in.csv", "a.csv"], {}, "out.xlsx", "more than a sheet of XLSX takes"),
    ],
)
def test_a_table_is_refused_before_a_model_is_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: list[str],
    columns: dict[str, list[str]],
    name: str,
    message: str,
) -> None:
    """The run has no model yet: whoever loaded it would say so."""
    run = start_run(make_experiment(), tmp_path / "run", Screen())
    monkeypatch.setattr(table_writers, "XLSX_ROWS", 2)  # with the header
    _table(tmp_path / "in.csv", ["好"])
    _table(tmp_path / "a.csv", ["好"], **columns)
    inputs, output = tuple(str(tmp_path / file) for file in files), tmp_path / name
    with pytest.raises(UserError, match=message):
        predict(run.path, "tuned", Wanted("review"), inputs, (), output, None, Screen())
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "a.csv", "run"}
