"""What the report says of the data, of likely wrong labels, and of the run's time, versions and settings."""

from pathlib import Path
from typing import Any

from workflows.core.texts import Text, number, one_after_another, text, texts, with_interval
from workflows.experiment.experiment import Experiment
from workflows.reporting.blocks import Block, Grid, Paragraph, Picture, Section
from workflows.reporting.files import Files


def describe_data(files: Files) -> Section:
    """Counts, balance, lengths, near copies, drift, corrections."""
    manifest = files.manifest
    near, drift, corrections = manifest["near_copies"], manifest["drift"], manifest["corrections"]
    if near["searched"] is None:
        said = [text("near_copies_not_searched")]
    else:
        everywhere = near["searched"] == "all rows"
        said = [text("near_copies" if everywhere else "near_copies_in_the_sample", **near)]
    own = manifest.get("tested", {}).get("own_near_copies", 0)  # which older runs did not count
    if own:
        dataset = manifest.get("data_title", manifest["dataset"])
        said.append(text("own_near_copies", count=own, dataset=dataset))
    if drift is not None:
        differ = text(
            "do_training_and_test_differ",
            auroc=with_interval(drift["texts"]["auroc"], drift["texts"]["interval"]),
            rows=drift["texts"]["rows"],
            labels="–" if drift["labels_p"] is None else f"p = {drift['labels_p']:.3f}",
            lengths_p=drift["lengths_p"],
        )
        said.append(differ)
    if corrections["file"] is not None:
        relabelled, dropped = corrections["relabelled"], corrections["dropped"]
        said.append(text("corrected_by_hand", relabelled=relabelled, dropped=dropped))
    said += [_mixed(name, each) for name, each in manifest.get("mixed", {}).items()]
    blocks: list[Block] = [
        Paragraph(_rows_read(manifest)),
        _balance(files),
        Picture("lengths", text("lengths_caption")),
        _lengths(files),
        *map(Paragraph, said),
    ]
    return Section(text("the_data"), blocks)


def _rows_read(manifest: dict[str, Any]) -> Text:
    if not manifest["rejected"]:
        return text("rows_read", **manifest["rows"])
    names = texts("rejection_reasons")
    reasons = [
        text("rejected_for", count=count, reason=names[reason])
        for reason, count in manifest["rejected"].items()
    ]
    listed = one_after_another(reasons, ", ", "，")
    return text("rows_read_and_rejected", **manifest["rows"], reasons=listed)


def _mixed(name: str, mixed: dict[str, Any]) -> Text:
    """What `name` gave to the training rows, and whether its texts are as long."""
    lengths = mixed["lengths"]
    rows = text(
        "rows_mixed_in",
        name=name,
        used=mixed["used"],
        read=mixed["rows"]["read"],
        drawn=mixed["drawn"],
        left_out=sum(mixed["left_out"].values()),
    )
    alike = text(
        "mixed_lengths_alike" if lengths["alike"] else "mixed_lengths_not_alike",
        mixed=lengths["median_mixed"],
        own=lengths["median"],
    )
    return one_after_another([rows, alike])


def _balance(files: Files) -> Grid:
    """The rows of each label, or what the numbers of a regression are like."""
    numbers = texts("numbers") if files.scores["task"] == "regression" else {}
    labels = [] if numbers else list(files.manifest["splits"]["train"]["labels"])
    rows: list[list[Text | str]] = []
    for split, title in texts("splits").items():
        figures = files.manifest["splits"][split]
        counts = [figures["labels"][name] for name in labels]
        cells = [f"{count:,} ({count / figures['rows']:.1%})" for count in counts]
        cells += [number(figures["numbers"][name]) for name in numbers]
        rows.append([title, f"{figures['rows']:,}", *cells])
    return Grid([text("split"), text("rows"), *labels, *numbers.values()], rows)


