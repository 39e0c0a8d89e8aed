"""What every environment promises, whichever it is: parametrised over all files of conf/env."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rhtool.envs.gymnasium  # noqa: F401
from rhtool.errors import RhtoolError
from rhtool.schema import option_name

ROOT = Path(__file__).resolve().parents[2]


def some_actions(env, steps: int, seed: int = 0) -> np.ndarray:
    """(steps, B, …): lane i's actions do not depend on the number of lanes."""
    space, lanes = env.single_action_space, []
    for lane in range(env.num_envs):
        rng = np.random.default_rng((seed, lane))
        if isinstance(space, gymnasium.spaces.Discrete):
            lanes.append(rng.integers(space.n, size=steps))
        else:
            lanes.append(rng.uniform(space.low, space.high, (steps, *space.shape)).astype(space.dtype))
    return np.stack(lanes, axis=1)


def run(env, actions) -> list[tuple[np.ndarray, ...]]:
    return [env.step(a)[:4] for a in actions]


def same(a, b) -> None:
    for step_a, step_b in zip(a, b, strict=True):
        for x, y in zip(step_a, step_b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_gymnasium_check_env_passes_without_a_warning(config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Advice, not faults: actions in m/s2, observations without bounds.
        for advice in ("symmetric and normalized space", "(minimum|maximum) value is -?infinity"):
            warnings.filterwarnings("ignore", message=f".*{advice}")
        check_env(gymnasium.make(f"rhtool/{type(config).__name__}-v0").unwrapped)


def test_gymnasium_makes_single_and_vector_environments(config):
    id = f"rhtool/{type(config).__name__}-v0"
    single = gymnasium.make(id, reward_fun="true")
    observation, _ = single.reset(seed=3)
    assert single.observation_space.contains(observation) and single.unwrapped.config.reward_fun == "true"
    vector = gymnasium.make_vec(id, num_envs=3, vectorization_mode="vector_entry_point", reward_fun="true")
    observations, _ = vector.reset(seed=3)
    assert vector.observation_space.contains(observations)
    np.testing.assert_array_equal(observations[0], observation)


def test_steps_are_in_the_spaces_and_info_has_both_rewards(config):
    env = config.make_vec(4, seed=0, horizon=6)
    observations, info = env.reset()
    assert env.observation_space.contains(observations)
    keys = set(info)
    for actions in some_actions(env, 8):
        observations, reward, terminated, truncated, info = env.step(actions)
        assert env.observation_space.contains(observations)
        assert terminated.dtype == truncated.dtype == bool
        assert reward.dtype == info["proxy_reward"].dtype == info["true_reward"].dtype == np.float64
        assert set(info) == keys and all(value.shape[0] == 4 for value in info.values())
        assert np.isfinite(reward).all() and np.isfinite(observations).all()


def test_reward_fun_changes_the_reward_and_nothing_else(config):
    histories = []
    for reward_fun in ("proxy", "true"):
        env = config.make_vec(3, seed=1, reward_fun=reward_fun)
        env.reset()
        histories.append([env.step(a) for a in some_actions(env, 10)])
    for (obs_a, _, term_a, trunc_a, info_a), (obs_b, _, term_b, trunc_b, info_b) in zip(*histories, strict=True):
        same([(obs_a, term_a, trunc_a, *info_a.values())], [(obs_b, term_b, trunc_b, *info_b.values())])


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_lane_is_the_same_alone_and_among_many(config, mode):
    histories = {}
    sizes = (1, 3, 8) if config.vector_class().lane_is_a_process else (1, 7, 512)
    for lanes in sizes:
        env = config.make_vec(lanes, seed=11, autoreset_mode=mode, horizon=5)
        first, _ = env.reset()
        histories[lanes] = [(first,), *run(env, some_actions(env, 12))]
        env.close()
    for lanes in sizes[:2]:
        same(histories[lanes], [tuple(x[:lanes] for x in step) for step in histories[sizes[2]]])


def test_a_seed_decides_and_no_seed_goes_on(config):
    histories = []
    for _ in range(2):
        env = config.make_vec(3, horizon=5, autoreset_mode="SameStep")
        actions = some_actions(env, 12)
        history = [(env.reset(seed=5)[0],), *run(env, actions)]
        streams = env.get_state()["rng"]
        history += [(env.reset()[0],), *run(env, actions)]
        histories.append(history)
    same(*histories)
    # The second reset went on with the streams: with those of the first it is repeated, whatever was drawn since.
    env.set_state(env.get_state() | {"rng": streams})
    same(histories[0][13:], [(env.reset()[0],), *run(env, actions)])


def test_a_list_of_seeds_gives_each_lane_its_single_environment(config):
    seeds = [4, 9, 4]
    env = config.make_vec(3, autoreset_mode="Disabled")
    env.reset(seed=seeds)
    actions = some_actions(env, 5)
    history = run(env, actions)
    for lane, seed in enumerate(seeds):
        single = config.make()
        single.reset(seed=seed)
        for t, (observations, reward, *_) in enumerate(history):
            observation, r, *_ = single.step(actions[t, lane])
            np.testing.assert_array_equal(observation, observations[lane])
            assert r == reward[lane]


def transitions(config, mode: str, per_lane: int):
    """The first transitions of 4 lanes: (before, reward, after, terminated, truncated), `after` in the same episode."""
    env = config.make_vec(4, seed=2, autoreset_mode=mode, horizon=6)
    actions = some_actions(env, per_lane)
    now, _ = env.reset()
    collected, due = [[] for _ in range(4)], np.zeros(4, bool)
    while min(map(len, collected)) < per_lane:
        place = [min(len(lane), per_lane - 1) for lane in collected]
        after, reward, terminated, truncated, info = env.step(np.stack([actions[k, i] for i, k in enumerate(place)]))
        done = terminated | truncated
        last = (
            np.where(done.reshape(-1, *[1] * (after.ndim - 1)), info["final_obs"], after)
            if "final_obs" in info
            else after
        )
        for i in np.flatnonzero(~due):
            collected[i].append((now[i], reward[i], last[i], terminated[i], truncated[i]))
        if mode == "NextStep":
            for key in info:
                assert not info[key][due].any(), f"{key} is not zero in a step that resets"
            assert not reward[due].any() and not done[due].any()
            due = done
        now = env.reset(options={"reset_mask": done})[0] if mode == "Disabled" and done.any() else after
    return [lane[:per_lane] for lane in collected]


def test_the_three_autoreset_modes_are_one_history(config):
    one, two, three = (transitions(config, mode, 20) for mode in ("NextStep", "SameStep", "Disabled"))
    for a, b, c in zip(one, two, three, strict=True):
        same(a, b)
        same(a, c)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_gymnasium_s_own_vector_env_of_singles_is_the_same(config, mode):
    seeds, mode = [3, 1, 4], gymnasium.vector.AutoresetMode(mode)
    env = config.make_vec(3, autoreset_mode=mode, horizon=5)
    theirs = gymnasium.vector.SyncVectorEnv([lambda: config.make(horizon=5)] * 3, autoreset_mode=mode)
    same([env.reset(seed=seeds)[:1]], [theirs.reset(seed=seeds)[:1]])
    for actions in some_actions(env, 17):
        *ours, info = env.step(actions)
        *expected, their_info = theirs.step(actions)
        same([ours[:1] + ours[2:]], [expected[:1] + expected[2:]])
        np.testing.assert_allclose(ours[1], expected[1])
        assert ("final_obs" in info) == ("final_obs" in their_info)
        for lane in np.flatnonzero(info.get("_final_obs", [])):
            np.testing.assert_array_equal(info["final_obs"][lane], their_info["final_obs"][lane])


def test_gymnasium_s_wrappers_read_the_info(config):
    env = config.make_vec(3, seed=0, horizon=5)
    env = gymnasium.wrappers.vector.DictInfoToList(gymnasium.wrappers.vector.RecordEpisodeStatistics(env))
    env.reset()
    total = np.zeros(3)
    for actions in some_actions(env, 5):
        _, reward, terminated, truncated, infos = env.step(actions)
        total += reward
        for lane in np.flatnonzero(terminated | truncated):
            assert infos[lane]["episode"]["r"] == pytest.approx(total[lane])
    assert all(isinstance(info["true_reward"], float) for info in infos)


def test_an_episode_ends_at_the_horizon_and_not_before(config):
    env = config.make_vec(5, seed=0, autoreset_mode="SameStep", horizon=7)
    env.reset()
    age = np.zeros(5, int)
    for step, actions in enumerate(some_actions(env, 30)):
        if step in (2, 5, 13):  # the lanes' episodes need not begin together
            mask = np.arange(5) % 3 == step % 3
            env.reset(options={"reset_mask": mask})
            age[mask] = 0
        _, _, terminated, truncated, info = env.step(actions)
        age += 1
        np.testing.assert_array_equal(terminated if env.horizon_terminates else truncated, age == 7)
        np.testing.assert_array_equal(info.get("_final_obs", np.zeros(5, bool)), terminated | truncated)
        age[terminated | truncated] = 0


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_snapshot_resumes_the_same_run(config, mode):
    env = config.make_vec(6, seed=8, autoreset_mode=mode, horizon=5)
    env.reset()
    actions = some_actions(env, 23)
    run(env, actions[:10])
    state, seen = env.get_state(), env.observe()
    expected = run(env, actions[10:])
    other = config.make_vec(6, seed=99, autoreset_mode=mode, horizon=5)
    other.set_state(state)
    np.testing.assert_array_equal(other.observe(), seen)
    same(expected, run(other, actions[10:]))
    env.set_state(state)
    same(expected, run(env, actions[10:]))


def test_a_snapshot_resumes_in_another_process(config, tmp_path):
    env = config.make_vec(3, seed=8, autoreset_mode="SameStep", horizon=5)
    env.reset()
    actions = some_actions(env, 14)
    run(env, actions[:7])
    np.savez(tmp_path / "state.npz", **env.get_state())
    np.save(tmp_path / "actions.npy", actions[7:])
    expected = run(env, actions[7:])
    script = f"""
import sys; sys.path.insert(0, "tests/envs")
import numpy as np
from conftest import shipped
env = shipped()["{option_name(type(config))}"].make_vec(3, seed=0, autoreset_mode="SameStep", horizon=5)
env.set_state(dict(np.load(r"{tmp_path}/state.npz", allow_pickle=False)))
steps = [env.step(a)[:4] for a in np.load(r"{tmp_path}/actions.npy")]
np.savez(r"{tmp_path}/out.npz", **{{str(i): np.stack(column) for i, column in enumerate(zip(*steps))}})
"""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environ, check=True, timeout=120)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as out:
        for i, column in enumerate(zip(*expected, strict=True)):
            np.testing.assert_array_equal(np.stack(column), out[str(i)])


STEPS = {"glucose": 150, "signal": 10, "traffic": 100}
"""steps until an episode has left its mark: a first meal of glucose, cars where traffic is observed"""
FORGET = {"pandemic": {"schedule_persists": False}}
"""changes to the configuration without which an episode is meant to remember the one before"""


def test_a_reset_forgets_the_episode_before(config):
    """With the same streams, a second episode begins and goes on as if the first had not been stepped."""
    name = option_name(type(config))
    changes, states, after = FORGET.get(name, {}), [], []
    steps = min(STEPS.get(name, 20), config.horizon - 1)
    actions = None
    for used in (False, True):
        env = config.make_vec(2, autoreset_mode="NextStep", **changes)
        observations, _ = env.reset(seed=5)
        first = env.get_state()
        actions = some_actions(env, steps) if actions is None else actions
        for random in actions[: steps if used else 0]:
            controller = env.base_action(observations)
            continuous = controller is not None and isinstance(env.single_action_space, gymnasium.spaces.Box)
            observations = env.step(controller if continuous else random)[0]
        if used:
            changed = [key for key, value in env.get_state().items() if not np.array_equal(value, first[key])]
            assert "elapsed" in changed and len(changed) > 2
        env.set_state(env.get_state() | {"rng": first["rng"]})
        env.reset()
        states.append(env.get_state())
        after.append(run(env, actions[:3]))
        env.close()
    for key, value in states[0].items():
        np.testing.assert_array_equal(states[1][key], value, err_msg=key)
    same(*after)


def test_a_snapshot_and_returned_arrays_are_copies(config):
    env = config.make_vec(3, seed=0, horizon=5, autoreset_mode="SameStep")
    env.reset()
    actions = some_actions(env, 12)
    state = env.get_state()
    kept = {key: value.copy() for key, value in state.items()}
    steps = [env.step(a) for a in actions]
    again = config.make_vec(3, seed=5, horizon=5, autoreset_mode="SameStep")
    again.set_state(state)
    same([s[:4] for s in steps], run(again, actions))
    for key, value in kept.items():
        np.testing.assert_array_equal(state[key], value)


def test_a_state_of_other_lanes_or_another_environment_is_refused(config):
    state = config.make_vec(3).get_state()
    with pytest.raises(RhtoolError, match="lanes"):
        config.make_vec(4).set_state(state)
    with pytest.raises(RhtoolError, match="state holds"):
        config.make_vec(3).set_state({"rng": state["rng"]})


def test_bad_actions_are_refused_before_anything_moves(config):
    env = config.make_vec(3, seed=0)
    env.reset()
    good = some_actions(env, 1)[0]
    state = env.get_state()
    space = env.single_action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        bad = [good[:2], good.astype(float), good + space.n, good - space.n - 1, good[None], good.astype(bool)]
    else:
        nan = good.copy()
        nan.flat[0] = np.nan
        bad = [good[:2], good + (space.high - space.low) + 1, good - (space.high - space.low) - 1, nan, good[None]]
    for actions in bad:
        with pytest.raises(RhtoolError, match="mend"):
            env.step(actions)
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, state[key])


