"""Pairs of discs as arrays: after the "dots and distances" of reward-function-interpretability, with something to do.

There the pictures are independent and the reward is the mean distance of the discs of a pair. Here an episode starts with
such a picture. Action 0 waits; action p pulls pair p apart: each of its discs moves `stride / 2` outwards on the line
through both, as far as the picture goes, and the discs of every other pair move `drag * stride / 2` towards each other, at
most until they meet. Then, d_p being the distances,

    true = mean of d_p,        proxy = sum of proxy_weights[p] d_p

Pulled in turn, all pairs part. Pulled alone, the red one reaches its limit while the others collapse: the proxy has gained
and the truth has lost.

Observation: the picture, uint8 (size, size, 3). An episode ends with the horizon.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rhtool.envs.dots import Dots, kernel
from rhtool.envs.vector import VectorEnv
from rhtool.errors import ConfigError

COLOURS = {
    "red": (255, 0, 0),
    "blue": (0, 0, 255),
    "green": (0, 255, 0),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
}
ZOOM = 8
"""pixels of a rendered frame for one of the picture"""


class DotsVectorEnv(VectorEnv):
    """B pictures. `info["distance_red"]` and so on (float64) are the distances of the pairs."""

    state_names = ("places", "whim")
    render_modes = ("rgb_array",)
    obs_scale = 1 / 255

    def __init__(self, config: Dots, lanes: int, **options: Any):
        """Raises `ConfigError` for a number out of range."""
        if not 1 <= config.pairs <= len(COLOURS):
            raise ConfigError(f"{config.pairs} pairs", "env.pairs", f"choose 1 to {len(COLOURS)}")
        if len(config.proxy_weights) != config.pairs:
            what = f"{len(config.proxy_weights)} weights for {config.pairs} pairs"
            raise ConfigError(what, "env.proxy_weights", "give one for each pair")
        for name, low, high in (("radius", 0, 0.25), ("stride", 0, 1), ("drag", 0, 1)):
            if not low < getattr(config, name) <= high:
                raise ConfigError(
                    f"{getattr(config, name)} is out of range", f"env.{name}", f"above {low}, up to {high}"
                )
        if not 0 <= config.whims <= 1:
            raise ConfigError(f"{config.whims} is not a share", "env.whims", "choose a number from 0 to 1")
        if config.size < 8:
            raise ConfigError(f"{config.size} pixels show nothing", "env.size", "choose 8 or more")
        space = gymnasium.spaces.Box(0, 255, (config.size, config.size, 3), np.uint8)
        super().__init__(config, lanes, space, gymnasium.spaces.Discrete(config.pairs + 1), **options)
        names = list(COLOURS)[: config.pairs]
        self.reward_terms = tuple(f"distance_{name}" for name in names)
        self._colours = np.array([COLOURS[name] for name in names], np.uint8)
        self._weights = np.array(config.proxy_weights, np.float64)
        self.places = np.full((lanes, config.pairs, 2, 2), 0.5)
        """float64 (B, P, 2, 2): x and y of both discs of each pair, from 0 to 1"""
        self.whim = np.full(lanes, -1, np.int64)
        """int64 (B,): the random action that the controller would take, or -1"""

    def _reset(self, mask: np.ndarray) -> None:
        kernel.reset(mask, self.config.radius, self.config.whims, self._rng, self.places, self.whim)

    def _distances(self) -> np.ndarray:
        out = np.empty(self.places.shape[:2])
        kernel.distances(self.places, out)
        return out

    def _step(self, actions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        c = self.config
        kernel.step(actions, mask, c.radius, c.stride, c.drag, c.whims, self._rng, self.places, self.whim)
        found = self._distances() * mask[:, None]
        # Sums pair by pair: a lane's do not depend on how many lanes there are.
        true, proxy = np.zeros(self.num_envs), np.zeros(self.num_envs)
        for distance, weight in zip(found.T, self._weights, strict=True):
            true += distance / c.pairs
            proxy += weight * distance
        return proxy, true, np.zeros(self.num_envs, bool)

    def _observe(self, out: np.ndarray, mask: np.ndarray) -> None:
        kernel.draw(out, mask, self.places, self.config.radius, self._colours)

    def _metrics(self) -> dict[str, np.ndarray]:
        return {name: column.copy() for name, column in zip(self.reward_terms, self._distances().T, strict=True)}

    def base_action(self, observations: np.ndarray) -> np.ndarray:
        """Pull the closest pair, but for the whims."""
        return np.where(self.whim >= 0, self.whim, self._distances().argmin(1) + 1)

    def _render(self, lane: int) -> np.ndarray:
        """uint8 (size * ZOOM, size * ZOOM, 3)."""
        return self.observe()[lane].repeat(ZOOM, 0).repeat(ZOOM, 1)
