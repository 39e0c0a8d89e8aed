"""Max-Min and Linear Max-Min on tables: against finite differences, and against the worst reward, written down."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rhtool.divergences import Chi2, LinearMaxMin, MaxMin
from rhtool.envs.base import Env
from rhtool.errors import RhtoolError
from rhtool.hacking import bound_gap, max_min_bound

torch = pytest.importorskip("torch")
from rhtool.rl.moments import Moments  # noqa: E402

CELLS = 8
PLAIN = {"trim": 0.0, "floor": 1e-12, "explained": 1.0}


def tables(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mu and nu as counts that sum to 1000, and a proxy, over cells."""
    rng = np.random.default_rng(seed)
    mu, nu = (rng.multinomial(1000 - CELLS, rng.dirichlet(np.ones(CELLS))) + 1 for _ in range(2))
    return mu, nu, rng.normal(size=CELLS) * 3 + 1


def moments_of(nu: np.ndarray, *columns: np.ndarray) -> Moments:
    moments = Moments()
    moments.add(torch.tensor(np.repeat(np.stack(columns, 1), nu, axis=0)))
    return moments


def penalties(seed: int, divergence, terms: np.ndarray | None = None):
    """mu, nu, the standardised proxy, and what each cell pays, from samples that are exactly distributed as mu and nu."""
    mu, nu, proxy = tables(seed)
    columns = [proxy, np.zeros(CELLS), *([] if terms is None else terms.T)]
    moments = moments_of(nu, *columns)
    cells = moments.standardised(torch.tensor(np.stack(columns, 1)))
    index = torch.tensor(np.repeat(np.arange(CELLS), mu))
    d = torch.tensor(np.log(mu / nu))[index]
    paid = divergence.penalty(d, rewards=cells[index])
    by_cell = torch.zeros(CELLS, dtype=torch.float64).index_put((index,), paid.double())
    estimate = divergence.estimate(d, rewards=cells[index])
    return mu / 1000, nu / 1000, cells[:, 0].numpy(), by_cell.numpy(), estimate


def standard(reward: np.ndarray, nu: np.ndarray) -> np.ndarray:
    reward = reward - nu @ reward
    return reward / math.sqrt(nu @ reward**2)


def worst(mu: np.ndarray, nu: np.ndarray, proxy: np.ndarray, r: float) -> float:
    """r x - sqrt(1 - r^2) sqrt(chi2 - x^2), the definition."""
    x = (mu - nu) @ standard(proxy, nu)
    return r * x - math.sqrt((1 - r * r) * (((mu - nu) ** 2 / nu).sum() - x * x))


def worst_linear(mu: np.ndarray, nu: np.ndarray, proxy: np.ndarray, terms: np.ndarray, r: float) -> float:
    """The same with m' S^-1 m of the terms in place of chi2."""
    x, phi = (mu - nu) @ standard(proxy, nu), np.column_stack([proxy, terms])
    m, apart = (mu - nu) @ phi, phi - nu @ phi
    inverse = np.linalg.pinv((apart * nu[:, None]).T @ apart, rcond=1e-9, hermitian=True)
    return r * x - math.sqrt((1 - r * r) * (m @ inverse @ m - x * x))


@pytest.mark.parametrize("r", [0.2, 0.8, 0.99])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_of_the_reward_is_the_derivative_of_the_worst_case(seed, linear, r):
    terms = np.random.default_rng(seed + 9).normal(size=(CELLS, 3)) if linear else None
    divergence = LinearMaxMin(floor=1e-12) if linear else MaxMin(**PLAIN)
    mu, nu, proxy, paid, _ = penalties(seed, divergence, terms)
    left = r * (proxy - math.sqrt(1 - r * r) / r * paid)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        h = rng.normal(size=CELLS)
        h = 1e-6 * (h - h.mean())
        either = [
            worst_linear(mu + s * h, nu, proxy, terms, r) if linear else worst(mu + s * h, nu, proxy, r)
            for s in (1, -1)
        ]
        assert h @ left == pytest.approx((either[0] - either[1]) / 2, rel=1e-4, abs=1e-10)


@pytest.mark.parametrize("r", [0.2, 0.8, 0.99])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_of_the_reward_is_the_worst_reward(seed, linear, r):
    """It has unit variance and correlation r with the proxy, it attains the bound, and no other such reward does worse."""
    terms = np.random.default_rng(seed + 9).normal(size=(CELLS, 3)) if linear else np.eye(CELLS)
    divergence = LinearMaxMin(floor=1e-12) if linear else MaxMin(**PLAIN)
    mu, nu, proxy, paid, estimate = penalties(seed, divergence, terms if linear else None)
    left = r * (proxy - math.sqrt(1 - r * r) / r * paid)
    gap = bound_gap(mu, nu, proxy, left)
    assert gap.correlation.r == pytest.approx(r, rel=1e-4) and gap.correlation.true_std == pytest.approx(1, rel=1e-4)
    x = (mu - nu) @ proxy
    assert gap.true_gain == pytest.approx(r * x - math.sqrt(1 - r * r) * estimate, rel=1e-4)
    if not linear:
        assert gap.true_gain == pytest.approx(gap.max_min_bound, rel=1e-4, abs=1e-6)
    rng, gains = np.random.default_rng(seed), []
    for _ in range(500):
        error = terms @ rng.normal(size=terms.shape[1]) + proxy * rng.normal()
        error = standard(error - (nu @ (error * proxy)) * proxy, nu)
        other = r * proxy + math.sqrt(1 - r * r) * error
        assert bound_gap(mu, nu, proxy, other).correlation.r == pytest.approx(r)
        gains.append((mu - nu) @ other)
    assert min(gains) >= gap.true_gain - 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_steps_pay_the_divergence_on_average(seed):
    mu, nu, proxy, paid, estimate = penalties(seed, MaxMin(**PLAIN))
    exact = MaxMin().exact(mu, nu, 7 - 3 * proxy)  # in any unit
    assert [mu @ paid, estimate] == pytest.approx([exact, exact])
    assert exact == pytest.approx(math.sqrt(Chi2().exact(mu, nu) - ((mu - nu) @ proxy) ** 2))
    assert MaxMin().exact(mu, nu, np.ones(CELLS)) == pytest.approx(math.sqrt(Chi2().exact(mu, nu)))


