"""Mountain car with a shaped proxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhtool.envs.base import Env
from rhtool.schema import choice

if TYPE_CHECKING:
    from rhtool.envs.mountain_car.env import MountainCarVectorEnv


@dataclass
class MountainCar(Env):
    """Swing a weak car up a hill, where it stays; the proxy is shaped, which changes no optimal policy."""

    shaping: str = choice("dense", "antidense", "random", "none")
    """the proxy's potential: 100 times the position, minus that, waves over position and velocity, or none"""
    shaping_gamma: float = 0.99
    """the discount for which the shaping changes no optimal policy"""
    shaping_seed: int = 0
    """of a random potential"""
    controller_noise: float = 0.1
    """share of the controller's actions that are random"""

    def vector_class(self) -> type[MountainCarVectorEnv]:
        """The arrays."""
        from rhtool.envs.mountain_car.env import MountainCarVectorEnv

        return MountainCarVectorEnv
