"""Preprocessing: what a linear program recovers of shaped rewards, and who is whose neighbour."""

import numpy as np
import pytest

from rhtool.config import compose
from rhtool.envs.maze import Maze
from rhtool.interpret.preprocess import enumerated
from rhtool.interpret.preprocessing import (
    OBJECTIVES,
    Problem,
    adjoining,
    apply,
    by_adam,
    by_program,
    consecutive,
    objective,
)
from rhtool.interpret.rewards import OWN, Recorded, load
from rhtool.interpret.transitions import collect

pytest.importorskip("torch")


def problem(which="proxy", **options) -> Problem:
    data, rewards, pairs = enumerated(Maze(**options).tabular(), {name: Recorded(name) for name in OWN})
    return Problem(data, rewards[which], pairs, 0.99)


def test_the_enumerated_transitions_are_those_of_the_table():
    maze = Maze(size=4, key=True, shaping="random")
    given, mdp = problem(size=4, key=True, shaping="random"), maze.tabular()
    data = given.transitions
    assert len(data) == 32 * 5
    s = data.obs.argmax(axis=1)
    np.testing.assert_allclose(given.rewards, mdp.proxy[s, data.actions], atol=1e-12)
    reached = np.asarray(mdp.transitions[s * 5 + data.actions].argmax(axis=1)).ravel()
    np.testing.assert_array_equal(data.next_obs.argmax(axis=1), reached)


@pytest.mark.parametrize("shaping", ["dense", "antidense", "random"])
def test_a_linear_program_recovers_the_sparse_reward_of_a_shaped_maze(shaping):
    given = problem(shaping=shaping)
    found = by_program(given, "sparse_l1", "table")
    left = apply(given, found.potential, found.shift)
    assert found.after <= 0.0100 and (np.abs(left) > 1e-6).sum() <= 5 and found.converged
    plain = problem("true", shaping=shaping)
    assert found.after == pytest.approx(by_program(plain, "sparse_l1", "table").after, abs=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_rises_and_the_optimum_of_an_l1_one_is_below_what_adam_finds(name):
    given = problem(size=5, shaping="random", reward="path")
    found = by_program(given, name, "table")
    adam = by_adam(given, name, "table", [], 1500, 1e-2, 10**6, seed=0)
    assert found.after < 0.5 * found.before and adam.after < 0.9 * adam.before
    assert objective(name, apply(given, found.potential, found.shift), given.pairs) == pytest.approx(found.after)
    if name.endswith("l1"):
        assert found.after <= adam.after + 1e-9 and adam.after < 1.5 * found.after


def test_preprocessing_is_shaping_and_a_shift_and_nothing_else():
    given = problem(size=4)
    found = by_program(given, "sparse_l1", "table")
    phi = found.potential.values
    s, s2 = (found.potential.places(x) for x in (given.transitions.obs, given.transitions.next_obs))
    expected = given.rewards - found.shift + 0.99 * phi[s2] - phi[s]
    np.testing.assert_allclose(apply(given, found.potential, found.shift), expected, atol=1e-12)


def test_neighbours_in_sequences_are_consecutive_steps_of_one_episode():
    data = collect(Maze(horizon=7), "random", 5, seed=0)
    pairs = consecutive(data)
    assert len(pairs) == 5 * 6
    i, j = pairs.T
    np.testing.assert_array_equal(data.episode[i], data.episode[j])
    np.testing.assert_array_equal(data.next_obs[i], data.obs[j])
    shuffled = data[np.random.default_rng(0).permutation(len(data))]
    for a, b in consecutive(shuffled):
        assert shuffled.episode[a] == shuffled.episode[b] and shuffled.step[b] == shuffled.step[a] + 1


def test_neighbours_in_a_table_are_those_that_touch():
    rng = np.random.default_rng(0)
    now, then = rng.integers(6, size=25), rng.integers(-1, 6, size=25)
    expected = [
        (i, j) for i in range(25) for j in range(25) if i != j and ((now[i] == now[j] and i < j) or then[i] == now[j])
    ]
    touching = sorted({*expected})
    found = [tuple(p) for p in adjoining(now, then).tolist()]
    assert sorted({*found}) == touching
    assert len(found) == sum(int(now[i] == now[j] and i < j) + int(then[i] == now[j]) for i, j in touching)


def test_a_linear_potential_takes_out_a_linear_shaping():
    rng = np.random.default_rng(1)
    data = collect(compose("env=mountain_car").env, "random", 6, seed=0)
    phi = data.obs @ [100.0, 30.0], data.next_obs @ [100.0, 30.0]
    sparse = (rng.random(len(data)) < 0.02).astype(float)
    given = Problem(data, sparse + 0.99 * phi[1] - phi[0], consecutive(data), 0.99)
    found = by_program(given, "sparse_l1", "linear")
    np.testing.assert_allclose(apply(given, found.potential, found.shift), sparse, atol=1e-5)


def test_the_command_saves_rewards_that_are_what_it_says(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    words = ["task=interpret", "method=preprocess", "env=maze", "env.size=5", "method.objectives=[sparse_l1]"]
    run = compose(*words, "task.policies=[random]", "dir=run")
    metrics = run.execute()["metrics"]
    assert metrics["preprocess/sparse_l1"] < 0.1 * metrics["preprocess/sparse_l1_before"]
    saved = load("run/rewards/0_sparse_l1", run.env)
    given = enumerated(run.env.tabular(), {"after": saved})
    assert np.abs(given[1]["after"]).mean() == pytest.approx(metrics["preprocess/sparse_l1"], abs=1e-6)
    assert "differed by shaping alone" in (tmp_path / "run" / "report.html").read_text()
    compared = compose(
        "task=interpret", "method=distance", "env=maze", "env.size=5", "task.rewards=[true,run/rewards/0_sparse_l1]",
        "method.coverage=uniform", "task.policies=[random]", "dir=compared",
    )  # fmt: skip
    assert compared.execute()["metrics"]["distance/starc"] < 1e-6
