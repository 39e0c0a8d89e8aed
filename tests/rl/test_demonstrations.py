"""Recorded rollouts for behaviour cloning: what task=evaluate wrote is read, anything else is named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rhtool.config import compose
from rhtool.errors import RhtoolError
from rhtool.rl.demonstrations import collect
from rhtool.rl.policy import interface_of


@pytest.fixture
def rollouts(tmp_path):
    """`rollouts(column=values, …)`: a parquet of three steps that fits the toy board, but for the given columns."""
    env = compose("task=bc", "env=tomato", "env.level=-1").env
    width = interface_of(env).observation_space.shape[0]
    good = {"obs": list(np.ones((3, width), np.float32)), "action": [0, 1, 3], "episode": [0, 0, 1]}

    def write(**changes):
        columns = {name: values for name, values in (good | changes).items() if values is not None}
        pq.write_table(pa.table(columns), tmp_path / "r.parquet")
        return env, str(tmp_path / "r.parquet")

    return write


def read(env, path):
    task = compose("task=bc", "env=tomato").task
    task.demonstrator = path
    return collect(env, interface_of(env), task, seed=0)


def test_rollouts_are_read_as_they_were_written(rollouts):
    env, path = rollouts(more=[1, 2, 3])
    columns = read(env, path)
    assert columns["actions"].tolist() == [0, 1, 3] and columns["episode"].tolist() == [0, 0, 1]
    assert columns["obs"].shape == (3, interface_of(env).observation_space.shape[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"obs": None, "state": [1, 2, 3]}, "no column obs (it has action, episode, state)"),
        ({"obs": list(np.ones((3, 2)))}, "its obs have shape (2,)"),
        ({"obs": [[1.0], [1.0, 2.0], [1.0]]}, "holds no rollouts"),
        ({"obs": ["a", "b", "c"]}, "holds no rollouts"),
        ({"action": list(np.ones((3, 2)))}, "its action have shape (2,)"),
        ({"action": [0, 1, 99]}, "some of its actions are not in Discrete"),
        ({"action": ["up", "up", "down"]}, "holds no rollouts"),
    ],
)
def test_a_table_of_something_else_is_named(rollouts, changes, said):
    env, path = rollouts(**changes)
    with pytest.raises(RhtoolError) as raised:
        read(env, path)
    assert said in raised.value.what and path in raised.value.where and "task=evaluate" in raised.value.mend


def test_a_file_that_is_no_parquet_is_named(rollouts, tmp_path):
    env, path = rollouts()
    (tmp_path / "r.parquet").write_text("obs,action\n")
    with pytest.raises(RhtoolError, match="holds no rollouts"):
        read(env, path)
