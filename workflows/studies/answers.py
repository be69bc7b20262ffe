"""What the runs of a study say: accuracies, differences with intervals, and the sentences that they allow."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby, product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from workflows.core.errors import UserError
from workflows.core.files import read_json
from workflows.core.statistics import (
    Resampled,
    deviation_interval,
    excludes_zero,
    holm_intervals,
    resample_mean,
    resampled_interval,
)
from workflows.core.texts import Text, text, with_interval
from workflows.studies.card import Size, Study, sizes_of
from workflows.studies.records import Record, as_stored, right_rows, without_folders
from workflows.studies.runs import Run, Taken

FEWEST_DRAWS = 6  # by a sign test, 6 draws that all agree are the first to tell: 2 x 0.5^6 = 0.031 < 0.05
Point = dict[str, Any]  # what an arm, or a pair of arms, came to at one size


def answer(study: Study, taken: Taken, folder: Path) -> dict[str, Any]:
    """What study.json holds of the runs that are finished; paths of runs are relative to `folder`.

    Raises UserError where the runs of a panel were tested on different rows.
    """
    records = {run.key: run.record for run in {run.key: run for _, run in taken}.values() if run.is_done}
    panels = [
        _panel(study, values, [each for each in taken if each[0].panel == values], records)
        for values in product(*study.grid.values())
    ]
    said = [each for panel in panels for each in sentences(study, panel)]
    titles = {arm: study.title(arm) for arm in study.arms}
    return {
        "study": study.name,
        "question": asdict(study.question),
        "answer": [asdict(each) for each in said],
        "stands_in": any(run.experiment.model.name == "tiny" for _, run in taken),
        "options": {name: _shown(value) for name, value in study.options.items()},
        "once": [arm for arm, each in study.arms.items() if each.once],
        "titles": {arm: asdict(said) if isinstance(said, Text) else said for arm, said in titles.items()},
        "panels": panels,
        "folders": {
            run.key: os.path.relpath(run.folder.path, folder)
            for _, run in taken
            if run.folder.scores.exists()
        },
        **as_stored(records),
    }


def _panel(study: Study, values: tuple[Any, ...], taken: Taken, records: dict[str, Record]) -> dict[str, Any]:
    right: dict[tuple[str, Size], dict[int, np.ndarray]] = {}  # by draw: whether each test row was got right
    arms: dict[str, list[Point]] = {arm: [] for arm in study.arms}
    labels: dict[Size, int] = {}
    sizes: list[dict[str, Any]] = []
    unfinished: list[dict[str, Any]] = []
    uncompared = set[str]()  # arms with answers, where no number of labels is known yet
    tested: Record = {}
    first: Run | None = None
    for size in dict.fromkeys(cell.size for cell, _ in taken):
        here = [each for each in taken if each[0].size == size]
        reading = [run for cell, run in here if run.key in records and not study.arms[cell.arm].once]
        read = records[reading[0].key]["labels"] if reading else None
        if not study.reads_labels:
            read = {"train": 0, "val": 0}
        if read is not None:
            sizes.append({"size": size, **read})
            labels[size] = sum(read.values())
        for arm, points in arms.items():
            cells = {cell.draw: run for cell, run in here if cell.arm == arm}
            varies = any(cell.varies for cell, _ in here if cell.arm == arm)
            runs = cells if varies else {draw: cells[draw] for draw in [*cells][:1]}
            done = {draw: run for draw, run in runs.items() if run.key in records}
            if len(done) < len(runs):
                unfinished.append({"arm": arm, "size": size, "draws": len(done), "of": len(runs)})
            for run in done.values():
                record = records[run.key]
                tested, first = tested or record, first or run
                refuse_other_test_rows(study, (run, record), (first, tested))
            hits = {draw: right_rows(records[run.key], study.system(arm)) for draw, run in done.items()}
            found = {draw: each for draw, each in hits.items() if each is not None}
            # Of so few rows there is no probe; at sizes that nothing has labels of, nothing is compared.
            if found and size not in labels:
                uncompared.add(arm)
            if not found or len(found) < len(done) or size not in labels:
                continue
            right[arm, size] = found
            point = {"size": size, "labels": labels[size], "varies": varies}
            draws = {"draws": [*found], "runs": [run.key for run in done.values()]}
            points.append(point | _spread(np.array([*found.values()])) | draws)
    measured = {arm: points for arm, points in arms.items() if points}
    beyond = [size for size in sizes_of(study) if size not in {cell.size for cell, _ in taken}]
    seen = {cell.arm for cell, run in taken if run.key in records}
    pairs = [
        {"a": a, "b": b, "points": _compare(a, b, arms, right, _sizes_of_both(study, a, b, beyond))}
        for a, b in study.compare
        if {a, b} <= measured.keys()
    ]
    return {
        "grid": dict(zip(study.grid, map(_shown, values), strict=True)),
        "test_rows": tested.get("test_rows", 0),
        "sizes": sizes,
        "arms": measured,
        "pairs": pairs,
        "unfinished": unfinished,
        "without_answers": sorted(seen - measured.keys() - uncompared - {each["arm"] for each in unfinished}),
        "beyond": beyond,
    }


def refuse_other_data(study: Study, folder: Path) -> None:
    """Raise UserError where `folder` holds the page of another study, or of this one on other data."""
    try:
        there = read_json(folder / "study.json")
        asked = {"study": study.name, **{name: _shown(value) for name, value in study.options.items()}}
        held = {"study": there["study"], **there["options"]}
    except (OSError, ValueError, KeyError, TypeError):
        return  # none is there, or nothing that can be read
    for name in ("study", "dataset", "data_file", "split", "model"):
        if held.get(name) != asked.get(name):
            raise UserError(
                f"{folder}: holds a page of {name} {held.get(name, 'as the card has it')}, not "
                f"{asked.get(name, 'as the card has it')}, and would be written over; name another folder by "
                "--output."
            )


def refuse_other_test_rows(study: Study, one: tuple[Run, Record], other: tuple[Run, Record]) -> None:
    """Raise UserError where two runs of a panel, each with its record, were tested on different rows."""
    (run, record), (first, tested) = one, other
    if record["tested"] == tested["tested"]:
        return
    why = (
        "either its arms have options of their own that choose them, which belong into the study's grid, or "
        "a data file has changed in between: then start anew with --output."
    )
    if run.known is not None or first.known is not None:
        why = "--known-runs is of other data; leave it out."
    raise UserError(f"study {study.name}: {run.name} has other test rows than {first.name}: {why}")


def _shown(value: Any) -> Any:
    """The value of an option as the page has it."""
    named = without_folders(value)
    return " ".join(map(str, named)) if isinstance(named, list) else named


def points_to_show(panel: dict[str, Any]) -> dict[str, Point]:
    """Of each arm its point at the number of labels that the most arms have, the largest of those."""
    points = [(arm, point) for arm, points in panel["arms"].items() for point in points]
    if not points:
        return {}
    arms_with = Counter(point["labels"] for _, point in points)
    labels = max(arms_with, key=lambda labels: (arms_with[labels], labels))
    return {arm: point for arm, point in points if point["labels"] == labels}


def listed(options: Mapping[str, Any]) -> str:
    """Options as one reads them."""
    return ", ".join(f"{option} {value}" for option, value in options.items())


def _spread(right: np.ndarray) -> Point:
    """Accuracy of each draw, their mean with its interval, and their standard deviation."""
    each, found = right.mean(1).tolist(), resample_mean(right)
    low, high = resampled_interval(found)
    return {
        "accuracies": each,
        "accuracy": mean(each),
        "accuracy_interval": [max(0.0, low), min(1.0, high)],
        "sd": stdev(each) if len(each) > 1 else None,
    }


def _compare(
    a: str,
    b: str,
    arms: dict[str, list[Point]],
    right: dict[tuple[str, Size], dict[int, np.ndarray]],
    asked: list[Size],
) -> list[Point]:
    """By how much `a` is ahead of `b` on the draws of both, at each of the `asked` sizes that both have."""
    points: list[Point] = []
    differences: list[Resampled] = []
    of_b = {point["size"]: point for point in arms[b]}
    for point in arms[a]:
        size = point["size"]
        if size not in of_b:
            continue
        varying = [{*of["draws"]} for of in (point, of_b[size]) if of["varies"]]
        draws = sorted(set.intersection(*varying)) if varying else [1]
        if not draws:
            continue
        of_each = [
            np.array([rows[draw if of["varies"] else of["draws"][0]] for draw in draws]).astype(int)
            for of, rows in ((point, right[a, size]), (of_b[size], right[b, size]))
        ]
        difference = of_each[0] - of_each[1]
        differences.append(resample_mean(difference))
        enough = len(draws) >= FEWEST_DRAWS or not varying
        found = {"difference": float(difference.mean()), "draws": len(draws), "enough_draws": enough}
        points.append({"size": size, "labels": point["labels"], **found})
    for each, interval in zip(points, holm_intervals(differences, len(asked)), strict=True):
        each |= {
            "holm_interval": interval,
            "ahead": excludes_zero(interval) if each["enough_draws"] else None,
        }
    return points


def sentences(study: Study, panel: dict[str, Any]) -> Iterator[Text]:
    """What may be said of a panel: of each pair of arms where one is ahead, or, where nothing is compared,
    how much the accuracy of each arm depends on the draw.
    """
    where = listed(panel["grid"])
    said: list[Text] = []
    for pair in panel["pairs"]:
        points = _with_gaps(study, panel, pair)
        said += conclude_points(study.title(pair["a"]), study.title(pair["b"]), points)
    for arm, points in {} if panel["pairs"] else panel["arms"].items():
        said += [_luck(study.title(arm), point) for point in points if point["sd"] is not None]
    few = [each["draws"] for pair in panel["pairs"] for each in pair["points"] if not each["enough_draws"]]
    varies = any(point["varies"] for points in panel["arms"].values() for point in points)
    if varies and not panel["pairs"] and not said and not panel["unfinished"]:
        said.append(text("one_draw_has_no_spread"))
    if few and max(few) == 1:
        said.append(text("one_draw_is_too_few", fewest=FEWEST_DRAWS))
    elif few:
        said.append(text("too_few_draws", draws=max(few), fewest=FEWEST_DRAWS))
    yield from (text("of_panel", panel=where, said=each) if where else each for each in said)


def _luck(arm: Text | str, point: Point) -> Text:
    """How much the accuracy of an arm depends on the draw."""
    each, sd = sorted(point["accuracies"]), point["sd"]
    known = {"arm": arm, "labels": point["labels"], "draws": len(each)}
    if sd == 0:
        return text("equal_accuracy_by_draw", accuracy=each[0], **known)
    spread = with_interval(sd, deviation_interval(sd, len(each)))
    return text("accuracy_by_draw", ends=f"{each[0]:.3f} – {each[-1]:.3f}", sd=spread, **known)


def _with_gaps(study: Study, panel: dict[str, Any], pair: dict[str, Any]) -> list[Point]:
    """A pair's points; nobody is ahead at the sizes that both arms have, and that are not measured."""
    there = {point["size"]: point for point in pair["points"]}
    asked = _sizes_of_both(study, pair["a"], pair["b"], panel["beyond"])
    return [there.get(size, {"ahead": None}) for size in asked]


