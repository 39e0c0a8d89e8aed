"""Gao's forms of overoptimisation, fitted: alpha and beta, their intervals, the peak, and which form describes data better.

Gao, Schulman and Hilton 2023, "Scaling Laws for Reward Model Overoptimization" (arXiv 2210.10760, section 1): with d =
sqrt(KL) and R(d) the return above the base policy's, R(0) = 0,

    best-of-n  R(d) = d (alpha - beta d)        peak at d = alpha / (2 beta), R = alpha^2 / (4 beta)
    RL         R(d) = d (alpha - beta log d)    peak at d = exp(alpha / beta - 1), R = beta d

Both are linear in alpha and beta, so a fit is one least-squares problem. The tables of points are those of
`overoptimisation.points`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from rhtool.errors import RhtoolError
from rhtool.results.statistics import FEWEST, LEVEL, Estimate

ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
FEWEST_POINTS = 5
"""residuals of fewer points than this say nothing of their noise, two parameters having been fitted to them"""
TIE = 2.0
"""a difference in AIC below which two models describe data equally well (Burnham and Anderson 2002)"""


def best_of_n_kl(n: ArrayLike) -> NDArray[np.float64]:
    """KL of best-of-n from the base policy, log n - (n - 1) / n in nats, of n >= 1 of any shape: that of the density
    n u^(n-1) of ranks u from 1. Raises `RhtoolError` if an n is below 1.

    Exact where no two answers score the same, as under a continuous distribution of scores. Otherwise an upper bound,
    because an answer says less than its rank. It is about fresh answers: if all there ever are is a pool of N, drawing
    n of them with replacement is within the bound, and without replacement may exceed it (log N at n = N).
    """
    n = np.asarray(n, np.float64)
    if np.any(n < 1):
        raise RhtoolError(f"best of n = {np.nanmin(n):g}", "n", "n is a number of samples, at least 1")
    return np.log(n) - (n - 1) / n


@dataclass(frozen=True)
class Form:
    """A curve of returns above the base policy's, linear in (alpha, beta)."""

    name: str
    basis: Callable[[NDArray], NDArray]
    """d of any shape -> (..., 2), whose product with (alpha, beta) is R"""
    bend: Callable[[NDArray, NDArray], NDArray]
    """alpha, beta -> d of the maximum, for beta > 0"""
    top: Callable[[NDArray, NDArray, NDArray], NDArray]
    """alpha, beta, that d -> R there"""

    def peak(self, alpha: ArrayLike, beta: ArrayLike) -> tuple[NDArray, NDArray]:
        """d* >= 0 of the largest R, and that R; both inf where R rises for ever (beta < 0, or beta = 0 < alpha)."""
        alpha, beta = np.broadcast_arrays(np.asarray(alpha, float), np.asarray(beta, float))
        with np.errstate(all="ignore"):
            bent = np.maximum(self.bend(alpha, beta), 0.0)
            d = np.where(beta > 0, bent, np.where((beta == 0) & (alpha <= 0), 0.0, np.inf))
            gain = np.where(beta > 0, self.top(alpha, beta, d), d)  # 0 at 0, inf at inf
        return d, gain


def _bon_basis(d: NDArray) -> NDArray:
    return np.stack([d, -np.square(d)], axis=-1)


def _rl_basis(d: NDArray) -> NDArray:
    return np.stack([d, -d * np.log(np.where(d > 0, d, 1.0))], axis=-1)


FORMS = {
    "best-of-n": Form("best-of-n", _bon_basis, lambda a, b: a / (2 * b), lambda a, b, d: a * d / 2),
    "RL": Form("RL", _rl_basis, lambda a, b: np.exp(a / b - 1), lambda a, b, d: b * d),
}


@dataclass(frozen=True)
class Fit:
    """A form fitted to the true or the proxy return."""

    form: Form
    alpha: Estimate
    beta: Estimate
    r2: float
    """1 - residual / total sum of squares, about the mean; below zero if a constant would fit better"""
    resampled: str
    """what the intervals come from: "runs", "points", or "" where there are too few for intervals"""
    draws: NDArray[np.float64]
    """alpha and beta of the resamples, (resamples, 2)"""

    def __call__(self, d: ArrayLike) -> NDArray[np.float64]:
        """R(d), of the shape of d."""
        return self.form.basis(np.asarray(d, float)) @ np.array([self.alpha.value, self.beta.value])

    def band(self, d: ArrayLike) -> tuple[NDArray, NDArray]:
        """The limits of R at each d (N,); NaN without resamples."""
        if not self.resampled:
            return np.full(np.shape(d), math.nan), np.full(np.shape(d), math.nan)
        low, high = np.quantile(self.draws @ self.form.basis(np.asarray(d, float)).T, ENDS, axis=0)
        return low, high

    @property
    def peak(self) -> tuple[Estimate, Estimate]:
        """d* and R(d*) with intervals; inf where the fit rises for ever."""
        values = self.form.peak(self.alpha.value, self.beta.value)
        drawn = self.form.peak(*self.draws.T)
        return tuple(replace(self.alpha, value=float(v), **_limits(d)) for v, d in zip(values, drawn, strict=True))


