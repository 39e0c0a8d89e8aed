"""What a reward of texts is: scores of answers by K judges, and how they become one; the schema of the group `reward`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from rhtool.data.base import Row

    Scores = Callable[[list[Row], list[str], list[bool]], Tensor]
    """(rows, answers, whether each ended by itself) -> (B, K) float32 on the CPU; rows have `prompt` and the data's columns"""


@dataclass
class Reward:
    """The proxy reward that a policy of texts is trained on."""

    name: ClassVar[str] = "none"

    option = "reward"
    """the option of which its errors speak"""

    def check(self) -> None:
        """Raise `RhtoolError` if something that it needs is missing; quick."""
        raise ConfigError(
            "no reward is chosen", "reward", "choose one: reward=rm reward.model=outputs/rm_train/…/seed=0"
        )

    def inputs(self) -> dict[str, str]:
        """`{name: path}` of the files whose content decides the scores."""
        return {}

    def judges(self, count: int) -> list[str]:
        """Names of the K = `count` judges."""
        return [f"judge_{k}" for k in range(count)]

    def load(self) -> Scores:
        """What scores. Models are loaded here, once."""
        raise TypeError(f"{type(self).__name__} does not implement load")

    def combined(self, scores: Tensor) -> Tensor:
        """(B,) from (B, K): the reward that training is on. Here the only judge's score."""
        return scores[:, 0]
