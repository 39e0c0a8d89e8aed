"""Mountain car as arrays: the dynamics of gymnasium's `MountainCar-v0`, with a goal that is absorbing.

    true  = -1, or 0 once the position is 0.5 or more
    proxy = true + gamma P(s') - P(s)

P is 0, 100 x, -100 x, or 100 sin(a x + b) sin(c v + d) with a, b uniform on [-2, 0) and c, d on [-pi, pi), x the position
and v the velocity: the subjects of Jenner and Gleave, arXiv 2203.13553. The shaping is exact (Ng, Harada and Russell
1999), so its optimal policies are those of the true reward.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from numba import njit

from rhtool.envs.mountain_car import MountainCar
from rhtool.envs.rng import integers, uniform
from rhtool.envs.vector import VectorEnv
from rhtool.errors import ConfigError

LEFT, RIGHT, GOAL, FASTEST = -1.2, 0.6, 0.5, 0.07
FORCE, GRAVITY = 0.001, 0.0025


class MountainCarVectorEnv(VectorEnv):
    """B cars. Observations: position and velocity, float32 (2,). Actions: push left, not at all, right.

    `info["arrived"]`, float64 (B,): 0 or 1.
    """

    state_names = ("position", "velocity", "due")
    render_modes = ("rgb_array",)
    action_names = ("left", "none", "right")
    obs_names = ("position", "velocity")
    obs_offset = np.array([(LEFT + RIGHT) / 2, 0.0])
    obs_scale = np.array([2 / (RIGHT - LEFT), 1 / FASTEST])

    def __init__(self, config: MountainCar, lanes: int, **options: Any):
        """Raises `ConfigError` for numbers out of range."""
        if not 0 <= config.shaping_gamma < 1:
            mend = "choose 0 or more, below 1"
            raise ConfigError(f"{config.shaping_gamma} is not a discount", "env.shaping_gamma", mend)
        if not 0 <= config.controller_noise <= 1:
            mend = "choose a number from 0 to 1"
            raise ConfigError(f"{config.controller_noise} is not a share", "env.controller_noise", mend)
        low, high = np.float32([LEFT, -FASTEST]), np.float32([RIGHT, FASTEST])
        super().__init__(config, lanes, gymnasium.spaces.Box(low, high), gymnasium.spaces.Discrete(3), **options)
        rng = np.random.default_rng(config.shaping_seed)
        self._waves = np.concatenate([rng.uniform(-2, 0, 2), rng.uniform(-math.pi, math.pi, 2)])
        self.position = np.zeros(lanes)
        """float64 (B,)"""
        self.velocity = np.zeros(lanes)
        """float64 (B,), per step"""
        self.due = np.zeros(lanes, np.int64)
        """int64 (B,): the controller's next action"""

    def potential(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """P, float64 (B,)."""
        a, b, c, d = self._waves
        return {
            "none": lambda: np.zeros_like(position),
            "dense": lambda: 100 * position,
            "antidense": lambda: -100 * position,
            "random": lambda: 100 * np.sin(a * position + b) * np.sin(c * velocity + d),
        }[self.config.shaping]()

    def _reset(self, mask: np.ndarray) -> None:
        _begin(mask, self._rng, self.position, self.velocity)
        self._plan(mask)

    def _step(self, actions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, v = self.position, self.velocity
        moves = mask & (x < GOAL)
        faster = np.clip(v + (actions - 1) * FORCE - np.cos(3 * x) * GRAVITY, -FASTEST, FASTEST)
        there = np.clip(x + faster, LEFT, RIGHT)
        faster = np.where((there == LEFT) & (faster < 0), 0.0, faster)
        self.position, self.velocity = np.where(moves, there, x), np.where(moves, faster, v)
        true = np.where(self.position >= GOAL, 0.0, -1.0)
        after, before = self.potential(self.position, self.velocity), self.potential(x, v)
        proxy = true + self.config.shaping_gamma * after - before
        self._plan(mask)
        return np.where(mask, proxy, 0.0), np.where(mask, true, 0.0), np.zeros(self.num_envs, bool)

    def _plan(self, mask: np.ndarray) -> None:
        _choose(mask, self._rng, self.config.controller_noise, self.velocity, self.due)

    def _observe(self, out: np.ndarray, mask: np.ndarray) -> None:
        out[mask] = np.stack([self.position, self.velocity], axis=1)[mask]

    def _metrics(self) -> dict[str, np.ndarray]:
        return {"arrived": (self.position >= GOAL).astype(np.float64)}

    def base_action(self, observations: np.ndarray) -> np.ndarray:
        """A push in the direction in which the car rolls, or a random one, with probability `controller_noise`."""
        return self.due.copy()

    def _render(self, lane: int) -> np.ndarray:
        """Hill, flag and car, uint8 (160, 240, 3)."""
        height, width = 160, 240
        y, x = np.mgrid[height:0:-1, 0:width]
        place = LEFT + (RIGHT - LEFT) * x / (width - 1)
        picture = np.full((height, width, 3), (246, 246, 246), np.uint8)
        picture[y < 30 + 100 * (np.sin(3 * place) * 0.45 + 0.45)] = (170, 190, 150)
        flag = 30 + 100 * (math.sin(3 * GOAL) * 0.45 + 0.45)
        picture[(np.abs(place - GOAL) < 0.008) & (y > flag) & (y < flag + 26)] = (213, 94, 0)
        here = float(self.position[lane])
        up = 36 + 100 * (math.sin(3 * here) * 0.45 + 0.45)
        column = (here - LEFT) / (RIGHT - LEFT) * (width - 1)
        picture[(x - column) ** 2 + (y - up) ** 2 < 49] = (0, 114, 178)
        return picture


@njit(cache=True)
def _begin(mask, rng, position, velocity):
    for i in range(len(position)):
        if mask[i]:
            position[i] = -0.6 + 0.2 * uniform(rng[i])
            velocity[i] = 0.0


@njit(cache=True)
def _choose(mask, rng, noise, velocity, due):
    for i in range(len(due)):
        if mask[i]:
            due[i] = 2 if velocity[i] >= 0.0 else 0
            if uniform(rng[i]) < noise:
                due[i] = integers(rng[i], 3)
