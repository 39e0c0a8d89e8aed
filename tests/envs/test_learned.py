"""A learned proxy: the same promises in every environment of conf/env, and errors that say how to mend them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import gymnasium
import numpy as np
import pytest

import rhtool.envs.gymnasium  # noqa: F401
from rhtool.config import compose
from rhtool.envs.learned import RewardModel, described
from rhtool.envs.tomato import Tomato
from rhtool.errors import ConfigError
from rhtool.identity import fingerprint
from tests.envs.test_contract import run, same, some_actions


def model_for(config, seed: int = 0, hidden: tuple[int, ...] = (8, 4)) -> RewardModel:
    """A random model of all that an environment shows."""
    env = config.make_vec(1)
    action, seen = described(env.single_action_space), int(np.prod(env.single_observation_space.shape))
    size = seen + int(action.get("n") or np.prod(action["shape"]))
    env.close()
    rng = np.random.default_rng(seed)
    layers = [(rng.normal(size=(b, a)) / a, rng.normal(size=b)) for a, b in pairwise([size, *hidden, 1])]
    return RewardModel(
        observation_shape=env.single_observation_space.shape,
        action=action,
        columns=np.arange(seen),
        offset=rng.normal(size=size).astype(np.float32),
        scale=rng.uniform(0.1, 1, size).astype(np.float32),
        layers=[(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers],
        multiply=0.5,
        add=2.0,
    )


def learned(config, directory, **fields):
    """The environment with a random model as its proxy, and the model."""
    model = model_for(config)
    model.save(directory / "reward_model")
    return replace(config, reward_fun="learned", reward_model=str(directory), **fields), model


def plainly(model: RewardModel, observations, actions) -> np.ndarray:
    """What the model says, as matrix products in float64."""
    seen = observations.reshape(len(observations), -1)[:, model.columns].astype(np.float64)
    done = np.eye(model.action["n"])[actions] if "n" in model.action else actions.reshape(len(actions), -1)
    x = (np.concatenate([seen, done], 1) - model.offset) * model.scale
    for weight, bias in model.layers[:-1]:
        x = x @ weight.T + bias
        x = np.where(x > 0, x, 0.01 * x)
    weight, bias = model.layers[-1]
    return model.multiply * (x @ weight.T + bias)[:, 0] + model.add


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_the_proxy_is_the_models_reward_of_what_was_seen_and_done(config, mode, tmp_path):
    config, model = learned(config, tmp_path, horizon=4)
    own = replace(config, reward_fun="true", reward_model="")
    lanes, others = (c.make_vec(3, seed=1, autoreset_mode=mode) for c in (config, own))
    (seen, _), _ = lanes.reset(), others.reset()
    due = np.zeros(3, bool)
    for actions in some_actions(lanes, 10):
        after, _, terminated, truncated, info = lanes.step(actions)
        expected = np.where(due, 0.0, plainly(model, seen, actions))
        np.testing.assert_allclose(info["proxy_reward"], expected, rtol=1e-4, atol=1e-4)
        others_after, *_, other_info = others.step(actions)
        same([(after, info["true_reward"])], [(others_after, other_info["true_reward"])])
        seen, due = after, (terminated | truncated) & (mode == "NextStep")
    lanes.close(), others.close()


def test_training_takes_it_as_it_takes_the_environments_own_proxy(config, tmp_path):
    """Scaled and fined as that is: in a step in which both proxies are equal, so are the rewards."""
    config, _ = learned(config, tmp_path)
    env, own = config.make_vec(3, seed=1), replace(config, reward_fun="proxy", reward_model="").make_vec(3, seed=1)
    proxy, true, ended = np.array([0.5, -1.0, 2.0]), np.zeros(3), np.array([False, True, False])
    np.testing.assert_array_equal(env._reward(proxy, true, ended), own._reward(proxy, true, ended))
    env.close(), own.close()


def test_the_true_reward_can_be_trained_on_beside_it(config, tmp_path):
    config, _ = learned(config, tmp_path)
    histories = []
    for changes in ({}, {"reward_fun": "true"}, {"reward_fun": "true", "reward_model": ""}):
        env = config.make_vec(2, seed=1, **changes)
        env.reset()
        histories.append([env.step(a) for a in some_actions(env, 4)])
        env.close()
    for step, true, plain in zip(*histories, strict=True):
        np.testing.assert_array_equal(step[4]["proxy_reward"], true[4]["proxy_reward"])
        np.testing.assert_array_equal(true[1], plain[1])


def test_a_lane_is_the_same_alone_and_among_many(config, tmp_path):
    config, _ = learned(config, tmp_path, horizon=5)
    histories = {}
    sizes = (1, 3, 8) if config.vector_class().lane_is_a_process else (1, 7, 512)
    for lanes in sizes:
        env = config.make_vec(lanes, seed=11, autoreset_mode="SameStep")
        env.reset()
        histories[lanes] = run(env, some_actions(env, 7))
        env.close()
    for lanes in sizes[:2]:
        same(histories[lanes], [tuple(x[:lanes] for x in step) for step in histories[sizes[2]]])


def test_a_snapshot_goes_on_as_if_nothing_had_been(config, tmp_path):
    config, _ = learned(config, tmp_path, horizon=6)
    env, other = (config.make_vec(3, seed=seed, autoreset_mode="SameStep") for seed in (2, 3))
    env.reset(), other.reset()
    actions = some_actions(env, 8)
    run(env, actions[:3])
    other.set_state(env.get_state())
    same(run(env, actions[3:]), run(other, actions[3:]))
    env.close(), other.close()


def test_gymnasiums_single_environment_has_it(config, tmp_path):
    config, model = learned(config, tmp_path)
    env = gymnasium.make(
        f"rhtool/{type(config).__name__}-v0", reward_fun="learned", reward_model=str(tmp_path)
    ).unwrapped
    seen, _ = env.reset(seed=3)
    action = some_actions(env.vector, 1)[0, 0]
    *_, info = env.step(action)
    assert info["proxy_reward"] == pytest.approx(plainly(model, seen[None], action[None])[0], rel=1e-4, abs=1e-4)
    env.close()


def test_the_model_comes_back_from_its_file_as_it_was(config, tmp_path):
    config, model = learned(config, tmp_path)
    again = RewardModel.load(tmp_path / "reward_model")
    env = config.make_vec(4, seed=0)
    obs, actions = env.reset()[0], some_actions(env, 1)[0]
    np.testing.assert_array_equal(again(obs, actions), model(obs, actions))
    assert (again.action, again.observation_shape, again.about) == (model.action, model.observation_shape, {})
    env.close()


@pytest.mark.parametrize("eps", [None, 0.3])
@pytest.mark.parametrize("level", [-1, 2])
def test_tables_hold_the_learned_reward(level, eps, tmp_path):
    """Of the agent's own action, also where another one may be done in its place."""
    config, model = learned(Tomato(level=level), tmp_path, randomness_eps=eps, horizon=12)
    mdp = config.tabular()
    for action in range(mdp.proxy.shape[1]):
        expected = model(mdp.observations, np.full(len(mdp.observations), action))
        np.testing.assert_allclose(mdp.proxy[:, action], expected, rtol=1e-12)
    np.testing.assert_allclose(mdp.true, replace(config, reward_fun="true", reward_model="").tabular().true, rtol=1e-12)
    env = config.make_vec(4000, seed=0, autoreset_mode="SameStep")
    env.reset()
    rng, total, alive = np.random.default_rng(0), np.zeros(4000), np.ones(4000, bool)
    for _ in range(config.horizon):
        *_, terminated, _, info = env.step(rng.integers(mdp.proxy.shape[1], size=4000))
        total += alive * info["proxy_reward"]
        alive &= ~terminated
    uniform = np.full(mdp.proxy.shape, 1 / mdp.proxy.shape[1])
    assert total.mean() == pytest.approx(mdp.returns(uniform)["proxy"], abs=5 * total.std() / 4000**0.5)


