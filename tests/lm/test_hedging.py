"""Soft best-of-n, best-of-Poisson and HedgeTune against all subsets, closed forms and known optima."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import poisson

from rhtool.errors import ConfigError
from rhtool.lm.bon import Answers, best_of_n, best_of_n_chi2, best_of_n_kl
from rhtool.lm.hedging import (
    best_of_poisson,
    best_of_poisson_chi2,
    best_of_poisson_kl,
    hedge_best_of_n,
    hedge_best_of_poisson,
    hedge_soft_best_of_n,
    soft_best_of_n,
    soft_divergences,
)
from tests.lm.test_bon import moments, random_answers

HACKED = {1: 1.0, 6: -1.5}
"""a true reward u - 1.5 u^6 that selection first raises, then lowers below where it began"""


def hacked(size: int, terms: dict[int, float] = HACKED) -> Answers:
    """Two prompts, between them with the exact true reward at each rank: estimates are free of noise."""
    exact = sum((c * moments(size, k) for k, c in terms.items()), np.zeros(size))
    return Answers([np.arange(size)] * 2, [exact + 1, exact - 1])


def curve(n: float) -> float:
    return sum(c * n / (n + k) for k, c in HACKED.items())


def density(u: float, rate: float) -> float:
    return (rate * u + 1) * math.exp(rate * (u - 1))


# --- best-of-n ------------------------------------------------------------------------------------------------------


def test_hedged_best_of_n_is_at_the_known_optimum():
    hedge = hedge_best_of_n(hacked(60))
    root = brentq(lambda n: sum(c * k / (n + k) ** 2 for k, c in HACKED.items()), 1, 60)
    best = max((math.floor(root), math.ceil(root)), key=curve)
    assert hedge.interior and hedge.point.strength == best and hedge.point.true == pytest.approx(curve(best))
    # The paper's condition: E[r psi], psi = 1 / n + log u, has its root there.
    condition = [
        quad(lambda u, n=n: sum(c * u**k for k, c in HACKED.items()) * n * u ** (n - 1) * (1 / n + math.log(u)), 0, 1)[
            0
        ]
        for n in (root - 0.01, root + 0.01)
    ]
    assert condition[0] > 0 > condition[1]


# --- best-of-Poisson ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_best_of_poisson_is_its_mixture(ties):
    answers = random_answers([8, 6, 8], ties)
    for point in best_of_poisson(answers, [0.0, 0.3, 2.0, 50.0]):
        each = []
        for p, t in zip(answers.proxy, answers.true, strict=True):
            some = best_of_n(Answers([p], [t]), range(1, len(p) + 1))
            weights = poisson.pmf(range(len(p)), point.strength)
            weights[-1] = 1 - weights[:-1].sum()
            each.append([weights @ [getattr(b, name) for b in some] for name in ("proxy", "true")])
        assert (point.proxy, point.true) == pytest.approx(tuple(np.mean(each, 0)))
        assert point.true_se == pytest.approx(np.std(each, 0, ddof=1)[1] / 3**0.5)


@pytest.mark.parametrize("size, rates", [(60, [0.0, 0.5, 10.0]), (3000, [100.0, 1500.0])])
def test_best_of_poisson_has_the_papers_density(size, rates):
    for point in best_of_poisson(hacked(size), rates):
        expected = quad(
            lambda u, rate=point.strength: sum(c * u**k for k, c in HACKED.items()) * density(u, rate),
            0, 1, points=[0.9, 0.99, 0.999], limit=200,
        )[0]  # fmt: skip
        assert point.true == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rate", [0.0, 1e-6, 9e-4, 1.1e-3, 9.9e-3, 1.01e-2, 0.5, 7.0, 98.9, 99.1, 5000.0])
def test_divergences_of_best_of_poisson(rate):
    """Integrals in v = 1 - u, of the density's excess over 1 where this is small."""

    def excess(v: float) -> float:
        return math.expm1(-rate * v) * (1 + rate * (1 - v)) + rate * (1 - v)

    def integral(f) -> float:
        return quad(f, 0, 1, points=sorted({min(x / max(rate, 1e-9), 0.9) for x in (1, 10, 40)}), limit=300)[0]

    kl = integral(lambda v: (1 + excess(v)) * (math.log1p(rate * (1 - v)) - rate * v) - excess(v))
    assert best_of_poisson_kl(rate) == pytest.approx(kl, rel=1e-5, abs=1e-15)
    assert best_of_poisson_chi2(rate) == pytest.approx(integral(lambda v: excess(v) ** 2), rel=1e-5, abs=1e-15)


