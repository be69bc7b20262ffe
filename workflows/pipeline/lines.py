"""What a person reads on the screen of a stage that is done, made of its summary."""

from collections.abc import Callable, Iterator
from typing import Any

from workflows.core.files import read_json
from workflows.core.run_folder import RunFolder
from workflows.core.screen import as_typed
from workflows.core.unusual import say_unusual

Summary = dict[str, Any]


def lines_of(stage: str, summary: Any, run: RunFolder) -> Iterator[str]:
    """The lines of a stage; none for those that say nothing."""
    if stage in LINES:
        yield from LINES[stage](summary, run)


def lines_again(stage: str, run: RunFolder) -> Iterator[str]:
    """The lines of a stage that was done before, where its files tell what they say."""
    kept = {"prepare": run.manifest, "audit": run.audit_summary, "train": run.training}
    if stage == "report":
        yield from lines_of(stage, None, run)
    elif stage in kept:
        yield from lines_of(stage, read_json(kept[stage]), run)


def _prepare(manifest: Summary, run: RunFolder) -> Iterator[str]:
    rows = manifest["rows"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in manifest["rejected"].items())
    why = f" ({reasons})" if reasons else ""
    yield (
        f"{rows['read']:,} rows read, {rows['kept']:,} kept, {rows['rejected']:,} rejected{why}; "
        f"{manifest['from']}"
    )
    for name, split in manifest["splits"].items():
        labels = ", ".join(f"{label} {count:,}" for label, count in split["labels"].items())
        if split["numbers"] is not None:
            labels = ", ".join(f"{figure} {value:.2f}" for figure, value in split["numbers"].items())
        yield f"{name:5} {split['rows']:6,} rows: {labels}"
    for said in say_unusual(manifest):
        yield f"{said.en}  {said.zh}"
    searched = manifest["near_copies"]["searched"]
    if searched != "all rows":
        were = "searched only for sampled rows" if searched else "not searched"
        yield f"near copies of test rows were {were}: there are too many rows"
    for name, mixed in manifest["mixed"].items():
        lengths = mixed["lengths"]
        left_out = "".join(f", {count:,} left out: {reason}" for reason, count in mixed["left_out"].items())
        yield f"mixed {mixed['used']:6,} rows of {name} into train{left_out}"
        if not lengths["alike"]:
            yield (
                f"warning: lengths differ: {lengths['median']:.0f} characters in the middle, "
                f"{lengths['median_mixed']:.0f} in {name}; mixing was reported to hurt then"
            )


def _tokens(summary: Summary, run: RunFolder) -> Iterator[str]:
    lengths = summary["splits"]["train"]
    over = lengths["over_max_length"]["rows"]
    yield (
        f"training rows have {lengths['median']:.0f} tokens in the middle, {lengths['max']} at most; "
        f"{over} of {lengths['rows']:,} are longer than max_length {summary['max_length']}"
        + (f" and will be {summary['longer_training_rows_are']}" if over else "")
    )


def _probe(summary: Summary, run: RunFolder) -> Iterator[str]:
    rows = summary["rows"]
    if summary["missing"] is not None:
        yield summary["missing"]["en"]
    elif rows["used"] < rows["labelled"]:
        yield f"fitted to {rows['used']:,} of {rows['labelled']:,} labelled rows; more with --probe-rows"
    else:
        yield f"fitted to all {rows['used']:,} labelled rows"


def _audit(summary: Summary, run: RunFolder) -> Iterator[str]:
    if summary["likely_wrong"] is None:
        yield "not judged: that takes five rows of each label"
    else:
        wrong, rows = summary["likely_wrong"], summary["rows"]
        where = as_typed(run.audit)
        if summary.get("edited"):
            where += (
                " was edited, and is kept as it is; give it another name and run this again for a new one"
            )
        yield f"{wrong:,} of {rows:,} labels are likely wrong: {where}"
        if "others" in summary:
            yield (
                "of the {rows:,} rows of other data sets, {likely_wrong:,} are likely wrong, and not in that "
                "table: --apply takes rows of this data set alone"
            ).format(**summary["others"])
        if "flipped" in summary:
            yield "of the {rows:,} labels made wrong on purpose, {likely_wrong:,} are among them".format(
                **summary["flipped"]
            )


def _derive(summary: Summary, run: RunFolder) -> Iterator[str]:
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in summary["rows"].items())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["rejected"].items())
    yield f"rows: {counts}" + (f"; rejected: {reasons}" if reasons else "")


def _train(summary: Summary, run: RunFolder) -> Iterator[str]:
    best = summary["best_by"]
    figure = f", best validation {best['metric']} {best['value']:.4f}" if best["value"] is not None else ""
    yield f"{summary['steps']} steps{figure}, kept {summary['checkpoint']}"
    rows = summary["rows"]["train"]
    if rows["used"] < rows["given"]:
        left_out = rows["given"] - rows["used"]
        yield f"{left_out} of {rows['given']} train rows were left out by SWIFT: longer than max_length"


def _report(summary: Any, run: RunFolder) -> Iterator[str]:
    yield as_typed(run.report_page)


LINES: dict[str, Callable[[Any, RunFolder], Iterator[str]]] = {
    "prepare": _prepare,
    "tokens": _tokens,
    "probe": _probe,
    "audit": _audit,
    "derive": _derive,
    "train": _train,
    "report": _report,
}
