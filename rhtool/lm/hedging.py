"""Selection at inference that is softer than best-of-n, and how much of it is best (Khalaf et al. 2025, arXiv 2506.19248).

All draw n answers of the base policy and keep one by its proxy score; what they give is estimated from the N answers to
each of Q prompts that `bon` takes.

- `soft_best_of_n`: kept with probability in proportion to e^(score / temperature);
- `best_of_poisson`: best of n' ~ 1 + Poisson(rate), all but the best trade-off of reward and KL;
- `hedge_...`: HedgeTune, the strength at which the true reward peaks, that is where E[r_true psi] = 0 with psi the
  derivative of log p in the strength, because this is the derivative of E[r_true].

A strength that was tuned on some prompts looks better on these than it is: quote it on others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expi
from scipy.stats import poisson

from rhtool.errors import ConfigError
from rhtool.lm.bon import Answers, Array, Point, best_of_each_n, best_of_n, blocks, points, rank_weights


@dataclass(frozen=True)
class Hedge:
    """The strength of selection that gives most true reward."""

    point: Point
    interior: bool
    """whether less selection gives less, and so does the most that was looked at"""


def _first_best(answers: Answers, values: ArrayLike) -> tuple[int, bool]:
    """The first of the highest expected true rewards, and whether it is neither at the beginning nor kept to the end."""
    values = np.asarray(values)
    # Rounding is not to tell apart strengths that make no difference.
    top = values.max() - 1e-10 * max(np.abs(true).max() for true in answers.true)
    first = int(np.flatnonzero(values >= top)[0])
    return first, bool(first > 0 and values[-1] < top)


def _peak(
    answers: Answers, grid: Sequence[float], value: Callable[[float], float], slope: Callable[[float], float]
) -> tuple[float, bool]:
    """Where `value` is highest, and whether that is between the ends of the grid: the root of `slope` beside the best
    point of the grid. Theorem 1 of arXiv 2506.19248 has one peak; estimates from few answers may have several."""
    best, interior = _first_best(answers, [value(x) for x in grid])
    if not interior:
        return grid[best], False
    low, high = (grid[best], grid[best + 1]) if slope(grid[best]) > 0 else (grid[best - 1], grid[best])
    if slope(low) > 0 > slope(high):
        return float(brentq(slope, low, high, xtol=1e-12, rtol=1e-12)), True
    return grid[best], True


def hedge_best_of_n(answers: Answers) -> Hedge:
    """HedgeTune for best-of-n: the n up to `answers.fewest` of most true reward. Of equal ones the least."""
    curve = best_of_each_n(answers)
    best, interior = _first_best(answers, curve)
    return Hedge(best_of_n(answers, [best + 1])[0], interior)


# --- best-of-Poisson ------------------------------------------------------------------------------------------------


def best_of_poisson_kl(rate: ArrayLike) -> Array:
    """KL in nats of the density (rate u + 1) e^(rate (u - 1)) from 1, Ei being the exponential integral:

        log(1 + rate) - 1 + e^-(1 + rate) (Ei(1 + rate) - Ei(1)) / rate

    Exact or an upper bound as `best_of_n_kl`.
    """
    rate = np.asarray(rate, np.float64)
    safe = np.maximum(rate, 1e-3)
    x = 1 + safe
    with np.errstate(over="ignore", invalid="ignore"):
        tail = np.exp(-x) * (expi(x) - expi(1.0))
    # Ei overflows; its asymptotic series sum k! / x^(k + 1) is exact to rounding long before.
    series = sum(math.factorial(k) / x ** (k + 1) for k in range(12))
    value = np.log(x) - 1 + np.where(x < 100, tail, series) / safe
    # Near zero the terms cancel, and KL = chi2 / 2 up to terms of order rate^4.
    return np.where(rate < 1e-3, best_of_poisson_chi2(rate) / 2, value)


def best_of_poisson_chi2(rate: ArrayLike) -> Array:
    """chi2 of the same: (1 + rate) / 2 + (1 - e^(-2 rate)) / (4 rate) - 1. Exact or an upper bound likewise."""
    rate = np.asarray(rate, np.float64)
    safe = np.maximum(rate, 1e-2)
    value = (safe - 1) / 2 - np.expm1(-2 * safe) / (4 * safe)
    return np.where(rate < 1e-2, rate**2 / 3 - rate**3 / 6 + rate**4 / 15, value)


def best_of_poisson(answers: Answers, rates: Sequence[float]) -> list[Point]:
    """Best of n' = 1 + Poisson(rate) answers, for each rate >= 0: the mixture of the unbiased estimators of best-of-n'.

    An n' above a prompt's number of answers counts as that number, which matters where `rate` comes near it. Divergences:
    `best_of_poisson_kl` and `best_of_poisson_chi2`.
    """
    for rate in rates:
        if not 0 <= rate < math.inf:
            raise ConfigError(f"{rate} is no rate of a Poisson distribution", "rate", "rate >= 0")
    values = answers.expected(lambda size: np.stack([_poisson_weights(size, rate) for rate in rates]))
    return points(rates, *values, best_of_poisson_kl(rates), best_of_poisson_chi2(rates))


def _number_of_draws(size: int, rate: float) -> Array:
    """P(n' = n) for n = 1 .. size, (size,), all that is above counted as `size`."""
    draws = poisson.pmf(np.arange(size), rate)
    draws[-1] += poisson.sf(size - 1, rate)
    return draws


def _poisson_weights(size: int, rate: float) -> Array:
    draws = _number_of_draws(size, rate)
    some = [int(k) + 1 for k in np.flatnonzero(draws > 1e-18)]
    return sum(draws[ns[0] - 1 : ns[-1]] @ rank_weights(size, range(ns[0], ns[-1] + 1)) for ns in blocks(some))


def hedge_best_of_poisson(answers: Answers) -> Hedge:
    """HedgeTune for best-of-Poisson: the rate of most true reward, among those at which n' is within the answers there
    are but for six standard deviations or more."""
    curve = best_of_each_n(answers)
    steps = np.append(np.diff(curve), 0.0)

    def value(rate: float) -> float:
        return float(_number_of_draws(len(curve), rate) @ curve)

    def slope(rate: float) -> float:
        """The derivative of the Poisson distribution in its rate is its shift by one, less itself."""
        return float(poisson.pmf(np.arange(len(curve)), rate) @ steps)

    most = (math.sqrt(8 + len(curve)) - 3) ** 2  # rate + 6 sqrt(rate) + 1 = N
    grid = [0.0, *np.geomspace(min(1e-2, most), most, 200)] if most > 0 else [0.0]
    rate, interior = _peak(answers, grid, value, slope)
    return Hedge(best_of_poisson(answers, [rate])[0], interior)


# --- soft best-of-n -------------------------------------------------------------------------------------------------


class _Subsets:
    """Scores of subsets of n answers of each prompt, to average over.

    Shuffled answers are cut into N // n subsets, and shuffled again, until there are `subsets` of each prompt, or `MOST`
    answers in all of them. Where no more subsets exist, all are taken and the average is exact.
    """

    MOST = 2**18

    def __init__(self, answers: Answers, n: int, subsets: int, seed: int):
        if not 1 <= n <= answers.fewest:
            said = f"soft best-of-{n} cannot be estimated from {answers.fewest} answers"
            raise ConfigError(said, "n", f"1 <= n <= {answers.fewest}")
        if subsets < 1:
            raise ConfigError(f"nothing can be averaged over {subsets} subsets", "subsets", "subsets >= 1")
        self.scores = []
        for q, (proxy, true) in enumerate(zip(answers.proxy, answers.true, strict=True)):
            size = len(proxy)
            if math.comb(size, n) <= subsets:
                chosen = np.array([*itertools.combinations(range(size), n)])
            else:
                rng, each, many = np.random.default_rng([seed, q]), size // n, min(subsets, max(self.MOST // n, 1))
                shuffled = [rng.permutation(size)[: each * n].reshape(each, n) for _ in range(-(-many // each))]
                chosen = np.concatenate(shuffled)[:many]
            self.scores.append((proxy[chosen], true[chosen]))

    def expected(self, strength: float) -> tuple[Array, Array]:
        """Expected proxy and true reward of each prompt, (Q,) each, at 1 / temperature = `strength`."""
        means = np.empty((2, len(self.scores)))
        for q, (proxy, true) in enumerate(self.scores):
            p = _kept(proxy, strength)
            means[:, q] = np.vdot(p, proxy) / len(p), np.vdot(p, true) / len(p)
        return means[0], means[1]

    def slope(self, strength: float) -> float:
        """Derivative of the expected true reward in `strength`: the covariance of both rewards in what is kept."""
        total = 0.0
        for proxy, true in self.scores:
            p = _kept(proxy, strength)
            apart = proxy - np.vecdot(p, proxy)[:, None]
            total += np.vdot(p * apart, true) / len(p)
        return float(total / len(self.scores))


def _kept(scores: Array, strength: float) -> Array:
    """Probabilities over the last axis in proportion to e^(strength score); at infinity over the best, equally."""
    below = scores - scores.max(-1, keepdims=True)
    p = np.exp(strength * below) if strength < math.inf else (below == 0).astype(np.float64)
    return p / p.sum(-1, keepdims=True)


def _inverse(x: float) -> float:
    return 1 / x if x else math.inf


def soft_best_of_n(
    answers: Answers, n: int, temperatures: Sequence[float], subsets: int = 1024, seed: int = 0
) -> list[Point]:
    """Of n answers keep one with probability in proportion to e^(proxy / temperature), for each temperature >= 0, in the
    proxy's unit: 0 is best-of-n, infinity no selection.

    Rewards: averaged over that many random subsets of each prompt's answers, or over all subsets if these are no more;
    unbiased. Every temperature sees the same subsets. That they are random is in the standard errors.
    Divergences: `soft_divergences`, mean over prompts.
    """
    for temperature in temperatures:
        if not temperature >= 0:
            raise ConfigError(f"{temperature} is no temperature", "temperature", "temperature >= 0")
    drawn = _Subsets(answers, n, subsets, seed)
    proxy, true = (np.stack(x, 1) for x in zip(*(drawn.expected(_inverse(t)) for t in temperatures), strict=True))
    far = [np.mean([soft_divergences(p, n, t) for p in answers.proxy], 0) for t in temperatures]
    return points(temperatures, proxy, true, *zip(*far, strict=True))


def soft_divergences(proxy: ArrayLike, n: int, temperature: float) -> tuple[float, float]:
    """KL (nats) and chi2 of soft best-of-n from the base policy, if its answers have the proxy scores (N,), each as likely.

    An answer becomes more likely by

        rho = n E[w / (w + W)] = n integral_0^inf w e^(-s w) (E e^(-s w))^(n-1) ds,   w = e^(proxy / temperature)

    W being the sum over n - 1 others, because 1 / x = integral e^(-s x) ds. By quadrature in log s, which is exact to
    rounding; of more scores than 512 and 8 n, only as many quantiles. Never above `best_of_n_kl` and `best_of_n_chi2`, which
    it tends to at low temperatures if N is far above n.
    """
    x, atoms = np.sort(np.asarray(proxy, np.float64)), max(512, 8 * n)
    if len(x) > atoms:
        x = np.quantile(x, (np.arange(atoms) + 0.5) / atoms)
    levels, count = np.unique(x, return_counts=True)
    share = count / len(x)
    if temperature == 0:
        above = np.cumsum(share)
        above[-1] = 1.0
        rho = np.diff(above**n, prepend=0.0) / share
    else:
        # In float64 a gap of 40 in log w is as good as any.
        gaps = np.minimum(np.diff(levels) / temperature, 40.0)
        log_w = np.append(0.0, np.cumsum(gaps))
        log_s = np.arange(-log_w[-1] - 40.0 - math.log(n), 4.0, 0.5)
        rho = np.zeros(len(levels))
        for part in np.array_split(log_s, 1 + len(log_s) * len(levels) // 1_000_000):
            product = np.exp(np.minimum(part[:, None] + log_w, 700.0))
            staying = np.exp(-product)
            rho += 0.5 * n * ((staying @ share) ** (n - 1)) @ (product * staying)
    rho /= share @ rho
    kl = float(share @ (rho * np.log(np.where(rho > 0, rho, 1.0))))
    return max(kl, 0.0), max(float(share @ np.square(rho - 1)), 0.0)


def hedge_soft_best_of_n(answers: Answers, n: int, subsets: int = 1024, seed: int = 0) -> Hedge:
    """HedgeTune for soft best-of-n: the temperature of most true reward, from 0.01 to 100 standard deviations of the
    proxy within prompts, or 0, or infinity. On the subsets of `soft_best_of_n` with the same `subsets` and `seed`.
    """
    drawn = _Subsets(answers, n, subsets, seed)
    deviation = math.sqrt(np.mean([p.var() for p in answers.proxy]))
    grid = [0.0, *np.geomspace(0.01, 100, 41) / deviation, math.inf] if deviation > 0 else [0.0]
    strength, interior = _peak(answers, grid, lambda x: float(drawn.expected(x)[1].mean()), drawn.slope)
    return Hedge(soft_best_of_n(answers, n, [_inverse(strength)], subsets, seed)[0], interior)
