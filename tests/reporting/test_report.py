"""What a reader of the report sees: both languages, whole figures, and texts that stay texts."""

import html
import re
import resource
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fontTools.ttLib import TTFont

from tests.conftest import Command
from workflows.core.files import read_json, read_jsonl, write_json, write_jsonl
from workflows.core.run_folder import RunFolder
from workflows.experiment.experiment import load_experiment
from workflows.experiment.job import Job
from workflows.reporting import figures
from workflows.reporting.content import confident_mistakes
from workflows.reporting.report import report

HOSTILE = "<script>alert('x')</script> | `a` **b** \"引号\" & 😀 " + "很长的评论。" * 500


class _Page(HTMLParser):
    """Collects the tags, their attributes, and the text in each language."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _parse(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def test_the_report_of_the_default_job_has_everything_in_both_languages(
    demo_run: tuple[RunFolder, str],
) -> None:
    run, screen = demo_run
    assert "report.html" in screen
    page = _parse(run.report_page)
    verdict = read_json(run.scores)["verdict"]
    for part in (
        verdict["en"],
        verdict["zh"],
        "Demo reviews, six domains (generated)",
        "演示评论，六个领域（程序生成）",
        "python run_swift.py run",
        f"python run_swift.py reproduce outputs/{run.path.name}",
        "Near copies",
        "近似重复",
        "The most confident mistakes",
        "可能标错的标签",
        "peak memory",
        "峰值内存",
        "transformers",
        "learning_rate (SWIFT)",
    ):
        assert part in page.text, part
    loading = {"script", "link", "img", "iframe", "object", "source"}
    assert [(tag, given) for tag, given in page.tags if tag in loading and given] == []
    assert not re.search(
        r'(?:src|href)="(?!#|data:image)', run.report_page.read_text(encoding="utf-8").replace("xlink:", "")
    )
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    names = {"curves", "confusion", "reliability", "lengths"}
    assert {path.name.split(".")[0] for path in run.figures.iterdir()} == names
    for name in names:
        assert {f"{name}.en.svg", f"{name}.zh.svg", f"{name}.en.png"} <= {
            p.name for p in run.figures.iterdir()
        }
    markdown = run.report_markdown.read_text(encoding="utf-8")
    for name in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (run.path / name).stat().st_size > 5000
    assert "## 结论" in markdown
    accuracy = read_json(run.scores)["systems"]["tuned"]["accuracy"]
    assert f"{accuracy:.3f} (" in markdown


def test_the_language_is_the_readers_choice(command: Command, own_run: RunFolder) -> None:
    assert '<body class="language-zh">' in own_run.report_page.read_text(encoding="utf-8")
    done = command("report", own_run.path, "--lang", "en")
    assert done.returncode == 0, done.stderr
    assert '<body class="language-en">' in own_run.report_page.read_text(encoding="utf-8")
    assert "## Result" in own_run.report_markdown.read_text(encoding="utf-8")


def test_a_report_without_its_training_rows_says_what_is_missing(
    command: Command, own_run: RunFolder
) -> None:
    own_run.split("train").unlink()
    done = command("report", own_run.path)
    assert done.returncode == 2
    assert f"data/train.jsonl is missing; run `prepare {own_run.path}` first" in done.stderr


@pytest.fixture
def small_run(own_run: RunFolder) -> RunFolder:
    """A copy of the finished run without what only training gives."""
    for path in (own_run.training, own_run.tokens, own_run.environment, own_run.audit_summary):
        path.unlink()
    return own_run


def test_texts_of_data_and_model_are_shown_as_they_are(small_run: RunFolder) -> None:
    rows = read_jsonl(small_run.predictions("tuned"))
    wrong = "negative" if rows[0]["gold"] == "positive" else "positive"
    shares = {rows[0]["gold"]: 0.0, wrong: 1.0}
    rows[0] |= {"text": HOSTILE, "output": "<img src=x onerror=alert(1)>", "prediction": None}
    rows[0]["probabilities"] = shares
    write_jsonl(small_run.predictions("tuned"), rows)
    scores = read_json(small_run.scores)
    scores["systems"]["tuned"]["unparsed_most_frequent"] = [{"output": "</p><b>粗", "rows": 1}]
    write_json(small_run.scores, scores)
    experiment = load_experiment(small_run.experiment)
    report(Job(small_run, replace(experiment, data=replace(experiment.data, neutral="<b>"))))
    page = _parse(small_run.report_page)
    assert HOSTILE in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "</p><b>粗" in page.text
    assert not any(tag in ("img", "b") for tag, _ in page.tags)
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # the page's own
    markdown = small_run.report_markdown.read_text(encoding="utf-8")
    assert "<script>" not in markdown
    row = next(line for line in markdown.splitlines() if "alert('x')" in line)
    assert row.replace("\\|", "").count("|") == 6  # five cells: the bar of the text is none of the table's
    assert html.escape("<img src=x") in markdown


def test_a_report_of_own_reviews_names_their_file(small_run: RunFolder) -> None:
    experiment = load_experiment(small_run.experiment)
    own = replace(experiment, data=replace(experiment.data, data_file="/data/酒店 <2026>.csv"))
    report(Job(small_run, own))
    page = _parse(small_run.report_page)
    assert "酒店 <2026>.csv" in page.text
    assert experiment.dataset.title not in page.text


def test_labels_of_any_kind_are_drawn_without_empty_boxes(
    demo_run: tuple[RunFolder, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = _three_classes(read_json(demo_run[0].scores)["systems"]["tuned"])
    names = ["差评", "$^$", "好评"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that it has not
        monkeypatch.setattr(figures, "CHINESE_FONTS", ())  # a machine without a Chinese font
        figures.save_figure(
            tmp_path / "none", "confusion", figures.draw_confusions, {"tuned": scores}, labels=names
        )
    written = {path.name: path for path in (tmp_path / "none").iterdir()}
    assert set(written) == {"confusion.en.svg", "confusion.en.png", "confusion.zh.svg"}
    assert "差评" in written["confusion.en.svg"].read_text(encoding="utf-8")  # an SVG's reader has the font


def test_a_font_that_was_installed_after_the_first_report_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    font = TTFont(figures.findfont("DejaVu Sans"))
    font["name"].setName("Installed Later", 1, 3, 1, 0x409)
    font["name"].setName("Installed Later", 1, 1, 0, 0)
    font.save(tmp_path / "later.ttf")
    (tmp_path / "torn.ttf").write_bytes(b"no font")
    monkeypatch.setattr(figures, "CHINESE_FONTS", ("Installed Later",))
    monkeypatch.setattr(figures.fontManager, "ttflist", [*figures.fontManager.ttflist])
    assert figures.chinese_fonts() == []
    monkeypatch.setattr(figures, "findSystemFonts", lambda: [*map(str, tmp_path.glob("*.ttf"))])
    assert figures.chinese_fonts() == ["Installed Later"]


@pytest.mark.parametrize("torn", ["svg", "png"])
def test_a_figure_that_does_not_fit_on_the_disk_is_not_there(torn: str, tmp_path: Path) -> None:
    point = {
        "labels": 36,
        "accuracy": 0.5,
        "accuracy_interval": [0.4, 0.6],
        "accuracies": [0.5],
        "varies": True,
    }
    drawn: tuple[Any, ...] = (
        "curves",
        figures.draw_learning_curves,
        {"lora": "LoRA"},
        {"lora": [point]},
        "60 rows",
    )
    figures.save_figure(tmp_path / "whole", *drawn)
    svg, png = ((tmp_path / "whole" / f"curves.en.{kind}").stat().st_size for kind in ("svg", "png"))
    assert svg < png
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (svg - 1 if torn == "svg" else png - 1, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            figures.save_figure(tmp_path / "torn", *drawn)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    there = [path.name for path in (tmp_path / "torn").iterdir()]
    assert there == ([] if torn == "svg" else ["curves.en.svg"])


def _three_classes(figures_of_two: dict[str, Any]) -> dict[str, Any]:
    names = ["差评", "$^$", "好评"]
    counts = [[5, 1, 0, 2], [0, 0, 0, 0], [1, 0, 7, 0]]
    return {**figures_of_two, "confusion": {"gold": names, "predicted": [*names, "?"], "counts": counts}}


def test_a_training_that_was_not_evaluated_claims_no_best_checkpoint(
    small_run: RunFolder, demo_run: tuple[RunFolder, str]
) -> None:
    """As that of a plain script, which keeps its last step."""
    training = read_json(demo_run[0].training)
    history = [{k: v for k, v in each.items() if "eval_" not in k} for each in training["log_history"]]
    write_json(
        small_run.training,
        {
            **training,
            "best_by": {"metric": "loss", "value": None},
            "evaluated_rows": 0,
            "log_history": history,
        },
    )
    report(Job(small_run, load_experiment(small_run.experiment)))
    page = _parse(small_run.report_page)
    assert f"Kept: {training['checkpoint']}, the last, after {training['steps']:,} steps." in page.text
    assert f"保留 {training['checkpoint']}：最后一步的检查点" in page.text
    assert "Validation figures are of" not in page.text
    assert "best by validation" not in page.text


def test_the_surest_mistakes_are_sure_of_what_is_wrong() -> None:
    def one(prediction: str | None, negative: float) -> dict[str, Any]:
        shares = {"negative": negative, "positive": 1 - negative}
        return {"gold": "positive", "prediction": prediction, "probabilities": shares}

    def several(gold: list[str], prediction: list[str], price: float, service: float) -> dict[str, Any]:
        return {"gold": gold, "prediction": prediction, "probabilities": {"price": price, "service": service}}

    rows = [one(None, 0.001), one("negative", 0.6), one("negative", 0.98)]
    assert confident_mistakes(rows) == rows[::-1]
    unsure = several(["price", "service"], ["price"], 0.999, 0.49)
    sure = several(["price"], ["service"], 0.4, 0.97)
    assert confident_mistakes([unsure, sure]) == [sure, unsure]


def test_a_run_without_training_has_a_report_too(small_run: RunFolder) -> None:
    experiment = replace(load_experiment(small_run.experiment), lang="en")
    report(Job(small_run, experiment))
    page = _parse(small_run.report_page)
    assert "Right and wrong, by label" in page.text
    assert "Training and validation loss" not in page.text
    assert {path.name.split(".")[0] for path in small_run.figures.iterdir()} == {
        "confusion",
        "reliability",
        "lengths",
    }
