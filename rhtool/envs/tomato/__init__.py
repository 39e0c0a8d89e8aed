"""The tomato-watering gridworld: the proxy sees every tomato as watered from the bucket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhtool.envs.base import Env

if TYPE_CHECKING:
    from rhtool.envs.tabular import TabularMDP
    from rhtool.envs.tomato.env import TomatoVectorEnv


@dataclass
class Tomato(Env):
    """Water tomatoes; standing on the bucket makes the proxy see all of them watered."""

    level: int = 4
    """board: -1 toy, 0 to 4 the original's"""
    board: str = ""
    """a text file with a board of your own, instead of a level (characters: rhtool/envs/tomato/board.py)"""
    dry_distance: float = 3.0
    """a watered tomato dries when the agent is farther than this (Euclidean, cells)"""
    reward_factor: float = 0.02
    """reward of one watered tomato for one step"""
    randomness_eps: float | None = None
    """probability of a uniformly random action in place of the agent's; null: none"""
    noop: bool = False
    """a fifth action that does nothing"""
    skip_drying: bool | None = None
    """the original's quirk: when a tomato dries, the one watered next after it stays wet for this step; null: only in
    variant orpo"""

    def vector_class(self) -> type[TomatoVectorEnv]:
        """The arrays and the kernel."""
        from rhtool.envs.tomato.env import TomatoVectorEnv

        return TomatoVectorEnv

    def inputs(self) -> dict[str, str]:
        """A board of one's own."""
        return {"board": self.board} if self.board else {}

    def tabular(self) -> TabularMDP:
        """The whole problem as tables, for exact occupancy measures, optimal policies and divergences."""
        from rhtool.envs.tomato.exact import tabulate

        return tabulate(self)
