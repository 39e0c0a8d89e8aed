"""Advantages against sums over episodes, action distributions against scipy, the loss against its formula."""

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import torch

from rhtool.divergences import KL
from rhtool.rl.distributions import action_distribution
from rhtool.rl.ppo import Loss, advantages
from rhtool.rl.runner import Rollout

SPACES = {
    "categorical": gym.spaces.Discrete(4),
    "beta": gym.spaces.Box(np.array([-1.5, 0.0], np.float32), np.array([1.5, 0.1], np.float32)),
    "gaussian": gym.spaces.Box(-np.inf, np.inf, (3,), np.float32),
}


def rollout(terminated: np.ndarray, truncated: np.ndarray) -> Rollout:
    steps, lanes = terminated.shape
    empty = torch.zeros(steps, lanes)
    return Rollout(
        obs=empty[..., None],
        actions=empty,
        dist_inputs=empty[..., None],
        rewards=empty,
        proxy=empty,
        true=empty,
        terms=empty[..., None],
        terminated=torch.from_numpy(terminated),
        truncated=torch.from_numpy(truncated),
        last_obs=torch.zeros(lanes, 1),
        final_obs=torch.zeros(int(truncated.sum()), 1),
        episodes={},
    )


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_advantages_are_the_sums_of_their_definition(lam):
    rng, gamma, (steps, lanes) = np.random.default_rng(0), 0.97, (25, 6)
    terminated, truncated = rng.random((steps, lanes)) < 0.1, rng.random((steps, lanes)) < 0.1
    truncated &= ~terminated
    rewards, values = rng.normal(size=(2, steps, lanes))
    last, final = rng.normal(size=lanes), rng.normal(size=int(truncated.sum()))

    def value_after(t, b):
        if terminated[t, b]:
            return 0.0
        if truncated[t, b]:
            return final[[tuple(i) for i in np.argwhere(truncated)].index((t, b))]
        return values[t + 1, b] if t + 1 < steps else last[b]

    expected = np.zeros((steps, lanes))
    for t0 in range(steps):
        for b in range(lanes):
            weight = 1.0
            for t in range(t0, steps):
                expected[t0, b] += weight * (rewards[t, b] + gamma * value_after(t, b) - values[t, b])
                weight *= gamma * lam
                if terminated[t, b] or truncated[t, b]:
                    break
    as_tensor = [torch.from_numpy(x) for x in (rewards, values, last, final)]
    found, targets = advantages(*as_tensor, rollout(terminated, truncated), gamma, lam)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(targets.numpy(), expected + values, atol=1e-5)


@pytest.mark.parametrize("kind", SPACES)
def test_samples_stay_in_the_space_and_repeat_with_the_generator(kind):
    distribution = action_distribution(SPACES[kind])
    inputs = torch.randn(2000, distribution.inputs)
    first, second = (distribution.sample(inputs, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    space = SPACES[kind]
    assert all(space.contains(a) for a in first.numpy().astype(space.dtype)[:200])
    assert distribution.encode(first).shape == (2000, distribution.encoded)
    assert distribution.log_prob(inputs, first).shape == (2000,)


def test_samples_follow_the_density():
    generator, n = torch.Generator().manual_seed(0), 20_000
    categorical = action_distribution(SPACES["categorical"])
    inputs = torch.tensor([0.5, -1.0, 2.0, 0.0])
    counts = torch.bincount(categorical.sample(inputs.expand(n, 4), generator), minlength=4)
    assert scipy.stats.chisquare(counts, torch.softmax(inputs.double(), -1).numpy() * n).pvalue > 1e-3

    beta = action_distribution(SPACES["beta"])
    inputs = torch.tensor([1.0, -2.0, 0.3, 2.0])
    alpha, b = (torch.nn.functional.softplus(inputs) + 1).chunk(2)
    y = (beta.sample(inputs.expand(n, 4), generator).numpy() - [-1.5, 0.0]) / [3.0, 0.1]
    for i in range(2):
        assert scipy.stats.kstest(y[:, i], scipy.stats.beta(alpha[i], b[i]).cdf).pvalue > 1e-3

    gaussian = action_distribution(SPACES["gaussian"])
    inputs = torch.tensor([0.1, -3.0, 5.0, 0.0, -1.0, 1.0])
    x = gaussian.sample(inputs.expand(n, 6), generator).numpy()
    for i in range(3):
        assert scipy.stats.kstest(x[:, i], scipy.stats.norm(inputs[i], inputs[i + 3].exp()).cdf).pvalue > 1e-3


def test_log_prob_is_the_log_density():
    beta = action_distribution(SPACES["beta"])
    inputs, action = torch.tensor([[1.0, -2.0, 0.3, 2.0]]), torch.tensor([[0.3, 0.04]])
    alpha, b = (torch.nn.functional.softplus(inputs[0]) + 1).chunk(2)
    y = (action[0].numpy() - [-1.5, 0.0]) / [3.0, 0.1]
    expected = scipy.stats.beta(alpha, b).logpdf(y).sum()
    assert beta.log_prob(inputs, action).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("action_coeff", [0.0, 0.7])
def test_the_loss_is_its_formula(action_coeff):
    torch.manual_seed(0)
    n, distribution = 50, action_distribution(SPACES["categorical"])
    inputs, old, base = torch.randn(3, n, 4, dtype=torch.float64)
    values, targets, advantage = torch.randn(3, n, dtype=torch.float64)
    actions = torch.randint(4, (n,))
    p, q, b = (torch.softmax(x, -1) for x in (inputs, old, base))
    rows = torch.arange(n)
    ratio = p[rows, actions] / q[rows, actions]
    clipped = torch.where(advantage > 0, ratio.clamp(max=1.1), ratio.clamp(min=0.9))
    expected = -(clipped * advantage).mean() + 0.5 * torch.minimum((values - targets) ** 2, torch.tensor(0.8)).mean()
    expected += 0.01 * (p * p.log()).sum(-1).mean() + 0.2 * (q * (q / p).log()).sum(-1).mean()
    expected += action_coeff * (p * (p / b).log()).sum(-1).mean()
    batch = {"actions": actions, "dist_inputs": old, "advantages": advantage, "targets": targets, "base_inputs": base}
    batch["log_prob"] = distribution.log_prob(old, actions)
    loss = Loss(distribution, clip=0.1, vf_coeff=0.5, vf_clip=0.8, divergence=KL())
    found, parts = loss(inputs, values, batch, entropy=0.01, kl_coeff=0.2, action_coeff=action_coeff)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert parts["ppo/clipfrac"].item() == pytest.approx(float(((ratio - 1).abs() > 0.1).double().mean()))
