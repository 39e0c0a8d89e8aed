"""A saved policy is the same policy."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rhtool.errors import RhtoolError
from rhtool.rl.discriminator import Features
from rhtool.rl.distributions import action_distribution
from rhtool.rl.policy import Interface, Policy

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


SERIES = gym.spaces.Box(0, np.inf, (2, 6), np.float32)
RECURRENT = {"network": "lstm", "hidden": [8, 8], "share_value": True, "action_margin": 0.003}


def test_a_recurrent_policy_round_trips_with_its_normalisation(tmp_path):
    scaling = {"offset": [100.0] * 6 + [0.0] * 6, "scale": [0.01] * 6 + [10.0] * 6}
    policy = Policy(SERIES, gym.spaces.Box(0, 0.1, (1,), np.float32), RECURRENT | scaling)
    policy.save(tmp_path, "float16")
    again, obs = Policy.load(tmp_path), torch.rand(7, 12) * 100
    assert again.observation_space == SERIES and again.distribution.margin == 0.003
    torch.testing.assert_close(policy.dist_inputs(obs), again.dist_inputs(obs), rtol=0, atol=2e-3)
    # what the network sees is (x - offset) * scale
    plain = Policy(SERIES, gym.spaces.Box(0, 0.1, (1,), np.float32), RECURRENT)
    plain.weights = {k: v for k, v in policy.weights.items() if not k.startswith("normalise")}
    seen = (obs - torch.tensor(scaling["offset"])) * torch.tensor(scaling["scale"])
    torch.testing.assert_close(plain.dist_inputs(seen), policy.dist_inputs(obs))


def test_a_recurrent_policy_reads_the_last_axis_as_time():
    """Its output is that of the LSTM's own recurrence written out, features per time step, the newest last."""
    policy = Policy(SERIES, gym.spaces.Discrete(3), RECURRENT)
    obs = torch.randn(4, 2, 6)
    x = [obs[:, :, t] for t in range(6)]
    w = policy.weights
    for layer in range(2):
        h, c, out = torch.zeros(4, 8), torch.zeros(4, 8), []
        for step in x:
            gates = sum(
                v @ w[f"policy_trunk.lstm.weight_{n}_l{layer}"].T + w[f"policy_trunk.lstm.bias_{n}_l{layer}"]
                for n, v in (("ih", step), ("hh", h))
            )
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        x = out
    expected = 10 * (x[-1] @ w["policy_head.weight"].T + w["policy_head.bias"])
    torch.testing.assert_close(policy.dist_inputs(obs.flatten(1)), expected)


def test_an_lstm_refuses_observations_without_time():
    with pytest.raises(RhtoolError, match="an LSTM"):
        Policy(OBS, gym.spaces.Discrete(3), RECURRENT)


def test_a_discriminator_shown_the_latest_state_sees_those_columns_normalised():
    scale = np.array([0.01] * 6 + [10.0] * 6, np.float32)
    offset = np.array([100.0] * 6 + [0.0] * 6, np.float32)
    space = gym.spaces.Box(0, 0.1, (1,), np.float32)
    interface = Interface(SERIES, space, offset, scale, np.array([5]))
    features = Features("state_action", action_distribution(space), interface, "latest")
    obs, actions = torch.rand(3, 12) * 200, torch.rand(3, 1) * 0.1
    torch.testing.assert_close(features.join(obs, actions), torch.cat([(obs[:, 5:6] - 100) * 0.01, actions], 1))
    assert features.size == 2 and Features("state", action_distribution(space), interface).size == 12


@pytest.mark.parametrize("damage", ["weights of another", "half a file", "no network", "not JSON"])
def test_a_policy_that_cannot_be_read_is_said_to_be_so(damage, tmp_path):
    space = gym.spaces.Discrete(3)
    Policy(OBS, space, {"hidden": [8], "share_value": False}).save(tmp_path)
    weights = tmp_path / "policy.safetensors"
    if damage == "weights of another":
        Policy(OBS, space, {"hidden": [9], "share_value": False}).save(tmp_path / "other")
        weights.write_bytes((tmp_path / "other/policy.safetensors").read_bytes())
    elif damage == "half a file":
        weights.write_bytes(weights.read_bytes()[:200])
    else:
        (tmp_path / "policy.json").write_text('{"schema": 1}' if damage == "no network" else "{")
    with pytest.raises(RhtoolError, match="cannot be read"):
        Policy.load(tmp_path)


def test_a_box_bounded_on_one_side_is_refused():
    with pytest.raises(RhtoolError, match="some sides"):
        action_distribution(gym.spaces.Box(0, np.inf, (1,), np.float32))