def test_misuse_is_named(config):
    with pytest.raises(RhtoolError, match="reset"):
        config.make_vec(2).step(some_actions(config.make_vec(2), 1)[0])
    with pytest.raises(RhtoolError, match="lane"):
        config.make_vec(0)
    with pytest.raises(RhtoolError, match="NextStep"):
        config.make_vec(2, autoreset_mode="never")
    with pytest.raises(RhtoolError, match="render_mode"):
        config.make_vec(2, render_mode="smell")
    with pytest.raises(RhtoolError, match="did you mean 'horizon'"):
        config.make_vec(2, horizn=3)
    with pytest.raises(RhtoolError, match="reward_fun"):
        config.make_vec(2, reward_fun="truth")
    with pytest.raises(RhtoolError, match="horizon"):
        config.make_vec(2, horizon=0)
    with pytest.raises(RhtoolError, match="seed"):
        config.make_vec(2, seed=-1)
    env = config.make_vec(2, seed=0, autoreset_mode="Disabled", horizon=1)
    env.reset()
    actions = some_actions(env, 1)[0]
    env.step(actions)
    with pytest.raises(RhtoolError, match="ended"):
        env.step(actions)
    with pytest.raises(RhtoolError, match="bool"):
        env.reset(options={"reset_mask": np.array([1, 0])})


