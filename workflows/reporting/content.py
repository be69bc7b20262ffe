"""What the report of one run says: results first, then what they were made of (data_content.py)."""

from collections.abc import Mapping
from typing import Any

from workflows.experiment import Experiment
from workflows.reporting.blocks import (
    Block,
    Command,
    Grid,
    Paragraph,
    Picture,
    Report,
    Section,
)
from workflows.reporting.data_content import describe_data, describe_labels, describe_run
from workflows.reporting.files import Files
from workflows.wording import SPLIT_NAMES, SYSTEMS, Both, Text, in_language, number, with_interval

SHOWN_MISTAKES = 20


def build_report(files: Files, experiment: Experiment, command: str, reproduce: str) -> Report:
    """The report; `command` starts the same run anew, `reproduce` repeats it from its own file."""
    verdict = files.scores["verdict"]
    summary: list[Block] = []
    if verdict["en"]:
        summary.append(Paragraph(Both(verdict["en"], verdict["zh"]), strong=True))
    if experiment.model.name == "tiny":
        summary.append(
            Paragraph(
                Both(
                    "tiny is an embedded stand-in for a real Qwen: its scores show that the pipeline works, "
                    "and say nothing about a real Qwen.",
                    "tiny 只是真实 Qwen 的替身：分数仅说明流程可以跑通，不代表真实 Qwen 的水平。",
                )
            )
        )
    sections = [
        Section(Both("Result", "结论"), [*summary, *_systems(files)]),
        Section(
            Both("Repeat it", "如何复现"),
            [
                Command(command),
                Paragraph(
                    Both(
                        "or, with this run's folder at hand, and a comparison stage by stage:",
                        "若手头有本次运行的文件夹，下面的命令会重跑并逐阶段对比：",
                    )
                ),
                Command(reproduce),
            ],
        ),
        *_training(files),
        _errors(files),
        _calibration(files),
        *_mistakes(files),
        describe_data(files),
        *describe_labels(files),
        _comparisons(files),
        describe_run(files, experiment),
    ]
    title = f"{experiment.dataset.name} · {experiment.model.name} · {experiment.method}"
    return Report(title, experiment.dataset.title, sections)


def _systems(files: Files) -> list[Block]:
    count = files.scores["test_rows"]
    note = Both(
        f"n = {count:,} test rows, the same for all systems; in brackets 95 % intervals. An output is "
        "read by "
        "the first label words in it; unreadable ones count as wrong; strict: the output is the label's "
        "words "
        "alone. Brier and ECE: smaller is better.",
        f"n = {count:,} 行测试数据，各系统相同；括号内为 95 % "
        "区间。以输出中最先出现的标签词为准，无法识别的输出算错；"
        "严格准确率：输出只能是标签词本身。Brier 与 ECE 越小越好。",
    )
    return [systems_grid(files.scores["systems"], SYSTEMS), Paragraph(note)]


def systems_grid(systems: dict[str, Any], titles: Mapping[str, Text]) -> Grid:
    """The table of systems, each figure with its interval; `systems` as in scores.json."""
    rows: list[tuple[Text, ...]] = []
    for system, figures in systems.items():
        probabilities = figures["probabilities"]
        per_label = list(probabilities["per_label"].values())
        # Of two labels each has the AUROC of the other; of more, the table has their mean alone.
        two = len(figures["confusion"]["gold"]) == 2
        interval = per_label[0]["auroc_interval"] if two and per_label else None
        writes = figures["strict_accuracy"] is not None
        rows.append(
            (
                titles[system],
                with_interval(figures["accuracy"], figures["accuracy_interval"]),
                with_interval(figures["macro_f1"], figures["macro_f1_interval"]),
                with_interval(probabilities["auroc"], interval),
                with_interval(probabilities["brier"], probabilities["brier_interval"]),
                number(probabilities["ece"]),
                number(figures["strict_accuracy"]),
                f"{figures['unparsed']:,}" if writes else "–",
            )
        )
    headings = (
        Both("system", "系统"),
        Both("accuracy", "准确率"),
        Both("macro F1", "宏平均 F1"),
        "AUROC",
        "Brier",
        "ECE",
        Both("strict accuracy", "严格准确率"),
        Both("unreadable", "无法识别"),
    )
    return Grid(headings, rows)


