"""The scores as tables for the terminal."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from workflows.screen import as_text
from workflows.wording import SYSTEMS

STAND_IN = (
    "tiny is an embedded stand-in for a real Qwen, made so that the whole job runs anywhere: its scores "
    "show that the "
    "pipeline works,\nand say nothing about a real Qwen.  tiny 只是真实 Qwen 的替身，分数仅说明流程可以跑通。"
)


def render_scores(scores: dict[str, Any]) -> str:
    """The table of systems, the per-class table of the last one, and what must be known to read them."""
    rows = scores["test_rows"]
    titles = {system: f"{SYSTEMS[system].en} {SYSTEMS[system].zh}" for system in scores["systems"]}
    title = f"{scores['experiment']['dataset']}: {rows:,} test rows"
    overview = _overview(title, scores["systems"], titles, rows)
    last, figures = list(scores["systems"].items())[-1]
    confusion = figures["confusion"]
    detail = Table(
        title=f"{titles[last]}: per class, and gold (rows) against predicted (columns)",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    detail.add_column("gold 真实标签")
    for heading in ("rows", "precision", "recall", "F1", *(f"→ {name}" for name in confusion["predicted"])):
        detail.add_column(heading, justify="right")
    for name, counts in zip(confusion["gold"], confusion["counts"], strict=True):
        per_class = figures["per_class"][name]
        shares = (f"{per_class[key]:.3f}" for key in ("precision", "recall", "f1"))
        detail.add_row(name, str(per_class["rows"]), *shares, *map(str, counts))
    text = as_text(overview, detail)
    notes = [scores["verdict"][language] for language in ("en", "zh") if scores["verdict"][language]]
    notes += [
        f"An output is read as {scores['reading']}. Unreadable outputs count as wrong. 95 % intervals: "
        "Wilson for accuracy, BCa bootstrap for macro F1; p: exact McNemar, Holm-corrected."
    ]
    if scores["experiment"]["model"] == "tiny":
        notes.append(STAND_IN)
    return f"{text}\n" + "\n".join(notes)


def render_comparison(comparison: dict[str, Any]) -> str:
    """The table of a comparison of runs, and what may be concluded."""
    rows, systems = comparison["test_rows"], comparison["systems"]
    titles = {key: "\n".join((key.split("/")[0], f"  {SYSTEMS[key.split('/')[1]].en}")) for key in systems}
    text = as_text(_overview(f"{rows:,} test rows, the same for all", systems, titles, rows))
    return "\n".join([text, comparison["verdict"]["en"], comparison["verdict"]["zh"]])


def render_selection(selection: dict[str, Any]) -> str:
    """The table of a selection of base models, and what may be concluded."""
    models = selection["models"]
    overview = _overview(
        f"{selection['dataset']}: {selection['cases']:,} cases",
        models,
        {n: n for n in models},
        selection["cases"],
    )
    cost = Table(box=SIMPLE_HEAD)
    cost.add_column("model 模型", overflow="fold")
    for heading in ("prompt", "s a row 每行秒数", "parameters 参数量", "peak memory 峰值内存", "dtype"):
        cost.add_column(heading, justify="right")
    for name, figures in models.items():
        each = figures["cost"]
        memory = f"{max(each['peak_memory_bytes'].values()) / 2**30:.2f} GiB"
        numbers = f"{each['seconds_a_row']:.3f}", f"{each['parameters']:,}", memory
        cost.add_row(name, figures["prompt"], *numbers, each["torch_dtype"])
    return "\n".join([as_text(overview, cost), selection["verdict"]["en"], selection["verdict"]["zh"]])


def _overview(title: str, systems: dict[str, Any], titles: dict[str, str], rows: int) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("system 系统", overflow="fold")
    for heading in (
        "accuracy 准确率",
        "95 % interval",
        "macro F1",
        "95 % interval",
        "strict acc.",
        "unreadable",
    ):
        table.add_column(heading, justify="right")
    for system, figures in systems.items():
        strict = figures["strict_accuracy"]
        unread = figures["unparsed"]
        table.add_row(
            titles[system],
            f"{figures['accuracy']:.3f}",
            _interval(figures["accuracy_interval"]),
            f"{figures['macro_f1']:.3f}",
            _interval(figures["macro_f1_interval"]),
            "–" if strict is None else f"{strict:.3f}",
            "–" if strict is None else f"{unread} ({unread / rows:.1%})",
        )
    return table


def _interval(bounds: list[float] | None) -> str:
    return "–" if bounds is None else f"{bounds[0]:.3f} – {bounds[1]:.3f}"
