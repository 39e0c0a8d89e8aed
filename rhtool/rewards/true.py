"""A true reward for data that have no program of their own: a reward model (the papers' gold models), or a function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import Trained
from rhtool.rewards.base import Reward
from rhtool.rewards.python import Python
from rhtool.rewards.rm import Rm
from rhtool.schema import choice, incidental

if TYPE_CHECKING:
    from rhtool.data.base import Row

WHERE = "data.true_by"


@dataclass
class TrueReward:
    """Who gives the true reward, if the data do not."""

    model: str = ""
    """a reward model: a run of task=rm_train, a directory with config.json, or a name on the hub"""
    function: str = ""
    """module:function, as of reward=python, in the place of a model"""
    options: dict[str, Any] = field(default_factory=dict)
    """further keyword arguments of the function"""
    template: str = ""
    """how the model sees conversations, as model.template; empty: its tokenizer's own chat template"""
    dtype: str = choice("float32", "bfloat16", "float16")
    """of the model's weights"""
    max_length: int = 2048
    """tokens of a prompt with its answer that the model sees; a longer prompt loses its beginning"""
    batch: int = incidental(8)
    """texts of a forward pass"""

    def check(self) -> None:
        """Raise `RhtoolError` if the model or the function is not there."""
        if self.model and self.function:
            raise ConfigError("the true reward is a model's or a function's", WHERE, "leave out one of the two")
        if made := self._reward():
            made.check()

    def inputs(self) -> dict[str, str]:
        """The model, if it is a directory."""
        path = Trained(self.model).directory
        return {"true_reward_model": str(path)} if self.model and path.is_dir() else {}

    def load(self) -> Callable[[list[Row], list[str]], list[float]] | None:
        """(rows, answers) -> the true reward of each; None if none was named. A model is loaded when it is first asked, and told
        that every answer ended by itself. Raises `RhtoolError` for a reward that is not finite."""
        if not (made := self._reward()):
            return None
        loaded: list[Any] = []

        def true(rows: list[Row], answers: list[str]) -> list[float]:
            if not loaded:
                loaded.append(made.load())
            found = made.combined(loaded[0](rows, answers, [True] * len(answers))).tolist()
            for row, answer, x in zip(rows, answers, found, strict=True):
                if not math.isfinite(x):
                    said = (
                        f"the true reward of the answer {answer[:80]!r} to {row['prompt'][-1]['content'][:80]!r} is {x}"
                    )
                    raise RhtoolError(said, f"{WHERE}: {self.model or self.function}", "mend what gives it")
            return found

        return true

    def _reward(self) -> Reward | None:
        """As a reward, whose errors speak of this option."""
        if not (self.model or self.function):
            return None
        if self.function:
            made: Reward = Python(function=self.function, options=dict(self.options))
        else:
            about = {"template": self.template, "dtype": self.dtype, "max_length": self.max_length, "batch": self.batch}
            made = Rm(model=self.model, **about)
        made.option = WHERE
        return made