def _training(files: Files) -> list[Section]:
    if files.training is None:
        return []
    training = files.training
    blocks: list[Block] = [
        Picture(
            "curves",
            Both(
                "Training and validation loss; accuracy and macro F1 of the greedy answers on validation.",
                "训练与验证损失；验证集上贪心作答的准确率与宏平均 F1。",
            ),
        )
    ]
    evaluations: dict[int, dict[str, Any]] = {}
    for entry in training["log_history"]:
        if any(key.startswith("eval_") for key in entry):
            evaluations.setdefault(entry["step"], {}).update(entry)
    keys = ("eval_loss", "eval_accuracy", "eval_macro_f1")
    rows: list[tuple[Text, ...]] = [
        (f"{step:,}", *(number(entry.get(key), 4) for key in keys))
        for step, entry in sorted(evaluations.items())
    ]
    headings = (
        Both("step", "步数"),
        Both("validation loss", "验证损失"),
        Both("validation accuracy", "验证准确率"),
        Both("validation macro F1", "验证宏平均 F1"),
    )
    best = training["best_by"]
    kept = Both(
        f"Kept: {training['checkpoint']}, best by validation {best['metric']} "
        f"({number(best['value'], 4)}), of "
        f"{training['steps']:,} steps.",
        f"保留 {training['checkpoint']}：按验证集 {best['metric']} 最佳（{number(best['value'], 4)}），共 "
        f"{training['steps']:,} 步。",
    )
    left_out = [
        Paragraph(
            Both(
                f"SWIFT trained without {rows['given'] - rows['used']:,} of {rows['given']:,} "
                f"{SPLIT_NAMES[name].en} rows: longer than max_length, or not encodable (data/tokens.json "
                "has the ids).",
                f"SWIFT 未使用 {rows['given']:,} 行{SPLIT_NAMES[name].zh}数据中的 "
                f"{rows['given'] - rows['used']:,} 行：超过 max_length 或无法编码（编号见 "
                "data/tokens.json）。",
            )
        )
        for name, rows in training["rows"].items()
        if rows["used"] < rows["given"]
    ]
    return [
        Section(
            Both("Training", "训练过程"),
            [*blocks, Paragraph(kept), *left_out, Grid(headings, rows, texts=())],
        )
    ]


def _errors(files: Files) -> Section:
    system, figures = list(files.scores["systems"].items())[-1]
    confusion = figures["confusion"]
    rows: list[tuple[Text, ...]] = [
        (
            name,
            f"{figures['per_class'][name]['rows']:,}",
            *(number(figures["per_class"][name][key]) for key in ("precision", "recall", "f1")),
        )
        for name in confusion["gold"]
    ]
    headings = (
        Both("label", "标签"),
        Both("rows", "行数"),
        Both("precision", "精确率"),
        Both("recall", "召回率"),
        "F1",
    )
    averages = ", ".join(
        f"{name} F1 {number(figures[f'{name}_f1'])}" for name in ("micro", "macro", "weighted")
    )
    blocks: list[Block] = [
        Picture(
            "confusion",
            Both("Gold labels (rows) against predictions (columns).", "真实标签（行）与预测（列）。"),
        ),
        Paragraph(
            Both(
                f"{SYSTEMS[system].en}: {averages}, Matthews {number(figures['matthews'])}",
                f"{SYSTEMS[system].zh}：{averages}，Matthews 相关系数 {number(figures['matthews'])}",
            )
        ),
        Grid(headings, rows),
    ]
    for name, each in files.scores["systems"].items():
        if each["unparsed_most_frequent"]:
            most = "；".join(
                f"{item['output']!r} × {item['rows']}" for item in each["unparsed_most_frequent"]
            )
            blocks.append(
                Paragraph(
                    Both(
                        f"Most frequent unreadable outputs, {SYSTEMS[name].en}: {most}",
                        f"最常见的无法识别的输出（{SYSTEMS[name].zh}）：{most}",
                    )
                )
            )
    return Section(Both("Right and wrong, by label", "各类别的对与错"), blocks)


