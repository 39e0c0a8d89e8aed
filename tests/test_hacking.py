"""The theory of correlated proxies, against numpy and against thousands of random tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhtool.config import compose
from rhtool.errors import RhtoolError
from rhtool.hacking import (
    bound_gap,
    correlation,
    course,
    diagnostics,
    is_hacking,
    max_min_bound,
    return_bound,
    theoretical_coeff,
)


def random_tables(seed: int, cells: int = 8):
    """mu, nu, proxy, true over a table; half of the proxies are close to the true reward."""
    rng = np.random.default_rng(seed)
    mu, nu = rng.dirichlet(np.full(cells, rng.uniform(0.3, 3.0)), size=2)
    nu = 0.99 * nu + 0.01 / cells
    true = rng.normal(size=cells) * rng.lognormal(0, 2) + rng.normal()
    proxy = rng.normal(size=cells) * rng.lognormal(0, 2)
    return mu, nu, proxy + (rng.random() < 0.5) * rng.lognormal(0, 1) * true, true


def worst_case(seed: int, r: float):
    """mu, nu, proxy and the true reward of correlation r with it that loses most on the way from nu to mu."""
    rng = np.random.default_rng(seed)
    mu, nu = rng.dirichlet(np.ones(8), size=2)
    nu = 0.9 * nu + 0.1 / 8

    def standard(x: np.ndarray) -> np.ndarray:
        x = x - nu @ x
        return x / math.sqrt(nu @ x**2)

    proxy = standard(rng.normal(size=8))
    move = mu / nu - 1
    error = -standard(move - (nu @ (move * proxy)) * proxy)
    return mu, nu, 3 + 2 * proxy, -1 + 0.5 * (r * proxy + math.sqrt(1 - r * r) * error)


@pytest.mark.parametrize("seed", range(5))
def test_correlation_of_samples_is_pearsons(seed):
    _, _, proxy, true = random_tables(seed)
    c = correlation(proxy, true)
    assert c.r == pytest.approx(np.corrcoef(proxy, true)[0, 1])
    assert (c.proxy_mean, c.true_mean) == pytest.approx((proxy.mean(), true.mean()))
    assert (c.proxy_std, c.true_std) == pytest.approx((proxy.std(), true.std()))


def test_weights_are_repetitions():
    _, _, proxy, true = random_tables(0)
    times = np.arange(8)
    weighted = correlation(proxy.reshape(2, 4), true.reshape(2, 4), times.reshape(2, 4))
    repeated = correlation(np.repeat(proxy, times), np.repeat(true, times))
    assert vars(weighted) == pytest.approx(vars(repeated))


@pytest.mark.parametrize("n", range(2, 30))
def test_a_constant_reward_correlates_with_nothing(n):
    """Not even by the rounding of its mean; and what is constant wherever the base policy goes is constant."""
    constant, true = np.full(n, 0.1), np.arange(float(n))
    c = correlation(constant, true)
    assert math.isnan(c.r) and c.proxy_std == 0 and c.true_std == pytest.approx(true.std())
    weights = np.append(np.ones(n), 0.0)
    assert math.isnan(correlation(np.append(constant, 9.0), np.append(true, 1.0), weights).r)


def test_correlation_refuses_what_makes_no_sense():
    x = np.arange(3.0)
    for arguments in ((x, np.arange(4.0)), (x, x, np.ones(2)), (x, x, np.zeros(3)), (x, x, np.array([2.0, -1.0, 0.0]))):
        with pytest.raises(ValueError):
            correlation(*arguments)


def test_both_bounds_hold_on_random_tables():
    applied = 0
    for seed in range(4000):
        mu, nu, proxy, true = random_tables(seed)
        gap = bound_gap(mu, nu, proxy, true)
        assert gap.true_gain == pytest.approx(mu @ true - nu @ true)
        if gap.correlation.r > 0:
            applied += 1
            slack = 1e-9 * (1 + abs(gap.return_bound))
            assert gap.return_bound - slack <= gap.max_min_bound <= gap.true_gain + slack, seed
        else:
            assert gap.return_bound is None and gap.max_min_bound is None
        assert gap.holds
    assert applied > 2000


@pytest.mark.parametrize("r", [0.05, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_max_min_is_attained(r, seed):
    gap = bound_gap(*worst_case(seed, r))
    assert gap.correlation.r == pytest.approx(r)
    assert gap.max_min_bound == pytest.approx(gap.true_gain, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("r", [0.05, 0.3, 0.7, 0.99])
def test_theorem_is_attained(r):
    """By a proxy whose error is in the very direction in which the policy moves, and a true reward with none in it."""
    mu, nu, _, _ = random_tables(1)
    move = mu / nu - 1
    error = move / math.sqrt(nu @ move**2)
    true = np.random.default_rng(0).normal(size=8)
    true = true - nu @ true - (nu @ (true * error)) * error
    true /= math.sqrt(nu @ true**2)
    gap = bound_gap(mu, nu, 10 * (r * true + math.sqrt(1 - r * r) * error), true)
    assert gap.correlation.r == pytest.approx(r)
    assert gap.proxy_gain > 0 and gap.true_gain == pytest.approx(0, abs=1e-9)
    assert gap.return_bound == pytest.approx(0, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.01, 1), st.floats(-5, 5), st.floats(0, 50), st.floats(0.1, 10), st.floats(0.1, 10))
def test_max_min_is_never_below_the_theorem(r, x, excess, sigma_proxy, sigma_true):
    arguments = (x * sigma_proxy, x * x + excess, r, sigma_proxy, sigma_true)
    assert max_min_bound(*arguments) >= return_bound(*arguments) - 1e-9 * (1 + abs(return_bound(*arguments)))


def test_the_coefficient_maximises_the_bound():
    """Along any path of policies, proxy - lambda sqrt(chi2) and the theorem's bound are best at the same policy."""
    mu, nu, proxy, true = next(t for t in map(random_tables, range(99)) if 0.2 < correlation(*t[2:], t[1]).r < 0.9)
    gaps = [bound_gap((1 - t) * nu + t * mu, nu, proxy, true) for t in np.linspace(0, 1, 21)]
    c = gaps[0].correlation
    objective = np.array([g.proxy_gain - theoretical_coeff(c.proxy_std, c.r) * math.sqrt(g.chi2) for g in gaps])
    bounds = np.array([g.return_bound for g in gaps])
    assert bounds == pytest.approx(objective * c.true_std / (c.r * c.proxy_std))
    assert theoretical_coeff(2.0, 0.6) == pytest.approx(1.6) and theoretical_coeff(2.0, 1.0) == 0