def test_what_is_rendered_is_what_gymnasium_expects(config):
    for mode in config.vector_class().render_modes:
        env = config.make_vec(2, seed=0, render_mode=mode)
        env.reset()
        frames = env.render()
        assert len(frames) == 2
        if mode == "rgb_array":
            assert all(f.dtype == np.uint8 and f.ndim == 3 and f.shape[2] == 3 for f in frames)
        else:
            assert all(isinstance(f, str) and f for f in frames)


def test_importing_the_schema_is_light(config):
    heavy = ("numpy", "numba", "gymnasium", "scipy", "torch")
    script = f"import {type(config).__module__}, sys; print([m for m in {heavy} if m in sys.modules])"
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_environment_says_whether_it_has_a_controller(config):
    env = config.make_vec(2, seed=0)
    observations, _ = env.reset()
    assert (env.base_action(observations) is not None) == config.has_controller()
    env.close()


def test_rewards_are_weighted_sums_of_the_terms_that_are_named(config):
    """`reward_terms`, where there are any, explain the proxy and the true reward of random steps."""
    env = config.make_vec(2, seed=0)
    if not env.reward_terms:
        pytest.skip("names no terms")
    env.reset()
    rows = [env.step(a)[4] for a in some_actions(env, min(config.horizon, 60))]
    env.close()
    terms = np.stack([np.concatenate([row[name] for row in rows]) for name in env.reward_terms], 1)
    known = np.column_stack([terms, np.ones(len(terms))])
    for name in ("proxy_reward", "true_reward"):
        reward = np.concatenate([row[name] for row in rows])
        assert reward.std() > 0
        left = reward - known @ np.linalg.lstsq(known, reward)[0]
        assert left.std() < 1e-6 * reward.std()


def test_names_and_cells_are_of_the_columns_of_an_observation(config):
    env = config.make_vec(2, seed=0)
    observations, _ = env.reset()
    width = observations[0].size
    assert len(env.obs_names) in (0, width) and len(set(env.obs_names)) == len(env.obs_names)
    space = env.single_action_space
    actions = int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else int(np.prod(space.shape))
    assert len(env.action_names) in (0, actions)
    if env.grid is not None:
        cells = len(env.grid)
        assert len({*map(tuple, env.grid.tolist())}) == cells and env.grid[:, 0].max() < len(env.grid_panels)
        for step in some_actions(env, 12):
            before = observations[:, :cells].argmax(axis=1)
            observations = env.step(step)[0]
            assert (observations[:, :cells].sum(axis=1) == 1).all()
            after = observations[:, :cells].argmax(axis=1)
            moved = before != after  # else a wall was in the way
            expected = env.grid[before, 1:] + np.array(env.grid_moves)[step]
            np.testing.assert_array_equal(env.grid[after, 1:][moved], expected[moved])
    env.close()
