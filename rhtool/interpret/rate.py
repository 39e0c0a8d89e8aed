"""RATE (Reber et al. 2024, arXiv 2410.11348): what an attribute of answers is worth to a reward, by rewriting each answer twice.

With w whether an answer y has the attribute, and Re(y, v) the answer rewritten to have it (v = 1) or not (v = 0):

    ATT = mean over w = 1 of R(Re(Re(y, 0), 1)) - R(Re(y, 0))
    ATU = mean over w = 0 of R(Re(y, 1)) - R(Re(Re(y, 1), 0))
    ATE = n1 / n ATT + n0 / n ATU

Whatever else rewriting does is done to both sides and cancels, where one rewriting, R(y) - R(Re(y, 0)), is off by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhtool.results.statistics import LEVEL, Estimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """Of an attribute, in units of the reward, with bootstrap intervals over answers."""

    att: Estimate
    """on the answers that have it"""
    atu: Estimate
    """on those that have it not"""
    ate: Estimate
    """on all"""
    once: Estimate
    """what a single rewriting would say of all: biased by what else rewriting does"""


def effects(
    has: NDArray[np.bool_], own: Array, once: Array, twice: Array, resamples: int = 2000, seed: int = 0
) -> Effects:
    """Of rewards (N,) of answers that have the attribute or not: as they are, rewritten to the contrary, and rewritten back.

    NaN for what has no answers.
    """
    sign = np.where(has, 1.0, -1.0)
    double, single = sign * (twice - once), sign * (own - once)
    draws = np.random.default_rng(seed).integers(len(has), size=(resamples, len(has)))

    def mean(values: Array, where: NDArray[np.bool_]) -> Estimate:
        if not where.any():
            return Estimate()
        weights = where[draws]
        count = weights.sum(1)
        drawn = np.divide((values[draws] * weights).sum(1), count, out=np.full(resamples, np.nan), where=count > 0)
        low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(float(values[where].mean()), float(low), float(high), int(where.sum()))

    every = np.ones(len(has), bool)
    return Effects(mean(double, has), mean(double, ~has), mean(double, every), mean(single, every))