def test_a_perfect_proxy_promises_its_gain():
    assert return_bound(0.5, 7.0, 1.0, 2.0, 3.0) == max_min_bound(0.5, 7.0, 1.0, 2.0, 3.0) == 0.75


def test_where_the_base_policy_never_goes_nothing_is_promised():
    """Even r = 1 says nothing of a cell outside the base policy's occupancy measure."""
    mu, nu = np.array([0.4, 0.4, 0.2]), np.array([0.5, 0.5, 0.0])
    gap = bound_gap(mu, nu, np.array([0.0, 1.0, 5.0]), np.array([0.0, 1.0, -5.0]))
    assert gap.correlation.r == pytest.approx(1) and gap.chi2 == math.inf
    assert gap.return_bound == gap.max_min_bound == -math.inf and gap.holds
    assert gap.true_gain < 0 < gap.proxy_gain


def test_no_correlation_no_bound():
    mu, nu, _, true = random_tables(3)
    for proxy in (-true, np.ones(8)):
        gap = bound_gap(mu, nu, proxy, true)
        assert gap.return_bound is None and gap.max_min_bound is None and gap.holds
    for r in (0.0, -0.5, 1.5, math.nan):
        for call in (lambda r=r: theoretical_coeff(1.0, r), lambda r=r: return_bound(1.0, 1.0, r, 1.0, 1.0),
                     lambda r=r: max_min_bound(1.0, 1.0, r, 1.0, 1.0)):  # fmt: skip
            with pytest.raises(RhtoolError, match="correlation"):
                call()


@pytest.mark.parametrize("sigmas", [(0.0, 1.0), (1.0, 0.0)])
def test_constant_rewards_have_no_bound(sigmas):
    for bound in (return_bound, max_min_bound):
        with pytest.raises(RhtoolError, match="constant"):
            bound(1.0, 1.0, 0.5, *sigmas)


