"""What a study says of its runs' raw predictions: figures by hand, and no sentence that they do not bear."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from workflows.core.errors import UserError
from workflows.core.files import write_json, write_jsonl
from workflows.core.texts import Text
from workflows.experiment.options import DEFAULTS
from workflows.reporting.render import render_markdown
from workflows.studies.answers import answer, conclude_points
from workflows.studies.card import Size, load_study
from workflows.studies.hub_card import write_hub_card
from workflows.studies.page import build_page
from workflows.studies.records import record_of
from workflows.studies.runs import find_runs

ROWS = 60
CARD = """
question: {en: "Which?", zh: 哪个？}
sizes: [32, 64, all]
draws: 7
arms:
  tfidf: {}
  zero_shot: {once: true}
  lora: {draws: 6}
compare: [[lora, tfidf], [tfidf, zero_shot]]
"""
A, B = Text("A", "甲"), Text("B", "乙")


def _answer(
    folder: Path,
    share: Callable[[str, Size, int], int | None],
    card: str = CARD,
    rows_of: Callable[[int], int] = lambda draw: ROWS,
) -> dict[str, Any]:
    """The answer of runs whose arm gets the first `share(arm, size, draw)` rows right; None: no answers."""
    folder.mkdir(exist_ok=True)
    path = folder / "card.yaml"
    path.write_text(card, encoding="utf-8")
    study = load_study(str(path), DEFAULTS, False, None)
    taken = find_runs(study, folder, {}, lambda experiment: {})
    for cell, run in taken:
        train = 800 if run.size == "all" else run.size
        splits = {"train": {"rows": train}, "val": {"rows": train // 8}}
        write_json(run.folder.manifest, {"splits": splits})
        right = share(cell.arm, cell.size, cell.draw)
        if right is None or (cell.draw > 1 and not cell.varies):
            continue
        rows = [
            {"text": f"r{at}", "gold": "positive", "prediction": "positive" if at < right else "negative"}
            for at in range(rows_of(cell.draw))
        ]
        write_jsonl(run.folder.predictions(study.system(cell.arm)), rows)
    for _, run in taken:
        if (run.folder.path / "predictions").exists():
            run.known = record_of(run.folder, run.stages)
    return answer(study, taken, folder) | {"left_out": [], "command": "python run_swift.py study card"}


def test_figures_are_those_of_the_predictions(tmp_path: Path) -> None:
    right = {"tfidf": 30, "zero_shot": 18, "lora": 48}
    found = _answer(tmp_path, lambda arm, size, draw: right[arm] + draw * (arm == "lora"))
    (panel,) = found["panels"]
    assert panel["test_rows"] == ROWS
    assert [point["labels"] for point in panel["arms"]["lora"]] == [36, 72, 900]
    first = panel["arms"]["lora"][0]
    assert first["accuracies"] == [(48 + draw) / ROWS for draw in range(1, 7)]
    assert first["sd"] == pytest.approx(np.std(np.arange(1, 7) / ROWS, ddof=1))
    assert first["accuracy_interval"][0] < first["accuracy"] == pytest.approx(51.5 / ROWS)
    # Of all rows there is one run of TF-IDF, and of the untuned model one at all.
    assert [len(point["runs"]) for point in panel["arms"]["tfidf"]] == [7, 7, 1]
    assert [len(point["accuracies"]) for point in panel["arms"]["zero_shot"]] == [1, 1, 1]
    ahead = panel["pairs"][0]["points"]
    assert [point["difference"] for point in ahead] == pytest.approx([21.5 / ROWS] * 3)
    assert [point["draws"] for point in ahead] == [6, 6, 6]
    assert found["answer"][0]["en"].startswith(
        "lora beats TF-IDF at every number of labels, 36 … 900 (+0.358"
    )
    build_page(found, tmp_path / "figures")
    assert (tmp_path / "figures" / "accuracy-1.en.png").exists()
    assert "60 test rows" in (tmp_path / "figures" / "accuracy-1.en.svg").read_text(encoding="utf-8")


def test_all_rows_right_is_no_certainty(tmp_path: Path) -> None:
    found = _answer(tmp_path, lambda arm, size, draw: ROWS if arm == "lora" else 0)
    arms = found["panels"][0]["arms"]
    assert arms["lora"][0]["accuracy_interval"] == pytest.approx([0.940, 1.0], abs=0.001)  # Wilson, 60 of 60
    assert arms["tfidf"][0]["accuracy_interval"] == pytest.approx([0.0, 0.060], abs=0.001)
    equal = _answer(tmp_path / "equal", lambda arm, size, draw: ROWS)
    for point in equal["panels"][0]["pairs"][0]["points"]:
        assert (point["difference"], point["ahead"]) == (0, 0)
        low, high = point["holm_interval"]
        assert low < -0.06
        assert high > 0.06


def test_of_one_draw_it_is_said_that_it_tells_nothing_of_others(tmp_path: Path) -> None:
    alone = CARD[: CARD.index("compare:")].replace("draws: 7", "draws: 1").replace("draws: 6", "draws: 1")
    found = _answer(tmp_path, lambda arm, size, draw: 30, alone)
    assert [each["en"] for each in found["answer"]] == [
        "One draw says nothing of how much another would differ; ask for more by --draws."
    ]
    untuned = CARD[: CARD.index("arms:")] + "arms: {zero_shot: {once: true}}\n"
    assert _answer(tmp_path / "untuned", lambda arm, size, draw: 30, untuned)["answer"] == []


def test_arms_with_one_number_of_labels_are_drawn_below_each_other(tmp_path: Path) -> None:
    card = CARD.replace("sizes: [32, 64, all]", "sizes: [32]")
    build_page(_answer(tmp_path, lambda arm, size, draw: 30 + draw, card=card), tmp_path / "figures")
    drawn = (tmp_path / "figures" / "accuracy-1.en.svg").read_text(encoding="utf-8")
    assert "accuracy with 36 labels" in drawn
    heights = [
        float(height)
        for arm in ("TF-IDF", "the untuned model", "lora")
        for height in re.findall(rf'<text [^>]* y="([\d.]+)"[^>]*>{arm}<', drawn)
    ]
    assert len({*heights}) == 3
    assert heights == sorted(heights)


def test_a_number_that_is_all_rows_is_drawn_once(tmp_path: Path) -> None:
    """800 training rows, and all 800."""
    card = CARD.replace("sizes: [32, 64, all]", "sizes: [800, all]")
    found = _answer(tmp_path, lambda arm, size, draw: 30 + draw, card=card)
    assert {point["labels"] for points in found["panels"][0]["arms"].values() for point in points} == {900}
    build_page(found, tmp_path / "figures")
    drawn = (tmp_path / "figures" / "accuracy-1.en.svg").read_text(encoding="utf-8")
    assert "accuracy with 900 labels" in drawn


def test_answers_without_a_number_of_labels_yet_are_not_called_missing(tmp_path: Path) -> None:
    card = CARD.replace("{once: true}", "{once: true, options: {prompt: zh-system}}")  # a run of its own
    (panel,) = _answer(tmp_path, lambda arm, size, draw: 30 if arm == "zero_shot" else None, card)["panels"]
    assert panel["arms"] == {}
    assert panel["without_answers"] == []


def test_a_sentence_of_a_grid_says_of_what(tmp_path: Path) -> None:
    found = _answer(
        tmp_path, lambda arm, size, draw: 30, card=CARD + "grid: {prompt: [zh-question, zh-system]}\n"
    )
    starts = {each["zh"].partition("：")[0] for each in found["answer"]}
    assert starts == {"prompt zh-question", "prompt zh-system"}
    assert [panel["grid"] for panel in found["panels"]] == [
        {"prompt": "zh-question"},
        {"prompt": "zh-system"},
    ]


def test_a_hub_is_told_the_labels_of_what_reads_some_and_nothing_of_an_empty_panel(tmp_path: Path) -> None:
    found = _answer(tmp_path, lambda arm, size, draw: None if (arm, size) == ("tfidf", "all") else 40)
    empty = {**found["panels"][0], "grid": {"dataset": "jd"}, "arms": {}, "pairs": []}
    found["panels"].append(empty)
    page = build_page(found, tmp_path / "figures")
    points = [point for of in found["panels"][0]["arms"].values() for point in of]
    tested = {run: ("demo", "Demo") for point in points for run in point["runs"]}
    write_hub_card(found, page, tested, tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    index = yaml.safe_load(card.split("---")[1])["model-index"]
    named = {each["name"]: [of["metrics"][0]["name"] for of in each["results"]] for each in index}
    assert named == {
        "card: tfidf": ["accuracy with 72 labels"],
        "card: zero_shot": ["accuracy"],
        "card: lora": ["accuracy with 900 labels"],
    }


def test_without_pairs_a_study_says_how_much_is_luck(tmp_path: Path) -> None:
    card = CARD[: CARD.index("compare")]
    found = _answer(tmp_path, lambda arm, size, draw: 48 + 2 * draw if arm == "lora" else 30, card=card)
    said = [each["en"] for each in found["answer"]]
    assert any("lora with 36 labels: the accuracy of 6 draws is 0.833 – 1.000;" in each for each in said)
    assert any("standard deviation 0.062 (0.039 – 0.153), with its 95 % interval" in each for each in said)


def test_equal_draws_are_no_proof_that_there_is_no_luck(tmp_path: Path) -> None:
    card = CARD[: CARD.index("compare")].replace("draws: 7", "draws: 2")
    said = [each["en"] for each in _answer(tmp_path, lambda arm, size, draw: 30, card=card)["answer"]]
    assert (
        "TF-IDF with 36 labels: the accuracy of each of 2 draws is the same, 0.500, which is no proof that "
        "another would be."
    ) in said


def test_what_reads_no_labels_is_compared_at_none(tmp_path: Path) -> None:
    card = (
        CARD[: CARD.index("arms:")]
        + """
