"""Splits are disjoint, whole, stratified and the same each time; samples keep what they promise."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from tests.conftest import Command
from workflows.core.errors import UserError
from workflows.core.tables import open_table
from workflows.data.reviews import classify_rows
from workflows.data.splits import Splits, sample_splits, split_rows
from workflows.experiment.cards import load_dataset_card
from workflows.experiment.options import DataOptions


def _labels(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts), dtype=np.int8), counts)


def _split(labels: np.ndarray, options: DataOptions | None = None) -> Splits:
    return split_rows({"train": np.arange(len(labels))}, labels, options or DataOptions(), None)


def _counts(labels: np.ndarray, at: np.ndarray) -> dict[int, int]:
    return Counter(labels[at].tolist())


@pytest.fixture(scope="module")
def hotel(shared_data: Path) -> np.ndarray:
    """The labels of the hotel reviews that are kept."""
    tables = {"train": open_table(shared_data / "ChnSentiCorp_htl_all.csv")}
    rows = classify_rows(tables, load_dataset_card("chnsenticorp"), None, tqdm(disable=True))
    return rows.labels[rows.kept("train")]


def test_standard_split_of_a_real_corpus(hotel: np.ndarray) -> None:
    splits = _split(hotel)
    assert {name: len(at) for name, at in splits.items()} == {"train": 6211, "val": 777, "test": 777}
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(hotel)))
    for at in splits.values():
        assert abs(hotel[at].mean() - hotel.mean()) < 0.001
        assert (np.diff(at) > 0).all()
    again, other = _split(hotel), _split(hotel, DataOptions(data_seed=43))
    assert all(np.array_equal(splits[name], again[name]) for name in splits)
    assert not np.array_equal(splits["test"], other["test"])


def test_published_splits_are_scikit_learns(hotel: np.ndarray) -> None:
    """On the rows themselves and their labels as lists, as a published script has them."""
    ids, labels = [f"train:{i}" for i in range(len(hotel))], hotel.tolist()
    label_of = dict(zip(ids, labels, strict=True))
    rest, test = train_test_split(ids, test_size=777, random_state=42, stratify=labels)
    rest.sort(key=ids.index)  # what is left is cut in file order
    train, val = train_test_split(
        rest, test_size=777, random_state=42, stratify=[label_of[id] for id in rest]
    )
    splits = {name: {f"train:{i}" for i in at} for name, at in _split(hotel).items()}
    assert splits == {"train": set(train), "val": set(val), "test": set(test)}


def test_course_split_is_the_code_of_the_course(hotel: np.ndarray) -> None:
    splits = _split(hotel, DataOptions(split="course"))
    rest, test = train_test_split(range(len(hotel)), test_size=0.2, random_state=42)
    train, val = train_test_split(rest, test_size=0.1, random_state=42)
    assert set(splits["test"]) == set(test)
    assert len(splits["val"]) == len(val)
    assert len(splits["train"]) == len(train)


def test_a_test_set_of_the_source_stays_whole() -> None:
    labels = np.append(_labels(60, 40), [1, 0]).astype(np.int8)
    source = {"train": np.arange(100), "test": np.array([100])}
    splits = split_rows(source, labels, DataOptions(), None)
    assert splits["test"].tolist() == [100]
    assert _counts(labels, splits["val"]) == {0: 6, 1: 4}
    assert len(split_rows(source, labels, DataOptions(), 0.02)["val"]) == 2
    with_val = split_rows({**source, "val": np.array([101])}, labels, DataOptions(), None)
    assert len(with_val["train"]) == 100
    with pytest.raises(UserError, match="--split course"):
        split_rows(source, labels, DataOptions(split="course"), None)


def test_samples_keep_shares_or_balance(hotel: np.ndarray) -> None:
    splits = _split(hotel)
    sampled = sample_splits(splits, hotel, DataOptions(train_samples=161, test_samples=100))
    assert _counts(hotel, sampled["train"]) == {0: 51, 1: 110}
    assert len(sampled["test"]) == 100
    assert len(sampled["val"]) == 21
    assert set(sampled["train"]) <= set(splits["train"])
    balanced = sample_splits(splits, hotel, DataOptions(train_samples=160, balance=True))
    assert _counts(hotel, balanced["train"]) == {0: 80, 1: 80}
    most = sample_splits(splits, hotel, DataOptions(balance=True))
    rarest = _counts(hotel, splits["train"])[0]
    assert _counts(hotel, most["train"]) == {0: rarest, 1: rarest}
    with pytest.raises(UserError, match=f"--balance.*at most {2 * rarest}"):
        sample_splits(splits, hotel, DataOptions(train_samples=6000, balance=True))
    with pytest.raises(UserError, match="--train-samples 9999: there are only 6211"):
        sample_splits(splits, hotel, DataOptions(train_samples=9999))


def test_three_labels_with_a_rare_one() -> None:
    labels = _labels(500, 40, 460)
    splits = _split(labels)
    assert all(set(labels[at]) == {0, 1, 2} for at in splits.values())
    sampled = sample_splits(splits, labels, DataOptions(train_samples=10))
    assert _counts(labels, sampled["train"]) == {0: 5, 1: 1, 2: 4}
    lopsided = _labels(985, 30, 20)
    for size in (3, 4, 10, 50):
        options = DataOptions(train_samples=size)
        assert len(sample_splits(_split(lopsided), lopsided, options)["train"]) == size


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((3, 1), "too few"),
        ((1, 1), "too few"),
        ((40, 1), "1 of the rarest label"),
    ],
)
def test_too_few_rows_are_refused(counts: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _split(_labels(*counts))


def test_a_split_that_leaves_one_label_to_learn_says_so(command: Command, tmp_path: Path) -> None:
    table = tmp_path / "few.csv"
    texts = [f"房间{word}" for word in "大小新旧暗亮静吵冷热"]
    lines = [f"{int(at > 0)},{text}" for at, text in enumerate(texts)]
    table.write_text("\n".join(["label,review", *lines]), encoding="utf-8")
    options = ["--data-file", table, "--text-column", "review", "--label-column", "label"]
    options += ["--labels", "0=差评,1=好评", "--split", "course", "--run-folder", tmp_path / "run"]
    done = command("prepare", *options, "--data-seed", 6)  # the one bad review goes to validation
    expected = "error: --split course: leaves one label alone in the 6 training rows; give more rows"
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(expected)


@pytest.mark.parametrize("counts", [(1800, 4200), (61, 120, 700, 33, 86)])
@pytest.mark.parametrize("balance", [False, True])
def test_draws_with_a_sample_seed_are_nested_and_leave_the_test_rows_alone(
    counts: tuple[int, ...], balance: bool
) -> None:
    labels = np.random.default_rng(0).permutation(_labels(*counts))
    splits, most = _split(labels), 0.7 * len(counts) * min(counts)
    sizes = [size for size in (5, 16, 17, 32, 64, 128, 320, 640, 1280) if size < most]
    for seed in (1, 2):
        asked = [
            DataOptions(train_samples=n, sample_seed=seed, balance=balance, test_samples=50) for n in sizes
        ]
        draws = [sample_splits(splits, labels, options) for options in asked]
        for size, smaller, larger in zip(sizes, draws, draws[1:], strict=False):
            assert len(smaller["train"]) == size
            assert set(smaller["train"]) < set(larger["train"])
            assert set(smaller["val"]) <= set(larger["val"])
        assert all(len(set(labels[draw["train"]])) == len(counts) for draw in draws)
        assert {tuple(draw["test"]) for draw in draws} == {
            tuple(sample_splits(splits, labels, DataOptions(test_samples=50))["test"])
        }
    first, second = (
        sample_splits(splits, labels, DataOptions(train_samples=64, sample_seed=seed)) for seed in (1, 2)
    )
    assert set(first["train"]) != set(second["train"])
    assert set(first["val"]) != set(second["val"])
    shares = {label: count / len(labels) for label, count in enumerate(counts)}
    own = _counts(labels, first["train"])
    assert all(abs(own[label] - 64 * share) <= 1.5 for label, share in shares.items())


def test_a_sample_seed_without_a_sample_is_refused(command: Command) -> None:
    done = command("prepare", "--sample-seed", 1)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nothing is drawn without --train-samples" in done.stderr
