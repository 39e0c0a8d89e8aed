"""The least gain in true reward over all rewards that correlate with the proxy: Max-Min and Linear Max-Min.

Liu, Sun, Zheng, "Robust Optimization for Mitigating Reward Hacking with Correlated Proxies" (ICLR 2026, arXiv 2604.12086).
With Rn the proxy standardised under the base policy, w = mu_pi / mu_base and x = E_mu_pi Rn, a true reward of unit variance
and correlation r with the proxy is r Rn + sqrt(1 - r^2) E, E of unit variance and uncorrelated with Rn under mu_base. The
worst E is -(w - 1 - x Rn) / sqrt(chi2 - x^2), and the worst case's gain in true reward, in its standard deviations,

    r x - sqrt(1 - r^2) sqrt(chi2 - x^2).

Its derivative in mu_pi is that worst reward itself; by r and in units of the proxy, R~ - sigma c' (w - 1 - x Rn) /
sqrt(chi2 - x^2) with c' = sqrt(1 - r^2) / r. The divergence is thus D = sqrt(chi2 - x^2), what is left of the way from
mu_base to mu_pi when the proxy has explained its part: it needs the proxy, and is no function of mu_pi and mu_base alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.divergences.base import Divergence, mean
from rhtool.divergences.measures import Chi2
from rhtool.errors import ConfigError
from rhtool.schema import choice

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from rhtool.envs.base import Env


@dataclass
class MaxMin(Divergence):
    """D = sqrt(chi2 - x^2), x = E_pi Rn: the worst case over all rewards of a given correlation with the proxy.

    A step pays (e^d - 1 - x Rn) / D, Rn its standardised proxy reward.
    """

    over: str = choice("state_action", "state")
    """of what: occupancy measures of states and actions, or of states"""
    score_clip: float = 30.0
    """scores are clipped to this size before their exponential is taken, lest it overflow: e^30 = 1e13"""
    trim: float = 0.01
    """share of the transitions with the lowest, and with the highest, scores that the trimmed mean leaves out"""
    floor: float = 0.01
    """D^2 below this is taken for this in the penalty: near the base policy it is noise that D would magnify"""
    explained: float = 0.9
    """the largest share of the trimmed chi2 that the proxy may explain: x^2 > chi2 is impossible, but not for estimates"""

    def __post_init__(self) -> None:
        self._chi2 = Chi2(score_clip=self.score_clip, trim=self.trim)
        if not 0 <= self.explained <= 1:
            raise ConfigError(f"explained={self.explained} is no share", "divergence.explained", "0 <= explained <= 1")
        if not self.floor > 0:
            raise ConfigError(f"floor={self.floor} is not positive", "divergence.floor", "a small number above zero")

    def theoretical_coeff(self, r: float, sigma: float, env: Env) -> float:
        """sigma sqrt(1 - r^2) / r, in the unit of `coeff`."""
        return _theory(r, sigma) / self.scale(env)

    def penalty(self, d: Tensor, rewards: Tensor | None = None, **seen: Any) -> Tensor:
        """(e^d - 1 - x Rn) / sqrt(max(m - x^2, floor)), m the trimmed mean of e^d - 1 and x the mean of Rn.

        Where the estimates have x^2 > `explained` m, which the scores of a discriminator that lags behind have, x is
        shrunk to sqrt(explained m): a proxy reward would otherwise earn more than it did unregularised.
        """
        proxy = self._proxy(rewards)
        m, x = self._chi2.trimmed(d).clamp(min=0), mean(proxy).to(d.dtype)
        x = x.sign() * x.abs().minimum((self.explained * m).sqrt())
        return (self._chi2.penalty(d) - x * proxy.to(d.dtype)) / (m - x.square()).clamp(min=self.floor).sqrt()

    def estimate(self, d: Tensor, rewards: Tensor | None = None, **seen: Any) -> float:
        """sqrt(max(chi2 - x^2, 0)), from the plain means of e^d - 1 and of Rn."""
        return max(self._chi2.estimate(d) - mean(self._proxy(rewards)).item() ** 2, 0.0) ** 0.5

    def exact(self, mu: np.ndarray, nu: np.ndarray, proxy: np.ndarray | None = None) -> float:
        """sqrt(chi2 - x^2) with the rewards `proxy` of the cells, an array of the same shape, in any unit.

        Raises `RhtoolError` without it. A proxy that is constant under `nu` explains nothing: x = 0.
        """
        if proxy is None:
            raise self._lacks("value without the proxy", "pass the proxy reward of each cell: exact(mu, nu, proxy)")
        from rhtool.hacking import correlation

        moments = correlation(proxy, proxy, nu)
        chi2 = self._chi2.exact(mu, nu)
        gain = float(((mu - nu) * proxy).sum())
        x = gain / moments.proxy_std if moments.proxy_std > 0 else 0.0
        return max(chi2 - x * x, 0.0) ** 0.5

    def _proxy(self, rewards: Tensor | None) -> Tensor:
        if rewards is None:
            raise self._lacks("penalty without the proxy", "pass rewards, whose first column is the standardised proxy")
        return rewards[:, 0]


@dataclass
class LinearMaxMin(Divergence):
    """D = |(z_2, z_3, ...)|: the worst case over the rewards that are linear in known terms, given the correlation.

    z_k are the means, under the policy, of an orthonormal basis Z_k of the terms under the base policy, Z_1 the proxy. A
    step pays (z_2 Z_2 + z_3 Z_3 + ...) / D. With phi the terms, the proxy among them, S their covariance and m how far
    their means have moved, D^2 = m' S^-1 m - x^2: `MaxMin` with w - 1 replaced by its best fit that is linear in phi. No
    discriminator is needed. The terms are the environment's (`VectorEnv.reward_terms`), or where it names none what a
    discriminator would see: the observation, and the encoded action unless `over: state`.
    """

    needs_terms: ClassVar[bool] = True

    over: str = choice("state_action", "state")
    """of what: occupancy measures of states and actions, or of states"""
    floor: float = 1e-4
    """D^2 below this is taken for this in the penalty"""

    @property
    def needs_discriminator(self) -> bool:
        return False

    @property
    def needs_base_samples(self) -> bool:
        return True

    def theoretical_coeff(self, r: float, sigma: float, env: Env) -> float:
        """sigma sqrt(1 - r^2) / r, in the unit of `coeff`."""
        return _theory(r, sigma) / self.scale(env)

    def penalty(self, d: Tensor | None, rewards: Tensor | None = None, **seen: Any) -> Tensor:
        """sum_k>1 z_k Z_k / sqrt(max(sum_k>1 z_k^2, floor)), float32; `d` is not looked at."""
        terms = self._terms(rewards)
        z = terms.mean(0)
        return ((terms @ z) / z.square().sum().clamp(min=self.floor).sqrt()).float()

    def estimate(self, d: Tensor | None, rewards: Tensor | None = None, **seen: Any) -> float:
        """sqrt(sum_k>1 z_k^2), which noise makes larger: by (K - 1) / N in the square for N independent steps."""
        return self._terms(rewards).mean(0).norm().item()

    def _terms(self, rewards: Tensor | None) -> Tensor:
        if rewards is None:
            raise self._lacks(
                "penalty without the terms", "pass rewards: the standardised proxy, and what is beside it"
            )
        return rewards[:, 1:]


def _theory(r: float, sigma: float) -> float:
    """sigma sqrt(1 - r^2) / r; conversely, a coefficient of c sigmas takes r to be 1 / sqrt(1 + c^2)."""
    from rhtool.hacking import theoretical_coeff

    return theoretical_coeff(sigma, r) / r
