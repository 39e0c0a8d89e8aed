"""Environments that are programs of their own: one simulation at a time, stepped by somebody else's code.

SUMO, sumo-rl and any registered gymnasium environment come as a `Program`; `ProgramVectorEnv` makes B of them a
`VectorEnv`, in this process or each in a process of its own.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Program(Protocol):
    """One simulation. Everything it does after `reset(seed)` is decided by `seed` and the actions that follow: a
    snapshot is the two, and restoring one replays them."""

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode; `seed` is 0 to 2^31 - 1. Returns the first observation."""
        ...

    def step(self, action: Any) -> tuple[np.ndarray, float, float, bool, dict[str, float]]:
        """One step with a checked action: observation, proxy reward, true reward, terminated, metrics. The metrics'
        names never change. Truncation at the horizon is the caller's."""
        ...

    def base_action(self) -> np.ndarray | None:
        """The hand-written controller's action in the present state; None where there is none. A pure question."""
        ...

    def render(self, mode: str) -> Any:
        """A frame of the present state."""
        ...

    def close(self) -> None:
        """Free what it holds; called once, also after an error."""
        ...