@pytest.mark.parametrize("seed", range(5))
def test_rewards_that_are_linear_in_the_cells_are_all_rewards(seed):
    robust = penalties(seed, MaxMin(**PLAIN))
    linear = penalties(seed, LinearMaxMin(), np.eye(CELLS))
    assert linear[-1] == pytest.approx(robust[-1], rel=1e-6)
    assert linear[-2] == pytest.approx(robust[-2], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_only_the_span_of_the_terms_counts(seed):
    """Other units, sums of terms, one twice, a constant and the proxy itself among them: the same penalty."""
    rng = np.random.default_rng(seed)
    terms = rng.normal(size=(CELLS, 2))
    mixed = terms @ rng.normal(size=(2, 2)) * 100 + 5
    more = np.column_stack([mixed, mixed[:, 0], np.full(CELLS, 0.1), tables(seed)[2]])
    few, many = (penalties(seed, LinearMaxMin(), t) for t in (terms, more))
    assert many[-1] == pytest.approx(few[-1]) and many[-2] == pytest.approx(few[-2], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("chunks", [1, 7])
def test_standardised_rewards_are_orthonormal_under_the_base_policy(chunks):
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 1e3)
    moments = Moments()
    for part in x.tensor_split(chunks):
        moments.add(part)
    z = moments.standardised(x).numpy()
    assert z.shape == (500, 5)
    assert z.mean(0) == pytest.approx(np.zeros(5), abs=1e-6)
    assert z.T @ z / 500 == pytest.approx(np.eye(5), abs=1e-6)
    assert z[:, 0] == pytest.approx(standard(x[:, 0].numpy(), np.full(500, 1 / 500)))
    relation = moments.relation()
    assert relation.r == pytest.approx(np.corrcoef(x[:, 0], x[:, 1])[0, 1])
    assert [relation.proxy_std, relation.true_std] == pytest.approx(x[:, :2].numpy().std(0).tolist())
    again = Moments()
    again.set_state(moments.get_state())
    assert np.array_equal(again.standardised(x).numpy(), z)


def test_a_proxy_that_is_constant_under_the_base_policy():
    moments = moments_of(np.full(4, 9), np.full(4, 0.1), np.arange(4.0))
    assert moments.standardised(torch.tensor([[0.1, 1.0], [5.0, 1.0]])).tolist() == [[0.0], [0.0]]
    assert math.isnan(moments.relation().r)


def test_a_discriminator_that_knows_nothing_charges_nothing():
    """Though the proxy has risen by three sigmas: chi2 is nine at least, and its estimate zero."""
    proxy = torch.full((200, 1), 3.0, dtype=torch.float64)
    assert MaxMin().penalty(torch.zeros(200), rewards=proxy).abs().max() == 0


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_a_lagging_discriminator_does_not_pay_for_the_proxy(scale):
    """What the estimates of x and chi2 contradict, a higher proxy at the same score does not earn back beyond its share."""
    rng = np.random.default_rng(0)
    d = torch.tensor(rng.normal(0.2, 0.3, 1000))
    proxy = torch.tensor(3 + scale * rng.normal(size=(1000, 1)))
    slope = -(MaxMin().penalty(d, rewards=proxy + 1e-3) - MaxMin().penalty(d, rewards=proxy)).mean().item() / 1e-3
    assert 0 < slope < math.sqrt(0.9 / 0.1) + 0.1


@pytest.mark.parametrize("cls", [MaxMin, LinearMaxMin])
def test_without_the_proxy_there_is_neither(cls):
    for form in (cls().penalty, cls().estimate):
        with pytest.raises(RhtoolError, match="pass rewards"):
            form(torch.zeros(3))
    with pytest.raises(RhtoolError):
        cls().exact(np.full(2, 0.5), np.full(2, 0.5))


@pytest.mark.parametrize("options", [{"explained": 1.5}, {"floor": 0.0}, {"trim": 0.5}])
def test_options_out_of_range(options):
    with pytest.raises(RhtoolError, match=next(iter(options))):
        MaxMin(**options)


@pytest.mark.parametrize("cls", [MaxMin, LinearMaxMin])
def test_with_the_theoretical_coefficient_the_objective_is_the_worst_case(cls):
    r, sigma, x, apart, env = 0.6, 0.7, 1.3, 0.9, Env(reward_std=0.5)
    coeff = cls().theoretical_coeff(r, sigma, env) * cls().scale(env)
    objective = sigma * x - coeff * apart
    assert objective * r / sigma == pytest.approx(max_min_bound(x, x * x + apart**2, r, 1.0, 1.0))
    assert cls().theoretical_coeff(1.0, sigma, env) == 0
    with pytest.raises(RhtoolError, match="correlation"):
        cls().theoretical_coeff(0.0, sigma, env)