arms:
  plain: {options: {prompt: zh-question}, system: zero_shot, once: true}
  system: {options: {prompt: zh-system}, system: zero_shot, once: true}
compare: [[system, plain]]
"""
    )
    found = _answer(tmp_path, lambda arm, size, draw: 54 if arm == "system" else 30, card=card)
    assert [each["en"] for each in found["answer"]] == ["system beats plain with 0 labels (+0.400)."]
    assert found["panels"][0]["sizes"] == [{"size": 32, "train": 0, "val": 0}]


def test_an_arm_without_answers_is_named(tmp_path: Path) -> None:
    """As a probe that has too few rows at all sizes."""
    card = CARD.replace("  lora: {draws: 6}", "  probe: {}").replace("lora", "probe")
    found = _answer(tmp_path, lambda arm, size, draw: None if arm == "probe" else 30, card=card)
    page = render_markdown(build_page(found, tmp_path / "figures"), tmp_path / "figures", "en")
    assert "Without answers, since rows are too few or the task is not for them: the frozen probe." in page
    assert "Not measured yet" not in page


def test_five_draws_say_nothing_however_clear_they_are(tmp_path: Path) -> None:
    card = CARD.replace("draws: 6", "draws: 5")
    found = _answer(tmp_path, lambda arm, size, draw: 60 if arm == "lora" else 6, card=card)
    lora, cheap = found["panels"][0]["pairs"]
    assert [point["ahead"] for point in lora["points"]] == [None] * 3
    assert all(point["holm_interval"][0] > 0.5 for point in lora["points"])
    said = " ".join(each["en"] for each in found["answer"])
    assert "5 draws are too few to ever tell" in said
    assert "lora beats" not in said
    assert [point["ahead"] for point in cheap["points"]] == [0, 0, 0]


def test_a_size_at_which_an_arm_has_no_answers_has_no_point(tmp_path: Path) -> None:
    """As the probe of very few rows."""
    found = _answer(tmp_path, lambda arm, size, draw: None if (arm, size) == ("lora", 32) else 30)
    assert [point["size"] for point in found["panels"][0]["arms"]["lora"]] == [64, "all"]
    assert [point["size"] for point in found["panels"][0]["pairs"][0]["points"]] == [64, "all"]


def test_what_is_not_measured_yet_is_said_and_draws_are_matched_by_number(tmp_path: Path) -> None:
    """The tuned runs of 32 rows lack the first draw, on which TF-IDF gets all right."""

    def share(arm: str, size: Size, draw: int) -> int | None:
        if arm == "lora":
            return 30 if size == 32 and draw > 1 else None
        return ROWS if draw == 1 and size == 32 else 24

    found = _answer(tmp_path, share)
    (panel,) = found["panels"]
    assert panel["beyond"] == []
    assert panel["unfinished"] == [
        {"arm": "lora", "size": 32, "draws": 5, "of": 6},
        {"arm": "lora", "size": 64, "draws": 0, "of": 6},
        {"arm": "lora", "size": "all", "draws": 0, "of": 6},
    ]
    (point,) = panel["pairs"][0]["points"]
    assert (point["draws"], point["enough_draws"]) == (5, False)
    assert point["difference"] == pytest.approx(6 / ROWS)
    page = render_markdown(build_page(found, tmp_path / "figures"), tmp_path / "figures", "en")
    assert "lora with 32 (5/6), 64 (0/6), all (0/6) training rows (draws there / wanted)" in page


def test_no_sentence_reaches_over_a_size_that_is_not_measured(tmp_path: Path) -> None:
    card = CARD.replace("[32, 64, all]", "[16, 32, 64, 128, all]").replace(
        "[tfidf, zero_shot]", "[probe, tfidf]"
    )
    card = card.replace("arms:", "arms:\n  probe: {sizes: [16, 32, 64]}")

    def share(arm: str, size: Size, draw: int) -> int | None:
        gap = (arm == "lora" and size == 64) or (arm == "probe" and size == 16)
        return None if gap else 30 if arm == "tfidf" else 54

    found = _answer(tmp_path, share, card)
    build_page(found, tmp_path / "figures")  # curves with gaps
    said = [each["en"] for each in found["answer"]]
    assert said == [
        "lora beats TF-IDF up to 36 labels, from the fewest that were tried, 18 (+0.400).",
        "lora beats TF-IDF from 144 labels on, up to the 900 that were tried (+0.400).",
        "The frozen probe beats TF-IDF from 36 labels on, up to the 72 that were tried (+0.400).",
    ]


def test_runs_with_other_test_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has other test rows than demo-tiny-.*--known-runs is of other data"
    ):
        _answer(tmp_path, lambda arm, size, draw: 30, rows_of=lambda draw: ROWS + (draw == 7))


def test_differences_of_both_signs_are_all_within_what_is_said() -> None:
    points = [
        each | {"difference": by} for each, by in zip(_points(0, 0, 0), (0.018, 0.009, -0.011), strict=True)
    ]
    (said,) = conclude_points(A, B, points)
    told = "With 36 … 144 labels no difference between A and B can be told"
    assert said.en == f"{told} (differences from -0.011 to +0.018)."


def _points(*ahead: int | None) -> list[dict[str, Any]]:
    return [
        {
            "labels": 36 * 2**at,
            "difference": 0.1 * (each or 0.0),
            "ahead": each,
            "enough_draws": each is not None,
        }
        for at, each in enumerate(ahead)
    ]


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        ((1, 1, 1), ["A beats B at every number of labels, 36 … 144 (+0.100)."]),
        (
            (1, 1, 0, -1),
            [
                "A beats B up to 72 labels, from the fewest that were tried, 36 (+0.100).",
                "With 144 labels no difference between A and B can be told (+0.000).",
                "B beats A with 288 labels (+0.100).",
            ],
        ),
        (
            (0, 1, 0),
            [
                "With 36 labels no difference between A and B can be told (+0.000).",
                "A beats B with 72 labels (+0.100).",
                "With 144 labels no difference between A and B can be told (+0.000).",
            ],
        ),
        ((-1,), ["B beats A with 36 labels (+0.100)."]),
        ((None, 1), ["A beats B with 72 labels (+0.100)."]),
        (
            (1, None, 1),
            [
                "A beats B with 36 labels (+0.100).",
                "A beats B with 144 labels (+0.100).",
            ],
        ),
        (
            (0, 1, 1),
            [
                "With 36 labels no difference between A and B can be told (+0.000).",
                "A beats B from 72 labels on, up to the 144 that were tried (+0.100).",
            ],
        ),
        ((None, None), []),
    ],
    ids=str,
)
def test_sentences(ahead: tuple[int | None, ...], said: list[str]) -> None:
    found = list(conclude_points(A, B, _points(*ahead)))
    assert [each.en for each in found] == said
    assert all(each.zh.endswith("。") for each in found)