def test_best_of_poisson_is_all_but_the_best_trade_off():
    """No density of the same mean rank is nearer than e^(b u) / Z, and it is within 8e-4 nats of that (the paper's number)."""

    def tilted(b: float) -> tuple[float, float]:
        mean = -1 / math.expm1(-b) - 1 / b
        return mean, b * mean - math.log(math.expm1(b) / b)

    excess = []
    for rate in np.geomspace(0.1, 200, 40):
        mean = 1 - 1 / rate - math.expm1(-rate) / rate**2  # of u: 1 less the integral of the distribution function
        b = brentq(lambda b, mean=mean: tilted(b)[0] - mean, 1e-3, 600)
        excess.append(float(best_of_poisson_kl(rate)) - tilted(b)[1])
    assert min(excess) > 0 and 5e-4 < max(excess) < 8e-4


def test_hedged_best_of_poisson_is_at_the_known_optimum():
    hedge = hedge_best_of_poisson(hacked(200))

    def condition(rate: float) -> float:
        """E[r psi], psi = u / (rate u + 1) + u - 1."""
        return quad(
            lambda u: sum(c * u**k for k, c in HACKED.items()) * density(u, rate) * (u / (rate * u + 1) + u - 1), 0, 1
        )[0]

    assert hedge.interior and hedge.point.strength == pytest.approx(brentq(condition, 0.1, 20), rel=1e-6)
    for rate in (0.9 * hedge.point.strength, 1.1 * hedge.point.strength):
        assert best_of_poisson(hacked(200), [rate])[0].true < hedge.point.true


# --- soft best-of-n -------------------------------------------------------------------------------------------------


def soft(proxy: np.ndarray, true: np.ndarray, n: int, temperature: float) -> tuple[float, float]:
    """Over all subsets, one by one."""
    found = []
    for subset in itertools.combinations(range(len(proxy)), n):
        p, t = proxy[[*subset]], true[[*subset]]
        w = np.exp((p - p.max()) / temperature)
        found.append((w @ p / w.sum(), w @ t / w.sum()))
    return tuple(np.mean(found, 0))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [1, 3, 6])
def test_soft_best_of_n_is_the_mean_over_all_subsets(n, ties):
    answers = random_answers([8, 6, 7], ties)
    temperatures = [0.02, 0.7, 30.0]
    for point in soft_best_of_n(answers, n, temperatures):
        each = [soft(p, t, n, point.strength) for p, t in zip(answers.proxy, answers.true, strict=True)]
        assert (point.proxy, point.true) == pytest.approx(tuple(np.mean(each, 0)))
        assert point.true_se == pytest.approx(np.std(each, 0, ddof=1)[1] / 3**0.5)
    hard, none = soft_best_of_n(answers, n, [0.0, math.inf])
    (best,) = best_of_n(answers, [n])
    assert (hard.proxy, hard.true) == pytest.approx((best.proxy, best.true))
    assert none.true == pytest.approx(np.mean([t.mean() for t in answers.true]))
    assert (none.kl, none.chi2) == pytest.approx((0, 0), abs=1e-12)


def test_random_subsets_estimate_the_mean_over_all_subsets():
    """Without bias: over seeds their mean is the exact value, within the error that their spread says."""
    answers = random_answers([12] * 2, ties=True)
    exact = soft_best_of_n(answers, 4, [0.5], subsets=495)[0]  # all there are
    found = [soft_best_of_n(answers, 4, [0.5], subsets=7, seed=seed)[0] for seed in range(200)]
    for name in ("proxy", "true"):
        values = np.array([getattr(point, name) for point in found])
        assert values.std() > 0 and abs(values.mean() - getattr(exact, name)) < 3.5 * values.std() / 200**0.5
    assert soft_best_of_n(answers, 4, [0.5], subsets=7, seed=7)[0] == found[7]


