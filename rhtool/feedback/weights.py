"""Which weights of principles explain what people prefer, and how far principles agree.

Logistic regression without intercept of "people prefer a" on the differences x_k = s_k(a) - s_k(b): P(a) = sigmoid(w . x). A pair
and its mirror image say the same, which is why there is no intercept. Williams 2024 (MORLAIF, arXiv 2406.07295), section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhtool.errors import RhtoolError


@dataclass(frozen=True)
class Regression:
    """Weights of raw differences, one for each of K principles."""

    weights: NDArray
    errors: NDArray
    """standard errors, of the inverse of the Fisher information"""
    accuracy: float
    """share of the pairs on which it was fitted that it gets right"""


def regression(x: NDArray, label: NDArray, ridge: float = 1e-6) -> Regression:
    """The maximum of the likelihood.

    Args:
        x: differences (N, K). They are standardised inside; the weights are of `x` as it is.
        label: 1 where a is preferred, 0 where b is (N,).
        ridge: of half the squared standardised weights over N, so that separable data have a maximum too.

    Raises `RhtoolError` if there are fewer pairs than principles.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    n, k = x.shape
    if n < k or n == 0:
        raise RhtoolError(f"{n} pairs say nothing of {k} weights", "weights", "give more pairs that people have judged")
    scale = np.sqrt((x**2).mean(0))
    scale = np.where(scale > 0, scale, 1.0)
    z, sign = x / scale, np.where(label > 0.5, 1.0, -1.0)

    def loss(w: NDArray) -> tuple[float, NDArray]:
        margin = sign * (z @ w)
        slope = -(sign * expit(-margin)) @ z / n + ridge * w
        return float(np.logaddexp(0, -margin).mean() + ridge * (w @ w) / 2), slope

    def curvature(w: NDArray) -> NDArray:
        p = expit(z @ w)
        return (z * (p * (1 - p))[:, None]).T @ z / n + ridge * np.eye(k)

    w = minimize(loss, np.zeros(k), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-10}).x
    errors = np.sqrt(np.diag(np.linalg.inv(n * curvature(w)))) / scale
    return Regression(w / scale, errors, right(z @ w, label))


def right(odds: NDArray, label: NDArray) -> float:
    """Share of signs that are the labels', ties counting half."""
    return float(np.mean(np.where(odds == 0, 0.5, (odds > 0) == (label > 0.5))))


def cross_validated(x: NDArray, label: NDArray, folds: int = 5, seed: int = 0) -> float:
    """Accuracy of `regression` on pairs that it was not fitted on."""
    parts = np.array_split(np.random.default_rng(seed).permutation(len(x)), folds)
    odds = np.empty(len(x))
    for part in parts:
        rest = np.setdiff1d(np.arange(len(x)), part)
        odds[part] = x[part] @ regression(x[rest], label[rest]).weights
    return right(odds, label)


def ablation(x: NDArray, label: NDArray, principles: Sequence[str]) -> list[dict[str, float | str]]:
    """A row for each principle: its weight and standard error, the accuracy of it alone, and of all others without it, both
    cross-validated; the first row, `all`, of all together."""
    full = regression(x, label)
    rows: list[dict[str, float | str]] = [{"principle": "all", "accuracy": cross_validated(x, label)}]
    for k, name in enumerate(principles):
        row = {"principle": name, "weight": float(full.weights[k]), "weight_se": float(full.errors[k])}
        row["alone"] = cross_validated(x[:, [k]], label)
        row["without"] = cross_validated(np.delete(x, k, 1), label) if x.shape[1] > 1 else float("nan")
        rows.append(row)
    return rows


def agreement(odds: NDArray) -> dict[str, NDArray]:
    """How far K columns of log-odds (N, K) prefer the same: matrices (K, K) of

        agreement   share of the pairs on which both prefer the same; of ties half
        kappa       Cohen's: (agreement - that of independent ones) / (1 - that)
        phi         Pearson's correlation of the two signs

    over the pairs of which both said something (no NaN).
    """
    sign = np.sign(odds)
    k = odds.shape[1]
    found = {name: np.full((k, k), np.nan) for name in ("agreement", "kappa", "phi")}
    for i in range(k):
        for j in range(k):
            both = np.isfinite(odds[:, i]) & np.isfinite(odds[:, j])
            if not both.any():
                continue
            one, other = sign[both, i], sign[both, j]
            share = float(((1 + one * other) / 2).mean())
            chance = float((1 + one.mean() * other.mean()) / 2)
            found["agreement"][i, j] = share
            found["kappa"][i, j] = (share - chance) / (1 - chance) if chance < 1 else np.nan
            if one.std() > 0 and other.std() > 0:
                found["phi"][i, j] = np.corrcoef(one, other)[0, 1]
    return found
