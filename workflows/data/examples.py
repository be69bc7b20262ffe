"""The solved examples of few-shot prompts: training rows, chosen by seed or by likeness to the review."""

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from workflows.core.errors import UserError
from workflows.core.files import read_jsonl, write_jsonl
from workflows.core.run_folder import SPLITS, RunFolder
from workflows.core.screen import Screen
from workflows.data.messages import write_row
from workflows.data.reviews import Review
from workflows.experiment.cards import Prompt
from workflows.experiment.experiment import Experiment

Chooser = Callable[[list[Review]], Iterator[tuple[Review, ...]]]
AT_ONCE = 500  # reviews whose likeness to all training rows is held in memory


def show_examples(run: RunFolder, experiment: Experiment, screen: Screen) -> None:
    """Write train, val and test anew, with the examples that a prompt with `shots` shows."""
    prompt, seed = experiment.prompt, experiment.data.data_seed
    splits = {
        name: [Review(row["id"], row["review"], row["label"]) for row in read_jsonl(run.split(name))]
        for name in SPLITS
    }
    with screen.progress("choosing examples", sum(map(len, splits.values()))) as bar:
        choose = example_chooser(splits["train"], prompt, seed)

        def rows(reviews: list[Review]) -> Iterator[dict[str, Any]]:
            for review, shown in zip(reviews, choose(reviews), strict=True):
                yield write_row(review, prompt, experiment.labels, experiment.data.format, shown)
                bar.update()

        for name, reviews in splits.items():
            write_jsonl(run.split(name), rows(reviews))


def example_chooser(train: list[Review], prompt: Prompt, seed: int) -> Chooser:
    """What chooses, for each of the reviews that it is given, the rows of `train` that its prompt shows; none
    without `shots`, and never a row with the review's own text.

    By seed they are the same for all, and each label in turn; by similarity they are the nearest by TF-IDF
    over characters, the most alike last, next to the question (Liu et al. 2022, What Makes Good In-Context
    Examples for GPT-3?).  Raises UserError where there are too few training rows.
    """
    shots = prompt.shots
    if shots == 0:
        return lambda reviews: iter([()] * len(reviews))
    if len(train) <= shots:
        raise UserError(
            f"prompt {prompt.name} shows {shots} examples, and there are {len(train)} training rows: "
            "give more of them, or a prompt with fewer `shots`."
        )
    # One more than is shown, in case the review is among them; texts of training rows differ.
    if prompt.shots_by == "seed":
        drawn = _each_label_in_turn(train, seed)[: shots + 1]
        return lambda reviews: (_others(drawn, review)[:shots] for review in reviews)
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True)
    known = vectorizer.fit_transform([review.text for review in train])
    nearest = NearestNeighbors(n_neighbors=shots + 1, metric="cosine").fit(known)

    def most_alike(reviews: list[Review]) -> Iterator[tuple[Review, ...]]:
        for start in range(0, len(reviews), AT_ONCE):
            asked = reviews[start : start + AT_ONCE]
            texts = vectorizer.transform([review.text for review in asked])
            for review, row in zip(asked, nearest.kneighbors(texts, return_distance=False), strict=True):
                yield _others([train[position] for position in row], review)[:shots][::-1]

    return most_alike


def _others(chosen: list[Review], review: Review) -> tuple[Review, ...]:
    return tuple(each for each in chosen if each.text != review.text)


def _each_label_in_turn(train: list[Review], seed: int) -> list[Review]:
    """All of `train` in random order, with the labels taking turns for as long as each has rows."""
    by_label: defaultdict[Any, list[Review]] = defaultdict(list)
    for review in random.Random(seed).sample(train, len(train)):
        by_label[review.label].append(review)
    turns = itertools.zip_longest(*(by_label[label] for label in sorted(by_label)))
    return [review for turn in turns for review in turn if review is not None]