def _limits(draws: NDArray) -> dict[str, float]:
    if not len(draws):
        return {"low": math.nan, "high": math.nan}
    # By order statistics: between inf and inf nothing can be interpolated.
    low, high = np.quantile(draws, ENDS, method="closest_observation")
    return {"low": float(low), "high": float(high)}


def fit(table: pd.DataFrame, form: Form | str, of: str = "true", resamples: int = 2000, seed: int = 0) -> Fit:
    """Least squares of a form to the column `of` ("true", "proxy") of `points`, weighted by 1 / se^2 where every se is known.

    Intervals: with at least `FEWEST` runs, runs are resampled with all their points. With fewer the residuals of points
    are, in circular blocks of n^(1/3) neighbours (Politis and Romano 1992), which says how noise moves the fit, not how
    another run would differ; none for fewer than `FEWEST_POINTS` points. Either way the resamples are spread about
    the estimate by sqrt(m / dof) t_dof / z, as few draws are too close to each other (Hesterberg 2015, arXiv 1411.5279, does
    so with the quantiles): m runs, dof = m - 1; m points, dof = m - 3, for two parameters and the mean of the residuals,
    which are centred. The limits are percentiles. None if `resamples=0`.

    Raises `RhtoolError` if there are fewer than three distances above 0, the returns are all equal, or a standard error
    is not above 0 or is known of some points only.
    """
    form = FORMS[form] if isinstance(form, str) else form
    far = table[table.d > 0]
    distances = far.d.nunique()
    if distances < 3:
        raise RhtoolError(
            f"{distances} distance{'s' * (distances != 1)} above 0: a fit of two parameters takes at least three",
            f"the {of} return",
            "evaluate more often, or at more n",
        )
    if np.ptp(far[of]) == 0:
        raise RhtoolError(f"the {of} return is {far[of].iloc[0]:g} everywhere", "points", "there is no curve to fit")
    se = _errors(table, of)
    y, X = table[of].to_numpy() / se, form.basis(table.d.to_numpy()) / se[:, None]
    used = table.d.to_numpy() > 0
    inverse = _inverse(X[used])
    value = inverse @ y[used]
    residuals = (y - X @ value)[used]
    rng = np.random.default_rng(seed)
    runs = [part.to_numpy() for _, part in pd.Series(np.flatnonzero(used)).groupby(far.run.to_numpy())]
    resampled, draws = "", np.empty((0, 2))
    if resamples and len(runs) >= FEWEST:
        resampled, m, dof = "runs", len(runs), len(runs) - 1
        draws = _over_runs(X, y, runs, resamples, rng)
    elif resamples and len(far) >= FEWEST_POINTS:
        resampled, m, dof = "points", len(far), len(far) - 3
        noise = _blocks(residuals - residuals.mean(), len(table), resamples, rng) * se
        for _, rows in table.reset_index(drop=True).groupby("run"):
            at = rows.index.to_numpy()
            if rows.is_base.any():  # its noise is in every return above it
                noise[:, at] -= noise[:, rows.index[rows.is_base].to_numpy()].mean(axis=1, keepdims=True)
        draws = value + (noise / se)[:, used] @ inverse.T
    if resampled:
        spread = math.sqrt(m / dof) * student.ppf(ENDS[1], dof) / student.ppf(ENDS[1], np.inf)
        draws = value + spread * (draws - value)
    alpha, beta = (Estimate(float(v), **_limits(d), n=len(runs)) for v, d in zip(value, draws.T, strict=True))
    returns, weights = far[of].to_numpy(), 1 / se[used] ** 2
    total = weights @ (returns - np.average(returns, weights=weights)) ** 2
    return Fit(form, alpha, beta, float(1 - residuals @ residuals / total), resampled, draws)


