"""What a task is."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rhtool.checkpoints import STATE
from rhtool.errors import MissingExtra, RhtoolError

if TYPE_CHECKING:
    from rhtool.run import Run


@dataclass
class Task:
    """What to do with a run."""

    uses: ClassVar[tuple[str, ...]] = ("env", "divergence")
    """the groups it works with, in the order in which they name the run's directory: others, and without `divergence`
    the coeff, are no part of the run's identity. Empty for a tool, which has no directory, no resume, no result.json"""
    extra: ClassVar[str] = ""
    """the extra of pyproject.toml that it needs, for `task=ls`"""

    def check(self, run: Run) -> None:
        """Raise `RhtoolError` if something the task needs is missing, before anything expensive is done."""

    def inputs(self, run: Run) -> dict[str, str]:
        """`{name: path}` of files and directories whose content decides the result: their hashes enter the fingerprint.

        Of a run's directory it is the newest checkpoint that counts.
        """
        return {}

    def run(self, run: Run) -> dict[str, float]:
        """Do it, and return `{metric: value}` for `result.json`."""
        raise TypeError(f"{type(self).__name__} does not implement run")


def require_rl() -> None:
    """Raise `MissingExtra` unless torch and ray are installed."""
    for package in ("torch", "ray"):
        if find_spec(package) is None:
            raise MissingExtra("rl", package)


def require_policy(path: str, where: str, command: str = "") -> None:
    """Raise `RhtoolError`, speaking of the field `where` and of the `command` that makes a policy, unless a run,
    a checkpoint or a saved policy is at `path`. Reads nothing."""
    if not any((Path(path) / part).exists() for part in ("policy.json", "policy/policy.json", "checkpoints", STATE)):
        raise RhtoolError(
            f"there is no policy at {path}",
            where,
            f"make one: {command}"
            if command
            else "give the directory of a run of task=orpo or task=bc: outputs/…/seed=0",
        )
