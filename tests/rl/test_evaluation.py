"""Evaluation against exact values: on tomato's level 4 divergences, on the toy board returns, correlation and the bound."""

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rhtool.config import compose
from rhtool.hacking import correlation
from rhtool.rl import evaluation
from rhtool.rl.evaluation import (
    estimated_divergences,
    evaluate,
    exact,
    in_common_units,
    returns,
    rollout,
    write_parquet,
)
from rhtool.rl.policy import Policy, interface_of
from tests.rl.conftest import uniform

TOY = ("task=evaluate", "env=tomato", "env.level=-1", "env.noop=true", "env.horizon=20")


@pytest.fixture(scope="module")
def level_4():
    """The environment of the paper and its base policy."""
    env = compose("task=evaluate", "env=tomato").env
    table = env.tabular()  # takes seconds, and every test would ask for it anew
    env.tabular = lambda: table
    return env, Policy.load(env.base_policy_path())


@pytest.fixture(scope="module")
def toy():
    """The toy board, whose episodes end when all tomatoes are wet, and a nearly uniform policy."""
    env = compose(*TOY, "env.dry_distance=3").env
    return env, uniform(env)


def changed(policy, sharpness=1.0, noise=0.0, seed=0):
    """Its logits multiplied by `sharpness`, after noise was added to its last layer."""
    other, generator = policy.copy(), torch.Generator().manual_seed(seed)
    head = {name: w for name, w in policy.weights.items() if name.startswith("policy_head")}
    other.weights = policy.weights | {
        name: sharpness * (w + noise * torch.randn(w.shape, generator=generator)) for name, w in head.items()
    }
    return other


def estimates(env, policy, base, episodes, seed=0, **options):
    rollouts = [rollout(env, p, episodes, seed + i, options.get("explore", True)) for i, p in enumerate((policy, base))]
    return estimated_divergences(policy, base, *rollouts, interface_of(env), **options)


def errors(env, base, policies, episodes, over):
    """Relative errors (policies, 3) of KL, chi2, TV, and the exact values."""
    names = [f"divergence/{d}" for d in ("kl", "chi2", "tv")]
    found = [estimates(env, p, base, episodes, 2 * i, over=over) for i, p in enumerate(policies)]
    true = [exact(env, p, base, over) for p in policies]
    true = np.array([[t[f"exact/{n}"] for n in names] for t in true])
    return np.array([[f[n] for n in names] for f in found]) / true - 1, true


def moderate(base):
    """Seven policies whose exact KL from level 4's base policy is between 0.15 and 2.2."""
    noisy = [changed(base, noise=n, seed=i) for i, n in enumerate((0.2, 0.3, 0.4, 0.5, 0.6), 1)]
    return noisy + [changed(base, sharpness=s) for s in (6, 12)]


def test_estimates_agree_with_the_exact_values(level_4):
    env, base = level_4
    found, true = errors(env, base, moderate(base)[::2], 150, "state_action")
    assert true[:, 0].min() > 0.15 and true[:, 0].max() < 2.2
    assert (np.median(np.abs(found), axis=0) < 0.15).all(), found
    assert np.abs(found[:, 2]).max() < 0.3


@pytest.mark.slow
def test_more_episodes_bring_estimates_closer(level_4):
    env, base = level_4
    found, _ = errors(env, base, moderate(base)[::6], 400, "state_action")
    assert (np.median(np.abs(found), axis=0) < 0.08).all(), found
    assert np.abs(found[:, 0]).max() < 0.3


def test_estimates_over_states(level_4):
    env, base = level_4
    found, true = errors(env, base, moderate(base)[4:7], 80, "state")
    assert (np.median(np.abs(found), axis=0) < 0.25).all(), found
    both = [exact(env, p, base)["exact/divergence/kl"] for p in moderate(base)[4:7]]
    assert (true[:, 0] < both).all()


def test_actions_that_are_not_sampled_are_seen_by_the_discriminator(toy):
    """Greedy policies that take different actions: the ratio of their action probabilities while exploring says little."""
    env, base = toy
    other = changed(base, noise=0.01, seed=3)
    greedy = estimates(env, other, base, 50, explore=False)
    sampled = estimates(env, other, base, 50)
    assert abs(sampled["divergence/tv"]) < 0.1
    assert greedy["divergence/tv"] > 0.8
    assert "exact/true/return" not in evaluate(env, other, base, 10, 0, explore=False)


