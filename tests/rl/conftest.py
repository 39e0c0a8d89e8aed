"""Small runs of ORPO on the toy board, where everything can be computed exactly."""

import copy

import pytest
import torch

from rhtool import divergences
from rhtool.config import compose
from rhtool.rl import orpo
from rhtool.rl.policy import Policy

SMALL = ("env.level=-1", "env.horizon=20", "task.batch=640", "task.lanes=32", "task.hidden=[32]", "task.minibatch=160")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make():
    """`make("divergence=kl", "coeff=0.1", bases=[…])`: ORPO on the toy board; its base policy is nearly uniform unless given."""

    def build(*overrides, bases=None):
        run = compose("task=orpo", "env=tomato", *SMALL, *overrides)
        return orpo.Orpo(run, [uniform(run.env)] if bases is None else [b.copy() for b in bases])

    return build


def uniform(env, hidden=32, seed=5):
    """A base policy as the networks start: nearly uniform over actions."""
    vec = env.make_vec(1)
    torch.manual_seed(seed)
    return Policy(vec.single_observation_space, vec.single_action_space, {"hidden": [hidden], "share_value": False})


def train(work, iterations):
    """Metrics of each iteration."""
    return [work.iteration() for _ in range(iterations)]


def equal(a, b):
    """Two policies have the same weights."""
    return all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


def all_divergences():
    """Every registered divergence, by option name."""
    from rhtool.config import CONF

    return sorted(p.stem for p in (CONF / "divergence").glob("*.yaml"))


def state_of(work):
    """A state that later iterations cannot touch."""
    return copy.deepcopy(work.get_state())


assert divergences  # the registry is filled by importing the module
