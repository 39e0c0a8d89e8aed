"""Sampling against stepping the env by hand, and its state against going on."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from rhtool.envs.tomato import Tomato
from rhtool.envs.traffic import Traffic
from rhtool.rl.policy import Policy
from rhtool.rl.sampler import Sampler
from tests.sockets import LOOPBACK, listening


@pytest.fixture(params=["arrays", pytest.param("processes", marks=pytest.mark.sumo)])
def env(request):
    """One whose lanes are rows of arrays, and one whose lanes are processes, which sample by themselves."""
    return Tomato(level=2, horizon=13) if request.param == "arrays" else Traffic(horizon=13, slots=3)


@pytest.fixture
def policy(env):
    vec = env.make_vec(1)
    torch.manual_seed(0)
    return Policy(vec.single_observation_space, vec.single_action_space, {"hidden": [16], "share_value": False})


def same(first, second):
    for name in vars(first):
        a, b = getattr(first, name), getattr(second, name)
        if name == "episodes":
            assert all(np.array_equal(a[key], b[key]) for key in a)
        else:
            assert torch.equal(a, b), name


def test_the_columns_are_what_the_env_says_when_the_actions_are_replayed(env, policy):
    sampler = Sampler(env, policy, lanes=5, seed=3)
    first = sampler.runners[0]._obs.clone()
    start = sampler.runners[0].env.get_state()
    rollout = sampler.sample(40)
    vec = env.make_vec(5, seed=0, autoreset_mode=AutoresetMode.SAME_STEP)
    vec.reset()
    vec.set_state(start)
    obs, finals, returns = first.numpy(), [], []
    running = np.zeros(5)
    for t in range(40):
        assert np.array_equal(rollout.obs[t], obs)
        obs, reward, terminated, truncated, info = vec.step(rollout.actions[t].numpy())
        assert np.array_equal(rollout.rewards[t], reward.astype(np.float32))
        assert np.array_equal(rollout.proxy[t], info["proxy_reward"])
        assert np.array_equal(rollout.true[t], info["true_reward"])
        assert np.array_equal(rollout.terminated[t], terminated) and np.array_equal(rollout.truncated[t], truncated)
        running += info["true_reward"]
        done = terminated | truncated
        finals += [info["final_obs"][b] for b in np.flatnonzero(truncated)]
        returns += list(running[done])
        running[done] = 0
    assert np.array_equal(rollout.last_obs, obs)
    assert np.array_equal(rollout.final_obs, np.stack(finals)) and len(finals) > 5
    np.testing.assert_allclose(rollout.episodes["true"], returns)
    inputs = policy.dist_inputs(rollout.flat(rollout.obs))
    assert torch.allclose(rollout.flat(rollout.dist_inputs), inputs, atol=1e-6)


def test_a_restored_sampler_goes_on_as_if_nothing_had_happened(env, policy):
    sampler = Sampler(env, policy, lanes=5, seed=3)
    sampler.sample(17)
    state = sampler.get_state()
    expected = sampler.sample(30)
    again = Sampler(env, policy, lanes=5, seed=99)
    again.set_state(state)
    same(again.sample(30), expected)


def test_lanes_and_seeds_are_independent(env, policy):
    one, two, other = (Sampler(env, policy, lanes=4, seed=s).sample(30) for s in (3, 3, 4))
    same(one, two)
    assert not torch.equal(one.actions, other.actions)
    assert not torch.equal(one.actions[:, 0], one.actions[:, 1])


def test_the_likeliest_action_without_exploration(env, policy):
    rollout = Sampler(env, policy, lanes=3, seed=0).sample(20, explore=False)
    torch.testing.assert_close(rollout.actions, policy.distribution.mode(rollout.dist_inputs))


@pytest.mark.slow
@pytest.mark.distributed
def test_ray_workers_sample_and_are_restored_and_listen_on_localhost_only(env, policy):
    import ray

    sampler = Sampler(env, policy, lanes=5, seed=3, workers=2)
    try:
        first = sampler.sample(20)
        assert listening() and listening() <= set(LOOPBACK)
        state = sampler.get_state()
        expected = sampler.sample(20)
        assert first.obs.shape == (20, 5, policy.observation_space.shape[0])
        assert len(first.final_obs) == int(first.truncated.sum()) > 0
        sampler.set_state(state)
        same(sampler.sample(20), expected)
    finally:
        sampler.close()
        ray.shutdown()
