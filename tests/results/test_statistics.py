"""The statistics against scipy and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from rhtool.results.statistics import estimate, improvement, interval, iqm, is_range, median

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@given(NUMBERS)
def test_iqm_is_scipys_trimmed_mean(values):
    assert iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25), rel=1e-9, abs=1e-6)


def test_iqm_by_hand():
    assert iqm([1, 2, 3]) == 2  # nothing to cut from three
    assert iqm([-100, 1, 2, 3, 1000]) == 2  # one of five from each end
    assert iqm([0, 1, 2, 3, 4, 5, 6, 100]) == 3.5  # two of eight from each end
    assert iqm([[3, 1, 2], [6, 4, 5]]).tolist() == [2, 5]


@pytest.mark.parametrize("statistic", [iqm, median])
@pytest.mark.parametrize("n", [4, 10, 30])
def test_interval_agrees_with_scipys_percentile_bootstrap(statistic, n):
    values = np.random.default_rng(n).gamma(2, size=n)
    theirs = scipy.stats.bootstrap(
        (values,), lambda v, axis: statistic(np.moveaxis(v, axis, -1)), n_resamples=20000, method="percentile", rng=1
    ).confidence_interval
    ours = interval([values], statistic, resamples=20000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.05 * np.ptp(values))


@pytest.mark.parametrize("statistic", ["iqm", "median"])
def test_from_few_values_the_interval_is_their_range(statistic):
    for n in range(3, 12):
        values = np.random.default_rng(n).normal(size=n)
        found = estimate(values, statistic)
        assert is_range(n, statistic) == ((found.low, found.high) == (values.min(), values.max())), n
    assert is_range(3, statistic) and not is_range(6, statistic)


def test_interval_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [low <= 0 <= high for low, high in (interval([rng.normal(size=40)], resamples=500) for _ in range(300))]
    assert 0.88 < np.mean(covered) < 0.99


def test_strata_are_resampled_each_by_itself():
    # Two environments whose returns differ by 1000: pooled resampling would mix them in other proportions, and spread.
    near, far = np.array([0, 0.1, -0.1, 0, 0.1, -0.1]), np.full(6, 1000.0)
    low, high = interval([near, far], lambda v: v.mean(-1))
    assert 499.9 < low <= 500 <= high < 500.1
    low, high = interval([np.concatenate([near, far])], lambda v: v.mean(-1))
    assert high - low > 300


def test_interval_needs_three_values_and_is_the_same_every_time():
    assert np.isnan(interval([[1.0, 2.0]])).all()
    assert np.isnan(interval([[1.0, 2.0, 3.0], [1.0]])).all()
    assert np.isnan(interval([])).all()
    assert interval([[1.0, 2.0, 3.0]]) == interval([[1.0, 2.0, 3.0]])


def test_estimate_leaves_out_what_is_not_a_number():
    two = estimate([1.0, np.nan, 3.0, np.inf])
    assert (two.value, two.n) == (2.0, 2)
    assert np.isnan(two.low)
    assert estimate([]).n == 0
    assert estimate([1, 2, 9], "median").value == 2


@given(NUMBERS, NUMBERS)
def test_improvement_is_mann_and_whitneys_u(x, y):
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert improvement(x, y) == pytest.approx(u / (len(x) * len(y)), abs=1e-12)
    assert improvement(x, y) + improvement(y, x) == pytest.approx(1)


def test_improvement_by_hand():
    assert improvement([1, 2, 3], [2]) == 0.5
    assert improvement([5], [1, 2]) == 1
    assert np.isnan(improvement([], [1]))
