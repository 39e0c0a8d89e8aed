"""An empty maze: the proxy is the true reward, shaped by a potential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhtool.envs.base import Env
from rhtool.schema import choice

if TYPE_CHECKING:
    from rhtool.envs.maze.env import MazeVectorEnv
    from rhtool.envs.tabular import TabularMDP


@dataclass
class Maze(Env):
    """Walk to the goal, of a grid without walls, and stay there; the proxy is shaped, which changes no optimal policy."""

    size: int = 10
    """cells along a side"""
    key: bool = False
    """the goal pays only after the key was fetched"""
    reward: str = choice("goal", "path")
    """goal: 1 on the goal, else 0; path: besides, -0.4 off a staircase along the diagonal"""
    shaping: str = choice("dense", "antidense", "random", "none")
    """the proxy's potential: minus the distance to the goal, plus the distance, random numbers, or none"""
    shaping_gamma: float = 0.99
    """the discount for which the shaping changes no optimal policy"""
    shaping_seed: int = 0
    """of a random potential"""
    random_start: bool = True
    """episodes start anywhere but on goal and key; false: at (size - 2, 1)"""
    controller_noise: float = 0.1
    """share of the controller's actions that are random"""

    def vector_class(self) -> type[MazeVectorEnv]:
        """The arrays."""
        from rhtool.envs.maze.env import MazeVectorEnv

        return MazeVectorEnv

    def tabular(self) -> TabularMDP:
        """The whole problem as tables."""
        from rhtool.envs.maze.env import tabulate

        return tabulate(self)
