"""Few-run statistics: interquartile mean, stratified bootstrap intervals, probability of improvement.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (rliable).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""probability of the intervals"""
FEWEST = 3
"""an interval from fewer values than this would pretend to knowledge that is not there"""


@dataclass(frozen=True)
class Estimate:
    """A statistic of `n` values with the limits of its interval; NaN limits where there are too few values for one."""

    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0


def limits(key: str, found: Estimate) -> dict[str, float]:
    """A metric with the limits of its interval: `key`, `key_low`, `key_high`."""
    return {key: found.value, f"{key}_low": found.low, f"{key}_high": found.high}


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of values (N,); NaN of fewer than two."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan


def iqm(values: ArrayLike) -> NDArray[np.float64] | np.float64:
    """Interquartile mean over the last axis: the mean of what is left without the lowest and the highest quarter.

    `floor(n / 4)` values are cut at each end (scipy's `trim_mean(values, 0.25)`), so that it is the mean when n < 4.
    """
    ordered = np.sort(np.asarray(values, float), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def median(values: ArrayLike) -> NDArray[np.float64] | np.float64:
    """Median over the last axis."""
    return np.median(np.asarray(values, float), axis=-1)


STATISTICS: dict[str, Callable] = {"iqm": iqm, "median": median}


def interval(
    strata: Sequence[ArrayLike], statistic: Callable = iqm, resamples: int = 2000, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Stratified bootstrap percentile interval of `statistic` of the pooled values.

    Each stratum (the seeds of one environment) is resampled with replacement by itself, as often as it has values, so
    that none weighs more in one resample than in another. The same arguments give the same interval.

    Args:
        strata: arrays of shape (n_k,), one per stratum; a single environment is one stratum.
        statistic: reduces the last axis of an array (resamples, sum n_k).

    Returns:
        The limits, NaN if the smallest stratum has fewer than `FEWEST` values.
    """
    strata = [np.asarray(values, float) for values in strata]
    if not strata or min(map(len, strata)) < FEWEST:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = [values[rng.integers(len(values), size=(resamples, len(values)))] for values in strata]
    low, high = np.quantile(statistic(np.concatenate(drawn, axis=-1)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def is_range(n: int, statistic: str = "iqm", level: float = LEVEL) -> bool:
    """Whether the percentile interval from `n` distinct values only reaches from the lowest of them to the highest.

    It does when a resample's statistic is the lowest value with more than half the probability that the interval leaves
    out: when enough of its n draws, each the lowest with probability 1 / n, are.
    """
    enough = n - n // 4 if statistic == "iqm" else n // 2 + 1
    lowest = sum(math.comb(n, k) * (1 / n) ** k * (1 - 1 / n) ** (n - k) for k in range(enough, n + 1))
    return lowest > (1 - level) / 2


def estimate(values: ArrayLike, statistic: str = "iqm", resamples: int = 2000) -> Estimate:
    """The `statistic` ("iqm", "median") of the finite values of a 1-D array, with its interval unless `resamples=0`."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate()
    function = STATISTICS[statistic]
    limits = interval([values], function, resamples) if resamples else (float("nan"), float("nan"))
    return Estimate(float(function(values)), *limits, len(values))


def improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(X > Y) + P(X = Y) / 2 for a run of each, drawn at random: Mann and Whitney's U divided by the number of pairs.

    NaN if one of the 1-D arrays is empty.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if not (x.size and y.size):
        return float("nan")
    return float(np.mean((np.sign(x[:, None] - y[None, :]) + 1) / 2))
