"""Drift between training and test, on real reviews of one source and of two."""

from pathlib import Path

import pandas as pd

from workflows.data.health import measure_drift
from workflows.data.reviews import Review


def _reviews(path: Path, rows: slice) -> list[Review]:
    frame = pd.read_csv(path).dropna().sample(frac=1, random_state=7)[rows]
    pairs = zip(frame["review"], frame["label"], strict=True)
    return [Review(f"train:{i}", text, label) for i, (text, label) in enumerate(pairs, start=1)]


def test_rows_of_one_source_do_not_drift_and_of_two_they_do(shared_data: Path) -> None:
    hotel = shared_data / "ChnSentiCorp_htl_all.csv"
    train = _reviews(hotel, slice(0, 1500))
    same = measure_drift(train, _reviews(hotel, slice(1500, 2000)), seed=42)
    assert same is not None
    low, high = same["texts"]["interval"]
    assert low < 0.5 < high
    assert same["texts"]["rows"] == 1000
    assert min(same["labels_p"], same["lengths_p"]) > 0.01
    other = measure_drift(train, _reviews(shared_data / "waimai_10k.csv", slice(0, 500)), seed=42)
    assert other is not None
    assert other["texts"]["auroc"] > 0.95
    assert max(other["labels_p"], other["lengths_p"]) < 1e-6
    assert measure_drift(train[:10], train[10:20], seed=42) is None
