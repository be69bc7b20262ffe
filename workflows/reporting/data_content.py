"""What the report says of the data, of likely wrong labels, and of the run's time, versions and settings."""

from typing import Any

from workflows.core.run_folder import SPLITS
from workflows.core.texts import SPLIT_NAMES, Both, Text, number, with_interval
from workflows.experiment.experiment import Experiment
from workflows.reporting.blocks import Block, Grid, Paragraph, Picture, Section
from workflows.reporting.files import Files

REASONS = {
    "empty text": "正文为空",
    "empty label": "标签为空",
    "duplicate": "重复",
    "conflicting labels": "同文异标",
    "neutral label": "中性评分",
    "unlabelled": "按要求不用",
    "not valid Unicode": "编码损坏",
    "near copy of a test row": "与测试行近似重复",
    "dropped by hand": "人工删除",
}
STAGES = {
    "prepare": Both("prepare the data", "准备数据"),
    "tokens": Both("count tokens", "统计 token"),
    "baselines": Both("baselines", "基线"),
    "audit": Both("audit the labels", "标签检查"),
    "zero_shot": Both("answers before tuning", "微调前作答"),
    "material": Both("make the training rows", "生成训练数据"),
    "train": Both("training", "训练"),
    "tuned": Both("answers after tuning", "微调后作答"),
    "score": Both("scores", "评分"),
}


def describe_data(files: Files) -> Section:
    """Counts, balance, lengths, near copies, drift, corrections."""
    manifest = files.manifest
    counts = manifest["rows"]
    reasons_en = ", ".join(f"{count:,} {reason}" for reason, count in manifest["rejected"].items())
    reasons_zh = "，".join(
        f"{REASONS.get(reason, reason)} {count:,}" for reason, count in manifest["rejected"].items()
    )
    blocks: list[Block] = [
        Paragraph(
            Both(
                f"{counts['read']:,} rows read = {counts['kept']:,} kept + {counts['rejected']:,} rejected"
                + (f" ({reasons_en})." if reasons_en else "."),
                f"读入 {counts['read']:,} 行 = 保留 {counts['kept']:,} + 剔除 {counts['rejected']:,}"
                + (f"（{reasons_zh}）。" if reasons_zh else "。"),
            )
        ),
        _balance(files),
        Picture("lengths", Both("Lengths of the rows.", "各行长度分布。")),
        *_lengths(files),
        Paragraph(_near_copies(manifest["near_copies"])),
        *_drift(manifest["drift"]),
    ]
    corrections = manifest["corrections"]
    if corrections["file"] is not None:
        blocks.append(
            Paragraph(
                Both(
                    f"Corrected by hand: {corrections['relabelled']:,} rows relabelled, "
                    f"{corrections['dropped']:,} dropped.",
                    f"人工更正：改标 {corrections['relabelled']:,} 行，删除 {corrections['dropped']:,} 行。",
                )
            )
        )
    for name, mixed in manifest.get("mixed", {}).items():
        lengths, out = mixed["lengths"], sum(mixed["left_out"].values())
        en, zh = ("alike", "相近") if lengths["alike"] else ("not alike, which may hurt", "不相近，可能有害")
        blocks.append(
            Paragraph(
                Both(
                    f"Mixed into training: {mixed['used']:,} rows of {name} ({mixed['rows']['read']:,} read, "
                    f"{mixed['drawn']:,} drawn, {out:,} of them left out as copies). Median length "
                    f"{lengths['median_mixed']:.0f} characters against {lengths['median']:.0f}: {en}.",
                    f"混入训练集：{name} 的 {mixed['used']:,} 行（读入 {mixed['rows']['read']:,}，抽取 "
                    f"{mixed['drawn']:,}，其中 {out:,} 行因重复而剔除）。长度中位数 "
                    f"{lengths['median_mixed']:.0f} 字，本数据集 {lengths['median']:.0f} 字：{zh}。",
                )
            )
        )
    return Section(Both("The data", "数据"), blocks)


