"""Writes demo.csv: short Chinese reviews made for this project, from a fixed seed.

    python datasets/demo/generate.py

Every review is built from clauses about one business.  Its label is what the writer concludes, which is not
always the tone of most of its words: many reviews set good against bad ("虽然…但是…"), others negate it
("谈不上…") or tell of a hope that came out otherwise.  So counting words is not enough, as with real reviews.
Two per cent of the labels are wrong on purpose, as some always are; no system should reach 1.0.

Not covered: sarcasm, several topics at once, long reviews.
"""

import csv
import random
from pathlib import Path

SEED = 42
ROWS = 3000
WRONG_LABEL_SHARE = 0.02

# One entry a domain: aspect -> (good predicates, bad predicates, neutral facts).
Aspects = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
DOMAINS: dict[str, Aspects] = {
    "hotel": {
        "房间": (
            ("干净", "宽敞明亮", "收拾得很整洁", "安静"),
            ("有股霉味", "又小又暗", "到处是灰", "吵得睡不着"),
        ),
        "前台": (("热情", "办理很快", "很有耐心"), ("态度冷淡", "办理太慢", "爱答不理")),
        "早餐": (("种类丰富", "味道不错", "新鲜"), ("种类太少", "难吃", "都是凉的")),
        "床": (("舒服", "软硬合适"), ("硬得硌人", "一翻身就响")),
        "位置": (("方便", "离地铁很近"), ("偏僻", "很难找")),
        "空调": (("安静", "制冷很好"), ("噪音大", "根本不制冷")),
    },
    "takeaway": {
        "菜": (("好吃", "分量足", "新鲜", "入味"), ("难吃", "分量少", "太咸", "不新鲜")),
        "送餐": (("很快", "准时"), ("太慢", "晚了一个小时")),
        "包装": (("严实", "干净"), ("漏了一袋子汤", "破了")),
        "米饭": (("香", "软硬合适"), ("夹生", "又冷又硬")),
        "骑手": (("有礼貌", "热情"), ("态度恶劣", "态度冷淡")),
        "商家": (("很用心", "有耐心"), ("爱答不理", "少送了一份菜")),
    },
    "phone": {
        "屏幕": (("清晰", "显示细腻", "颜色漂亮"), ("偏色", "有亮点", "模糊")),
        "电池": (("耐用", "充电很快"), ("不耐用", "半天就没电")),
        "系统": (("流畅", "好用"), ("卡顿", "老是死机")),
        "拍照": (("清晰", "效果惊艳"), ("模糊", "效果很差")),
        "做工": (("精致", "扎实"), ("粗糙", "缝隙很大")),
        "客服": (("很有耐心", "回复及时"), ("爱答不理", "只会推脱")),
    },
    "clothes": {
        "面料": (("舒服", "柔软", "厚实"), ("扎人", "粗糙", "薄得透光")),
        "尺码": (("标准", "很合身"), ("不准", "偏小太多")),
        "颜色": (("漂亮", "和图片一样"), ("难看", "洗一次就掉")),
        "做工": (("精致", "扎实"), ("粗糙", "线头很多")),
        "物流": (("很快", "准时"), ("太慢", "一周才到")),
        "款式": (("好看", "大方"), ("难看", "老气")),
    },
    "fruit": {
        "苹果": (("脆甜", "新鲜", "个头大"), ("烂了一半", "不新鲜", "又干又酸")),
        "橙子": (("汁水多", "很甜"), ("没有水分", "发苦")),
        "包装": (("严实", "干净"), ("破了", "太简陋")),
        "物流": (("很快", "准时"), ("太慢", "晚了三天")),
        "卖家": (("热情", "很有耐心"), ("态度恶劣", "只会推脱")),
        "价格": (("实惠", "划算"), ("太贵", "虚高")),
    },
    "book": {
        "内容": (("充实", "有意思", "深入浅出"), ("空洞", "无聊", "东拼西凑")),
        "纸张": (("厚实", "手感好"), ("薄得透光", "有股怪味")),
        "印刷": (("清晰", "精致"), ("模糊", "错字很多")),
        "翻译": (("流畅", "准确"), ("生硬", "读不通")),
        "包装": (("严实", "干净"), ("破了", "太简陋")),
        "价格": (("实惠", "划算"), ("太贵", "虚高")),
    },
}
OPENERS = (
    "",
    "",
    "",
    "说实话，",
    "用了几天，",
    "第二次来了，",
    "朋友推荐的，",
    "等了好久，",
    "看了评价才买的，",
    "总的来说，",
)
DEGREES = ("", "", "很", "挺", "真的", "特别", "比较")
NO_DEGREE = ("破了", "夹生", "发苦", "偏色", "虚高", "不准", "准时")  # "很破了" is not Chinese
TURNS = (("虽然", "，但是"), ("", "，不过"), ("", "，可是"), ("尽管", "，但"), ("", "，然而"))
CONCESSIONS = ("，就是", "，只是", "，美中不足的是", "，唯一的缺点是")
GOOD_VERDICTS = ("很满意", "值得推荐", "下次还会来", "给五星", "物有所值", "没有让人失望")
BAD_VERDICTS = ("很失望", "不推荐", "不会再来了", "给一星", "不值这个价", "后悔了")
HOPED_GOOD = (
    "本来以为{aspect}会{good}，结果{bad}",
    "都说{aspect}{good}，我看是{bad}",
    "评价里说{aspect}{good}，实际{bad}",
)
FEARED_BAD = (
    "本来担心{aspect}{bad}，结果{good}",
    "有人说{aspect}{bad}，我觉得{good}",
    "原以为{aspect}会{bad}，没想到{good}",
)
NOT_GOOD = (
    "{aspect}谈不上{good}",
    "{aspect}一点都不{good}",
    "{aspect}并没有说的那么{good}",
    "别指望{aspect}{good}",
)
NOT_BAD = (
    "{aspect}并不{bad}",
    "{aspect}没有别人说的那么{bad}",
    "{aspect}一点都不{bad}",
    "不觉得{aspect}{bad}",
)
ENDS = ("。", "！", "", "~", "！！", "。。。")


