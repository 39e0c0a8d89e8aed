"""A task for the tests, registered as a user's own is: RHTOOL_PLUGINS=counter, --config-dir tests/plugin/conf."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rhtool.errors import RhtoolError
from rhtool.run import Run
from rhtool.schema import choice, incidental
from rhtool.tasks.base import Task


class Walk:
    """A random walk: its state is an array, a total and a random number generator."""

    def __init__(self, seed: int):
        self.rng, self.position, self.total = np.random.default_rng(seed), np.zeros(3), 0.0

    def step(self) -> None:
        self.position += self.rng.normal(size=3)
        self.total += float(np.abs(self.position).sum())

    def get_state(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state, "position": self.position, "total": self.total}

    def set_state(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.position, self.total = state["position"], state["total"]


@dataclass
class Counter(Task):
    """Walk at random.

    More about walking.
    """

    iterations: int = 30
    """steps of the walk"""
    step_seconds: float = incidental(0.0)
    """how long a step takes"""
    check_seconds: float = incidental(0.0)
    """how long the check takes"""
    before_seconds: float = incidental(0.0)
    """how long it takes to begin: imports, simulators"""
    after_seconds: float = incidental(0.0)
    """how long it takes to end: an evaluation"""
    lr: float = 1e-3
    """unused"""
    mode: str = choice("fast", "slow")
    fail_at: int = -1
    """iteration that raises"""
    needs: str = ""
    """a file that must be there"""

    uses: ClassVar[tuple[str, ...]] = ("env", "divergence")

    def check(self, run: Run) -> None:
        time.sleep(self.check_seconds)
        if self.needs and not Path(self.needs).exists():
            raise RhtoolError(f"there is no {self.needs}", "task.needs", f"touch {self.needs}")

    def inputs(self, run: Run) -> dict[str, str]:
        return {"needs": self.needs} if self.needs else {}

    def run(self, run: Run) -> dict[str, float]:
        time.sleep(self.before_seconds)
        walk = Walk(run.seed)
        for iteration in run.loop(walk, self.iterations):
            if iteration == self.fail_at and not os.environ.get("COUNTER_MENDED"):
                raise ValueError("the walk hit a wall")
            walk.step()
            time.sleep(self.step_seconds)
            extra = {"late/key": walk.total} if iteration >= 10 else {}
            run.log({"true/return": walk.total, "proxy/return": walk.position[0], "steps": iteration + 1, **extra})
        time.sleep(self.after_seconds)
        return {"true/return": walk.total, "proxy/return": float("nan")}


@dataclass
class EnvOnly(Counter):
    """Walk at random in an environment, unregularised."""

    uses: ClassVar[tuple[str, ...]] = ("env",)