def _calibration(files: Files) -> Section:
    rows: list[tuple[Text, ...]] = []
    for system, figures in files.scores["systems"].items():
        probabilities = figures["probabilities"]
        if probabilities["mean_label_mass"] is not None:
            rows.append(
                (
                    SYSTEMS[system],
                    number(probabilities["average_precision"]),
                    number(probabilities["mean_label_mass"]),
                    f"{probabilities['disagreements']:,}",
                )
            )
    headings = (
        Both("system", "系统"),
        Both("average precision", "平均精确率 (AP)"),
        Both("probability on the labels", "标签所占概率"),
        Both("greedy answer ≠ likeliest label", "贪心作答 ≠ 最可能标签"),
    )
    note = Both(
        "The probability of a label is the model's probability of its whole answer and end mark, as a "
        "share of "
        "what it gives to all labels; the column says how much that is of everything it might have written.",
        "标签概率：模型写出该标签全部词元与结束符的概率，在各标签间归一化；“标签所占概率”是归一化之前各标签概率之和。",
    )
    caption = Both(
        "Reliability: points on the dotted line are as right as they are sure.",
        "可靠性图：点落在虚线上，说明把握与正确率一致。",
    )
    blocks: list[Block] = [
        Picture("reliability", caption),
        *([Grid(headings, rows)] if rows else []),
        Paragraph(note),
    ]
    return Section(Both("How far its probabilities can be trusted", "概率是否可信"), blocks)


def _mistakes(files: Files) -> list[Section]:
    system = list(files.scores["systems"])[-1]
    tfidf = {row["id"]: row["prediction"] for row in files.predictions.get("tfidf", [])}
    wrong = [row for row in files.predictions[system] if row["prediction"] != row["gold"]]

    def sureness(row: dict[str, Any]) -> float:
        return max(row["probabilities"].values())

    rows: list[tuple[Text, ...]] = []
    for row in sorted(wrong, key=sureness, reverse=True)[:SHOWN_MISTAKES]:
        shares = ", ".join(f"{name} {share:.3f}" for name, share in row["probabilities"].items())
        other = tfidf.get(row["id"])
        hit = Both("right", "对") if other == row["gold"] else Both("wrong", "错")
        rows.append((row["text"], row["gold"], row["output"] or "", shares, hit if other else "–"))
    headings = (
        Both("review", "评论"),
        Both("gold", "真实标签"),
        Both("output", "输出"),
        Both("probabilities", "概率"),
        "TF-IDF",
    )
    if not rows:
        return []
    note = Both(
        f"The {len(rows)} of {len(wrong):,} wrong rows that the system was surest of ({SYSTEMS[system].en}). "
        "Look here first for wrong gold labels.",
        f"{SYSTEMS[system].zh}答错的 {len(wrong):,} 行中最有把握的 {len(rows)} 行，其中常有标注错误。",
    )
    title = Both("The most confident mistakes", "最有把握的错误")
    return [Section(title, [Paragraph(note), Grid(headings, rows, texts=(0, 2, 3))], folded=True)]


def _comparisons(files: Files) -> Section:
    blocks = pairs_blocks(files.scores["comparisons"], SYSTEMS)
    return Section(Both("Pair by pair", "两两比较"), blocks, folded=True)


def pairs_blocks(pairs: list[dict[str, Any]], titles: Mapping[str, Text]) -> list[Block]:
    """The table of pairwise tests, and what the figures in it are; `pairs` as in scores.json."""

    def both(pair: dict[str, Any], language: str) -> str:
        return f"{in_language(titles[pair['b']], language)} − {in_language(titles[pair['a']], language)}"

    rows: list[tuple[Text, ...]] = [
        (
            Both(both(pair, "en"), both(pair, "zh")),
            f"{pair['accuracy_difference']:+.3f} ({pair['ci95'][0]:+.3f} … {pair['ci95'][1]:+.3f})",
            f"{pair['only_b_right']:,} : {pair['only_a_right']:,}",
            "< 0.001" if pair["holm_p"] < 0.001 else f"{pair['holm_p']:.3f}",
            "–" if pair["rows_to_tell"] is None else f"{pair['rows_to_tell']:,}",
        )
        for pair in pairs
    ]
    headings = (
        Both("pair", "系统对"),
        Both("difference in accuracy", "准确率之差"),
        Both("rows only one got right", "仅一方答对的行数"),
        "p (Holm)",
        Both("rows that would tell", "可分辨所需行数"),
    )
    note = Both(
        "Exact McNemar tests on the same rows, p corrected after Holm for the number of pairs; interval "
        "of Agresti "
        "and Min; rows that would tell: power 0.8 at level 0.05 if the difference is as observed.",
        "在相同测试行上做精确 McNemar 检验，p 值按 Holm 法校正；区间按 Agresti–Min；"
        "可分辨所需行数：若差异如所观察，在 0.05 水平上达到 0.8 的功效。",
    )
    return [Grid(headings, rows), Paragraph(note)]
