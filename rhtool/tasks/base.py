"""What a task is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rhtool.checkpoints import STATE
from rhtool.errors import ConfigError, MissingExtra, RhtoolError

if TYPE_CHECKING:
    from rhtool.lm.memory import Need
    from rhtool.run import Run


@dataclass
class Task:
    """What to do with a run."""

    uses: ClassVar[tuple[str, ...]] = ("env", "divergence")
    """the groups it works with, in the order in which they name the run's directory: others, and without `divergence`
    the coeff, are no part of the run's identity. Empty for a tool, which has no directory, no resume, no result.json"""
    extra: ClassVar[str] = ""
    """the extra of pyproject.toml that it needs, for `task=ls`"""

    parallel: ClassVar[bool] = False
    """whether several processes may share its work: `accelerate=ddp` and the like"""

    finite: ClassVar[bool] = False
    """whether its episodes end after a few steps, as texts do, so that a discount of 1 is one"""

    def check(self, run: Run) -> None:
        """Raise `RhtoolError` if something the task needs is missing, before anything expensive is done."""

    def inputs(self, run: Run) -> dict[str, str]:
        """`{name: path}` of files and directories whose content decides the result: their hashes enter the fingerprint.

        Of a run's directory it is the newest checkpoint that counts.
        """
        return {}

    def memory(self, run: Run) -> Need | None:
        """What the run will take of a GPU's memory, for `task=doctor`; None of what no GPU is needed for."""
        return None

    def run(self, run: Run) -> dict[str, float]:
        """Do it, and return `{metric: value}` for `result.json`."""
        raise TypeError(f"{type(self).__name__} does not implement run")


AT_LEAST_ONE = (
    "iterations",
    "minibatch",
    "epochs",
    "discriminator_epochs",
    "demonstrations",
    "every",
    "passes",
    "episodes",
    "rollouts",
    "max_prompt",
    "max_new_tokens",
    "eval_every",
    "eval_prompts",
    "threads",
)
"""fields of tasks that count something"""


def check_ranges(task: Task) -> None:
    """Raise `ConfigError` for a number that cannot be used, in those of the fields below that the task has."""
    for f in fields(task):
        value, name = getattr(task, f.name), f.name
        if name in AT_LEAST_ONE and not isinstance(value, bool) and value < 1:
            raise ConfigError(f"{value} is too small", f"task.{name}", "choose 1 or more")
        if name == "evaluation_lanes" and value < 0:
            raise ConfigError(
                f"{value} copies of the env", "task.evaluation_lanes", "choose 1 or more; 0: one for each episode"
            )
        if name == "lr" and not value > 0:
            raise ConfigError(f"{value} is not a learning rate", "task.lr", "choose a number above 0")
        if name == "validation" and not 0 <= value < 1:
            raise ConfigError(f"{value} is not a share", "task.validation", "choose 0 or more, and below 1")
        if name == "gamma" and not (0 <= value < 1 or (value == 1 and task.finite)):
            raise ConfigError(f"{value} is not a discount", "task.gamma", "choose 0 or more, and below 1")
        if name == "hidden" and (not value or min(value) < 1):
            raise ConfigError(f"{value} are no layers", "task.hidden", "write task.hidden=[64,64]")


def require_rl() -> None:
    """Raise `MissingExtra` unless torch and ray are installed."""
    for package in ("torch", "ray"):
        if find_spec(package) is None:
            raise MissingExtra("rl", package)


def require_lm() -> None:
    """Raise `MissingExtra` unless torch and TRL are installed."""
    for package in ("torch", "trl"):
        if find_spec(package) is None:
            raise MissingExtra("lm", package)


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
