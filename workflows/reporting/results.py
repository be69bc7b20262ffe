"""The tables of systems and of pairs of systems, and how to read them, by the data set's task."""

from collections.abc import Mapping
from typing import Any

from workflows.core.texts import Both, Text, in_language, number, p_value, with_interval, with_signed_interval
from workflows.experiment.cards import Task
from workflows.reporting.blocks import Block, Grid, Paragraph

FIGURES: dict[str, Text] = {  # what a table of systems shows, in this order, where the systems have it
    "accuracy": Both("accuracy", "准确率"),
    "micro_f1": Both("micro F1", "微平均 F1"),
    "macro_f1": Both("macro F1", "宏平均 F1"),
    "rmse": "RMSE",
    "mae": "MAE",
    "spearman": "Spearman",
}
PROBABILITIES_AND_OUTPUTS: tuple[Text, ...] = (
    *("AUROC", "Brier", "ECE"),
    *(Both("strict accuracy", "严格准确率"), Both("unreadable", "无法识别")),
)
HOW_TO_READ: dict[Task, Both] = {
    "single_label": Both("Brier and ECE: smaller is better.", "Brier 与 ECE 越小越好。"),
    "multi_label": Both("Accuracy: the whole set of labels is right.", "准确率：整组标签全部正确。"),
    "regression": Both(
        "RMSE and MAE, in the unit of the numbers: smaller is better. Spearman: 1 where predictions have the "
        "order of the gold numbers.",
        "RMSE 与 MAE 以数值本身为单位，越小越好。Spearman 为 1 表示预测与真实值的次序一致。",
    ),
}


def systems_blocks(scores: dict[str, Any], titles: Mapping[str, Text]) -> list[Block]:
    """The table of systems and how to read it; `scores` as in scores.json."""
    count, reading, note = scores["test_rows"], scores["reading"], HOW_TO_READ[scores["task"]]
    return [
        systems_grid(scores["systems"], titles),
        Paragraph(
            Both(
                f"n = {count:,} test rows, the same for all systems; in brackets 95 % intervals. "
                f"{reading['en']} {note.en}",
                f"n = {count:,} 行测试数据，各系统相同；括号内为 95 % 区间。{reading['zh']}{note.zh}",
            )
        ),
    ]


def systems_grid(systems: dict[str, Any], titles: Mapping[str, Text]) -> Grid:
    """The table of systems, each figure with its interval; `systems` as in scores.json."""
    first = next(iter(systems.values()))
    shown = [name for name in FIGURES if f"{name}_interval" in first]
    more = PROBABILITIES_AND_OUTPUTS if "probabilities" in first else ()
    rows: list[tuple[Text, ...]] = [
        (
            titles[system],
            *(with_interval(figures[name], figures[f"{name}_interval"]) for name in shown),
            *(_probabilities_and_outputs(figures) if more else ()),
        )
        for system, figures in systems.items()
    ]
    return Grid((Both("system", "系统"), *(FIGURES[name] for name in shown), *more), rows)


def _probabilities_and_outputs(figures: dict[str, Any]) -> tuple[Text, ...]:
    probabilities = figures["probabilities"]
    per_label = list(probabilities["per_label"].values())
    # Of two labels each has the AUROC of the other; of more, the table has their mean alone.
    two = len(figures["confusion"]["gold"]) == 2
    interval = per_label[0]["auroc_interval"] if two and per_label else None
    writes = figures["strict_accuracy"] is not None
    return (
        with_interval(probabilities["auroc"], interval),
        with_interval(probabilities["brier"], probabilities["brier_interval"]),
        number(probabilities["ece"]),
        number(figures["strict_accuracy"]),
        f"{figures['unparsed']:,}" if writes else "–",
    )


def pairs_blocks(pairs: list[dict[str, Any]], titles: Mapping[str, Text]) -> list[Block]:
    """The table of pairwise tests, and what the figures in it are; `pairs` as in scores.json."""
    numbers = bool(pairs) and "mae_difference" in pairs[0]

    def both(pair: dict[str, Any], language: str) -> str:
        return f"{in_language(titles[pair['b']], language)} − {in_language(titles[pair['a']], language)}"

    rows: list[tuple[Text, ...]] = [
        (
            Both(both(pair, "en"), both(pair, "zh")),
            with_signed_interval(pair["mae_difference" if numbers else "accuracy_difference"], pair["ci95"]),
            f"{pair['b_closer']:,} : {pair['a_closer']:,}"
            if numbers
            else f"{pair['only_b_right']:,} : {pair['only_a_right']:,}",
            p_value(pair["holm_p"]).removeprefix("= "),
            *(() if numbers else (number(pair["rows_to_tell"], 0),)),
        )
        for pair in pairs
    ]
    headings = (
        Both("pair", "系统对"),
        Both("difference in MAE", "MAE 之差") if numbers else Both("difference in accuracy", "准确率之差"),
        Both("rows closer to gold", "更接近真实值的行数")
        if numbers
        else Both("rows only one got right", "仅一方答对的行数"),
        "p (Holm)",
        *(() if numbers else (Both("rows that would tell", "可分辨所需行数"),)),
    )
    if numbers:
        note = Both(
            "Wilcoxon's signed-rank tests on the absolute errors of the same rows, p corrected after Holm "
            "for the number of pairs; bootstrap intervals.",
            "对相同测试行的绝对误差做 Wilcoxon 符号秩检验，p 值按 Holm 法校正；区间为自助法。",
        )
        return [Grid(headings, rows), Paragraph(note)]
    note = Both(
        "Exact McNemar tests on the same rows, p corrected after Holm for the number of pairs; interval "
        "of Agresti "
        "and Min; rows that would tell: power 0.8 at level 0.05 if the difference is as observed.",
        "在相同测试行上做精确 McNemar 检验，p 值按 Holm 法校正；区间按 Agresti–Min；"
        "可分辨所需行数：若差异如所观察，在 0.05 水平上达到 0.8 的功效。",
    )
    return [Grid(headings, rows), Paragraph(note)]
