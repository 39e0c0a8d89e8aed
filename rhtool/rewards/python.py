"""`reward=python`: a function of your own."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.errors import ConfigError
from rhtool.rewards.base import Reward
from rhtool.schema import see_working_directory

if TYPE_CHECKING:
    from torch import Tensor

    from rhtool.data.base import Row
    from rhtool.rewards.base import Scores


@dataclass
class Python(Reward):
    """A function of your own: (prompts, completions, columns) -> a score for each, or a list of scores."""

    name: ClassVar[str] = "python"

    function: str = ""
    """module:function. It is given the prompts (lists of messages), the answers (strings) and `{column: values}` of the
    data's other columns, and returns B numbers, or B lists of K of them, which are averaged"""
    options: dict[str, Any] = field(default_factory=dict)
    """further keyword arguments"""

    def check(self) -> None:
        """Is it there?"""
        self._function()

    def load(self) -> Scores:
        import torch

        function = self._function()

        def scores(rows: list[Row], answers: list[str], finished: list[bool]) -> Tensor:
            columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
            columns["finished"] = finished
            found = torch.as_tensor(
                function(columns.pop("prompt"), answers, columns, **self.options), dtype=torch.float32
            )
            found = found.unsqueeze(1) if found.ndim == 1 else found
            if found.ndim != 2 or len(found) != len(answers):
                said = f"it returned numbers of shape {tuple(found.shape)} for {len(answers)} answers"
                raise ConfigError(
                    said, f"{self.option}.function={self.function}", "return one number, or a list, for each answer"
                )
            return found

        return scores

    def combined(self, scores: Tensor) -> Tensor:
        return scores.mean(-1)

    def _function(self) -> Any:
        module, _, name = self.function.partition(":")
        if not (module and name):
            raise ConfigError(
                f"'{self.function}' names no function", f"{self.option}.function", "write module:function"
            )
        see_working_directory()
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            mend = "mend the name, or add the module's directory to PYTHONPATH"
            raise ConfigError(
                f"{type(error).__name__}: {error}", f"{self.option}.function={self.function}", mend
            ) from error
