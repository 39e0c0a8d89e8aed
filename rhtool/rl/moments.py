"""Means and covariances of the base policy's rewards, and rewards in units of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rhtool.hacking import Correlation

CUTOFF = 1e-3
"""least variance, under the base policy, of a principal component of standardised terms that is not left out"""


class Moments:
    """Running mean (C,) and covariance (C, C), float64, of the rewards of all the transitions of one base policy that a run
    has sampled.

    The columns are the proxy, the true reward and what else a divergence `needs_terms` for.
    """

    def __init__(self) -> None:
        self.count, empty = 0, torch.zeros(0, dtype=torch.float64)
        self.mean, self.scatter = empty, empty

    def add(self, rewards: Tensor) -> None:
        """More transitions, (N, C); N > 0."""
        x = rewards.double()
        n, mean = len(x), x.mean(0)
        apart = x - mean
        scatter = apart.T @ apart
        if not self.count:
            self.count, self.mean, self.scatter = n, mean, scatter
            return
        # Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1.
        total, step = self.count + n, mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(step, step) * (self.count * n / total)
        self.mean, self.count = self.mean + step * (n / total), total

    def relation(self) -> Correlation:
        """Definition 4.1's correlation of proxy and true reward, NaN if one of them is constant, and their moments. Needs a
        transition."""
        deviation, correlations = self._parts()
        proxy, true = deviation[:2].tolist()
        r = float(correlations[0, 1].clamp(-1, 1)) if proxy * true > 0 else math.nan
        return Correlation(r, float(self.mean[0]), float(self.mean[1]), proxy, true)

    def standardised(self, rewards: Tensor) -> Tensor:
        """Columns of `rewards` (N, C) in an orthonormal basis, (N, K) float64: under the base policy each has mean 0 and
        variance 1, and any two correlation 0. The true reward's column is left out.

        The first is the proxy, zero if it is constant there. The others, in the order of their variances, are the principal
        components of what the proxy leaves of the other columns, these in units of their own standard deviations; those whose
        variance is below `CUTOFF` are left out: terms that depend on each other have no inverse covariance, and of what the
        base policy hardly varies little is known.
        """
        deviation, correlations = self._parts()
        x = torch.where(deviation > 0, (rewards.double() - self.mean) / deviation, 0.0)
        on_proxy = correlations[2:, 0]
        variances, directions = torch.linalg.eigh(correlations[2:, 2:] - torch.outer(on_proxy, on_proxy))
        kept = variances.flip(0) > CUTOFF
        directions = directions.flip(1)[:, kept] / variances.flip(0)[kept].sqrt()
        return torch.cat([x[:, :1], (x[:, 2:] - x[:, :1] * on_proxy) @ directions], 1)

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Standard deviations (C,), zero of a constant, and correlations (C, C), zero with a constant."""
        covariance = self.scatter / self.count
        deviation = covariance.diagonal().sqrt()
        # A constant's deviations are rounding errors of its mean.
        deviation = torch.where(deviation > 1e-9 * self.mean.abs(), deviation, 0.0)
        product = torch.outer(deviation, deviation)
        return deviation, torch.where(product > 0, covariance / product, 0.0)

    def get_state(self) -> dict[str, Tensor | int]:
        """For checkpoints."""
        return {"count": self.count, "mean": self.mean, "scatter": self.scatter}

    def set_state(self, state: dict[str, Tensor | int]) -> None:
        """The inverse of `get_state`."""
        self.count, self.mean, self.scatter = int(state["count"]), state["mean"], state["scatter"]
