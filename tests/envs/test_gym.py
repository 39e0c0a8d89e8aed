"""env=gym: what it makes of an environment is what gymnasium itself does; what cannot be used is named."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium
import gymnasium.wrappers
import numpy as np
import pytest

from rhtool.config import compose, directory
from rhtool.envs.gym import BOAT_RACE, Gym
from rhtool.envs.gym.boat_race import ARROWS, MOVES, RING
from rhtool.errors import ConfigError, RhtoolError
from rhtool.run import identity

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = {"id": "gym_envs:TestEverything-v0", "true_reward": "nested.true"}
FROM5 = {"id": "gym_envs:TestFrom5-v0", "true_reward": "score"}
both = pytest.mark.parametrize("processes", [False, True], ids=["here", "processes"])


def lanes_of(lanes: int = 1, **fields):
    env = Gym(**fields).make_vec(lanes, 0, autoreset_mode="SameStep")
    return env, env.reset()[0]


@both
def test_a_lane_is_the_gymnasium_environment_of_its_seed(processes):
    env, observations = lanes_of(3, id="CartPole-v1", true_reward="gym_envs:back_to_zero", processes=processes)
    theirs, ended = [gymnasium.make("CartPole-v1") for _ in range(3)], 0
    for lane, one in enumerate(theirs):
        np.testing.assert_array_equal(one.reset(seed=int(env.episode_seed[lane]))[0], observations[lane])
    for actions in np.random.default_rng(0).integers(2, size=(60, 3)):
        observations, reward, terminated, truncated, info = env.step(actions)
        for lane, one in enumerate(theirs):
            obs, r, over, cut, _ = one.step(int(actions[lane]))
            seen = info["final_obs"][lane] if over else observations[lane]
            np.testing.assert_array_equal(seen, obs)
            assert (reward[lane], terminated[lane], truncated[lane]) == (r, over, cut)
            assert info["true_reward"][lane] == -abs(obs[2])
            if over:
                ended += 1
                np.testing.assert_array_equal(one.reset(seed=int(env.episode_seed[lane]))[0], observations[lane])
    assert ended >= 3
    env.close()


@both
def test_spaces_are_flattened_and_actions_go_back(processes):
    env, observations = lanes_of(2, **EVERYTHING, processes=processes)
    one = gymnasium.wrappers.FlattenObservation(gymnasium.make("gym_envs:TestEverything-v0"))
    assert env.single_observation_space.shape == one.observation_space.shape == (4 + 3 + 2 + 5 + 1,)
    assert env.single_action_space == gymnasium.spaces.Box(np.float32([-0.1] * 2), np.float32([0.3] * 2))
    first, _ = one.reset(seed=int(env.episode_seed[1]))
    np.testing.assert_array_equal(first.astype(np.float32), observations[1])
    for bound in (env.single_action_space.low, env.single_action_space.high):  # float32 of 0.3 is above 0.3
        observations, *_ = env.step(np.stack([bound, bound]))
        space = one.action_space
        expected, *_ = one.step(np.clip(bound.reshape(1, 2).astype(float), space.low, space.high))
        np.testing.assert_array_equal(expected.astype(np.float32), observations[1])
        assert env.single_observation_space.contains(observations[1])
    env.close()


def test_discrete_actions_start_at_zero_here():
    env, observations = lanes_of(3, **FROM5, controller="gym_envs:back_to_5")
    assert env.single_action_space == gymnasium.spaces.Discrete(3) and env.single_observation_space.shape == (1,)
    observations, *_, info = env.step(np.array([0, 1, 2]))
    np.testing.assert_array_equal(info["true_reward"], [5, 6, 7])
    np.testing.assert_array_equal(env.base_action(observations), [0, 0, 0])


def test_rewards_are_read_from_info_or_computed():
    env, _ = lanes_of(1, **EVERYTHING)
    *_, reward, _, _, info = env.step(np.float32([[0.25, 0.0]]))
    position = env.step(np.float32([[0.0, 0.0]]))[0][0, :4]
    assert (reward, info["proxy_reward"]) == (-0.25, -0.25)
    assert env.step(np.float32([[0.0, 0.0]]))[4]["true_reward"][0] == pytest.approx(position.sum(), abs=1e-5)
    env, _ = lanes_of(1, id=EVERYTHING["id"], true_reward="gym_envs:travelled", proxy_reward="gym_envs:twice")
    info = env.step(np.float32([[0.25, -0.05]]))[4]
    # both rows of the position move; the old observation is not the new one, which the environment writes in place
    assert info["true_reward"][0] == pytest.approx(2 * 0.3)
    env, _ = lanes_of(1, id=EVERYTHING["id"], true_reward="half.way", proxy_reward="nested.true")
    info = env.step(np.float32([[0.0, 0.0]]))[4]
    assert info["true_reward"][0] == 2 and info["proxy_reward"][0] != 7.0


def test_metrics_are_the_numbers_of_the_first_info():
    env, _ = lanes_of(2, **EVERYTHING)
    info = env.step(np.zeros((2, 2), np.float32))[4]
    assert set(info) == {"proxy_reward", "true_reward", "half.way", "flag"}
    env, _ = lanes_of(2, **EVERYTHING, metrics=["nested.true"])
    info = env.step(np.zeros((2, 2), np.float32))[4]
    np.testing.assert_array_equal(info["nested.true"], info["true_reward"])
    assert set(lanes_of(1, **EVERYTHING, metrics=[])[0].step(np.zeros((1, 2), np.float32))[4]) == {
        "proxy_reward",
        "true_reward",
    }
    with pytest.raises(RhtoolError, match=r"no key 'late'[^$]*half.way"):
        lanes_of(2, **EVERYTHING, metrics=["late"])


def test_the_environment_s_own_cut_and_the_horizon_both_truncate():
    actions = np.zeros((1, 2), np.float32)
    for fields, length in (
        ({}, 4),
        ({"horizon": 3}, 3),
        ({"kwargs": {"cut": 100}}, 20),
        ({"kwargs": {"cut": 100}, "horizon": 33}, 33),
    ):
        env, _ = lanes_of(1, **EVERYTHING, **fields)
        ends = [env.step(actions)[2:4] for _ in range(length)]
        assert [bool(truncated[0]) for _, truncated in ends] == [False] * (length - 1) + [True], fields
        assert not any(terminated[0] for terminated, _ in ends)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"id": "CartPol-v1"}, ["CartPol-v1", "did you mean 'CartPole-v1'"]),
        ({"id": "gym_envs:TestNothing-v0"}, ["TestNothing-v0", "TestEverything-v0"]),
        ({"id": "nowhere_to_be_found:X-v0"}, ["no module 'nowhere_to_be_found'", "nowhere_to_be_found.py"]),
        ({"id": "gym_envs:TestEndless-v0"}, ["max_episode_steps", "env.horizon"]),
        ({**FROM5, "kwargs": {"colour": 1}}, ["gymnasium.make failed", "colour", "env.kwargs"]),
        ({**FROM5, "kwargs": {"fails": "step"}}, ["the wheels came off", "gym_envs.py:"]),
        ({**FROM5, "true_reward": "scor"}, ["no key 'scor'", "score", "module:function"]),
        ({**FROM5, "true_reward": "gone.x"}, ["no key 'gone.x'"]),
        ({**FROM5, "proxy_reward": "nothing"}, ["env.proxy_reward", "no key 'nothing'"]),
        ({**FROM5, "true_reward": "gym_envs:travel"}, ["no function 'travel'", "did you mean 'travelled'"]),
        ({**FROM5, "true_reward": "gym_envs:a_word"}, ["'well done' is not a number"]),
        ({**FROM5, "true_reward": "gym_envs:fails"},
         ["failed: ValueError: no such place\n", "env.true_reward=gym_envs:fails; ", "gym_envs.py:", "f(obs, action, next_obs, info)"]),
        ({**FROM5, "true_reward": "math:sqrt"}, ["env.true_reward=math:sqrt", "TypeError", "f(obs, action, next_obs, info)"]),
        ({**FROM5, "proxy_reward": "gym_envs:fails", "true_reward": "score"}, ["env.proxy_reward=gym_envs:fails"]),
        ({**FROM5, "controller": "gym_envs:stumbles"}, ["ValueError: which way\n", "env.controller=gym_envs:stumbles", "f(obs)"]),
        ({**EVERYTHING, "true_reward": "vector"}, ["is not a number"]),
        ({**FROM5, "controller": "gym_envs:out_of_bounds"}, ["99", "Discrete(3", "env.controller"]),
        ({"id": "gym_envs:TestOdd-v0", "kwargs": {"what": "multi"}}, ["MultiDiscrete", "neither Discrete nor a Box"]),
        ({"id": "gym_envs:TestOdd-v0", "kwargs": {"what": "integers"}}, ["int64", "neither Discrete nor a Box"]),
        ({"id": "gym_envs:TestOdd-v0", "kwargs": {"what": "sequence"}}, ["Sequence", "no fixed size"]),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_cannot_be_used_is_named(fields, words):
    with pytest.raises(RhtoolError) as caught:
        lanes_of(2, **fields)
    assert all(word in str(caught.value) for word in (*words, "mend")), caught.value
    assert len(str(caught.value).splitlines()) == 3, caught.value


@both
@pytest.mark.parametrize(
    "kind, obs, said",
    [
        ("line", [0.0, float("nan"), 0.0], "element 1 of 3 of the observation is nan\n"),
        ("open", [0.0, 0.0, float("inf")], "element 2 of 3 of the observation is inf\n"),
        ("open", [0.0, 1e39, 0.0], "element 1 of 3 of the observation is inf\n"),  # not as float32
        ("line", [0.0, 0.0, 1.5], r"element 2 of 3 of the observation is 1.5, and its space is \[-1.0, 1.0\]"),
        ("cells", 4, r"observation 4 is not in Discrete\(4\)"),
        ("dict", -1, "is not in Dict"),  # as a one-hot it would be a 3
    ],
)
def test_an_observation_that_cannot_be_one_is_named_with_its_step(kind, obs, said, processes):
    env, _ = lanes_of(2, id="gym_envs:TestReturns-v0", kwargs={"kind": kind, "obs": obs}, processes=processes)
    env.step(np.zeros(2, int))
    with pytest.raises(RhtoolError, match=said) as caught:
        env.step(np.zeros(2, int))
    assert "env.id=gym_envs:TestReturns-v0, step 2" in caught.value.where
    assert len(str(caught.value).splitlines()) == 3
    env.close()


def test_a_metric_that_is_missing_is_not_told_to_be_computed():
    with pytest.raises(RhtoolError) as caught:
        lanes_of(1, **FROM5, metrics=["nope"])
    assert "score" in str(caught.value) and "module:function" not in str(caught.value)


def test_a_controller_s_action_is_cast_to_its_space():
    env, observations = lanes_of(
        1, id="Pendulum-v1", true_reward="gym_envs:back_to_zero", controller="gym_envs:doubles"
    )
    np.testing.assert_array_equal(env.base_action(observations), np.float32([[0.5]]))
    env, observations = lanes_of(1, **EVERYTHING, controller="gym_envs:at_the_bound")
    np.testing.assert_array_equal(env.base_action(observations), np.float32([[0.3, 0.3]]))


def test_an_environment_that_its_seed_does_not_decide_is_found_out():
    env, _ = lanes_of(2, id="gym_envs:TestUnseeded-v0")
    env.step(np.zeros(2, int))
    env.set_state(env.get_state())
    with pytest.raises(RhtoolError, match="not deterministic"):
        env.step(np.zeros(2, int))


def test_a_module_in_the_working_directory_is_found_and_its_text_is_part_of_the_run_s_identity(tmp_path, monkeypatch):
    text = (Path(__file__).parent / "gym_envs.py").read_text().replace('f"Test', 'f"Mine')
    (tmp_path / "my_own_env.py").write_text(text.replace("TestEndless", "MineEndless"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    line = ["task=orpo", "env=gym", "env.id=my_own_env:MineFrom5-v0", "env.true_reward=score", "scale=smoke"]
    run = compose(*line)
    env = run.env.make_vec(2, 0)
    env.reset()
    assert run.env.horizon == 20
    before = identity(run)
    assert Path(run.env.inputs()["module my_own_env"]) == tmp_path / "my_own_env.py"
    with open(tmp_path / "my_own_env.py", "a") as file:
        file.write("# another\n")
    changed = [key for key, value in identity(run).items() if before[key] != value]
    assert changed == ["input module my_own_env"]


def test_the_shipped_base_policy_is_for_the_boat_race_alone():
    assert (Path(Gym().base_policy_path()) / "policy.json").is_file()
    assert not Path(Gym(id="CartPole-v1").base_policy_path()).exists()
    assert Gym(id="CartPole-v1", base_policy="x").base_policy_path() == "x"


def test_without_a_base_policy_the_command_that_makes_one_is_given(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    run = compose(
        "task=orpo", "env=gym", "env.id=CartPole-v1", "env.true_reward=gym_envs:back_to_zero", "divergence=kl"
    )
    with pytest.raises(RhtoolError) as caught:
        run.task.check(run)
    found = re.search(r"make one: rhtool (.*), then env.base_policy=base/CartPole-v1", str(caught.value))
    made = compose(*found[1].split())
    assert made.env.id == "CartPole-v1" and made.env.true_reward == run.env.true_reward
    assert (made.env.reward_fun, made.dir) == ("true", "base/CartPole-v1")
    made.task.check(made)
    run = compose(
        *("task=orpo", "env=gym", "divergence=kl", "env.horizon=33"),
        "env.kwargs={current: 0.2, render_mode: 'a b', deep: {x: [true, null, 1e-3]}}",
    )
    found = re.search(r"^rhtool (.*), then", Gym.base_policy_command(run.env))
    made = compose(*shlex.split(found[1]))
    assert (made.env.kwargs, made.env.horizon, made.env.id) == (run.env.kwargs, 33, run.env.id)
    assert "horizon" not in Gym(id="CartPole-v1").base_policy_command()
    run = compose("task=evaluate", "env=gym", "env.id=CartPole-v1")
    with pytest.raises(RhtoolError, match="make one: rhtool"):
        run.task.check(run)


def test_kwargs_and_ids_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = compose("task=orpo", "env=gym", "env.kwargs={current: 0.0}", "env.id=CartPole-v1", "divergence=none")
    assert run.env.kwargs == {"current": 0.0} and run.env.horizon == 500
    name = Path(directory(run)).parent.name
    assert name.startswith("none-coeff=0-env.id=CartPole-v1-env.kwargs=") and not set(name) & set("{}': /")
    with pytest.raises(ConfigError, match="CartPole-v1"):
        compose("task=orpo", "env=gym", "env.id=CartPole-v2")


# The boat race


def ring_policy(forward: bool) -> np.ndarray:
    """The action, in each cell, that goes clockwise; of the hack, back from each arrow."""

    def to(a, b):
        return MOVES.index(tuple(np.subtract(RING[b % 16], RING[a])))

    return np.array([to(c, c + 1) if forward or c not in ARROWS else to(c, c - 1) for c in range(16)])


def total(policy: np.ndarray, **fields) -> tuple[np.ndarray, np.ndarray]:
    env, observations = lanes_of(64, **fields)
    proxy, true = np.zeros(64), np.zeros(64)
    for _ in range(100):
        observations, _, _, _, info = env.step(policy[observations.argmax(1)])
        proxy, true = proxy + info["proxy_reward"], true + info["true_reward"]
    return proxy, true


def test_the_boat_race_pays_more_for_going_back_and_forth_than_for_racing():
    proxy, true = total(ring_policy(True), kwargs={"current": 0.0})
    np.testing.assert_array_equal(proxy, 100)
    np.testing.assert_array_equal(true, 100)
    proxy, true = total(ring_policy(False), kwargs={"current": 0.0})
    assert (proxy >= 4 * 48).all() and (abs(true) <= 4).all()
    # With the current a step goes forward with probability 0.9 and back with 0.1.
    proxy, true = total(ring_policy(True))
    assert true.mean() == pytest.approx(80, abs=3 * 6 / 8)


def test_the_boat_race_is_a_ring():
    assert len(set(RING)) == 16
    for a, b in zip(RING, RING[1:] + RING[:1], strict=True):
        assert np.abs(np.subtract(a, b)).sum() == 1


# From the command line


def test_another_environment_goes_through_orpo_and_into_the_report(tmp_path):
    pytest.importorskip("ray")
    common = "env=gym env.id=CartPole-v1 env.true_reward=upright:f scale=smoke env.horizon=60 task.iterations=1 task.episodes=16"
    (tmp_path / "upright.py").write_text("def f(obs, action, next_obs, info):\n    return 1 - abs(next_obs[2])\n")

    lines = [
        f"task=orpo {common} divergence=none env.reward_fun=true dir=base/CartPole-v1",
        f"task=orpo {common} divergence=sqrt_chi2 coeff=0.1 env.processes=true env.base_policy=base/CartPole-v1",
        "task=report task.plots=false",
    ]
    # As the installed command: the working directory is not on the path.
    script = f"""
import sys
sys.path[:] = [entry for entry in sys.path if entry]
from rhtool.cli import cli
for line in {lines}:
    sys.argv[1:] = line.split()
    try:
        cli()
    except SystemExit as end:
        assert not end.code, line
"""
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "outputs").rglob("result.json")
    assert "processes" not in str(result)
    metrics = json.loads(result.read_text())["metrics"]
    assert 5 < metrics["true/return"] < metrics["proxy/return"] <= 60 and "base/true/return" in metrics
    assert "env.id=CartPole-v1" in done.stdout and "sqrt_chi2" in done.stdout


def test_the_boat_race_is_the_default():
    assert compose("env=gym").env.id == BOAT_RACE == Gym().id