def _sizes_of_both(study: Study, a: str, b: str, beyond: list[Size]) -> list[Size]:
    """The sizes at which both arms are asked for, but for those that have too few rows."""
    both = [study.arms[arm].sizes or study.sizes for arm in (a, b)]
    return [size for size in sizes_of(study) if size not in beyond and all(size in sizes for sizes in both)]


def conclude_points(a: Text | str, b: Text | str, points: list[Point]) -> Iterator[Text]:
    """Where `a` is ahead of `b` or `b` of `a`, and where neither is, from few labels to many.

    Someone is ahead where the corrected interval leaves out 0; nothing is said of sizes with too few draws,
    or without answers, and no sentence reaches over them.
    """
    for ahead, group in groupby(points, key=lambda point: point["ahead"]):
        if ahead is None:
            continue
        run = list(group)
        by = sorted(point["difference"] * (ahead or 1) for point in run)
        first, last = run[0], run[-1]
        winner, loser = (a, b) if ahead >= 0 else (b, a)
        labels = " … ".join(dict.fromkeys(f"{point['labels']:,d}" for point in (first, last)))
        low, high = f"{by[0]:+.3f}", f"{by[-1]:+.3f}"
        # In words: with dots between them they would look like an interval.
        figures = low if low == high else text("differences_from_to", low=low, high=high)
        said: dict[str, Any] = {"winner": winner, "loser": loser, "figures": figures}
        if ahead == 0:
            yield text("neither_is_ahead", labels=labels, **said)
        elif len(run) == len(points) > 1:
            yield text("beats_throughout", labels=labels, **said)
        elif first is points[0] and len(run) > 1:
            yield text("beats_up_to", least=first["labels"], most=last["labels"], **said)
        elif last is points[-1] and len(run) > 1:
            yield text("beats_from", least=first["labels"], most=last["labels"], **said)
        else:
            yield text("beats_with", labels=labels, **said)
