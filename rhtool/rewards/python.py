"""`reward=python`: a function of your own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
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
        function = self._function()
        where = f"{self.option}.function={self.function}"
        return lambda rows, answers, finished: called(function, where, rows, answers, finished, **self.options)

    def combined(self, scores: Tensor) -> Tensor:
        return scores.mean(-1)

    def _function(self) -> Callable[..., Any]:
        return function_at(self.function, f"{self.option}.function")


def function_at(named: str, field: str) -> Callable[..., Any]:
    """The function that `module:function` names. Raises `ConfigError` if there is none; `field` says who names it."""
    module, _, name = named.partition(":")
    if not (module and name):
        raise ConfigError(f"'{named}' names no function", field, "write module:function")
    see_working_directory()
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        mend = "mend the name, or add the module's directory to PYTHONPATH"
        raise ConfigError(f"{type(error).__name__}: {error}", f"{field}={named}", mend) from error


def called(
    function: Callable[..., Any], where: str, rows: list[Row], answers: list[str], finished: list[bool], **options: Any
) -> Tensor:
    """(B, K) float32: what a function of the user's gives for B answers. Raises `ConfigError` for another shape."""
    import torch

    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    columns["finished"] = finished
    found = torch.as_tensor(function(columns.pop("prompt"), answers, columns, **options), dtype=torch.float32)
    found = found.unsqueeze(1) if found.ndim == 1 else found
    if found.ndim != 2 or len(found) != len(answers):
        said = f"it returned numbers of shape {tuple(found.shape)} for {len(answers)} answers"
        raise ConfigError(said, where, "return one number, or a list, for each answer")
    return found
