"""The maze as tables (after the ones of Jenner and Gleave, "Preprocessing Reward Functions for Interpretability", arXiv
2203.13553).

State `k n^2 + i n + j` is cell (i, j), k = 1 once the key was fetched. Reward of a step from s to s':

    true   1 on the goal (with the key, where there is one);
           else, with reward=path, -0.4 off the staircase (i, i), (i + 1, i), and 0 otherwise
    proxy  true + gamma P(s') - P(s)

P is zero, minus the Manhattan distance that is left (by way of the key), plus it, or uniform on [-1, 1]. That is shaping
as Ng, Harada and Russell have it (1999), exactly and in every row: optimal policies are those of the true reward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhtool.envs.maze import Maze
from rhtool.errors import ConfigError

MOVES = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))
"""(i, j) of the actions stay, left, up, right, down"""
ACTIONS = ("stay", "left", "up", "right", "down")
OFF_PATH = -0.4


@dataclass(frozen=True)
class Tables:
    """A maze of S states."""

    moves: np.ndarray
    """int64 (S, 5): the state to which each action leads"""
    true: np.ndarray
    """float64 (S, S): reward of a step from s to s'"""
    potential: np.ndarray
    """float64 (S,): P"""
    proxy: np.ndarray
    """float64 (S, S)"""
    start: np.ndarray
    """float64 (S,): distribution of the first state"""
    expert: np.ndarray
    """int64 (S,): an optimal policy for the true reward, discounted by `shaping_gamma`; ties go to the first action"""


def build(config: Maze) -> Tables:
    """The tables. Raises `ConfigError` for a maze that cannot be made."""
    n, layers = config.size, 1 + config.key
    if n < 3:
        raise ConfigError(f"{n} cells are no maze", "env.size", "choose 3 or more")
    if not 0 <= config.shaping_gamma < 1:
        raise ConfigError(f"{config.shaping_gamma} is not a discount", "env.shaping_gamma", "choose 0 or more, below 1")
    cells = np.stack(np.divmod(np.arange(n * n), n), axis=1)
    goal, key, corner = (n - 2) * n + n - 2, n + 1, (n - 2) * n + 1
    moves = np.empty((layers, n * n, len(MOVES)), np.int64)
    for a, move in enumerate(MOVES):
        to = cells + move
        inside = ((to >= 0) & (to < n)).all(axis=1)
        moves[:, :, a] = np.where(inside, to[:, 0] * n + to[:, 1], np.arange(n * n))
    if config.key:
        moves[1] += n * n
        moves[0][moves[0] == key] += n * n
    moves = moves.reshape(layers * n * n, len(MOVES))

    true = np.zeros(layers * n * n)
    if config.reward == "path":
        ahead = cells[:, 0] - cells[:, 1]
        true[:] = np.tile(np.where((ahead == 0) | (ahead == 1), 0.0, OFF_PATH), layers)
    true[(layers - 1) * n * n + goal] = 1.0
    true = np.repeat(true[:, None], len(true), axis=1)

    left = np.abs(cells - cells[goal]).sum(axis=1)
    if config.key:
        fetch = np.abs(cells - cells[key]).sum(axis=1) + left[key]
        left = np.concatenate([fetch, left])
    potential = {
        "none": lambda: np.zeros(len(true)),
        "dense": lambda: -left.astype(np.float64),
        "antidense": lambda: left.astype(np.float64),
        "random": lambda: np.random.default_rng(config.shaping_seed).uniform(-1, 1, len(true)),
    }[config.shaping]()
    proxy = true + config.shaping_gamma * potential[None, :] - potential[:, None]

    start = np.zeros(len(true))
    if config.random_start:
        start[: n * n] = 1.0
        start[[goal, key] if config.key else [goal]] = 0.0
    else:
        start[corner] = 1.0
    return Tables(moves, true, potential, proxy, start / start.sum(), _expert(moves, true[:, 0], config.shaping_gamma))


def _expert(moves: np.ndarray, reward: np.ndarray, gamma: float) -> np.ndarray:
    """By value iteration, for a reward (S,) of the state that is left."""
    value = np.zeros(len(reward))
    while True:
        q = reward[:, None] + gamma * value[moves]
        best = q.max(axis=1)
        if np.abs(best - value).max() < 1e-9:
            # Rounding: equal to nine digits is equal.
            return (q > best[:, None] - 1e-6).argmax(axis=1)
        value = best
