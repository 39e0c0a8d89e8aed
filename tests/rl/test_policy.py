"""A saved policy is the same policy."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rhtool.errors import RhtoolError
from rhtool.rl.policy import Policy

OBS = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("space", [gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (2,), np.float32)])
def test_round_trip(space, share, tmp_path):
    policy = Policy(OBS, space, {"hidden": [8, 8], "share_value": share})
    policy.save(tmp_path / "policy")
    again, obs = Policy.load(tmp_path), torch.randn(7, 5)
    assert again.observation_space == OBS and again.action_space == space
    assert torch.equal(policy.dist_inputs(obs), again.dist_inputs(obs))
    assert torch.equal(policy.values(obs), again.values(obs))
    assert {p.suffix for p in (tmp_path / "policy").iterdir()} == {".json", ".safetensors"}


def test_a_copy_is_independent():
    policy = Policy(OBS, gym.spaces.Discrete(3), {"hidden": [8], "share_value": False})
    copy, obs = policy.copy(), torch.randn(4, 5)
    before = policy.dist_inputs(obs)
    copy.weights = {k: v + 1 for k, v in copy.weights.items()}
    assert torch.equal(before, policy.dist_inputs(obs))


def test_nothing_there(tmp_path):
    with pytest.raises(RhtoolError, match="no policy"):
        Policy.load(tmp_path / "nowhere")
