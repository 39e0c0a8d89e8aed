"""Combinations: one score from those of several judges (members of an ensemble, principles).

A combination is a dataclass whose fields are its options, called with scores (..., K) to give (...): the judges are the
last axis. `COMBINATIONS` is all there are. Torch alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rhtool.errors import ConfigError, nearest
from rhtool.schema import check_choices, option_name


@dataclass
class Combination:
    """One score from those of K judges. Differentiable."""

    def __call__(self, scores: Tensor) -> Tensor:
        """(...) from `scores` (..., K), floating point, K > 0."""
        raise NotImplementedError


@dataclass
class Mean(Combination):
    """The mean over the judges."""

    def __call__(self, scores: Tensor) -> Tensor:
        return scores.mean(-1)


@dataclass
class WCO(Combination):
    """Worst-case optimisation: the lowest score (Coste et al. 2024, arXiv 2310.02743, section 3)."""

    def __call__(self, scores: Tensor) -> Tensor:
        return scores.amin(-1)


@dataclass
class UWO(Combination):
    """Uncertainty-weighted optimisation: mean - weight x variance over the judges (arXiv 2310.02743, section 3)."""

    weight: float = 0.1
    """of the variance; 0 leaves the mean"""
    ddof: int = 0
    """0: the variance divides by K, as in the paper; 1: by K - 1, as in its PPO code"""

    def __post_init__(self) -> None:
        if self.ddof not in (0, 1):
            raise ConfigError(f"ddof={self.ddof} is no variance", "ddof", "0 divides by K, 1 by K - 1")

    def __call__(self, scores: Tensor) -> Tensor:
        """Raises `ConfigError` if one judge alone is to have a variance with `ddof` 1."""
        if not self.weight:
            return scores.mean(-1)  # exactly, also where a variance overflows or is not defined
        if scores.shape[-1] <= self.ddof:
            raise ConfigError("the variance of one score is not defined with ddof=1", "ddof", "ddof=0, or more judges")
        return scores.mean(-1) - self.weight * scores.var(-1, correction=self.ddof)


COMBINATIONS: dict[str, type[Combination]] = {option_name(cls): cls for cls in (Mean, WCO, UWO)}
"""{name in the configuration: its class}"""


def combination(name: str, **options: Any) -> Combination:
    """The combination of this name with these fields. Raises `ConfigError` for a name, field or type there is not."""
    if name not in COMBINATIONS:
        raise ConfigError(f"there is no combination '{name}'", "combine", nearest(name, COMBINATIONS))
    fields = [field.name for field in dataclasses.fields(COMBINATIONS[name])]
    for option in options:
        if option not in fields:
            mend = nearest(option, fields) if fields else "it has no options"
            raise ConfigError(f"the combination '{name}' has no option '{option}'", f"combine={name}", mend)
    made = COMBINATIONS[name](**options)
    check_choices(made, "combine")
    return made
