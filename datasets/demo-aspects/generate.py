"""Writes demo-aspects.csv: short Chinese restaurant reviews made for this project, from a fixed seed, with
the aspects that each speaks of.

    python datasets/demo-aspects/generate.py

A review has clauses on one to three aspects, in any order, good or bad, and often one that says nothing of
any.  Most clauses do not name their aspect, and some words serve two of them ("慢" of a kitchen and of a
rider), so that whole clauses count.  Two per cent of the rows with several aspects lack one on purpose.

Not covered: aspects that are only hinted at, and which aspect a judgement is of.
"""

import csv
import random
from pathlib import Path

SEED = 42
ROWS = 600
INCOMPLETE_SHARE = 0.02
SEPARATOR = ";"

ASPECTS = {
    "taste": (
        *("味道很正宗", "咸得发苦", "汤底鲜得想再来一碗", "肉有点柴", "辣得过瘾", "吃着没什么滋味"),
        *("口感软糯", "米饭夹生", "甜度刚刚好", "油放得太多了", "菜都凉透了", "酱汁调得特别香"),
        *("食材一看就新鲜", "鱼有股腥味", "面条很劲道"),
    ),
    "service": (
        *("店员有问必答", "叫了三遍没人理", "服务员笑脸相迎", "老板说话很冲", "结账时还送了小礼物"),
        *("点单上错了也不道歉", "客服回复及时", "加水都要催", "上菜慢得离谱", "店家主动帮忙打包"),
        *("问什么都爱答不理", "投诉之后马上就处理了"),
    ),
    "delivery": (
        *("骑手提前到了", "等了一个半小时才到", "汤洒了半袋子", "送到时还热乎", "包装很严实", "路上慢得离谱"),
        *("外卖小哥很有礼貌", "说好半小时，结果迟了", "餐盒都压扁了", "下雨天也准时", "放门口也不打电话"),
    ),
    "price": (
        *("比别家便宜不少", "贵得没道理", "人均不到四十", "满减之后很划算", "一份要八十八", "性价比高"),
        *("优惠券用不了", "又涨价了", "花这点钱很值", "团购价还行", "量少还卖这么贵"),
    ),
    "ambience": (
        *("座位挤得转不开身", "装修很有情调", "空调不给力", "安静，适合聊天", "桌子黏糊糊的", "灯光温馨"),
        *("隔壁桌抽烟没人管", "靠窗能看到江景", "地面湿滑", "音乐太吵", "包间宽敞", "洗手间很干净"),
    ),
}
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
    clauses = [rng.choice(ASPECTS[aspect]) for aspect in sorted(aspects)]
    if rng.random() < 0.6:
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
