"""How far two rewards of answers are apart, up to what no policy of answers can tell: an offset for each prompt, and a scale.

Adding f(prompt) to a reward changes the ranking of no policy, a positive factor only the strength of regularisation, and models of
preferences are never told either. So scores are compared less their mean over the answers to the prompt:

    distance = sqrt((1 - rho) / 2), rho Pearson's correlation of the centred scores (the distance of EPIC: Gleave et al. 2021,
    arXiv 2006.13900, here of one step): 0 for the same, sqrt(1/2) = 0.71 for unrelated, 1 for opposite rewards
    agreement = share of pairs of answers to a prompt that both rank alike; a tie of either counts half
    kendall = tau-b over the pairs of answers to the same prompt, of all prompts together: (C - D) / sqrt((C + D + T_x) (C + D + T_y)).
    With people's ranking as one of the two it is the Trajectory Alignment Coefficient (Muslimani et al. 2025, arXiv 2503.05996).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhtool.results.statistics import FEWEST, LEVEL, Estimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Apart:
    """Two rewards; percentile intervals of a bootstrap over prompts."""

    distance: Estimate
    agreement: Estimate
    kendall: Estimate


def apart(x: Array, y: Array, prompt: NDArray[np.int64], resamples: int = 1000, seed: int = 0) -> Apart:
    """Of scores (N,) of the same answers to `prompt` (N,). NaN where one of them is the same for all answers to each prompt, or where no
    prompt has two answers."""
    parts = _parts(x, y, prompt)
    draws = np.random.default_rng(seed).integers(len(parts), size=(resamples, len(parts)))
    drawn = _statistics(parts[draws].sum(1)) if len(parts) >= FEWEST else np.full((3, 1), np.nan)
    values = _statistics(parts.sum(0)[None])[:, 0]
    found = []
    for value, sample in zip(values, drawn, strict=True):
        low, high = np.full(2, np.nan)
        if np.isfinite(sample).any():
            low, high = np.nanquantile(sample, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found.append(Estimate(float(value), float(low), float(high), len(parts)))
    return Apart(*found)


def distances(scores: dict[str, Array], prompt: NDArray[np.int64]) -> Array:
    """(K, K): the distance of each two."""
    names = list(scores)
    found = np.zeros((len(names), len(names)))
    for i, one in enumerate(names):
        for j in range(i):
            found[i, j] = found[j, i] = apart(scores[one], scores[names[j]], prompt, resamples=1).distance.value
    return found


def _parts(x: Array, y: Array, prompt: NDArray[np.int64]) -> Array:
    """(P, 8): of each prompt, what adds up: sums of products, and numbers of pairs."""
    rows = []
    for p in np.unique(prompt):
        a, b = x[prompt == p], y[prompt == p]
        u, v = a - a.mean(), b - b.mean()
        # What is left of equal numbers is rounding.
        u, v = (np.where(np.abs(z) > 1e-9 * max(1.0, np.abs(w).max()), z, 0.0) for z, w in ((u, a), (v, b)))
        i, j = np.triu_indices(len(a), 1)
        s, t = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
        pairs = [(s * t > 0).sum(), (s * t < 0).sum(), ((s == 0) & (t != 0)).sum(), ((t == 0) & (s != 0)).sum(), len(i)]
        rows.append([u @ v, u @ u, v @ v, *pairs])
    return np.array(rows, np.float64)


def _statistics(sums: Array) -> Array:
    """(3, R) of sums (R, 8): distance, agreement, tau-b."""
    uv, uu, vv, alike, unlike, ties_x, ties_y, pairs = sums.T

    def over(a: Array, b: Array) -> Array:
        return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)

    rho = over(uv, np.sqrt(uu * vv))
    strict = alike + unlike
    return np.stack(
        [
            np.sqrt(np.clip((1 - rho) / 2, 0, 1)),
            over(alike + (pairs - strict) / 2, pairs),
            over(alike - unlike, np.sqrt((strict + ties_y) * (strict + ties_x))),
        ]
    )
