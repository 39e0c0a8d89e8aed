"""What a method of interpretation is, and the schema of the group `method`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError

if TYPE_CHECKING:
    from rhtool.interpret.report import Report
    from rhtool.run import Run

BASE = "base"
"""in the place of a policy's directory: the environment's base policy"""


@dataclass
class Method:
    """How a reward function is looked at."""

    name: ClassVar[str] = "none"

    kinds: ClassVar[tuple[str, ...]] = ()
    """rewards of what it looks at: "control", those of an environment's transitions; "texts", those of answers to prompts"""
    extra: ClassVar[str] = ""
    """the extra of pyproject.toml that it needs besides that of its kind, for `task=ls`"""

    policies: ClassVar[tuple[str, ...]] = (BASE,)
    """of control: who makes the transitions, unless the task says so"""

    def check(self, run: Run) -> None:
        """Raise `RhtoolError` if something that it needs is missing, besides what `task=interpret` itself needs; quick."""
        raise ConfigError("no method is chosen", "method", "choose one: rhtool task=ls lists them")

    def inputs(self, run: Run) -> dict[str, str]:
        """`{name: path}` of the files whose content decides the result, besides the task's own."""
        return {}

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        """Do it: sections, tables and figures into the `report`; returns `{metric: value}` for `result.json`."""
        raise TypeError(f"{type(self).__name__} does not implement explain")
