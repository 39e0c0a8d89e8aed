"""The vehicles that want to enter the merge.

More come than fit, and SUMO looks at every vehicle that waits outside in each of its steps. So they wait here, and SUMO is
given the first in line of each route. To the digit it is what SUMO makes of its own flows (`vehsPerHour`) with the same seed:
names, times, order and speed factors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_BEGIN = 1000  # ms


@dataclass
class Flow:
    """Vehicles of one `type` that come to `route` at equal intervals, `per_hour` of them from 1 s on, with `speed` (m/s)."""

    name: str
    type: str
    route: str
    per_hour: float
    speed: float


class Inflow:
    """The flows of one episode.

    Args:
        flows: those that are due in the same step of SUMO come in this order.
        seed: SUMO's.
    """

    def __init__(self, flows: list[Flow], seed: int):
        self._flows, self._factors = flows, speed_factors(seed)
        self._period = [round(3.6e6 / flow.per_hour) for flow in flows]  # SUMO's time is in whole ms
        self._due, self._come = [_BEGIN] * len(flows), [0] * len(flows)
        self._lines: dict[str, deque[tuple[str, int, Flow, float]]] = {flow.route: deque() for flow in flows}
        self._first: dict[str, tuple[str, int]] = {}
        self._entered = 0

    @property
    def waiting(self) -> int:
        """Vehicles that are due and have not entered."""
        return sum(self._come) - self._entered

    def offer(self, now: int, sumo: Any) -> None:
        """Before SUMO's step at `now` (ms): who is due gets in line, and `sumo` (its functions for vehicles) the first of each line."""
        for i, flow in enumerate(self._flows):
            while self._due[i] <= now:
                vehicle = f"{flow.name}.{self._come[i]}", sum(self._come), flow, next(self._factors)
                self._lines[flow.route].append(vehicle)
                self._due[i] += self._period[i]
                self._come[i] += 1
        for route, line in self._lines.items():
            if line and route not in self._first:
                name, turn, flow, factor = line.popleft()
                sumo.add(name, route, typeID=flow.type, departLane="0", departSpeed=repr(flow.speed))
                sumo.setSpeedFactor(name, factor)
                self._first[route] = name, turn

    def entered(self, names: tuple[str, ...]) -> list[str]:
        """After the step: who has entered, now in the order in which they got in line, others than the flows' first."""
        turns = {}
        for route, (name, turn) in list(self._first.items()):
            if name in names:
                turns[name] = turn
                del self._first[route]
        self._entered += len(turns)
        return sorted(names, key=lambda name: turns.get(name, -1))


def speed_factors(seed: int) -> Iterator[float]:
    """What SUMO draws as speed factors of its flows' vehicles for a type with `speedDev="0.1"`: normal(1, 0.1) within 0.2 and 2
    by the polar method on a Mersenne Twister, to four digits."""
    random = np.random.RandomState(seed)
    while True:
        u, v = random.randint(0, 2**32, (512, 2), np.uint32).T / 2**31 - 1
        q = u * u + v * v
        inside = (q > 0) & (q < 1)
        factors = 1 + 0.1 * u[inside] * np.sqrt(-2 * np.log(q[inside]) / q[inside])
        yield from np.round(factors[(factors >= 0.2) & (factors <= 2)], 4).tolist()
