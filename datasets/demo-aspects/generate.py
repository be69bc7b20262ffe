"""Writes demo-aspects.csv: short Chinese restaurant reviews made for this project, from a fixed seed, with
the aspects that each speaks of.

    python datasets/demo-aspects/generate.py

A review has clauses on one to three aspects, in any order, good or bad, and often one that says nothing of
any.  A clause that names an aspect only to pass over it ("服务没留意") does not count: so naming an aspect is
not speaking of it, and counting words is not enough.  Two per cent of the rows with several aspects lack one
of them on purpose.

Not covered: aspects that are only hinted at, and which aspect a judgement is of.
"""

import csv
import random
from pathlib import Path

SEED = 42
ROWS = 600
INCOMPLETE_SHARE = 0.02
PASSED_OVER_SHARE = 0.5
SEPARATOR = ";"

ASPECTS = {  # what clauses are about
    "taste": ("味道", "口味", "菜", "汤", "面条", "烤鱼", "甜品", "米饭", "酱汁", "食材", "肉", "火候"),
    "service": ("服务", "店员", "老板", "服务员", "前台", "客服", "点单的人", "上菜速度", "态度", "收银员"),
    "delivery": ("配送", "骑手", "外卖小哥", "送餐速度", "包装", "餐盒", "送到的时间", "送货上门"),
    "price": ("价格", "价钱", "团购价", "人均消费", "套餐价", "优惠力度", "配送费", "服务费", "菜价"),
    "ambience": ("环境", "装修", "座位", "空调", "包间", "音乐", "灯光", "卫生", "洗手间", "送餐口的位置"),
}
SAID = (  # what may be said of each of them
    *(
        "{}很满意",
        "{}让人失望",
        "{}没得挑",
        "{}一般般",
        "{}比上次好",
        "{}不如从前",
        "喜欢这家的{}",
        "{}还可以",
    ),
    *(
        "{}真的不行",
        "{}超出预期",
        "{}有待改进",
        "最看重的{}没掉链子",
        "{}差了点意思",
        "要夸一夸{}",
        "{}挺不错",
    ),
)
PASSED_OVER = (
    *("{}没留意", "{}就不评价了", "{}没注意看", "先不说{}", "{}不了解", "不谈{}", "{}下次再评", "{}没感觉"),
    *("没关注{}", "{}无所谓"),
)
SHARES = {"taste": 5, "service": 4, "delivery": 3, "price": 3, "ambience": 2}  # how often each comes up
NOTHING = (
    *("第二次来了", "朋友推荐的", "周末一家人吃的", "公司聚餐", "总体还可以", "下次再说吧"),
    *("随便写几句", "不会再点", "给个好评", "五星支持", "有点失望", "路过就进去了"),
)
JOINERS = ("，", "，", "，", "。", "，但是", "，不过", "，而且", "；")
ENDS = ("。", "！", "", "~", "。。。")


def review(rng: random.Random) -> tuple[str, list[str]]:
    """A text and the aspects in it, in the order of ASPECTS."""
    count = rng.choices((1, 2, 3), (4, 4, 2))[0]
    aspects: set[str] = set()
    while len(aspects) < count:
        aspects.add(rng.choices(list(SHARES), list(SHARES.values()))[0])
    clauses = [rng.choice(SAID).format(rng.choice(ASPECTS[aspect])) for aspect in sorted(aspects)]
    others = sorted(ASPECTS.keys() - aspects)
    if rng.random() < PASSED_OVER_SHARE:
        clauses.append(rng.choice(PASSED_OVER).format(rng.choice(ASPECTS[rng.choice(others)])))
    if rng.random() < 0.4:
        clauses.append(rng.choice(NOTHING))
    rng.shuffle(clauses)
    text = clauses[0] + "".join(rng.choice(JOINERS) + clause for clause in clauses[1:]) + rng.choice(ENDS)
    return text, [aspect for aspect in ASPECTS if aspect in aspects]


def generate(rows: int = ROWS, seed: int = SEED) -> list[dict[str, str]]:
    """`rows` different reviews with columns text and aspects, the latter joined by SEPARATOR."""
    rng = random.Random(seed)
    seen: set[str] = set()
    reviews: list[dict[str, str]] = []
    while len(reviews) < rows:
        text, aspects = review(rng)
        if text in seen:
            continue
        seen.add(text)
        if len(aspects) > 1 and rng.random() < INCOMPLETE_SHARE:
            aspects.remove(rng.choice(aspects))
        reviews.append({"text": text, "aspects": SEPARATOR.join(aspects)})
    return reviews


def main() -> None:
    """Write demo-aspects.csv beside this file."""
    path = Path(__file__).with_name("demo-aspects.csv")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "aspects"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(generate())


if __name__ == "__main__":
    main()
