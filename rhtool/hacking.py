"""Reward hacking as the theory has it: correlated proxies, and how much true return a divergence guarantees.

Laidlaw et al. 2025, "Correlated Proxies" (arXiv 2403.03185v4), sections 4 and 5; Liu et al. 2026 (arXiv 2604.12086).
Returns are J(pi, R) = E_mu_pi[R], rewards of a step, with mu_pi(s, a) = (1 - gamma) sum_t gamma^t Pr(s_t = s, a_t = a),
the occupancy measure, which sums to 1. Means and sigmas of rewards are under the base policy's occupancy measure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhtool.divergences import Chi2
from rhtool.errors import RhtoolError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Correlation:
    """Pearson correlation of proxy and true reward, with the moments behind it."""

    r: float
    """correlation, in [-1, 1]; NaN if one of the two rewards is constant"""
    proxy_mean: float
    true_mean: float
    proxy_std: float
    true_std: float


def correlation(proxy: np.ndarray, true: np.ndarray, weights: np.ndarray | None = None) -> Correlation:
    """Definition 4.1: r = E[((R~ - J~) / sigma~) ((R - J) / sigma)] under the base policy.

    `proxy` and `true` are rewards of equal shape, of its sampled steps or of the cells of a table; `weights` their
    probabilities in the latter case, up to a factor (equal if not given). Raises `ValueError` if the shapes differ or
    the weights are negative or all zero.
    """
    import numpy as np

    proxy, true = np.asarray(proxy, np.float64), np.asarray(true, np.float64)
    weights = np.ones_like(true) if weights is None else np.asarray(weights, np.float64)
    if not proxy.shape == true.shape == weights.shape:
        raise ValueError(f"rewards and weights differ in shape: {proxy.shape}, {true.shape}, {weights.shape}")
    if np.any(weights < 0) or not weights.sum() > 0:
        raise ValueError("weights are not negative, and not all zero")
    seen = weights > 0
    proxy, true, weights = proxy[seen], true[seen], weights[seen] / weights.sum()

    def moments(x: np.ndarray) -> tuple[float, float, np.ndarray]:
        mean = float(weights @ x)
        # A constant's mean is rounded, and its deviations would be noise instead of zero.
        apart = x - mean if np.ptp(x) > 0 else np.zeros_like(x)
        return mean, math.sqrt(weights @ apart**2), apart

    proxy_mean, proxy_std, proxy_apart = moments(proxy)
    true_mean, true_std, true_apart = moments(true)
    product = proxy_std * true_std
    r = float(np.clip(weights @ (proxy_apart * true_apart) / product, -1, 1)) if product > 0 else math.nan
    return Correlation(r, proxy_mean, true_mean, proxy_std, true_std)


def theoretical_coeff(sigma_proxy: float, r: float) -> float:
    """lambda = sigma_proxy sqrt(1 - r^2), the weight of sqrt(chi2) that maximises theorem 5.1's bound.

    In units of a reward. The configuration's `coeff` is in units of `env.reward_std`: that is sqrt(1 - r^2), or
    `theoretical_coeff(1.0, r)`. Raises `RhtoolError` unless 0 < r <= 1.
    """
    _check(r)
    return sigma_proxy * math.sqrt(1 - r * r)


def return_bound(proxy_gain: float, chi2: float, r: float, sigma_proxy: float, sigma_true: float) -> float:
    """Theorem 5.1: the least gain in true return, J(pi, R) - J(base, R), that the gain in proxy return allows.

        sigma_true / r (proxy_gain / sigma_proxy - sqrt((1 - r^2) chi2))

    `chi2` is that of the policy's occupancy measure from the base policy's; if it is infinite, the policy goes where
    the base policy never does and the bound is -inf. Raises `RhtoolError` unless 0 < r <= 1 and both sigmas are
    above zero.
    """
    _check(r, sigma_proxy, sigma_true)
    if math.isinf(chi2):
        return -math.inf
    return sigma_true / r * (proxy_gain / sigma_proxy - math.sqrt((1 - r * r) * max(chi2, 0.0)))


def max_min_bound(proxy_gain: float, chi2: float, r: float, sigma_proxy: float, sigma_true: float) -> float:
    """The least gain in true return over all true rewards of correlation r with the proxy (arXiv 2604.12086, Max-Min).

        sigma_true (r x - sqrt((1 - r^2) (chi2 - x^2))),   x = proxy_gain / sigma_proxy

    It is attained, hence never below `return_bound`. chi2 >= x^2 by Cauchy and Schwarz; a smaller one, which only an
    estimate can be, counts as x^2. Arguments and errors as in `return_bound`.
    """
    _check(r, sigma_proxy, sigma_true)
    if math.isinf(chi2):
        return -math.inf
    x = proxy_gain / sigma_proxy
    return sigma_true * (r * x - math.sqrt((1 - r * r) * max(chi2 - x * x, 0.0)))


@dataclass(frozen=True)
class Gap:
    """Both sides of the bounds for two occupancy measures."""

    correlation: Correlation
    chi2: float
    proxy_gain: float
    """J(pi, R~) - J(base, R~)"""
    true_gain: float
    """J(pi, R) - J(base, R), which the bounds bound from below"""
    return_bound: float | None
    """theorem 5.1; None where it does not apply: the correlation is not above zero, or not defined"""
    max_min_bound: float | None
    """Max-Min; None in the same cases"""

    @property
    def holds(self) -> bool:
        """Whether the true gain is no less than the bounds that apply, up to rounding."""
        bounds = [b for b in (self.return_bound, self.max_min_bound) if b is not None]
        slack = 1e-9 * self.correlation.true_std * (1 + math.sqrt(self.chi2) / abs(self.correlation.r)) if bounds else 0
        return all(self.true_gain >= bound - slack for bound in bounds)


def bound_gap(mu: np.ndarray, nu: np.ndarray, proxy: np.ndarray, true: np.ndarray) -> Gap:
    """Both sides of both bounds, exactly, from tables.

    `mu` and `nu` are the occupancy measures of the policy and of the base policy, `proxy` and `true` the rewards of the
    same cells, all of one shape. Raises `ValueError` if they are not.
    """
    import numpy as np

    chi2 = Chi2().exact(mu, nu)
    moments = correlation(proxy, true, nu)
    move = np.asarray(mu, np.float64) - np.asarray(nu, np.float64)
    proxy_gain, true_gain = (float((move * np.asarray(reward, np.float64)).sum()) for reward in (proxy, true))
    bounds = (None, None)
    if moments.r > 0:
        known = (proxy_gain, chi2, moments.r, moments.proxy_std, moments.true_std)
        bounds = (return_bound(*known), max_min_bound(*known))
    return Gap(moments, chi2, proxy_gain, true_gain, *bounds)


def is_hacking(r: float, true_return: float, base_true_return: float) -> bool:
    """Definition 4.2: the proxy correlates with the true reward under the base policy (r > 0), and the policy that was
    optimised for it has less true return than the base policy. With r not above zero, or NaN, it was no proxy.
    """
    return r > 0 and true_return < base_true_return


def course(
    steps: np.ndarray, true: np.ndarray, proxy: np.ndarray, base_true: float, base_proxy: float
) -> tuple[float, float]:
    """How a training run went: `(drop, onset)` from its returns (N,) at `steps` (N,).

    Both returns are first averaged over a fiftieth of the run to either side. `drop` is the highest true return minus that
    where the proxy return is highest: what stopping by the proxy costs. `onset` is the step from which on, to the end,
    the true return is below the base policy's and the proxy return above it (definition 4.2); NaN if that is not how
    the run ended.
    """
    import numpy as np

    true, proxy = averaged(true), averaged(proxy)
    drop = float(true.max() - true[proxy.argmax()])
    safe = np.flatnonzero(~((true < base_true) & (proxy > base_proxy)))
    first = 0 if len(safe) == 0 else int(safe[-1]) + 1
    return drop, float(steps[first]) if first < len(steps) else math.nan


def averaged(returns: np.ndarray) -> np.ndarray:
    """Returns (N,) of one run, in order, each averaged over a fiftieth of the run to either side."""
    import numpy as np

    returns = np.asarray(returns, np.float64)
    reach = len(returns) // 50
    window = np.ones(2 * reach + 1)
    return (
        np.convolve(returns, window, "same") / np.convolve(np.ones(len(returns)), window, "same") if reach else returns
    )


DIAGNOSTICS = {
    "r": "hacking/r",
    "sigma": "hacking/sigma",
    "theory": "hacking/coeff",
    "sqrt_chi2": "hacking/sqrt_chi2",
    "gain": "hacking/gain",
    "bound": "hacking/bound",
    "held?": "hacking/bound_holds",
    "worst case": "hacking/worst_case",
    "drop": "hacking/drop",
    "onset": "hacking/onset_step",
}
"""{how tables call a diagnostic: its metric}"""
EXACT = {
    "hacking/r": "exact/correlation",
    "hacking/sigma": "exact/sigma/proxy",
    "hacking/sqrt_chi2": "exact/divergence/sqrt_chi2",
    "hacking/gain": "exact/gain",
    "hacking/bound": "exact/bound",
    "hacking/bound_holds": "exact/bound_holds",
    "hacking/worst_case": "exact/worst_case",
}
"""{diagnostic: the metric that is its exact value}"""


def diagnostics(metrics: dict[str, float], unit: float) -> dict[str, float]:
    """`hacking/…` of an evaluation with a base policy: what theorem 5.1 speaks of, what it says, the worst case over rewards
    of the same correlation, and the theory's coefficient; exact where the environment is tabular, else of estimates.

    Of estimates the bound counts as held if the gain misses it by no more than two standard errors of both gains; NaN if
    these are, as of one episode. What the theory says is absent where it says nothing: the correlation is not above zero,
    or a reward is constant. `unit` is the `coeff` of one unit of the proxy reward: of environments what it is trained in,
    over the unit of their coefficients (`proxy_scale / reward_std`); of texts 1.
    """
    if "exact/gain" in metrics:
        found = {name: metrics[key] for name, key in EXACT.items() if key in metrics}
    else:
        found = _estimated(metrics)
    if (r := found["hacking/r"]) > 0:
        found["hacking/coeff"] = theoretical_coeff(unit * found["hacking/sigma"], r)
    return found


def _estimated(metrics: dict[str, float]) -> dict[str, float]:
    """Those of `EXACT` from sampled returns and an estimated chi2."""
    r, sigma_proxy, sigma_true = (metrics[f"base/{key}"] for key in ("correlation", "sigma/proxy", "sigma/true"))
    proxy_gain, gain = (metrics[f"mean/{reward}"] - metrics[f"base/mean/{reward}"] for reward in ("proxy", "true"))
    chi2 = metrics["divergence/chi2"]

    def error(reward: str) -> float:
        """Standard error of the gain per step."""
        parts = (
            metrics[f"{who}{reward}/return_se"] / metrics.get(f"{who}episode/length", 1.0) for who in ("", "base/")
        )
        return math.hypot(*parts)

    found = {"hacking/r": r, "hacking/sigma": sigma_proxy, "hacking/sqrt_chi2": max(chi2, 0.0) ** 0.5}
    found["hacking/gain"] = gain
    if not r > 0:
        return found
    bound = return_bound(proxy_gain, chi2, r, sigma_proxy, sigma_true)
    slack = 2 * math.hypot(error("true"), sigma_true / (r * sigma_proxy) * error("proxy"))
    return found | {
        "hacking/bound": bound,
        "hacking/bound_holds": float(gain >= bound - slack) if slack == slack else math.nan,
        "hacking/worst_case": max_min_bound(proxy_gain, chi2, r, sigma_proxy, sigma_true),
    }


def _check(r: float, *sigmas: float) -> None:
    if not 0 < r <= 1:
        raise RhtoolError(
            f"theorem 5.1 says nothing of a proxy whose correlation with the true reward is {r}",
            "r, under the base policy",
            "it needs 0 < r <= 1: take another proxy, or another base policy",
        )
    if not all(sigma > 0 for sigma in sigmas):
        raise RhtoolError(
            "theorem 5.1 says nothing of a reward that is constant under the base policy",
            "sigma_proxy, sigma_true",
            "take a base policy that sees more of the rewards, or another reward",
        )
