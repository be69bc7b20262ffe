"""Intervals over draws and test rows crossed, against hand computations."""

import itertools

import numpy as np
import pytest
from scipy.stats import t

from workflows.core.statistics import (
    Resampled,
    crossed_bootstrap,
    deviation_interval,
    excludes_zero,
    holm_intervals,
    resample_mean,
    resampled_interval,
)


def test_the_crossed_bootstrap_draws_both_ways_anew() -> None:
    values = np.array([[1, 0, 1], [0, 0, 1]])
    means = [
        values[list(draws)][:, list(rows)].mean()
        for draws in itertools.product(range(2), repeat=2)
        for rows in itertools.product(range(3), repeat=3)
    ]  # all resamples there are, each as likely
    drawn = crossed_bootstrap(values, 40_000)
    assert drawn.shape == (40_000,)
    for value in sorted(set(np.round(means, 6))):
        assert np.isclose(drawn, value, atol=1e-5).mean() == pytest.approx(
            np.isclose(means, value).mean(), abs=0.01
        )
    assert (drawn == crossed_bootstrap(values, 40_000)).all()


def test_a_mean_of_zero_is_zero() -> None:
    """Else an interval that ends at 0 would leave it out, by a rounding that differs between machines."""
    values = np.zeros((6, 60))
    for draw, rows in enumerate((4, 6, 3, 4, 5, 5)):
        values[draw, :rows] = 1
    values[2, 3] = -1
    drawn = crossed_bootstrap(values)
    assert (drawn[np.abs(drawn) < 0.5 / values.size] == 0).all()
    assert (drawn == 0).any()


def test_each_source_of_variance_alone_is_as_wide_as_its_binomial() -> None:
    rng = np.random.default_rng(0)
    rows = np.tile(rng.random(400) < 0.8, (8, 1))  # all draws answer alike: the rows alone are uncertain
    share = rows[0].mean()
    assert crossed_bootstrap(rows).std() == pytest.approx((share * (1 - share) / 400) ** 0.5, rel=0.05)
    draws = np.repeat(rng.random(50) < 0.5, 30).reshape(50, 30)  # all rows alike: the draws alone are
    share = draws[:, 0].mean()
    assert crossed_bootstrap(draws).std() == pytest.approx((share * (1 - share) / 50) ** 0.5, rel=0.05)


def test_few_draws_get_the_interval_of_student() -> None:
    rng = np.random.default_rng(3)
    for count in (6, 10):
        means = rng.normal(size=count)
        found = resample_mean(np.repeat(means, 50).reshape(count, 50))
        error = means.std(ddof=1) / count**0.5
        assert (found.error, found.freedom) == pytest.approx((error, count - 1))
        for level in (0.05, 0.05 / 6):
            low, high = resampled_interval(found, level)
            assert high - low == pytest.approx(2 * t.isf(level / 2, count - 1) * error, rel=0.1)


def test_one_draw_or_many_rows_get_the_interval_of_the_resamples() -> None:
    rows = np.random.default_rng(4).random((1, 1000)) < 0.8
    for values in (rows, np.tile(rows, (6, 1))):
        assert resampled_interval(resample_mean(values)) == pytest.approx(
            np.quantile(crossed_bootstrap(values), [0.025, 0.975]), abs=0.0002
        )


def test_of_differences_by_chance_about_one_in_twenty_leaves_out_zero() -> None:
    """Without the widening it is 33 of 100 sets of six."""
    rng = np.random.default_rng(5)
    sets = [[resample_mean(np.tile(rng.normal(size=(6, 1)), (1, 3))) for _ in range(6)] for _ in range(100)]
    wrong = sum(any(map(excludes_zero, holm_intervals(each, 6))) for each in sets)
    assert wrong <= 9


def test_the_interval_of_a_standard_deviation_is_that_of_chi_square() -> None:
    assert deviation_interval(1.0, 6) == pytest.approx([0.624, 2.453], abs=0.001)  # as in printed tables


def test_holm_gives_the_clearest_difference_the_strictest_interval() -> None:
    clear, doubtful, none = (
        Resampled(mean, np.random.default_rng(at).normal(mean, 1, 10_000), 1.0, 1.0, np.inf, 1000)
        for at, mean in enumerate((9, 2.1, 0))
    )
    found = holm_intervals([none, clear, doubtful], 3)
    assert found[1] == resampled_interval(clear, 0.05 / 3)
    # 2.1 standard errors are enough alone (1.96), not as the second of three (2.24): it stops there.
    assert found[2] == resampled_interval(doubtful, 0.05 / 2)
    assert found[0] == resampled_interval(none, 0.05 / 2)
    assert [excludes_zero(each) for each in found] == [0, 1, 0]
    assert excludes_zero(resampled_interval(doubtful)) == 1
    assert [excludes_zero(each) for each in ([-2.0, -1.0], [0.0, 0.5])] == [-1, 0]
    assert excludes_zero([0.0004, 0.1]) == 0  # it is shown as +0.000
    # Two more are asked for, and not measured yet.
    assert holm_intervals([clear, doubtful], 4)[1] == resampled_interval(doubtful, 0.05 / 3)


def test_holm_stops_where_the_first_interval_holds_zero() -> None:
    """Skewed resamples, whose order by a t test would be another than by their intervals."""
    rng = np.random.default_rng(11)
    for _ in range(60):
        each = [
            Resampled(mean, mean + rng.choice([-1, 1]) * (rng.exponential(1, 4000) - 1), 1.0, 1.3, 7.0, 1000)
            for mean in rng.uniform(2, 4, 6)
        ]
        found = holm_intervals(each, 6)
        levels = [
            next(left for left in range(1, 7) if resampled_interval(one, 0.05 / left) == interval)
            for one, interval in zip(each, found, strict=True)
        ]
        told = [left for left, interval in zip(levels, found, strict=True) if excludes_zero(interval)]
        held = {left for left, interval in zip(levels, found, strict=True) if not excludes_zero(interval)}
        assert sorted(told, reverse=True) == [*range(6, 6 - len(told), -1)]
        assert held <= {6 - len(told)}
