"""Reward functions of transitions as one type, and where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors

from rhtool.envs.base import Env
from rhtool.envs.learned import RewardModel
from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.interpret.transitions import Transitions

OWN = ("proxy", "true")
"""the rewards that every environment has"""


class RewardFunction(Protocol):
    """r(s, a, s', terminated)."""

    def __call__(self, transitions: Transitions) -> np.ndarray:
        """Rewards (N,) float64."""


class Recorded:
    """The environment's own proxy or true reward, as it was given for transitions that it made itself.

    It cannot be asked for others: what an environment pays may depend on more than what is observed.
    """

    def __init__(self, which: str):
        self.which = which

    def __call__(self, transitions: Transitions) -> np.ndarray:
        """The column. Raises `RhtoolError` for transitions that the environment did not make."""
        try:
            return transitions.rewards[self.which]
        except KeyError:
            what = f"the environment's {self.which} reward is known of its own transitions alone"
            raise RhtoolError(what, self.which, "fit a model to it, or give a learned reward") from None


class Learned:
    """A reward model r(s, a) of task=rm_train."""

    def __init__(self, model: RewardModel):
        self.model = model

    def __call__(self, transitions: Transitions) -> np.ndarray:
        """The model's rewards."""
        return self.model(transitions.obs, transitions.actions)


def checked(name: str, rewards: np.ndarray, transitions: Transitions) -> np.ndarray:
    """The rewards, if all are finite. Raises `RhtoolError` with the transition that caused one that is not."""
    wrong = np.flatnonzero(~np.isfinite(rewards))
    if not len(wrong):
        return rewards
    i = int(wrong[0])
    said = f"the reward '{name}' is {rewards[i]} for {len(wrong)} of {len(rewards)} transitions"
    parts = (transitions.obs[i], transitions.actions[i], transitions.next_obs[i])
    obs, action, following = (np.array2string(np.asarray(x), threshold=24, precision=4) for x in parts)
    where = f"episode {transitions.episode[i]}, step {transitions.step[i]}: s={obs}, a={action}, s'={following}"
    raise RhtoolError(said, where, "mend the reward function, or leave it out of task.rewards")


def load(name: str, env: Env) -> RewardFunction:
    """ "proxy" or "true", the environment's own; else the reward function in the directory, or the run, of that name: a model of
    task=rm_train, or what `functions.save` wrote; or a `.pt` file of imitation.

    Raises `ConfigError` if there is none.
    """
    if name in OWN:
        return Recorded(name)
    from rhtool.interpret import functions

    path = Path(name)
    if path.suffix == ".pt" and path.is_file():
        from rhtool.interpret import legacy

        return legacy.read(path)
    directory = next((d for d in (path / "reward_model", path) if (d / "reward_model.json").is_file()), None)
    if directory is None:
        mend = f"{nearest(name, OWN)} Or make a reward model: {env.reward_model_command()}"
        raise ConfigError(f"there is no reward function at {name}", "task.rewards", mend)
    try:
        if (made := functions.load(directory, lambda inner: load(str(inner), env))) is not None:
            return made
        if "kind" in json.loads((directory / "reward_model.json").read_text()):
            from rhtool.interpret import nets

            return nets.Network(nets.load(directory))
        return Learned(RewardModel.load(directory))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        RuntimeError,
        safetensors.SafetensorError,
    ) as error:
        what = f"the reward model cannot be read ({type(error).__name__}: {error})"
        raise ConfigError(what, str(directory), env.reward_model_command()) from error
