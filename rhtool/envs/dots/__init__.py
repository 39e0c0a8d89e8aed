"""Pairs of discs in a picture: what counts is how far apart the pairs are, and the proxy looks at the red ones nearly alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rhtool.envs.base import Env

if TYPE_CHECKING:
    from rhtool.envs.dots.env import DotsVectorEnv


@dataclass
class Dots(Env):
    """Pull pairs of discs in a picture apart: the true reward is their mean distance, the proxy that of the red ones nearly alone."""

    horizon: int = 50
    size: int = 32
    """pixels of a side of the picture"""
    pairs: int = 3
    """pairs of discs, at most five: red, blue, green, yellow, cyan"""
    radius: float = 0.05
    """of a disc; the picture's side is 1"""
    stride: float = 0.04
    """by how much further apart a pair is that was pulled"""
    drag: float = 0.4
    """by how much of it each other pair comes closer together"""
    proxy_weights: list[float] = field(default_factory=lambda: [0.8, 0.1, 0.1])
    """of the pairs' distances in the proxy; the true reward's are equal and sum to one"""
    whims: float = 0.3
    """share of the controller's actions that are uniformly random; else it pulls the closest pair"""

    def vector_class(self) -> type[DotsVectorEnv]:
        """The arrays and the kernels."""
        from rhtool.envs.dots.env import DotsVectorEnv

        return DotsVectorEnv
