"""The scores as tables for the terminal."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from workflows.screen import as_text

TITLES = {
    "majority": "baseline: majority class 多数类",
    "tfidf": "baseline: TF-IDF 词袋 (n-grams + LR)",
    "zero_shot": "before tuning 微调前 (zero-shot)",
    "tuned": "after tuning 微调后",
}
STAND_IN = (
    "tiny is an embedded stand-in for a real Qwen, made so that the whole job runs anywhere: its scores "
    "show that the "
    "pipeline works,\nand say nothing about a real Qwen.  tiny 只是真实 Qwen 的替身，分数仅说明流程可以跑通。"
)


def render_scores(scores: dict[str, Any]) -> str:
    """The table of systems, the per-class table of the last one, and what must be known to read them."""
    rows = scores["test_rows"]
    overview = Table(
        title=f"{scores['experiment']['dataset']}: {rows:,} test rows", title_justify="left", box=SIMPLE_HEAD
    )
    overview.add_column("system 系统")
    for heading in ("accuracy 准确率", "95 % interval", "macro F1", "strict accuracy", "unreadable"):
        overview.add_column(heading, justify="right")
    for system, figures in scores["systems"].items():
        low, high = figures["accuracy_interval"]
        strict = figures["strict_accuracy"]
        unread = figures["unparsed"]
        overview.add_row(
            TITLES[system],
            f"{figures['accuracy']:.3f}",
            f"{low:.3f} – {high:.3f}",
            f"{figures['macro_f1']:.3f}",
            "–" if strict is None else f"{strict:.3f}",
            "–" if strict is None else f"{unread} ({unread / rows:.1%})",
        )
    last, figures = list(scores["systems"].items())[-1]
    confusion = figures["confusion"]
    detail = Table(
        title=f"{TITLES[last]}: per class, and gold (rows) against predicted (columns)",
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
    notes = [
        f"An output is read as {scores['reading']}. Unreadable outputs count as wrong. 95 % intervals: "
        "Wilson."
    ]
    if scores["experiment"]["model"] == "tiny":
        notes.append(STAND_IN)
    return f"{text}\n" + "\n".join(notes)
