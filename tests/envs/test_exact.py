"""The tables of the tomato environment against sampling, brute force and what must hold of any of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rhtool.envs.tabular import TabularMDP
from rhtool.envs.tomato import Tomato
from rhtool.errors import RhtoolError


def random_policy(mdp: TabularMDP, seed: int, sharpness: float = 1.5) -> np.ndarray:
    """Probabilities (S, A) that depend on the observation alone, all positive."""
    weights = np.random.default_rng(seed).normal(size=(mdp.observations.shape[1], mdp.proxy.shape[1]))

    def fn(observations):
        odds = np.exp(sharpness * observations @ weights / np.sqrt(observations.sum(axis=1, keepdims=True)))
        return odds / odds.sum(axis=1, keepdims=True)

    return mdp.policy_table(fn)


def sample(config: Tomato, mdp: TabularMDP, policy: np.ndarray, episodes: int, seed: int):
    """Whole episodes from the vector env, (H, B): index of the observation, action, rewards, was the step made."""
    env = config.make_vec(episodes, seed=seed, autoreset_mode="Disabled")
    table = {row.tobytes(): i for i, row in enumerate(mdp.seen)}
    by_observation = np.zeros((len(mdp.seen), policy.shape[1]))
    by_observation[np.unique(mdp.observations, axis=0, return_inverse=True)[1].ravel()] = policy
    rng = np.random.default_rng(seed)
    observations, _ = env.reset()
    alive, out = np.ones(episodes, bool), []
    for _ in range(config.horizon):
        index = np.array([table[row.tobytes()] for row in observations])
        actions = (rng.random((episodes, 1)) > by_observation[index].cumsum(axis=1)[:, :-1]).sum(axis=1)
        observations, _, terminated, truncated, info = env.step(actions)
        out.append((index, actions, info["proxy_reward"], info["true_reward"], alive))
        done = terminated | truncated
        alive = alive & ~done
        if done.any():
            observations, _ = env.reset(options={"reset_mask": done})
    return [np.array(column) for column in zip(*out, strict=True)]


# The toy board's episodes terminate, level 2's seldom do; both variants, with and without noise.
CONFIGS = [
    Tomato(level=-1, horizon=40),
    Tomato(level=-1, horizon=30, dry_distance=0, noop=True, randomness_eps=0.3),
    Tomato(level=2, horizon=50, variant="corrected", randomness_eps=0.1),
    Tomato(level=4, horizon=60),
]


@pytest.mark.parametrize("problem", CONFIGS, ids=lambda c: f"level{c.level}-{c.variant}-eps{c.randomness_eps}")
def test_sampling_agrees_within_its_standard_error(problem):
    mdp = problem.tabular()
    policy = random_policy(mdp, seed=1)
    index, actions, proxy, true, alive = sample(problem, mdp, policy, episodes=4000, seed=3)
    mu = mdp.occupancy(policy, observed=True)
    assert mu.sum() == pytest.approx(1, abs=1e-12) and (mu >= 0).all()
    # Of every (observation, action) that is not rare: visits of an episode minus mu times its length have mean zero.
    length = alive.sum(axis=0)
    for o, a in np.argwhere(mu > 2e-3):
        residual = ((index == o) & (actions == a) & alive).sum(axis=0) - mu[o, a] * length
        assert abs(residual.mean()) < 5 * residual.std() / np.sqrt(len(length))
    exact = mdp.returns(policy)
    for name, reward in (("true", true), ("proxy", proxy)):
        returns = (reward * alive).sum(axis=0)
        assert abs(returns.mean() - exact[name]) < 5 * returns.std() / np.sqrt(len(returns))
    if problem.randomness_eps is None:
        pieces = [
            np.corrcoef(t[k], p[k])[0, 1]
            for t, p, k in zip(*(np.split(x, 20, 1) for x in (true, proxy, alive)), strict=True)
        ]
        assert abs(np.mean(pieces) - mdp.correlation(policy).r) < 5 * np.std(pieces) / np.sqrt(20)


def test_means_and_deviations_under_a_policy_are_those_of_its_samples():
    config = CONFIGS[0]
    mdp = config.tabular()
    policy = random_policy(mdp, seed=5)
    *_, proxy, true, alive = sample(config, mdp, policy, episodes=4000, seed=4)
    got = mdp.correlation(policy)
    assert got.true_std == pytest.approx(true[alive].std(), rel=0.03)
    assert got.proxy_std == pytest.approx(proxy[alive].std(), rel=0.03)
    assert got.true_mean == pytest.approx(true[alive].mean(), rel=0.03)
    assert got.proxy_mean == pytest.approx(proxy[alive].mean(), rel=0.03)


@pytest.mark.parametrize("reward", ["proxy", "true"])
@pytest.mark.parametrize("level", [-1, 2, 4])
def test_the_optimal_value_is_that_of_the_best_action_sequence(level, reward):
    # Without noise a sequence of actions is as good as a policy: all 4^7 of them, one a lane.
    config = Tomato(level=level, horizon=7)
    sequences = np.array(list(itertools.product(range(4), repeat=7)))
    env = config.make_vec(len(sequences), autoreset_mode="SameStep", reward_fun=reward)
    env.reset()
    total, alive = np.zeros(len(sequences)), np.ones(len(sequences), bool)
    for actions in sequences.T:
        _, rewards, terminated, truncated, _ = env.step(actions)
        total += rewards * alive
        alive &= ~(terminated | truncated)
    mdp = config.tabular()
    policy, value = mdp.optimal_policy(reward)
    assert value == pytest.approx(total.max(), abs=1e-9)
    assert mdp.returns(policy)[reward] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("problem", CONFIGS, ids=lambda c: f"level{c.level}-{c.variant}-eps{c.randomness_eps}")
def test_no_policy_is_better_than_the_optimal_one(problem):
    mdp = problem.tabular()
    best = {reward: mdp.optimal_policy(reward)[1] for reward in ("true", "proxy")}
    for seed in range(20):
        returns = mdp.returns(random_policy(mdp, seed, sharpness=4.0))
        assert returns["true"] < best["true"] and returns["proxy"] < best["proxy"]


def test_optimising_the_proxy_is_reward_hacking():
    mdp = Tomato(level=4).tabular()
    hacked, honest = (mdp.returns(mdp.optimal_policy(reward)[0]) for reward in ("proxy", "true"))
    base = mdp.returns(np.full(mdp.proxy.shape, 0.25))
    assert hacked["proxy"] > 40 and hacked["true"] < base["true"] < honest["true"]
    # The original's 200 episodes of the uniform policy: true 5.43 with deviation 1.72 an episode.
    assert base["true"] == pytest.approx(5.43, abs=4 * 1.72 / np.sqrt(200))


def test_stationary_time_indexed_and_deterministic_policies_are_one_family():
    mdp = CONFIGS[0].tabular()
    policy = random_policy(mdp, seed=0)
    repeated = np.broadcast_to(policy, (mdp.horizon, *policy.shape))
    np.testing.assert_allclose(mdp.occupancy(policy, 0.9), mdp.occupancy(repeated, 0.9), atol=1e-15)
    chosen = np.random.default_rng(0).integers(0, 4, (mdp.horizon, len(policy)))
    np.testing.assert_allclose(mdp.occupancy(chosen), mdp.occupancy(np.eye(4)[chosen]), atol=1e-15)


def test_occupancy_solves_its_balance_equation():
    # With H to infinity and gamma < 1: mu(s') = c start(s') + gamma sum mu(s, a) P(s' | s, a), c making it sum to one.
    mdp = Tomato(level=-1, horizon=600).tabular()
    policy = random_policy(mdp, seed=2)
    mu = mdp.occupancy(policy, gamma=0.9)
    flow = 0.9 * (mdp.transitions.T @ mu.ravel())
    c = 1 - flow.sum()
    np.testing.assert_allclose(mdp.occupancy(policy, gamma=0.9, over="state"), c * mdp.start + flow, atol=1e-12)
    # What is lost to termination is what the balance lacks.
    assert c == pytest.approx(1 - 0.9 * (1 - (mu * mdp.terminated).sum()), abs=1e-12)


class Chi2:
    """sum (mu - nu)^2 / nu, written here for its own sake."""

    over = "state_action"

    def exact(self, mu, nu):
        there = nu > 0
        assert not mu[~there].any()
        return float(((mu - nu)[there] ** 2 / nu[there]).sum())


def test_divergence_is_of_occupancy_measures_and_observing_less_never_raises_it():
    mdp = Tomato(level=4, horizon=50).tabular()
    policy, base = random_policy(mdp, 0), random_policy(mdp, 1)
    value = mdp.divergence(Chi2(), policy, base)
    assert value == pytest.approx(
        Chi2().exact(mdp.occupancy(policy, observed=True), mdp.occupancy(base, observed=True))
    )
    assert (
        0
        < mdp.divergence(Chi2(), policy, base, over="state")
        < value
        < mdp.divergence(Chi2(), policy, base, observed=False)
    )
    assert mdp.divergence(Chi2(), base, base) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.95])
def test_the_paper_s_lower_bound_on_the_true_reward_holds(gamma):
    """Theorem 5.1: (J(pi) - J(base)) / sigma >= 1/r [(J~(pi) - J~(base)) / sigma~ - sqrt((1 - r^2) chi2)]."""
    mdp = Tomato(level=2, horizon=50).tabular()
    tight = []
    for seed in range(30):
        base = random_policy(mdp, seed)
        policy = 0.8 * base + 0.2 * random_policy(mdp, 100 + seed)
        c = mdp.correlation(base, gamma)
        if c.r <= 0:
            continue
        mu = mdp.occupancy(policy, gamma)
        chi2 = mdp.divergence(Chi2(), policy, base, gamma, observed=False)
        true, proxy = (mu * mdp.true).sum(), (mu * mdp.proxy).sum()
        gain = (true - c.true_mean) / c.true_std
        bound = ((proxy - c.proxy_mean) / c.proxy_std - np.sqrt((1 - c.r**2) * chi2)) / c.r
        assert gain >= bound - 1e-12
        tight.append(gain - bound)
    assert len(tight) > 5


def test_policy_table_asks_for_each_observation_once():
    mdp = Tomato(level=2).tabular()
    asked = []

    def fn(observations):
        asked.append(observations)
        scores = np.exp(observations[:, :4])
        return scores / scores.sum(axis=1, keepdims=True)

    table = mdp.policy_table(fn, batch=100)
    assert max(map(len, asked)) <= 100 and sum(map(len, asked)) == len(np.unique(np.concatenate(asked), axis=0)) == len(
        mdp.seen
    )
    np.testing.assert_allclose(table, fn(mdp.observations))


@pytest.mark.parametrize("variant", ["orpo", "corrected"])
def test_the_tables_hold_every_state_that_is_reached(variant):
    config = Tomato(level=2, variant=variant)
    mdp = config.tabular()
    # Without the quirk the observation is the whole state.
    assert len(mdp.seen) == len(mdp.start) if variant == "corrected" else len(mdp.seen) < len(mdp.start)
    env = config.make_vec(200, seed=0, autoreset_mode="SameStep")
    env.reset()
    known = {row.tobytes() for row in mdp.seen}
    rng = np.random.default_rng(0)
    for _ in range(100):
        observations = env.step(rng.integers(0, 4, 200))[0]
        assert {row.tobytes() for row in observations} <= known


def test_errors():
    mdp = CONFIGS[0].tabular()
    policy = random_policy(mdp, 0)
    with pytest.raises(RhtoolError, match="probabilities"):
        mdp.occupancy(policy[:5])
    with pytest.raises(RhtoolError, match="sum to one"):
        mdp.occupancy(policy * 1.1)
    with pytest.raises(RhtoolError, match="sum to one"):
        mdp.policy_table(lambda observations: np.full((len(observations), 4), np.nan))
    with pytest.raises(RhtoolError, match="action"):
        mdp.occupancy(policy, over="action")
    assert np.isnan(Tomato(level=-1, reward_factor=0.0).tabular().correlation(np.full((569, 4), 0.25)).r)
