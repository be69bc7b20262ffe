"""Splits are disjoint, whole, stratified and the same each time; samples keep what they promise."""

from collections import Counter
from pathlib import Path

import pytest
from sklearn.model_selection import train_test_split

from workflows.data.reviews import Review, clean
from workflows.data.splits import sample_splits, split_reviews
from workflows.data.tables import read_table
from workflows.errors import UserError
from workflows.experiment import DataOptions, load_dataset_card


def _reviews(*counts: int) -> list[Review]:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [Review(f"train:{row}", f"评论{row}", label) for row, label in enumerate(labels, start=1)]


@pytest.fixture(scope="module")
def hotel_reviews(shared_data: Path) -> list[Review]:
    tables = {"train": read_table(shared_data / "ChnSentiCorp_htl_all.csv")}
    return clean(tables, load_dataset_card("chnsenticorp"))[0]["train"]


def test_standard_split_of_a_real_corpus(hotel_reviews: list[Review]) -> None:
    splits = split_reviews({"train": hotel_reviews}, DataOptions(), None)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6211, "val": 777, "test": 777}
    ids = [review.id for rows in splits.values() for review in rows]
    assert sorted(ids) == sorted(review.id for review in hotel_reviews)
    share = Counter(review.label for review in hotel_reviews)[1] / len(hotel_reviews)
    for rows in splits.values():
        assert abs(Counter(review.label for review in rows)[1] / len(rows) - share) < 0.001
    assert splits == split_reviews({"train": hotel_reviews}, DataOptions(), None)
    other = split_reviews({"train": hotel_reviews}, DataOptions(data_seed=43), None)
    assert other["test"] != splits["test"]


def test_course_split_is_the_code_of_the_course(hotel_reviews: list[Review]) -> None:
    splits = split_reviews({"train": hotel_reviews}, DataOptions(split="course"), None)
    rest, test = train_test_split(hotel_reviews, test_size=0.2, random_state=42)
    train, val = train_test_split(rest, test_size=0.1, random_state=42)
    assert set(splits["test"]) == set(test)
    assert len(splits["val"]) == len(val)
    assert len(splits["train"]) == len(train)


def test_a_test_set_of_the_source_stays_whole() -> None:
    source = {"train": _reviews(60, 40), "test": [Review("test:1", "好", 1)]}
    splits = split_reviews(source, DataOptions(), None)
    assert splits["test"] == source["test"]
    assert Counter(review.label for review in splits["val"]) == {0: 6, 1: 4}
    assert len(split_reviews(source, DataOptions(), 0.02)["val"]) == 2
    with_val = split_reviews({**source, "val": [Review("val:1", "差", 0)]}, DataOptions(), None)
    assert len(with_val["train"]) == 100
    with pytest.raises(UserError, match="--split course"):
        split_reviews(source, DataOptions(split="course"), None)


def test_samples_keep_shares_or_balance(hotel_reviews: list[Review]) -> None:
    splits = split_reviews({"train": hotel_reviews}, DataOptions(), None)
    options = DataOptions(train_samples=161, test_samples=100)
    sampled = sample_splits(splits, options)
    assert Counter(review.label for review in sampled["train"]) == {0: 51, 1: 110}
    assert len(sampled["test"]) == 100
    assert len(sampled["val"]) == 21
    assert set(sampled["train"]) <= set(splits["train"])
    balanced = sample_splits(splits, DataOptions(train_samples=160, balance=True))
    assert Counter(review.label for review in balanced["train"]) == {0: 80, 1: 80}
    most = sample_splits(splits, DataOptions(balance=True))
    rarest = Counter(review.label for review in splits["train"])[0]
    assert Counter(review.label for review in most["train"]) == {0: rarest, 1: rarest}
    with pytest.raises(UserError, match=f"--balance.*at most {2 * rarest}"):
        sample_splits(splits, DataOptions(train_samples=6000, balance=True))
    with pytest.raises(UserError, match="--train-samples 9999: there are only 6211"):
        sample_splits(splits, DataOptions(train_samples=9999))


def test_three_labels_with_a_rare_one() -> None:
    splits = split_reviews({"train": _reviews(500, 40, 460)}, DataOptions(), None)
    assert all({review.label for review in rows} == {0, 1, 2} for rows in splits.values())
    sampled = sample_splits(splits, DataOptions(train_samples=10))
    assert Counter(review.label for review in sampled["train"]) == {0: 5, 1: 1, 2: 4}
    lopsided = split_reviews({"train": _reviews(985, 30, 20)}, DataOptions(), None)
    for size in (3, 4, 10, 50):
        assert len(sample_splits(lopsided, DataOptions(train_samples=size))["train"]) == size


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((3, 1), "too few"),
        ((1, 1), "too few"),
        ((40, 1), "1 of the rarest label"),
        ((40, 0), "have one label"),
    ],
)
def test_too_few_rows_are_refused(counts: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_reviews({"train": _reviews(*counts)}, DataOptions(), None)
