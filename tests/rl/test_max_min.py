"""Max-Min on tomato, against the exact tabular worst case."""

import math

import numpy as np
import pytest
import torch

from rhtool.config import compose
from rhtool.divergences import MaxMin
from rhtool.hacking import bound_gap, correlation
from rhtool.rl import evaluation
from rhtool.rl.moments import Moments
from rhtool.rl.policy import Policy
from tests.rl.conftest import train, uniform
from tests.rl.test_evaluation import TOY, changed
from tests.rl.test_orpo import LEARNING

QUICK = ("task.epochs=2", "task.discriminator_epochs=2")


@pytest.fixture(scope="module")
def tomato():
    """Level 4 without hidden state, so that observations tell the states apart, and its base policy; tables made once."""
    env = compose("task=evaluate", "env=tomato", "env.variant=corrected").env
    table = env.tabular()
    env.tabular = lambda: table
    return env, Policy.load(env.base_policy_path())


def measures(env, policy, base):
    """Tables, and the occupancy measures of both."""
    mdp = env.tabular()
    return mdp, *(mdp.occupancy(mdp.policy_table(p.probabilities)) for p in (policy, base))


def worst_case(mu, nu, mdp, r):
    """The gain, in sigmas of the true reward, of the worst true reward of correlation r with the proxy; and that reward."""
    c = correlation(mdp.proxy, mdp.proxy, nu)
    proxy = (mdp.proxy - c.proxy_mean) / c.proxy_std
    seen = nu > 0
    apart = np.divide(mu, nu, out=np.ones_like(mu), where=seen) - 1 - ((mu - nu) * proxy).sum() * proxy
    reward = r * proxy - math.sqrt(1 - r * r) * apart / math.sqrt((nu * apart**2).sum())
    return float(((mu - nu) * reward).sum()), reward


@pytest.mark.parametrize("r", [0.3, 0.8])
def test_the_worst_reward_attains_the_bound_and_others_do_no_worse(tomato, r):
    env, base = tomato
    mdp, mu, nu = measures(env, changed(base, noise=0.4, seed=1), base)
    gain, reward = worst_case(mu, nu, mdp, r)
    gap = bound_gap(mu, nu, mdp.proxy, reward)
    assert gap.correlation.r == pytest.approx(r) and gap.correlation.true_std == pytest.approx(1)
    assert gain == pytest.approx(gap.max_min_bound) and gain < 0 < gap.chi2
    rng = np.random.default_rng(0)
    apart = reward - r * (mdp.proxy - gap.correlation.proxy_mean) / gap.correlation.proxy_std
    for size in (*np.zeros(50), *np.geomspace(1e-3, 10, 50)):  # anywhere, and near the worst
        error = rng.normal(size=mu.shape) * (size or 1.0) + (apart if size else 0.0)
        plane = np.stack([np.ones(mu.size), mdp.proxy.ravel()], 1) * np.sqrt(nu.reshape(-1, 1))
        weights = np.linalg.lstsq(plane, (error * np.sqrt(nu)).ravel())[0]
        error -= weights[0] + weights[1] * mdp.proxy
        other = reward - apart + math.sqrt(1 - r * r) * error / math.sqrt((nu * error**2).sum())
        found = bound_gap(mu, nu, mdp.proxy, other)
        assert found.correlation.r == pytest.approx(r) and found.correlation.true_std == pytest.approx(1)
        assert found.true_gain >= gain - 1e-9


def test_an_evaluation_reports_the_worst_case():
    """Exactly, and estimated from samples without the tables, on the toy board: level 4's base policy hacks so rarely that
    many episodes are needed for its r."""
    env = compose(*TOY, "env.dry_distance=3", "env.variant=corrected").env
    base = uniform(env)
    policy = changed(base, noise=0.5, seed=1)
    metrics = evaluation.evaluate(env, policy, base, 400, seed=0)
    mdp, mu, nu = measures(env, policy, base)
    r, sigma = metrics["exact/correlation"], metrics["exact/sigma/true"]
    assert metrics["exact/worst_case"] == pytest.approx(worst_case(mu, nu, mdp, r)[0] * sigma)
    assert metrics["hacking/worst_case"] == pytest.approx(metrics["exact/worst_case"], rel=0.25)
    assert metrics["exact/worst_case"] < metrics["exact/gain"]


