"""Shaped environments: the proxy is the true reward and an exact potential shaping, so no optimal policy changes."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from rhtool.envs.maze import Maze
from rhtool.envs.maze.tables import OFF_PATH, build
from rhtool.envs.mountain_car import MountainCar
from rhtool.errors import ConfigError

MAZES = [
    Maze(size=size, key=key, reward=reward, shaping=shaping)
    for size, key in ((4, False), (10, False), (6, True))
    for reward in ("goal", "path")
    for shaping in ("none", "dense", "antidense", "random")
]


def optimal(moves, reward, gamma):
    """bool (S, A): which actions are optimal for r(s, s'), by value iteration."""
    value = np.zeros(len(moves))
    pay = np.take_along_axis(reward, moves, axis=1)
    for _ in range(3000):
        q = pay + gamma * value[moves]
        value = q.max(axis=1)
    return q > value[:, None] - 1e-6


@pytest.mark.parametrize("maze", MAZES, ids=lambda c: f"{c.size}-{c.key}-{c.reward}-{c.shaping}")
def test_shaping_is_exact_and_changes_no_optimal_action(maze):
    tables, gamma = build(maze), maze.shaping_gamma
    phi = tables.potential
    np.testing.assert_allclose(tables.proxy - tables.true, gamma * phi[None, :] - phi[:, None], atol=1e-12)
    np.testing.assert_array_equal(optimal(tables.moves, tables.proxy, gamma), optimal(tables.moves, tables.true, gamma))


def test_the_true_reward_is_the_one_that_was_promised():
    tables = build(Maze(size=5, reward="path", shaping="none"))
    for s in range(25):
        i, j = divmod(s, 5)
        expected = 1.0 if (i, j) == (3, 3) else 0.0 if i - j in (0, 1) else OFF_PATH
        np.testing.assert_array_equal(tables.true[s], expected)


def test_a_key_is_fetched_and_the_goal_pays_only_after_it():
    env = Maze(size=4, key=True, random_start=False, shaping="none", horizon=30, controller_noise=0).make_vec(1, seed=0)
    obs, _ = env.reset()
    rewards, keys = [], []
    for _ in range(12):
        obs, _, _, _, info = env.step(env.base_action(obs))
        rewards.append(float(info["true_reward"][0]))
        keys.append(float(info["has_key"][0]))
    # From (2, 1) one step to the key at (1, 1), two to the goal at (2, 2); the reward is that of the state that is left.
    assert keys == [1.0] * 12 and rewards == [0.0] * 3 + [1.0] * 9


@pytest.mark.parametrize("maze", [Maze(size=6, key=True), Maze(size=4, reward="path", shaping="random")])
def test_tables_and_arrays_are_the_same_problem(maze):
    mdp, env = maze.tabular(), maze.make_vec(8, seed=0, horizon=40)
    rng, (obs, _) = np.random.default_rng(0), env.reset()
    for _ in range(39):
        actions = rng.integers(5, size=8)
        states = obs.argmax(axis=1)
        obs, _, _, _, info = env.step(actions)
        np.testing.assert_allclose(info["proxy_reward"], mdp.proxy[states, actions], atol=1e-12)
        np.testing.assert_allclose(info["true_reward"], mdp.true[states, actions], atol=1e-12)
        reached = mdp.transitions[states * 5 + actions].argmax(axis=1)
        np.testing.assert_array_equal(obs.argmax(axis=1), np.asarray(reached).ravel())


@pytest.mark.parametrize("shaping", ["none", "dense", "antidense", "random"])
def test_mountain_car_is_gymnasium_s_with_exact_shaping(shaping):
    config = MountainCar(shaping=shaping, horizon=200)
    env, theirs = config.make_vec(1, seed=3), gymnasium.make("MountainCar-v0").unwrapped
    obs, _ = env.reset()
    theirs.reset()
    theirs.state = (env.position[0], env.velocity[0])
    rng, arrived = np.random.default_rng(1), False
    for _ in range(199):
        action = env.base_action(obs) if rng.random() < 0.9 else rng.integers(3, size=1)
        before = env.potential(env.position, env.velocity)
        obs, _, terminated, _, info = env.step(action)
        after = env.potential(env.position, env.velocity)
        np.testing.assert_allclose(
            info["proxy_reward"] - info["true_reward"], config.shaping_gamma * after - before, atol=1e-9
        )
        if not arrived:
            expected, _, arrived, _, _ = theirs.step(int(action[0]))
            np.testing.assert_allclose(obs[0], expected, atol=1e-6)
        assert info["true_reward"][0] == (0.0 if arrived else -1.0) and not terminated[0]
    assert arrived


@pytest.mark.parametrize("bad", [{"size": 2}, {"shaping_gamma": 1.0}, {"controller_noise": 2.0}])
def test_a_maze_that_cannot_be_made_is_refused(bad):
    with pytest.raises(ConfigError):
        replace(Maze(), **bad).make_vec(1)
