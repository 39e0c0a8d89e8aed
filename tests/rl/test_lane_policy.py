"""A policy in numpy against the same policy in torch."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from rhtool.rl.lane_policy import LanePolicy, can_act
from rhtool.rl.policy import Policy

OBSERVATIONS = gym.spaces.Box(-np.inf, np.inf, (2, 3), np.float32)
SPACES = {
    "discrete": gym.spaces.Discrete(4),
    "bounded": gym.spaces.Box(np.float32([[-1, 2], [0, -3]]), np.float32([[1, 5], [0.1, 3]])),
    "unbounded": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
}


@pytest.fixture(params=SPACES)
def pair(request, tmp_path):
    torch.manual_seed(0)
    network = {"hidden": [16, 8], "share_value": True, "offset": list(range(6)), "scale": [0.5, 1, 2, 1, 1, 3]}
    policy = Policy(OBSERVATIONS, SPACES[request.param], network)
    torch.nn.init.normal_(policy.module.policy_head.weight)
    policy.save(tmp_path)
    return policy, lambda **options: LanePolicy(str(tmp_path), **options)


def some_observations(number):
    return torch.from_numpy(np.random.default_rng(0).normal(2, 3, (number, 6)).astype(np.float32))


def test_it_is_the_same_function(pair):
    policy, load = pair
    mine, rng = load(explore=False), np.random.default_rng(0)
    obs = some_observations(50)
    inputs = policy.dist_inputs(obs)
    for row, expected, action in zip(obs, inputs, policy.distribution.mode(inputs), strict=True):
        observation = row.numpy().reshape(2, 3)
        np.testing.assert_allclose(mine.dist_inputs(observation), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mine(observation, rng), action, rtol=1e-5, atol=1e-6)


def test_it_samples_from_the_same_distribution(pair):
    policy, load = pair
    mine, rng, space = load(), np.random.default_rng(0), policy.action_space
    obs = some_observations(1)
    drawn = np.array([mine(obs[0].numpy().reshape(2, 3), rng) for _ in range(4000)])
    inputs = policy.dist_inputs(obs)
    if isinstance(space, gym.spaces.Discrete):
        expected = torch.softmax(inputs[0], 0).double().numpy()
        assert expected.max() < 0.99
        assert chisquare(np.bincount(drawn, minlength=4), 4000 * expected / expected.sum()).pvalue > 1e-3
        return
    assert drawn.dtype == np.float32 and all(space.contains(action) for action in drawn)
    distribution = policy.distribution(inputs).base_dist
    for i, column in enumerate(drawn.reshape(4000, -1).T.astype(float)):
        if space.is_bounded():
            low, high = space.low.flat[i], space.high.flat[i]
            column = (column - low) / (high - low)
            parameters = [float(p[0, i]) for p in (distribution.concentration1, distribution.concentration0)]
            assert kstest(column, "beta", parameters).pvalue > 1e-3
        else:
            assert (
                kstest(column, "norm", [float(distribution.loc[0, i]), float(distribution.scale[0, i])]).pvalue > 1e-3
            )


def test_a_policy_stored_in_half_precision_is_computed_in_single(pair, tmp_path):
    policy, _ = pair
    policy.save(tmp_path, "float16")
    assert LanePolicy(str(tmp_path)).dist_inputs(np.zeros((2, 3))).dtype == np.float32


def test_which_networks_it_computes():
    assert can_act({"network": "mlp"}) and not can_act({"network": "lstm"})