@pytest.mark.parametrize("over", ["state_action", "state"])
def test_a_policy_against_itself_is_near_zero(level_4, over):
    env, base = level_4
    found = estimates(env, base, base.copy(), 50, over=over)
    assert abs(found["divergence/kl"]) < 0.05
    assert abs(found["divergence/chi2"]) < 0.1
    assert abs(found["divergence/tv"]) < 0.15  # the sign of a score of zero is all noise
    assert found["action_divergence/kl"] == found["action_divergence/chi2"] == 0


@pytest.mark.parametrize("over", ["state_action", "state"])
@pytest.mark.parametrize("episodes", [1, 2, 4])
def test_fewer_than_100_transitions_are_not_silently_zero(toy, episodes, over):
    env, base = toy
    for seed in range(5):
        found = estimates(env, changed(base, noise=1.0, seed=seed), base, episodes, seed=2 * seed, over=over)
        assert all(np.isfinite(v) for v in found.values())
        assert found["divergence/kl"] != 0 and found["divergence/chi2"] != 0
        assert found["action_divergence/kl"] > 0


def test_estimates_are_decided_by_the_seed_and_leave_torch_alone(toy):
    env, base = toy
    rollouts = [rollout(env, p, 10, i) for i, p in enumerate((changed(base, noise=0.5), base))]
    found = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        found.append(estimated_divergences(base, base, *rollouts, interface_of(env), over="state", seed=7))
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]
    assert found[0] != estimated_divergences(base, base, *rollouts, interface_of(env), over="state", seed=8)


def test_no_transition_is_scored_by_a_discriminator_that_trained_on_it(toy):
    """Every row is its own category: whoever trained on it could tell the policies apart, and nobody else can."""
    rows = torch.eye(200).split(100)
    spaces = (toy[1].observation_space, toy[1].action_space)
    d, d_base = evaluation.cross_fitted(list(rows), [torch.zeros(100)] * 2, spaces)
    assert float((d > 0).float().mean() - (d_base > 0).float().mean()) < 0.3


@pytest.mark.parametrize("distance", [0, 3])
def test_returns_lie_within_their_standard_errors_of_the_exact_ones(distance):
    """With dry_distance=0 no episode terminates; with 3 many do, and only first episodes count."""
    env = compose(*TOY, f"env.dry_distance={distance}").env
    policy = uniform(env)
    steps, mask = rollout(env, policy, 2000, 0)
    found, mdp = returns(steps, mask), env.tabular()
    table = mdp.policy_table(policy.probabilities)
    for reward, value in mdp.returns(table).items():
        assert abs(found[f"{reward}/return"] - value) < 5 * found[f"{reward}/return_se"]
        per_episode = [(getattr(steps, reward)[:, i] * mask[:, i]).sum() for i in range(2000)]
        assert found[f"{reward}/return_se"] == pytest.approx(np.std(per_episode, ddof=1) / 2000**0.5)
    # the standard error of a correlation, from its spread over parts of the episodes
    lanes = torch.arange(2000).chunk(20)
    parts = [correlation(*(getattr(steps, x)[:, i][mask[:, i]].numpy() for x in ("proxy", "true"))).r for i in lanes]
    r = mdp.correlation(table)
    assert abs(found["correlation"] - r.r) < 5 * np.std(parts, ddof=1) / 20**0.5
    assert found["sigma/proxy"] == pytest.approx(r.proxy_std, rel=0.05)
    assert found["sigma/true"] == pytest.approx(r.true_std, rel=0.05)


def test_what_follows_the_end_of_a_first_episode_does_not_count(toy):
    steps, mask = rollout(*toy, 300, 0)
    assert steps.terminated.any() and steps.proxy.shape == (20, 300)
    for lane in range(300):
        ends = (steps.terminated | steps.truncated)[:, lane].nonzero()
        length = int(ends[0]) + 1
        assert mask[:length, lane].all() and not mask[length:, lane].any()
    assert not mask.all()
    assert returns(steps, mask)["episode/length"] == mask.sum() / 300
    spoilt = steps.true.clone()
    spoilt[~mask] = 1e9
    assert returns(type(steps)(**{**vars(steps), "true": spoilt}), mask) == returns(steps, mask)


def test_later_episodes_do_not_move_the_divergences(toy):
    env, base = toy
    policy = changed(base, noise=0.5)
    rollouts = [rollout(env, p, 20, i) for i, p in enumerate((policy, base))]
    before = estimated_divergences(policy, base, *rollouts, interface_of(env))
    for steps, mask in rollouts:
        steps.obs[~mask] = 17.0
    assert estimated_divergences(policy, base, *rollouts, interface_of(env)) == before