def test_the_penalty_of_samples_is_that_of_the_tables(tomato):
    """With the exact scores, on sampled steps: what is left of the reward is the worst reward."""
    env, base = tomato
    policy, r = changed(base, noise=0.4, seed=1), 0.6
    mdp, mu, nu = measures(env, policy, base)
    rollouts = [evaluation.rollout(env, p, 200, seed=i)[0] for i, p in enumerate((policy, base))]
    current, reference = (torch.stack([x.proxy.flatten(), x.true.flatten()], 1) for x in rollouts)
    moments = Moments()
    moments.add(reference)
    number = {row.tobytes(): i for i, row in enumerate(mdp.observations)}
    steps = rollouts[0]
    cells = np.array([number[row.tobytes()] for row in steps.flat(steps.obs).numpy()]), steps.flat(steps.actions)
    d = torch.tensor(np.log(mu[cells] / nu[cells]))
    paid = MaxMin(trim=0.0).penalty(d, rewards=moments.standardised(current)).numpy()
    _, reward = worst_case(mu, nu, mdp, r)
    proxy = moments.standardised(current)[:, 0].numpy()
    left = r * (proxy - math.sqrt(1 - r * r) / r * paid)
    assert np.corrcoef(left, reward[cells])[0, 1] > 0.99
    assert left.mean() == pytest.approx(reward[cells].mean(), rel=0.1)


def test_training_raises_the_worst_case(make):
    """Above that of the base policy, which is zero, and far above what the proxy alone leads to."""
    r, found = 0.7, {}
    for name in ("none", "max_min"):
        work = make(f"divergence={name}", "task.init_from_base=true", *LEARNING)
        mdp, mu, nu = measures(work.run.env, work.policy, uniform(work.run.env))
        if name == "max_min":
            sigma = correlation(mdp.proxy, mdp.proxy, nu).proxy_std
            work.coeff = work.divergence.theoretical_coeff(r, sigma, work.run.env)
        train(work, 8)
        mdp, mu, nu = measures(work.run.env, work.policy, uniform(work.run.env))
        found[name] = worst_case(mu, nu, mdp, r)[0]
    assert found["max_min"] > 0.1 and found["none"] < found["max_min"] - 0.2, found


def test_a_run_reports_its_worst_case(make):
    """From its own chi2 and the base policy's samples; base rewards correlate where tomatoes do not dry."""
    work = make("divergence=max_min", "coeff=1", "env.dry_distance=3", *QUICK)
    metrics = train(work, 3)[-1]
    relation = work.moments[0].relation()
    assert work.moments[0].count == 3 * work.run.task.batch // 2
    exact = evaluation.exact(work.run.env, work.policy, work.bases[0])
    assert relation.r == pytest.approx(exact["exact/correlation"], abs=0.1)
    assert relation.proxy_std == pytest.approx(exact["exact/sigma/proxy"], rel=0.1)
    assert metrics["hacking/worst_case"] <= relation.true_std * 0.5 and "divergence/max_min" in metrics


@pytest.mark.parametrize("name", ["max_min", "linear_max_min"])
def test_coeff_auto_is_that_of_the_assumed_correlation(make, name):
    work = make(f"divergence={name}", "coeff=auto", "task.correlation=0.6", "task.episodes=100", *QUICK)
    charged = train(work, 1)[0]["penalty/coeff"]
    known = evaluation.exact(work.run.env, work.bases[0], work.bases[0])
    assert charged == pytest.approx(0.8 / 0.6 * known["exact/sigma/proxy"] / work.run.env.reward_std)


def test_linear_max_min_trains_no_discriminator(make):
    work = make("divergence=linear_max_min", "coeff=1", *QUICK)
    metrics = train(work, 2)[-1]
    assert not work.scores and work.base_samplers
    assert metrics["divergence/linear_max_min"] > 0 and metrics["penalty/mean"] > 0
    assert not any(key.startswith("discriminator/") for key in metrics)


def test_a_new_base_policy_has_new_moments(make):
    work = make("divergence=max_min", "coeff=1", "task.base_update_every=2", *QUICK)
    counts = [train(work, 1) and work.moments[0].count for _ in range(3)]
    assert counts == [320, 0, 320]
