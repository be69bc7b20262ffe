"""Drift between training and test, on real reviews of one source and of two."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflows.data.health import measure_drift, sample_for_drift


def _reviews(path: Path, rows: slice) -> pd.DataFrame:
    return pd.read_csv(path).dropna().sample(frac=1, random_state=7)[rows]


def _drift(*sides: pd.DataFrame) -> dict[str, Any] | None:
    train, test = (np.arange(len(side)) for side in sides)
    samples = sample_for_drift(train, test, seed=42)
    return measure_drift(
        [side["label"].to_numpy() for side in sides],
        [side["review"].str.len().to_numpy() for side in sides],
        [side["review"].iloc[at].tolist() for side, at in zip(sides, samples, strict=True)],
    )


def test_rows_of_one_source_do_not_drift_and_of_two_they_do(shared_data: Path) -> None:
    hotel = shared_data / "ChnSentiCorp_htl_all.csv"
    train = _reviews(hotel, slice(0, 1500))
    same = _drift(train, _reviews(hotel, slice(1500, 2000)))
    assert same is not None
    low, high = same["texts"]["interval"]
    assert low < 0.5 < high
    assert same["texts"]["rows"] == 1000
    assert min(same["labels_p"], same["lengths_p"]) > 0.01
    other = _drift(train, _reviews(shared_data / "waimai_10k.csv", slice(0, 500)))
    assert other is not None
    assert other["texts"]["auroc"] > 0.95
    assert max(other["labels_p"], other["lengths_p"]) < 1e-6
    assert _drift(train[:10], train[10:20]) is None