def test_what_is_wrong_with_a_reward_model_is_said(tmp_path):
    config, _ = learned(Tomato(level=2), tmp_path)
    command = "rhtool task=rm_train env=tomato dir=reward_models/tomato"
    with pytest.raises(ConfigError, match="no reward model is named") as error:
        Tomato(reward_fun="learned").check()
    assert error.value.where == "env.reward_model" and command in error.value.mend
    with pytest.raises(ConfigError, match="there is no reward model") as error:
        replace(config, reward_model=str(tmp_path / "none")).check()
    assert command in error.value.mend
    with pytest.raises(ConfigError, match=r"for observations \(\d+,\)") as error:
        replace(config, level=4).check()
    assert "same env.… options" in error.value.mend
    with pytest.raises(ConfigError, match=r"environment's own proxy"):
        replace(config, reward_fun="proxy").check()


@pytest.mark.parametrize("damage", ["spec", "numbers", "shapes", "nan"])
def test_a_damaged_file_is_named(damage, tmp_path):
    config, model = learned(Tomato(level=2), tmp_path)
    if damage == "spec":
        (tmp_path / "reward_model/reward_model.json").write_text("{}")
    if damage == "numbers":
        file = tmp_path / "reward_model/reward_model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
    if damage in ("shapes", "nan"):
        model.layers[0] = (
            model.layers[0][0][:-1] if damage == "shapes" else model.layers[0][0] * np.nan,
            model.layers[0][1],
        )
        model.save(tmp_path / "reward_model")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.check()


def test_the_content_of_the_model_is_part_of_the_runs_identity(tmp_path):
    model = model_for(Tomato())
    model.save(tmp_path / "reward_model")
    words = ("task=evaluate", "env=tomato", "env.reward_fun=learned", f"env.reward_model={tmp_path}")
    first = fingerprint(compose(*words))
    (tmp_path / "result.json").write_text("{}")
    assert fingerprint(compose(*words)) == first
    model.add += 1
    model.save(tmp_path / "reward_model")
    assert fingerprint(compose(*words)) != first