def _lengths(files: Files) -> Grid:
    in_characters, in_tokens = ("median", "p90", "p99", "max"), ("median", "p99", "max")
    parts = texts("lengths")
    headings = [text("split"), *(text("length_in_characters", part=parts[name]) for name in in_characters)]
    if files.tokens is not None:
        headings += [text("length_in_tokens", part=parts[name]) for name in in_tokens]
        headings.append(text("over_max_length", limit=files.tokens["max_length"]))
    rows: list[list[Text | str]] = []
    for split, title in texts("splits").items():
        characters = files.manifest["splits"][split]["characters"]
        shown = [f"{characters[name]:,.0f}" for name in in_characters]
        if files.tokens is not None:
            tokens = files.tokens["splits"][split]
            over = tokens["over_max_length"]["rows"]
            shown += [f"{tokens[name]:,.0f}" for name in in_tokens]
            shown.append(f"{over:,} ({over / tokens['rows']:.1%})")
        rows.append([title, *shown])
    return Grid(headings, rows)


def describe_labels(files: Files) -> list[Section]:
    """The rows that the audit takes for mislabelled, where there was one."""
    if files.audit is None:
        return []
    audit, title = files.audit, text("likely_wrong_labels")
    if audit["likely_wrong"] is None:
        return [Section(title, [Paragraph(text("labels_not_judged"))], folded=True)]
    headings = (
        text("review"),
        text("split"),
        text("present_label"),
        text("suggested_label"),
        text("probability_of_the_label"),
    )
    names = ("text", "split", "label", "suggested", "quality")
    rows = [[row[name] for name in names] for row in audit["worst"]]
    note = Paragraph(
        text(
            "labels_judged_again" if audit.get("edited") else "labels_judged",
            wrong=audit["likely_wrong"],
            rows=audit["rows"],
            judge=texts("systems_in_a_sentence")[audit.get("judged_by", "tfidf")],
        )
    )
    notes = [note, *([Paragraph(text("flips_found", **audit["flipped"]))] if "flipped" in audit else [])]
    return [Section(title, [*notes, *([Grid(headings, rows)] if rows else [])], folded=True)]


def describe_run(files: Files, experiment: Experiment) -> Section:
    """Time and peak memory of each stage, versions, seeds, and SWIFT's arguments."""
    rows: list[list[Text | str]] = []
    told: list[Block] = []
    for stage, title in texts("stages").items():
        if stage in files.stages:
            record = files.stages[stage]
            peaks = record.get("peak_memory_bytes", {})
            shown = ", ".join(f"{name.upper()} {size / 2**30:.2f} GiB" for name, size in peaks.items()) or "–"
            took: Text | str = f"{record['seconds']:,.1f} s"
            if (before := record.get("taken_over")) is not None:
                took = text("taken_over", seconds=before["seconds"], run=Path(before["run"]).name)
            rows.append([title, took, shown, record["at"]])
            told += [
                Paragraph(text("told", stage=title, said=Text(**said))) for said in record.get("told", [])
            ]
    headings = (text("stage"), text("time"), text("peak_memory"), text("done_at"))
    facts: dict[str, Any] = {}
    if files.environment is not None:
        machine = files.environment["machine"]
        facts |= {"device": f"{machine['device']} ({machine['name']})", "python": files.environment["python"]}
        facts |= files.environment["packages"]
        facts["git commit"] = files.environment["git_commit"] or "–"
    facts |= {
        "seed": experiment.tuning.seed,
        "data seed": experiment.data.data_seed,
        "prompt": experiment.prompt.name,
        "engine": experiment.tuning.engine,
        "test set SHA-256": files.scores["test_sha256"],
        **{f"{name} (SWIFT)": value for name, value in experiment.arguments.items()},
        **experiment.recipe_settings,
    }
    settings = [(name, str(value)) for name, value in facts.items()]
    grids = Grid(headings, rows), Grid((text("setting"), text("value")), settings, texts=(0, 1))
    return Section(text("time_memory_versions_settings"), [*told, *grids], folded=True)
