"""Win rates: how often one's answers are better than another's, ties counting half."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from rhtool.results.statistics import FEWEST, LEVEL, Estimate, interval


def wins(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where the difference is above 0, 0 where it is below, 1/2 where it is 0."""
    return (np.sign(np.asarray(difference, np.float64)) + 1) / 2


def wilson(p: float, n: int, level: float = LEVEL) -> Estimate:
    """A share `p` of `n` with Wilson's interval (Wilson 1927, doi 10.1080/01621459.1927.10502953):

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    It is one for wins and losses, also where all are wins; with ties it is wider than it need be.
    """
    z = float(norm.ppf((1 + level) / 2))
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Estimate(
        p, min(p, (middle - half) / scale), max(p, (middle + half) / scale), n
    )  # p is in it, but for rounding


def of_runs(outcomes: Sequence[NDArray[np.float64]]) -> Estimate:
    """The mean of the win rates of runs that differ in their seeds, each with outcomes (N,). The interval is a bootstrap's over
    runs if there are `FEWEST`; else Wilson's, over as many prompts as the run of the fewest has."""
    rates = np.array([x.mean() for x in outcomes])
    if len(rates) >= FEWEST:
        return Estimate(float(rates.mean()), *interval([rates], lambda x: x.mean(-1)), len(rates))
    return wilson(float(rates.mean()), min(map(len, outcomes)))