def _errors(table: pd.DataFrame, of: str) -> NDArray[np.float64]:
    """The standard errors (N,), all 1 where none is known."""
    se = table[f"{of}_se"].to_numpy(float)
    far = se[table.d.to_numpy() > 0]
    if np.isnan(far).all():
        return np.ones(len(table))
    if not np.all(far > 0):
        raise RhtoolError(
            f"{np.sum(~(far > 0))} of {len(far)} standard errors are missing or not above 0",
            f"{of}_se",
            "give all of them, or none",
        )
    # Points at distance 0 have no weight in a fit; what they lack is not missed.
    return np.where(se > 0, se, np.median(far))


def _over_runs(X: NDArray, y: NDArray, runs: list[NDArray], resamples: int, rng: np.random.Generator) -> NDArray:
    """The estimates of resampled runs, (<= resamples, 2), from the runs' sums of products."""
    unit = np.linalg.norm(X, axis=0)
    unit[unit == 0] = 1.0
    grams = np.array([(X[at] / unit).T @ (X[at] / unit) for at in runs])
    moments = np.array([(X[at] / unit).T @ y[at] for at in runs])
    counts = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=resamples).astype(float)
    gram, moment = np.tensordot(counts, grams, 1), counts @ moments
    # A run that has a single distance cannot be fitted alone.
    solvable = np.linalg.cond(gram) < 1e12
    return np.linalg.solve(gram[solvable], moment[solvable][..., None])[..., 0] / unit


def _blocks(residuals: NDArray, n: int, resamples: int, rng: np.random.Generator) -> NDArray:
    """`n` residuals for each resample, (resamples, n), drawn with their neighbours, the last being the first's."""
    length = max(1, round(len(residuals) ** (1 / 3)))
    starts = rng.integers(len(residuals), size=(resamples, math.ceil(n / length)))
    at = (starts[..., None] + np.arange(length)).reshape(resamples, -1)[:, :n] % len(residuals)
    return residuals[at]


@dataclass(frozen=True)
class Choice:
    """Which form describes the same points better."""

    better: str
    """its name in `FORMS`"""
    other: str
    aic: Estimate
    """AIC of the other minus AIC of the better one, >= 0, with Vuong's interval"""

    @property
    def clear(self) -> bool:
        """Whether the data can tell: the interval is above 0, and the difference is not within `TIE`."""
        return self.aic.low > 0 and self.aic.value > TIE


def choose(table: pd.DataFrame) -> Choice:
    """The form with the lower AIC for the true return of `points`, under Gaussian noise of one variance.

    Each run is fitted by itself, so that how runs differ is not taken for a form; all together if a run has fewer than three
    distances above 0. Both forms have the same number of parameters, so their AICs differ as twice the log-likelihoods
    do. The interval is that of Vuong (1989) for models of which neither contains the other, from the variance over
    blocks of n^(1/3) neighbouring points of a run; NaN with fewer than `FEWEST` of these. Raises `RhtoolError` as `fit` does.
    """
    far = table[table.d > 0].reset_index(drop=True)
    se = _errors(far, "true")
    y = far.true.to_numpy() / se
    runs = [part.index.to_numpy() for _, part in far.groupby("run", sort=False)]
    own = bool((far.groupby("run").d.nunique() > 2).all())
    likelihood = {}
    for name, form in FORMS.items():
        X = form.basis(far.d.to_numpy()) / se[:, None]
        residuals = np.empty(len(far))
        for at in runs if own else [far.index.to_numpy()]:
            residuals[at] = y[at] - X[at] @ (_inverse(X[at]) @ y[at])
        # Not zero, or of two perfect fits each would be infinitely better.
        variance = max(float(np.mean(residuals**2)), 1e-20 * float(np.mean(y**2)))
        likelihood[name] = -np.log(variance) - residuals**2 / variance  # twice, up to a constant
    better, other = sorted(likelihood, key=lambda name: -likelihood[name].sum())
    difference = likelihood[better] - likelihood[other]
    length = max(1, round((len(far) / len(runs)) ** (1 / 3)))
    sums = [part.sum() for at in runs for part in np.split(difference[at], range(length, len(at), length))]
    value, m = float(difference.sum()), len(sums)
    if m < FEWEST:
        return Choice(better, other, Estimate(value, n=m))
    reach = float(student.ppf(ENDS[1], m - 1) * math.sqrt(m) * np.std(sums, ddof=1))
    return Choice(better, other, Estimate(value, value - reach, value + reach, m))


def _inverse(X: NDArray) -> NDArray:
    """(N, 2) -> (2, N), the pseudoinverse."""
    # Distances may be of any size, chi2 above all: columns are brought to length 1.
    unit = np.linalg.norm(X, axis=0)
    unit[unit == 0] = 1.0
    return np.linalg.pinv(X / unit) / unit[:, None]
