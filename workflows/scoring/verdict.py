"""The sentences that may be drawn from the paired tests of a run's systems."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from workflows.core.texts import Text, one_after_another, p_value, text, texts
from workflows.scoring.uncertainty import SIGNIFICANCE, conclude, two_digits_up

# What costs least comes first: no model at all; one pass over the rows that are asked; one over the labelled
# rows too, to three quarters of the depth or all of it; training.
CHEAP_FIRST = (
    "majority",
    "mean",
    "tfidf",
    "zero_shot",
    "zero_shot_labels",
    "probe",
    "zero_shot_threshold",
    "tuned",
)
UNTUNED = ("zero_shot", "zero_shot_labels", "zero_shot_threshold", "probe")

Pair = dict[str, Any]


def verdict(comparisons: list[Pair], rows: int) -> dict[str, str]:
    """What may be concluded, in English and Chinese: of the tuned model against the best that the untuned one
    does with the same labels, and against TF-IDF; and which system is the cheapest that nothing beats.

    `comparisons`: from `compare_systems` or `compare_errors`, on `rows` rows.
    """
    return asdict(one_after_another(_sentences(comparisons, text("test_rows", count=rows))))


def _sentences(comparisons: list[Pair], rows: Text) -> Iterator[Text]:
    names, leads = texts("systems_in_a_sentence"), _leads(comparisons)
    untuned = [name for name in UNTUNED if name in leads]
    if untuned:
        best = max(untuned, key=lambda name: leads[untuned[0]].get(name, (0.0, {}))[0])
    for other in [*([best] if untuned else []), "tfidf"]:
        if "tuned" in leads.get(other, {}):
            yield conclude(leads[other]["tuned"][1], names[other], names["tuned"], rows)
    best_left = unbeaten(comparisons)
    if len(best_left) == 1:
        yield text("only_unbeaten", a=names[best_left[0]])
    elif best_left:
        yield _of_the_cheapest(best_left[0], leads[best_left[0]], names)


def _leads(comparisons: list[Pair]) -> dict[str, dict[str, tuple[float, Pair]]]:
    """For each system, how far each other is ahead of it, in accuracy or by a smaller error, and the pair."""
    leads: dict[str, dict[str, tuple[float, Pair]]] = {}
    for pair in comparisons:
        of_b = pair["accuracy_difference"] if "accuracy_difference" in pair else -pair["mae_difference"]
        leads.setdefault(pair["a"], {})[pair["b"]] = (of_b, pair)
        leads.setdefault(pair["b"], {})[pair["a"]] = (-of_b, pair)
    return leads


def unbeaten(comparisons: list[Pair]) -> list[str]:
    """The systems that none is significantly ahead of, by the corrected tests, what costs least first."""
    leads = _leads(comparisons)
    return [
        name
        for name in CHEAP_FIRST
        if name in leads
        and not any(lead > 0 and pair["holm_p"] < SIGNIFICANCE for lead, pair in leads[name].values())
    ]


def _of_the_cheapest(name: str, leads: dict[str, tuple[float, Pair]], names: dict[str, Text]) -> Text:
    ahead = {other: (lead, pair) for other, (lead, pair) in leads.items() if lead > 0}
    if not ahead:
        return text("cheapest_and_best", a=names[name])
    best = max(ahead, key=lambda other: ahead[other][0])
    p = p_value(min(pair["holm_p"] for _, pair in ahead.values())).removeprefix("= ")
    figures: dict[str, Text | str] = {"a": names[name], "b": names[best], "p": p}
    needed = ahead[best][1].get("rows_to_tell")
    if needed is None:
        return text("cheapest_unbeaten", **figures)
    return text("cheapest_until_more_rows", **figures, needed=two_digits_up(needed))
