"""Reward functions made of others: what they compute, and that a file gives back the same function."""

import json

import numpy as np
import pytest

from rhtool.envs.maze import Maze
from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret.functions import Scaled, Shaped, Table, normalised, save
from rhtool.interpret.potentials import LayeredPotential, TablePotential
from rhtool.interpret.rewards import Recorded, checked, load
from rhtool.interpret.transitions import Transitions, collect

RNG = np.random.default_rng(0)
EYE = np.eye(100, dtype=np.float32)


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("torch")
    found = collect(Maze(horizon=20), "random", 8, seed=0)
    found.terminated = np.arange(len(found)) % 7 == 0
    return found


POTENTIALS = {
    "table": TablePotential(EYE, RNG.normal(size=100)),
    "linear": LayeredPotential(np.zeros(100), np.ones(100), [(RNG.normal(size=(1, 100)), np.ones(1))]),
    "layers": LayeredPotential(
        RNG.normal(size=100),
        np.full(100, 2.0),
        [(RNG.normal(size=(5, 100)), RNG.normal(size=5)), (np.ones((1, 5)), np.zeros(1))],
    ),
}


@pytest.mark.parametrize("potential", POTENTIALS.values(), ids=POTENTIALS)
def test_shaping_adds_just_the_potentials_and_none_after_the_end(data, potential):
    before = potential(data.obs).copy()
    shaped = Shaped(Recorded("proxy"), potential, 0.9)
    expected = [
        r + 0.9 * (0 if d else potential(s2[None])[0]) - potential(s[None])[0]
        for r, d, s, s2 in zip(data.rewards["proxy"], data.terminated, data.obs, data.next_obs, strict=True)
    ]
    np.testing.assert_allclose(shaped(data), expected, atol=1e-12)
    np.testing.assert_array_equal(potential(data.obs), before)


def functions():
    table = Table(EYE, RNG.normal(size=(100, 5)))
    yield from (Shaped(Recorded("proxy"), p, 0.9) for p in POTENTIALS.values())
    yield table
    yield Scaled(Shaped(Shaped(table, POTENTIALS["table"], 0.99), POTENTIALS["layers"], 0.5), -2.0, 1.0)


@pytest.mark.parametrize("function", list(functions()), ids=["table", "linear", "layers", "tabular", "nested"])
def test_a_file_gives_back_the_same_function(function, data, tmp_path):
    save(function, tmp_path / "reward_model")
    for name in (tmp_path, tmp_path / "reward_model"):
        np.testing.assert_array_equal(load(str(name), Maze())(data), function(data))


def test_normalised_has_mean_zero_and_deviation_one(data):
    found = normalised(Recorded("proxy"), data)(data)
    assert abs(found.mean()) < 1e-9 and found.std() == pytest.approx(1)
    flat = data[data.rewards["true"] == data.rewards["true"][0]]
    with pytest.raises(RhtoolError, match="constant"):
        normalised(Recorded("true"), flat)


def test_a_reward_that_is_not_finite_is_reported_with_what_caused_it(data):
    cell = int(data.obs[9].argmax())

    def broken(transitions: Transitions) -> np.ndarray:
        return np.where(transitions.obs[:, cell] > 0, np.nan, 1.0)

    i = int(np.flatnonzero(data.obs[:, cell])[0])
    with pytest.raises(RhtoolError) as error:
        checked("mine", broken(data), data)
    assert f"episode {data.episode[i]}, step {data.step[i]}" in str(error.value) and "'mine' is nan" in str(error.value)


def test_a_table_says_of_which_observation_it_knows_nothing(data):
    with pytest.raises(RhtoolError, match="no reward"):
        Table(EYE[:50], np.zeros((50, 5)))(data)


def damage(path, **changes):
    file = path / "reward_model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "changes", [{"schema": 9}, {"potential": "pickle"}, {"gamma": None}, {"base": "../../elsewhere"}]
)
def test_a_damaged_file_is_refused_with_where_it_is(changes, tmp_path):
    save(Shaped(Recorded("proxy"), POTENTIALS["table"], 0.9), tmp_path)
    damage(tmp_path, **changes)
    with pytest.raises(ConfigError):
        load(str(tmp_path), Maze())
    (tmp_path / "reward_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load(str(tmp_path), Maze())
