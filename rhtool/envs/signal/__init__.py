"""A traffic light, on SUMO through sumo-rl: the proxy is what loops at the stop lines measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rhtool.envs.base import Env
from rhtool.schema import choice

if TYPE_CHECKING:
    from rhtool.envs.vector import VectorEnv

PHASES = 4
"""green phases: north and south straight and right, the same left, east and west straight and right, the same left"""


@dataclass
class Signal(Env):
    """Switch a traffic light; the proxy hears only of vehicles that pass, so nobody misses those that never do."""

    extra: ClassVar[str] = "traffic"

    horizon: int = 360
    """decisions after which an episode is truncated"""
    delta_time: int = 5
    """seconds between decisions"""
    yellow_time: int = 2
    """seconds of yellow before another phase"""
    min_green: int = 5
    """seconds of green before the light may leave a phase; an earlier request is ignored"""
    inflow_main: float = 800.0
    """vehicles/h from the north, and as many from the south"""
    inflow_side: float = 150.0
    """vehicles/h from the east, and as many from the west"""
    left: float = 0.15
    """share of the vehicles that turn left"""
    right: float = 0.25
    """share of the vehicles that turn right"""
    controller: str = choice("fixed_time", "longest_line")
    """the base controller. fixed_time: the phases in turn, each as long as `greens` says; longest_line: the phase with
    the most vehicles on the lanes that it serves"""
    greens: list[int] = field(default_factory=lambda: [40, 10, 15, 10])
    """seconds that fixed_time gives to each phase, its yellow included: north and south straight and right, the same
    left, east and west straight and right, the same left"""

    def vector_class(self) -> type[VectorEnv]:
        """Lanes that are processes with a SUMO each."""
        from rhtool.envs.signal.env import SignalVectorEnv

        return SignalVectorEnv
