"""What the report of one run says: results first, then what they were made of (data_content.py)."""

from typing import Any

from workflows.core.texts import SPLIT_NAMES, SYSTEMS, Both, Text, label_text, number
from workflows.experiment.experiment import Experiment
from workflows.reporting.blocks import Block, Command, Grid, Paragraph, Picture, Report, Section
from workflows.reporting.data_content import describe_data, describe_labels, describe_run
from workflows.reporting.figures import EVALUATED
from workflows.reporting.files import Files
from workflows.reporting.results import pairs_blocks, systems_blocks

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
        Section(Both("Result", "结论"), [*summary, *systems_blocks(files.scores, SYSTEMS)]),
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
        *_errors(files),
        *_calibration(files),
        *_mistakes(files),
        describe_data(files),
        *describe_labels(files),
        _comparisons(files),
        describe_run(files, experiment),
    ]
    title = f"{experiment.dataset.name} · {experiment.model.name} · {experiment.tuning.method}"
    return Report(title, experiment.dataset.title, sections)


def _training(files: Files) -> list[Section]:
    if files.training is None:
        return []
    training = files.training
    blocks: list[Block] = [
        Picture(
            "curves",
            Both(
                "Training and validation loss; the figures of the answers on validation.",
                "训练与验证损失；验证集上作答的各项指标。",
            ),
        )
    ]
    evaluations: dict[int, dict[str, Any]] = {}
    for entry in training["log_history"]:
        if any(key.startswith("eval_") for key in entry):
            evaluations.setdefault(entry["step"], {}).update(entry)
    figures = {"eval_loss": Both("loss", "损失"), **EVALUATED}
    keys = [key for key in figures if any(key in entry for entry in evaluations.values())]
    rows: list[tuple[Text, ...]] = [
        (f"{step:,}", *(number(entry.get(key), 4) for key in keys))
        for step, entry in sorted(evaluations.items())
    ]
    headings = (
        Both("step", "步数"),
        *(Both(f"validation {figures[key].en}", f"验证{figures[key].zh}") for key in keys),
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
        if name == "train" and rows["used"] < rows["given"]
    ]
    return [
        Section(
            Both("Training", "训练过程"),
            [*blocks, Paragraph(kept), *_evaluated_rows(training), *left_out, Grid(headings, rows, texts=())],
        )
    ]


def _evaluated_rows(training: dict[str, Any]) -> list[Block]:
    """Of how many validation rows the figures are, where that is not all of them."""
    given = training["rows"]["val"]["given"]
    looked_at = training.get("evaluated_rows", given)
    if looked_at >= given:
        return []
    return [
        Paragraph(
            Both(
                f"Validation figures are of {looked_at:,} of {given:,} validation rows, the same stratified "
                "sample each time (--eval-rows).",
                f"验证集指标取自 {given:,} 行验证数据中的 {looked_at:,} 行，每次都是同一个分层样本"
                "（--eval-rows）。",
            )
        )
    ]


def _errors(files: Files) -> list[Section]:
    system, figures = list(files.scores["systems"].items())[-1]
    if "per_class" not in figures:
        return []
    rows: list[tuple[Text, ...]] = [
        (name, f"{each['rows']:,}", *(number(each[key]) for key in ("precision", "recall", "f1")))
        for name, each in figures["per_class"].items()
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
    blocks: list[Block] = []
    if "confusion" in figures:
        caption = Both("Gold labels (rows) against predictions (columns).", "真实标签（行）与预测（列）。")
        blocks.append(Picture("confusion", caption))
        averages += f", Matthews {number(figures['matthews'])}"
    averages_of = Both(f"{SYSTEMS[system].en}: {averages}", f"{SYSTEMS[system].zh}：{averages}")
    blocks += [Paragraph(averages_of), Grid(headings, rows)]
    for name, each in files.scores["systems"].items():
        if each.get("unparsed_most_frequent"):
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
    return [Section(Both("Right and wrong, by label", "各类别的对与错"), blocks)]


def _calibration(files: Files) -> list[Section]:
    if files.scores["task"] != "single_label":
        return []
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
    if not rows:
        note = Both(
            "The probabilities are the softmax of the head's outputs.", "概率为分类头输出的 softmax。"
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
    return [Section(Both("How far its probabilities can be trusted", "概率是否可信"), blocks)]


def _mistakes(files: Files) -> list[Section]:
    system = list(files.scores["systems"])[-1]
    numbers = files.scores["task"] == "regression"
    tfidf = {row["id"]: row["prediction"] for row in files.predictions.get("tfidf", [])}
    wrong = [row for row in files.predictions[system] if row["prediction"] != row["gold"]]

    def size(row: dict[str, Any]) -> float:
        """How far off, or how sure of a wrong answer."""
        return abs(row["prediction"] - row["gold"]) if numbers else max(row["probabilities"].values())

    rows: list[tuple[Text, ...]] = []
    for row in sorted(wrong, key=size, reverse=True)[:SHOWN_MISTAKES]:
        other = tfidf.get(row["id"])
        hit: Text = Both("right", "对") if other == row["gold"] else Both("wrong", "错")
        if numbers:
            details: tuple[Text, ...] = (label_text(row["prediction"]),)
            hit = "–" if other is None else label_text(other)
        else:
            shares = ", ".join(f"{name} {share:.3f}" for name, share in row["probabilities"].items())
            details = (row["output"] or "", shares)
        rows.append((row["text"], label_text(row["gold"]), *details, "–" if other is None else hit))
    headings = (
        Both("review", "评论"),
        Both("gold", "真实值") if numbers else Both("gold", "真实标签"),
        *(
            (Both("prediction", "预测"),)
            if numbers
            else (Both("output", "输出"), Both("probabilities", "概率"))
        ),
        "TF-IDF",
    )
    if not rows:
        return []
    name = SYSTEMS[system]
    if numbers:
        title = Both("The largest errors", "误差最大的行")
        note = Both(
            f"The {len(rows)} rows that the system was furthest off in ({name.en}), of {len(wrong):,}.",
            f"{name.zh}误差最大的 {len(rows)} 行（共 {len(wrong):,} 行）。",
        )
    else:
        title = Both("The most confident mistakes", "最有把握的错误")
        note = Both(
            f"The {len(rows)} of {len(wrong):,} wrong rows that the system was surest of ({name.en}). "
            "Look here first for wrong gold labels.",
            f"{name.zh}答错的 {len(wrong):,} 行中最有把握的 {len(rows)} 行，其中常有标注错误。",
        )
    return [Section(title, [Paragraph(note), Grid(headings, rows, texts=(0, 2, 3))], folded=True)]


def _comparisons(files: Files) -> Section:
    blocks = pairs_blocks(files.scores["comparisons"], SYSTEMS)
    return Section(Both("Pair by pair", "两两比较"), blocks, folded=True)