def _near_copies(near: dict[str, Any]) -> Both:
    if near["searched"] is None:
        return Both("Near copies: not searched, there are too many rows.", "近似重复：行数过多，未查找。")
    only = (
        Both("", "") if near["searched"] == "all rows" else Both(", in the sample alone", "，仅在抽样中查找")
    )
    return Both(
        f"Near copies (similarity {near['similarity']} and above{only.en}): {near['train_in_test']:,} "
        f"training rows stand in the test set, {near['removed_from_train']:,} of them were removed from "
        f"training; {near['val_in_test']:,} validation rows stand in test, {near['val_in_train']:,} in "
        "training.",
        f"近似重复（相似度 ≥ {near['similarity']}{only.zh}）：训练集有 {near['train_in_test']:,} "
        f"行与测试集近似，已从训练集删除 {near['removed_from_train']:,} 行；"
        f"验证集有 {near['val_in_test']:,} 行与测试集近似，{near['val_in_train']:,} 行与训练集近似。",
    )


def _balance(files: Files) -> Grid:
    splits = files.manifest["splits"]
    if files.scores["task"] == "regression":
        return _numbers(splits)
    names = list(splits["train"]["labels"])
    rows: list[tuple[Text, ...]] = [
        (
            SPLIT_NAMES[split],
            f"{splits[split]['rows']:,}",
            *(
                f"{splits[split]['labels'][name]:,} "
                f"({splits[split]['labels'][name] / splits[split]['rows']:.1%})"
                for name in names
            ),
        )
        for split in SPLITS
    ]
    return Grid((Both("split", "划分"), Both("rows", "行数"), *names), rows)


def _numbers(splits: dict[str, Any]) -> Grid:
    """What the numbers of a regression are like."""
    keys = {
        "mean": Both("mean", "均值"),
        "sd": Both("standard deviation", "标准差"),
        "min": Both("smallest", "最小"),
        "max": Both("largest", "最大"),
    }
    rows: list[tuple[Text, ...]] = [
        (
            SPLIT_NAMES[split],
            f"{splits[split]['rows']:,}",
            *(number(splits[split]["numbers"][key]) for key in keys),
        )
        for split in SPLITS
    ]
    return Grid((Both("split", "划分"), Both("rows", "行数"), *keys.values()), rows)


def _lengths(files: Files) -> list[Block]:
    rows: list[tuple[Text, ...]] = []
    for split in SPLITS:
        figures = files.manifest["splits"][split]["characters"]
        shown = [f"{figures[key]:,.0f}" for key in ("median", "p90", "p99", "max")]
        if files.tokens is not None:
            tokens = files.tokens["splits"][split]
            over = tokens["over_max_length"]["rows"]
            shown += [f"{tokens[key]:,.0f}" for key in ("median", "p99", "max")]
            shown.append(f"{over:,} ({over / tokens['rows']:.1%})")
        rows.append((SPLIT_NAMES[split], *shown))
    characters, tokens_name = Both("characters", "字数"), Both("tokens", "token")
    parts = {
        "median": Both("median", "中位"),
        "p90": Both("p90", "p90"),
        "p99": Both("p99", "p99"),
        "max": Both("max", "最大"),
    }

    def heading(of: Both, part: str) -> Both:
        return Both(f"{of.en}, {parts[part].en}", f"{of.zh}·{parts[part].zh}")

    headings: list[Text] = [heading(characters, part) for part in ("median", "p90", "p99", "max")]
    if files.tokens is not None:
        headings += [heading(tokens_name, part) for part in ("median", "p99", "max")]
        limit = files.tokens["max_length"]
        headings.append(Both(f"over max_length {limit}", f"超过 max_length {limit}"))
    return [Grid((Both("split", "划分"), *headings), rows)]