@pytest.mark.parametrize("proxy", [[0.0, 1.0, 1.0, 3.0, 3.5], [2.0, 2.0, 2.0], [0.0, 60.0, 500.0, 501.0], [5.0]])
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.0, 0.05, 1.0, 40.0, math.inf])
def test_soft_divergences_over_all_draws(proxy, n, temperature):
    """With replacement, all len(proxy)^n of them."""
    kept = np.zeros(len(proxy))
    for drawn in itertools.product(range(len(proxy)), repeat=n):
        scores = np.array([proxy[i] for i in drawn])
        w = scores == scores.max() if temperature == 0 else np.exp((scores - scores.max()) / temperature)
        np.add.at(kept, [*drawn], w / w.sum() / len(proxy) ** n)
    kl = (kept * np.log(np.where(kept > 0, kept * len(proxy), 1))).sum()
    found = soft_divergences(proxy, n, temperature)
    assert found == pytest.approx((kl, len(proxy) * (kept**2).sum() - 1), rel=1e-6, abs=1e-9)
    assert found[0] <= best_of_n_kl(n) + 1e-9 and found[1] <= best_of_n_chi2(n) + 1e-9


def test_soft_divergences_lie_between_none_and_those_of_best_of_n():
    scores = np.random.default_rng(4).normal(size=5000)  # more than are looked at
    kl, chi2 = zip(*(soft_divergences(scores, 16, t) for t in (math.inf, 3.0, 1.0, 0.3, 0.01)), strict=True)
    assert (kl[0], chi2[0]) == pytest.approx((0, 0), abs=1e-12) and [*kl] == sorted(kl) and [*chi2] == sorted(chi2)
    assert kl[-1] == pytest.approx(best_of_n_kl(16), rel=0.01) and kl[-1] < best_of_n_kl(16)
    assert chi2[-1] == pytest.approx(best_of_n_chi2(16), rel=0.03) and chi2[-1] < best_of_n_chi2(16)


def test_hedged_soft_best_of_n_is_at_the_known_optimum():
    proxy = np.array([0.0, 0.4, 1.1, 1.3, 2.0, 2.2, 3.1, 4.0])
    answers = Answers([proxy, proxy / 2], [proxy - 0.24 * proxy**2] * 2)
    hedge = hedge_soft_best_of_n(answers, 3)

    def loss(strength: float) -> float:
        return -np.mean([soft(p, t, 3, 1 / strength)[1] for p, t in zip(answers.proxy, answers.true, strict=True)])

    best = minimize_scalar(loss, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-8})
    assert hedge.interior and hedge.point.strength == pytest.approx(1 / best.x, rel=1e-4)
    assert hedge.point.true == pytest.approx(-best.fun)


# --- ends -----------------------------------------------------------------------------------------------------------


HEDGES = {
    "n": (hedge_best_of_n, 1.0),
    "poisson": (hedge_best_of_poisson, 0.0),
    "soft": (lambda answers: hedge_soft_best_of_n(answers, 4), math.inf),
}


@pytest.mark.parametrize("name", HEDGES)
def test_hedges_where_there_is_nothing_to_hedge(name):
    hedge, least = HEDGES[name]
    bad, good, flat, alike = (
        hedge(answers)
        for answers in (
            hacked(40, {1: -1.0}), hacked(40, {1: 1.0}), hacked(40, {}), Answers([[1.0] * 40], [np.arange(40.0)])
        )
    )  # fmt: skip
    for none in (bad, flat, alike):  # no selection, where it does harm or nothing
        assert not none.interior and none.point.strength == least and none.point.kl == pytest.approx(0, abs=1e-12)
    assert not good.interior and good.point.true > 0.75  # all there is, where it only does good


def test_hedges_of_single_answers():
    answers = Answers([[1.0], [2.0]], [[3.0], [5.0]])
    for hedge in (hedge_best_of_n, hedge_best_of_poisson, lambda a: hedge_soft_best_of_n(a, 1)):
        assert hedge(answers).point.true == 4.0 and not hedge(answers).interior


def test_strengths_that_there_are_not():
    answers = random_answers([5, 4], ties=False)
    with pytest.raises(ConfigError, match="rate"):
        best_of_poisson(answers, [-1.0])
    with pytest.raises(ConfigError, match="temperature"):
        soft_best_of_n(answers, 2, [-0.1])
    with pytest.raises(ConfigError, match="temperature"):
        soft_best_of_n(answers, 2, [math.nan])
    with pytest.raises(ConfigError, match="1 <= n <= 4"):
        soft_best_of_n(answers, 5, [1.0])
    with pytest.raises(ConfigError, match="subsets"):
        soft_best_of_n(answers, 2, [1.0], subsets=0)