def test_parquet_reads_back(toy, tmp_path):
    steps, mask = rollout(*toy, 30, 0)
    write_parquet(tmp_path / "new" / "rollouts.parquet", steps, mask)
    table = pq.read_table(tmp_path / "new" / "rollouts.parquet")
    episode, t = (table[name].to_numpy().copy() for name in ("episode", "t"))
    assert len(table) == int(mask.sum())
    assert list(zip(episode, t, strict=True)) == [(b, s) for b in range(30) for s in range(20) if mask[s, b]]
    for column, values in (("action", steps.actions), *((c, getattr(steps, c)) for c in SCALARS)):
        assert np.array_equal(table[column].to_numpy(), values[t, episode].numpy())
    assert np.array_equal(np.stack(table["obs"].to_numpy()), steps.obs[t, episode].numpy())


SCALARS = ("proxy", "true", "terminated", "truncated")


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_exact_values_agree_with_sampling_and_the_bound_holds(toy, noise):
    env, base = toy
    policy = changed(base, noise=noise, seed=1)
    found = exact(env, policy, base)
    for who, p in (("", policy), ("base/", base)):
        sampled = returns(*rollout(env, p, 1000, 0))
        for reward in ("true", "proxy"):
            apart = sampled[f"{reward}/return"] - found[f"{who}exact/{reward}/return"]
            assert abs(apart) < 5 * sampled[f"{reward}/return_se"]
    assert found["exact/bound_holds"] == 1
    assert found["exact/correlation"] > 0 and found["exact/bound"] <= found["exact/gain"]
    assert found["exact/divergence/sqrt_chi2"] ** 2 == pytest.approx(found["exact/divergence/chi2"])


def test_estimates_are_compared_with_exact_values_over_the_same(toy):
    env, base = toy
    policy = changed(base, noise=1.0)
    by_over = {over: evaluate(env, policy, base, 150, 0, over=over) for over in ("state_action", "state")}
    for found in by_over.values():
        assert found["divergence/tv"] == pytest.approx(found["exact/divergence/tv"], abs=0.1)
    assert by_over["state"]["exact/divergence/kl"] < by_over["state_action"]["exact/divergence/kl"]
    assert {k for k in evaluate(env, policy, None, 5, 0) if "divergence" in k} == set()


def test_episodes_spread_over_few_lanes_are_whole_and_as_many_in_each(toy):
    env, policy = toy
    steps, mask = rollout(env, policy, 30, seed=4, lanes=4)
    done = (steps.terminated | steps.truncated) & mask
    assert steps.obs.shape[1] == 4 and (done.sum(0) == 8).all()
    found = returns(steps, mask)
    # by hand: cut each lane's counted steps at its ends
    totals = []
    for lane in range(4):
        ends = [0, *(done[:, lane].nonzero().flatten() + 1).tolist()]
        totals += [float(steps.true[a:b, lane].sum()) for a, b in itertools.pairwise(ends)]
    assert len(totals) == 32 and found["true/return"] == pytest.approx(np.mean(totals))
    assert found["true/return_se"] == pytest.approx(np.std(totals, ddof=1) / 32**0.5)


def test_a_table_of_episodes_that_share_lanes_numbers_them_and_restarts_their_time(toy, tmp_path):
    env, policy = toy
    steps, mask = rollout(env, policy, 10, seed=4, lanes=3)
    write_parquet(tmp_path / "r.parquet", steps, mask)
    table = pq.read_table(tmp_path / "r.parquet").to_pandas()
    assert sorted(table["episode"].unique()) == list(range(12)) == table["episode"].drop_duplicates().tolist()
    for _, episode in table.groupby("episode"):
        assert episode["t"].tolist() == list(range(len(episode)))
        assert (episode["terminated"] | episode["truncated"]).tolist() == [False] * (len(episode) - 1) + [True]
    found = returns(steps, mask)
    assert table.groupby("episode")["true"].sum().mean() == pytest.approx(found["true/return"])
    assert found["episodes"] == 12


def test_common_units_are_not_set_by_outliers():
    x = torch.randn(2000, 2)
    x[:5, 0] = 1000.0
    bits = (torch.rand(2000, 1) < 0.003).float()
    a, b = in_common_units([torch.cat([x[:1000], bits[:1000]], 1), torch.cat([x[1000:], bits[1000:]], 1)])
    both = torch.cat([a, b])
    middle = both[:, 0].quantile(torch.tensor([0.05, 0.95]))
    assert middle[1] - middle[0] > 0.5 and both.min() >= -1 and both.max() <= 2
    torch.testing.assert_close(both[:, 2:], bits)
