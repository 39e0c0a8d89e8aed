"""Probes: what can be read, linearly or by a small network, from a layer's activations.

Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes" (arXiv 1610.01644); controls after Hewitt and
Liang 2019 (arXiv 1909.03368): the same probe on permuted labels, and on a network of the same architecture that has learned nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

PENALTIES = tuple(10.0**k for k in range(-6, 4))
RESAMPLES = 1000


@dataclass
class Probed:
    """How well targets (T of them) are predicted for held-out rows."""

    r2: np.ndarray
    """(T,): 1 - mean squared error / variance of the held-out targets"""
    low: np.ndarray
    """(T,): 2.5 % quantile over resampled episodes"""
    high: np.ndarray
    """(T,): 97.5 % quantile"""


def probe(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    held_out: np.ndarray,
    kind: str = "ridge",
    penalty: float | None = None,
    seed: int = 0,
    interval: bool = True,
) -> Probed:
    """Fit on the rows that are not `held_out` (N,) bool, predict the others.

    Args:
        features: (N, …), flattened; scaled by mean and deviation in the fitted rows, at least a hundredth of the features' root mean
            square deviation.
        targets: (N, T).
        groups: (N,) int: rows of one group, an episode, are drawn together by the bootstrap.
        kind: "ridge"; "linear", which is ridge without a penalty to speak of; or "mlp".
        penalty: of ridge, per row; None: of `PENALTIES` the one that is best on a quarter of the groups that are fitted.
    """
    x = np.asarray(features, np.float64).reshape(len(features), -1)
    y = np.asarray(targets, np.float64)
    fit = ~held_out
    mean, sd = x[fit].mean(0), x[fit].std(0)
    # What hardly ever varies where it is fitted must not count for much where it does.
    x = (x - mean) / np.maximum(sd, 1e-2 * np.sqrt((sd**2).mean()) + 1e-12)
    centre, unit = y[fit].mean(0), y[fit].std(0)
    z = (y - centre) / np.where(unit > 0, unit, 1.0)
    if kind == "mlp":
        predicted = _mlp(x[fit], z[fit], x[held_out], seed)
    elif kind == "linear" or penalty is not None:
        predicted = ridge(x[fit], z[fit], x[held_out], [1e-10 if kind == "linear" else penalty])[0]
    else:
        names = np.unique(groups[fit])
        inner = np.isin(groups, names[: max(1, len(names) // 4)])
        tried = ridge(x[fit & ~inner], z[fit & ~inner], x[fit & inner], PENALTIES)
        errors = ((tried - z[fit & inner]) ** 2).mean(1)
        best = np.argmin(errors, axis=0)
        every = ridge(x[fit], z[fit], x[held_out], PENALTIES)
        predicted = every[best, :, np.arange(z.shape[1])].T
    return _scored(predicted * unit + centre, y[held_out], groups[held_out], interval)


def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray, penalties: list[float] | tuple[float, ...]) -> np.ndarray:
    """Predictions (P, M, T) for `new` (M, F) of min |y - x w|^2 / N + penalty |w|^2, in closed form, for each penalty; x (N, F) has its
    means subtracted, so does y (N, T). By the eigenvectors of the smaller of x x' and x' x."""
    n = len(x)
    if x.shape[1] <= n:
        values, vectors = np.linalg.eigh(x.T @ x / n)
        right, left = vectors.T @ (x.T @ y / n), new @ vectors
    else:
        values, vectors = np.linalg.eigh(x @ x.T / n)
        right, left = vectors.T @ y / n, new @ x.T @ vectors
    values = values.clip(min=0)
    # Directions without variance are no part of the solution however small the penalty is.
    keep = values > 1e-12 * values.max(initial=1e-300)
    return np.stack([left[:, keep] @ (right[keep] / (values[keep, None] + p)) for p in penalties])


def _mlp(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    """Predictions (M, T) of one hidden layer of 64 units, Adam 1e-3 with some weight decay, 50 passes."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, y.shape[1]))
        inputs, wanted = (torch.from_numpy(a).float() for a in (x, y))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
        for _ in range(50):
            for rows in torch.randperm(len(inputs)).split(128):
                optimizer.zero_grad(set_to_none=True)
                ((net(inputs[rows]) - wanted[rows]) ** 2).mean().backward()
                optimizer.step()
        with torch.no_grad():
            return net(torch.from_numpy(new).float()).double().numpy()


def _scored(predicted: np.ndarray, y: np.ndarray, groups: np.ndarray, interval: bool) -> Probed:
    names, place = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), 4, y.shape[1]))  # of each group: squared errors, y, y squared, rows
    np.add.at(sums, place, np.stack([(predicted - y) ** 2, y, y**2, np.ones_like(y)], 1))

    def r2(total: np.ndarray) -> np.ndarray:
        error, first, second, rows = np.moveaxis(total, -2, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - error / (second - first**2 / rows)

    value = r2(sums.sum(0))
    if not interval:
        return Probed(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    low, high = np.nanquantile(r2(np.einsum("rg,gst->rst", drawn, sums)), [0.025, 0.975], axis=0)
    return Probed(value, low, high)