def _drift(drift: dict[str, Any] | None) -> list[Block]:
    if drift is None:
        return []
    texts = drift["texts"]
    shown = with_interval(texts["auroc"], texts["interval"])
    labels = "–" if drift["labels_p"] is None else f"p = {drift['labels_p']:.3f}"
    return [
        Paragraph(
            Both(
                "Do training and test differ? A classifier that must tell their texts apart reaches "
                f"AUROC {shown} "
                f"on {texts['rows']:,} rows (0.5: it cannot); label shares: {labels} (chi-squared); lengths: "
                f"p = {drift['lengths_p']:.3f} (Kolmogorov-Smirnov).",
                f"训练集与测试集是否同分布？用分类器区分两者的文本，AUROC 为 {shown}（{texts['rows']:,} "
                "行，0.5 表示无法区分）；"
                f"标签比例：{labels}（卡方检验）；长度：p = {drift['lengths_p']:.3f}（K-S 检验）。",
            )
        )
    ]


def describe_labels(files: Files) -> list[Section]:
    """The rows that the audit takes for mislabelled, where there was one."""
    if files.audit is None:
        return []
    audit = files.audit
    title = Both("Likely wrong labels", "可能标错的标签")
    if audit["likely_wrong"] is None:
        none = Both("Not judged: that takes five rows of each label.", "未检查：每个标签至少需要五行。")
        return [Section(title, [Paragraph(none)], folded=True)]
    rows: list[tuple[Text, ...]] = [
        (row["text"], row["split"], row["label"], row["suggested"], row["quality"]) for row in audit["worst"]
    ]
    headings = (
        Both("review", "评论"),
        Both("split", "划分"),
        Both("label", "现标签"),
        Both("suggested", "建议标签"),
        Both("probability of the label", "现标签的概率"),
    )
    note = Both(
        f"{audit['likely_wrong']:,} of {audit['rows']:,} labels are likely wrong (confident learning on the "
        "out-of-fold probabilities of a TF-IDF classifier); all are in audit.csv. Fill its column "
        "`correction` "
        "and run again with --apply audit.csv.",
        f"{audit['rows']:,} 个标签中有 {audit['likely_wrong']:,} 个可能有误（对 TF-IDF "
        "分类器的折外概率做置信学习），全部列在 "
        "audit.csv；在其 correction 列填入正确标签，再用 --apply audit.csv 重跑。",
    )
    blocks: list[Block] = [Paragraph(note), *([Grid(headings, rows)] if rows else [])]
    return [Section(title, blocks, folded=True)]


def describe_run(files: Files, experiment: Experiment) -> Section:
    """Time and peak memory of each stage, versions, seeds, and SWIFT's arguments."""
    rows: list[tuple[Text, ...]] = []
    for stage, title in STAGES.items():
        if stage in files.stages:
            record = files.stages[stage]
            peaks = record.get("peak_memory_bytes", {})
            shown = ", ".join(f"{name.upper()} {size / 2**30:.2f} GiB" for name, size in peaks.items()) or "–"
            rows.append((title, f"{record['seconds']:,.1f} s", shown, record["at"]))
    blocks: list[Block] = [
        Grid(
            (
                Both("stage", "阶段"),
                Both("time", "用时"),
                Both("peak memory", "峰值内存"),
                Both("done", "完成于"),
            ),
            rows,
        )
    ]
    facts: dict[str, str] = {}
    if files.environment is not None:
        machine = files.environment["machine"]
        facts |= {"device": f"{machine['device']} ({machine['name']})", "python": files.environment["python"]}
        facts |= files.environment["packages"]
        facts["git commit"] = files.environment["git_commit"] or "–"
    facts |= {
        "seed": str(experiment.tuning.seed),
        "data seed": str(experiment.data.data_seed),
        "prompt": experiment.prompt.name,
        "engine": experiment.tuning.engine,
        "test set SHA-256": files.scores["test_sha256"],
    }
    facts |= {f"{name} (SWIFT)": str(value) for name, value in experiment.arguments.items()}
    facts |= {name: str(value) for name, value in experiment.recipe_settings.items()}
    listed: list[tuple[Text, ...]] = list(facts.items())
    blocks.append(Grid((Both("setting", "设置"), Both("value", "值")), listed, texts=(0, 1)))
    return Section(Both("Time, memory, versions, settings", "用时、内存、版本与设置"), blocks, folded=True)
