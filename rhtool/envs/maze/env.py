"""The maze as arrays, and as a `TabularMDP`. What the numbers mean is said in `tables.py`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numba import njit
from scipy.sparse import csr_array

from rhtool.envs.maze import Maze
from rhtool.envs.maze.tables import ACTIONS, MOVES, build
from rhtool.envs.rng import integers, uniform
from rhtool.envs.tabular import TabularMDP
from rhtool.envs.vector import VectorEnv
from rhtool.errors import ConfigError

SIZE = 32
"""pixels of a cell's side"""


class MazeVectorEnv(VectorEnv):
    """B mazes, which never terminate. Observations: one-hot of the state, float32 (S,). Actions: stay, left, up, right, down.

    `info`, float64 (B,): `on_goal` and, where there is one, `has_key`, of the state reached.
    """

    state_names = ("place", "due")
    render_modes = ("ansi", "rgb_array")
    action_names = ACTIONS
    grid_moves = tuple((-j, i) for i, j in MOVES)

    def __init__(self, config: Maze, lanes: int, **options: Any):
        """Raises `ConfigError` for a maze that cannot be made."""
        if not 0 <= config.controller_noise <= 1:
            mend = "choose a number from 0 to 1"
            raise ConfigError(f"{config.controller_noise} is not a share", "env.controller_noise", mend)
        self.tables = build(config)
        states, n = len(self.tables.moves), config.size
        spaces = gymnasium.spaces.Box(0, 1, (states,), np.float32), gymnasium.spaces.Discrete(len(MOVES))
        super().__init__(config, lanes, *spaces, **options)
        with_key = (", no key", ", with key") if config.key else ("",)
        self.obs_names = tuple(f"at ({i}, {j}){k}" for k in with_key for i in range(n) for j in range(n))
        panel, cell = np.divmod(np.arange(states), n * n)
        self.grid = np.column_stack([panel, n - 1 - cell % n, cell // n])
        self.grid_marks = tuple((k * n * n + (n - 2) * n + n - 2, "G") for k in range(1 + config.key))
        if config.key:
            self.grid_marks += ((n + 1, "K"),)
        self.grid_panels = ("without the key", "with the key") if config.key else ("",)
        self._starts = np.flatnonzero(self.tables.start)
        self._goal = states - n * n + (n - 2) * n + n - 2
        self.place = np.zeros(lanes, np.int64)
        """int64 (B,): the state"""
        self.due = np.zeros(lanes, np.int64)
        """int64 (B,): the controller's next action"""

    def _reset(self, mask: np.ndarray) -> None:
        _begin(mask, self._rng, self._starts, self.place)
        self._plan(mask)

    def _step(self, actions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        before = self.place
        self.place = np.where(mask, self.tables.moves[before, actions], before)
        proxy, true = (
            np.where(mask, table[before, self.place], 0.0) for table in (self.tables.proxy, self.tables.true)
        )
        self._plan(mask)
        return proxy, true, np.zeros(self.num_envs, bool)

    def _plan(self, mask: np.ndarray) -> None:
        _choose(mask, self._rng, self.tables.expert, self.config.controller_noise, len(MOVES), self.place, self.due)

    def _observe(self, out: np.ndarray, mask: np.ndarray) -> None:
        out[mask] = 0.0
        out[np.flatnonzero(mask), self.place[mask]] = 1.0

    def _metrics(self) -> dict[str, np.ndarray]:
        metrics = {"on_goal": (self.place == self._goal).astype(np.float64)}
        if self.config.key:
            metrics["has_key"] = (self.place >= self.config.size**2).astype(np.float64)
        return metrics

    def base_action(self, observations: np.ndarray) -> np.ndarray:
        """An optimal action for the true reward, or a random one, with probability `controller_noise`."""
        return self.due.copy()

    def _render(self, lane: int) -> str | np.ndarray:
        """Right is +i and up is +j, so that the first row of a picture has the largest j."""
        n, (fetched, cell) = self.config.size, divmod(int(self.place[lane]), self.config.size**2)
        grid = np.full((n, n), ".")
        grid[n - 2, n - 2] = "G"
        if self.config.key and not fetched:
            grid[1, 1] = "K"
        grid[divmod(cell, n)] = "A"
        seen = grid.T[::-1]
        if self.render_mode == "ansi":
            return "\n".join("".join(row) for row in seen) + f"\nstep {int(self._elapsed[lane])}\n"
        colours = {".": (238, 238, 238), "G": (0, 158, 115), "K": (230, 159, 0), "A": (0, 114, 178)}
        picture = np.array([[colours[char] for char in row] for row in seen.tolist()], np.uint8)
        picture = picture.repeat(SIZE, axis=0).repeat(SIZE, axis=1)
        picture[::SIZE] = picture[:, ::SIZE] = 200
        return picture


def tabulate(config: Maze) -> TabularMDP:
    """Every state, those too that cannot be reached."""
    tables = build(config)
    states, actions = tables.moves.shape
    rows = np.arange(states * actions)
    transitions = csr_array((np.ones(len(rows)), (rows, tables.moves.ravel())), shape=(len(rows), states))
    proxy, true = (np.take_along_axis(table, tables.moves, axis=1) for table in (tables.proxy, tables.true))
    observations = np.eye(states, dtype=np.float32)
    arrival = {"proxy": config.shaping_gamma * tables.potential}
    if config.reward_model:
        from rhtool.envs.learned import proxy_of

        env = MazeVectorEnv(config, 1)
        model = proxy_of(config, env.single_observation_space, env.single_action_space)
        proxy, arrival = np.stack([model(observations, np.full(states, a)) for a in range(actions)], axis=1), {}
    return TabularMDP(observations, transitions, proxy, true, tables.start, config.horizon, arrival)


@njit(cache=True)
def _begin(mask, rng, starts, place):
    for i in range(len(place)):
        if mask[i]:
            place[i] = starts[integers(rng[i], len(starts))]


@njit(cache=True)
def _choose(mask, rng, expert, noise, actions, place, due):
    for i in range(len(place)):
        if mask[i]:
            due[i] = expert[place[i]]
            if uniform(rng[i]) < noise:
                due[i] = integers(rng[i], actions)