def clause(rng: random.Random, aspects: Aspects, aspect: str, good: bool) -> str:
    """One statement about `aspect`, plain four times in five and negated otherwise."""
    goods, bads = aspects[aspect]
    # Only short predicates without a degree or a negation of their own read naturally after a negation.
    short_goods = [word for word in goods if len(word) <= 3 and not word.startswith("很")]
    short_bads = [word for word in bads if len(word) <= 3 and not word.startswith(("很", "不", "太"))]
    if rng.random() < 0.2:
        if good and short_bads:
            return rng.choice(NOT_BAD).format(aspect=aspect, bad=rng.choice(short_bads))
        if not good and short_goods:
            return rng.choice(NOT_GOOD).format(aspect=aspect, good=rng.choice(short_goods))
    predicate = rng.choice(goods if good else bads)
    plain = len(predicate) > 2 or predicate in NO_DEGREE or predicate[0] in "很太不"
    degree = "" if plain else rng.choice(DEGREES)
    return f"{aspect}{degree}{predicate}"


def review(rng: random.Random, aspects: Aspects, good: bool) -> str:
    """A review whose conclusion is good or bad, as `good` says."""
    names = rng.sample(sorted(aspects), 3)
    kind = rng.random()
    if kind < 0.30:  # the conclusion follows the turn: "虽然 A，但是 B"
        first, then = rng.choice(TURNS)
        body = (
            f"{first}{clause(rng, aspects, names[0], not good)}{then}{clause(rng, aspects, names[1], good)}"
        )
        if rng.random() < 0.3:
            body = f"{clause(rng, aspects, names[2], not good)}，{body}"
    elif kind < 0.42:  # a small complaint or a small merit after the conclusion
        verdict = rng.choice(GOOD_VERDICTS if good else BAD_VERDICTS)
        aside = rng.choice(CONCESSIONS) if good else "，只有一点好，"
        body = f"{verdict}{aside}{clause(rng, aspects, names[0], not good)}"
    elif kind < 0.57:  # a hope or a fear that came out otherwise
        goods, bads = aspects[names[0]]
        pattern = rng.choice(FEARED_BAD if good else HOPED_GOOD)
        body = pattern.format(aspect=names[0], good=rng.choice(goods), bad=rng.choice(bads))
    else:
        parts = [clause(rng, aspects, name, good) for name in names[: rng.choice((1, 2, 2, 3))]]
        body = "，".join(parts)
    if kind >= 0.42 and rng.random() < 0.25:
        body = f"{body}，{rng.choice(GOOD_VERDICTS if good else BAD_VERDICTS)}"
    return f"{rng.choice(OPENERS)}{body}{rng.choice(ENDS)}"


def generate(rows: int = ROWS, seed: int = SEED) -> list[dict[str, str]]:
    """`rows` different reviews with columns label ("1" good, "0" bad), text and domain."""
    rng = random.Random(seed)
    seen: set[str] = set()
    reviews: list[dict[str, str]] = []
    while len(reviews) < rows:
        domain = rng.choice(sorted(DOMAINS))
        good = rng.random() < 0.5
        text = review(rng, DOMAINS[domain], good)
        if text in seen:
            continue
        seen.add(text)
        wrong = rng.random() < WRONG_LABEL_SHARE
        reviews.append({"label": str(int(good != wrong)), "text": text, "domain": domain})
    return reviews


def main() -> None:
    """Write demo.csv beside this file."""
    with open(Path(__file__).with_name("demo.csv"), "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["label", "text", "domain"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(generate())


if __name__ == "__main__":
    main()