def test_an_estimated_chi2_may_be_too_small():
    assert max_min_bound(2.0, 1.0, 0.5, 1.0, 1.0) == max_min_bound(2.0, 4.0, 0.5, 1.0, 1.0) == 1.0
    assert return_bound(1.0, -0.1, 0.5, 1.0, 1.0) == 2.0


def test_staying_at_the_base_policy_gains_nothing():
    _, nu, proxy, true = random_tables(5)
    gap = bound_gap(nu, nu, proxy, proxy + true)
    assert gap.chi2 == gap.proxy_gain == gap.true_gain == 0
    assert gap.return_bound == gap.max_min_bound == 0


def test_hacking():
    assert is_hacking(0.7, true_return=2.35, base_true_return=5.86)  # tomato without regularisation, table 1
    assert not is_hacking(0.7, true_return=9.17, base_true_return=5.86)  # and with
    assert not is_hacking(0.7, 5.86, 5.86)
    for no_proxy in (0.0, -0.3, math.nan):
        assert not is_hacking(no_proxy, 2.35, 5.86)


def test_the_course_of_a_run_that_hacks():
    steps = np.arange(1, 41) * 100.0
    # The truth rises with the proxy, then falls as the proxy goes on to rise, past the base policy's 4.
    true = np.concatenate([np.linspace(3, 6, 20), np.linspace(6, 1, 20)])
    proxy = np.linspace(3, 12, 40)
    drop, onset = course(steps, true, proxy, base_true=4.0, base_proxy=5.0)
    assert drop == 5.0
    assert onset == steps[np.flatnonzero((true < 4) & (np.arange(40) > 20))[0]]


@pytest.mark.parametrize(
    ("true", "proxy"),
    [
        pytest.param([3.0, 6.0], [3.0, 6.0], id="both better"),
        pytest.param([3.0, 2.0], [3.0, 2.0], id="both worse"),
        pytest.param([1.0, 6.0], [9.0, 9.0], id="hacked at first only"),
    ],
)
def test_a_run_that_does_not_end_hacked_has_no_onset(true, proxy):
    assert math.isnan(course(np.array([10, 20]), np.array(true), np.array(proxy), 4.0, 5.0)[1])


def test_one_noisy_iteration_is_no_onset():
    steps, true, proxy = np.arange(200.0), np.full(200, 6.0), np.full(200, 9.0)
    true[-1] = 3.0
    assert math.isnan(course(steps, true, proxy, 4.0, 5.0)[1])
    true[100:] = 3.0
    assert abs(course(steps, true, proxy, 4.0, 5.0)[1] - 100) <= 5


def test_diagnostics_are_theorem_5_1():
    env = compose("env=tomato").env
    metrics = {
        "base/correlation": 0.6,
        "base/sigma/proxy": 0.1,
        "base/sigma/true": 0.2,
        "base/mean/proxy": 0.5,
        "base/mean/true": 0.5,
        "mean/proxy": 0.7,
        "mean/true": 0.4,
        "divergence/chi2": 9.0,
    } | {f"{who}{key}": 1.0 for who in ("", "base/") for key in ("episode/length",)}
    metrics |= {f"{who}{reward}/return_se": 0.0 for who in ("", "base/") for reward in ("true", "proxy")}
    found = diagnostics(metrics, env.proxy_scale / env.reward_std)
    assert found["hacking/coeff"] == pytest.approx(0.08 / env.reward_std)
    assert found["hacking/gain"] == pytest.approx(-0.1)
    assert found["hacking/bound"] == pytest.approx(0.2 / 0.6 * (2 - 0.8 * 3))
    assert found["hacking/bound_holds"] == 1
    # A gain below the bound, and then within two of its standard errors.
    metrics["mean/true"] = 0.3
    assert diagnostics(metrics, env.proxy_scale / env.reward_std)["hacking/bound_holds"] == 0
    metrics["true/return_se"] = 0.04
    assert diagnostics(metrics, env.proxy_scale / env.reward_std)["hacking/bound_holds"] == 1
    # Of one episode there is no standard error, and so no verdict.
    assert math.isnan(
        diagnostics(metrics | {"true/return_se": math.nan}, env.proxy_scale / env.reward_std)["hacking/bound_holds"]
    )
    silent = diagnostics(metrics | {"base/correlation": -0.1}, env.proxy_scale / env.reward_std)
    assert silent.keys() == {f"hacking/{name}" for name in ("r", "sigma", "sqrt_chi2", "gain")}
