"""`feedback=toy`: the program of the toy data, with the noise and the bias that readers have."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.feedback.base import Comparison, Feedback, Judge, Opinion


@dataclass
class Toy(Feedback):
    """What the data's own program says of a principle, for data that have one (data=toy).

    log-odds of A over B = rationality (s(A) - s(B)) + position_bias + noise x (a standard logistic variable)

    With noise 1 the letter is that of Bradley and Terry: A with probability sigmoid(rationality (s(A) - s(B)) + position_bias).
    """

    name: ClassVar[str] = "toy"

    rationality: float = 6.0
    """log-odds of a point's difference"""
    position_bias: float = 0.3
    """log-odds of A over B between equal answers"""
    noise: float = 1.0
    """scale of the logistic noise; 0: none"""
    seed: int = 0
    """of the noise; the same comparison always gets the same"""

    def check(self, data: Any) -> None:
        """Have the data a program, and is the noise not negative?"""
        if not data.programs():
            raise RhtoolError("these data have no program that knows principles", "feedback=toy", "use data=toy")
        if self.noise < 0:
            raise ConfigError(f"{self.noise} is below 0", "feedback.noise", "give 0 or more")

    def load(self, data: Any, cache: Path) -> Judge:
        """The program. Raises `ConfigError` for a principle that it does not know."""
        programs = data.programs()

        def opinion(one: Comparison) -> Opinion:
            if one.principle not in programs:
                said = f"the data's program does not know the principle '{one.principle}'"
                raise ConfigError(said, "task.principles", nearest(one.principle, programs))
            score = programs[one.principle]
            odds = self.rationality * (score(one.row, one.a) - score(one.row, one.b)) + self.position_bias
            odds += self.noise * self._logistic(one)
            return _log_sigmoid(odds), _log_sigmoid(-odds)

        def judge(comparisons: Iterable[Comparison]) -> Iterator[Opinion]:
            return map(opinion, comparisons)

        return judge

    def reliability(self, data: Any, comparison: Comparison) -> float:
        """Of Bradley and Terry's letter, the mean over both orders."""
        score = data.programs()[comparison.principle]
        gap = self.rationality * (score(comparison.row, comparison.a) - score(comparison.row, comparison.b))
        first = [_above(gap + bias, self.noise) for bias in (self.position_bias, -self.position_bias)]
        p = sum(first) / 2
        return max(p, 1 - p)

    def _logistic(self, one: Comparison) -> float:
        text = repr((self.seed, one.principle, one.row["prompt"], one.a, one.b))
        u = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") + 0.5) / 2**56
        return math.log(u / (1 - u))


def _log_sigmoid(x: float) -> float:
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


def _above(odds: float, noise: float) -> float:
    """P(odds + noise x (a standard logistic variable) > 0)."""
    if noise == 0:
        return (1 + (odds > 0) - (odds < 0)) / 2
    return (1 + math.tanh(odds / noise / 2)) / 2
