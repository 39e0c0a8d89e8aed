"""Gymnasium environments as users write them, and reward functions, for the tests of `env=gym`."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence, Tuple


class Everything(gymnasium.Env):
    """A space of each kind; info nested; cuts itself after `cut` steps; the observation is overwritten in place."""

    observation_space = Dict(
        position=Box(-5, 5, (2, 2), np.float64),
        colour=Discrete(3, start=1),
        switches=MultiBinary(2),
        more=Tuple((MultiDiscrete([2, 3]), Box(0, 255, (1,), np.uint8))),
    )
    action_space = Box(np.full((1, 2), -0.1), np.full((1, 2), 0.3), dtype=np.float64)

    def __init__(self, cut: int = 4, render_mode: str | None = None):
        self.cut = cut

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.place = 0, self.np_random.uniform(-1, 1, (2, 2))
        return self.obs(), {}

    def obs(self):
        more = (np.array([1, 2]), np.array([self.t], np.uint8))
        return {"position": self.place, "colour": 2, "switches": np.array([1, 0], np.int8), "more": more}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        self.place += action  # in place: what reset returned changes too
        info = {"nested": {"true": float(self.place.sum())}, "half.way": 2 * self.t, "word": "x", "flag": self.t > 2}
        info |= {"vector": np.zeros(2), "proxy_reward": 7.0, "episode": {"r": 1.0}}
        if self.t > 1:
            info["late"] = 1.0
        return self.obs(), -float(action.sum()), False, self.t >= self.cut, info


class From5(gymnasium.Env):
    """Discrete actions that start at 5."""

    observation_space = Box(5, 7, (), np.float64)
    action_space = Discrete(3, start=5)

    def __init__(self, fails: str = ""):
        self.fails = fails

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array(5.0), {}

    def step(self, action):
        if self.fails == "step":
            raise RuntimeError("the wheels came off\nand rolled away")
        return np.array(float(action)), 0.0, False, False, {"score": float(action), "gone": {}}


class Odd(gymnasium.Env):
    """Spaces of one's choice."""

    def __init__(self, what: str):
        self.observation_space = Sequence(Discrete(2)) if what == "sequence" else Discrete(2)
        self.action_space = {"multi": MultiDiscrete([2, 2]), "integers": Box(0, 3, (2,), np.int64)}.get(
            what, Discrete(2)
        )


class Unseeded(gymnasium.Env):
    """Draws from numpy's global generator."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.random.normal(size=1).astype(np.float32), 0.0, False, False, {"true_reward": 0.0}


class Returns(gymnasium.Env):
    """Returns `obs` from its second step on; `kind` is its space."""

    action_space = Discrete(2)
    SPACES = {
        "line": Box(-1, 1, (3,), np.float64),
        "open": Box(-np.inf, np.inf, (3,), np.float64),
        "cells": Discrete(4),
        "dict": Dict(cell=Discrete(4), switches=MultiBinary(2)),
    }

    def __init__(self, kind: str, obs):
        self.observation_space, self.kind, self.later = self.SPACES[kind], kind, obs

    def obs(self, t: int):
        value = self.later if t > 1 else 0 if self.kind in ("cells", "dict") else [0.0] * 3
        if self.kind == "dict":
            return {"cell": value, "switches": np.array([0, 1], np.int8)}
        return value if self.kind == "cells" else np.array(value, self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.obs(0), {}

    def step(self, action):
        self.t += 1
        return self.obs(self.t), 0.0, False, False, {"true_reward": 0.0}


for cls in (Everything, From5, Odd, Unseeded, Returns):
    gymnasium.register(f"Test{cls.__name__}-v0", entry_point=cls, max_episode_steps=20)
gymnasium.register("TestEndless-v0", entry_point=From5)


def travelled(obs, action, next_obs, info):
    return float(np.abs(next_obs["position"] - obs["position"]).sum())


def twice(obs, action, next_obs, info):
    return np.array([2.0 * info["nested"]["true"]])


def a_word(obs, action, next_obs, info):
    return "well done"


def fails(obs, action, next_obs, info):
    raise ValueError("no such place\nnor another")


def doubles(obs):
    return np.full(1, 0.5)  # float64


def at_the_bound(obs):
    return np.full((1, 2), 0.3)


def stumbles(obs):
    raise ValueError("which way\nis up?")


def back_to_5(obs):
    return 5


def out_of_bounds(obs):
    return 99


def back_to_zero(obs, action, next_obs, info):
    return -abs(next_obs[2])
