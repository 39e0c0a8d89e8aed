"""Combinations: one score from those of several judges (members of an ensemble, principles).

A combination is a dataclass whose fields are its options, called with scores (..., K) to give (...): the judges are the
last axis. Weights of judges are no part of it: where MORLAIF's formulas say r_k, the caller gives r_k = w_k s_k. Torch alone.

`COMBINATIONS` is all there are. Coste et al. (2024, arXiv 2310.02743) and MORLAIF (Williams 2024, arXiv 2406.07295) call two of
them by names of their own; both work, and mean the same class: wco is max_min, uwo is uncertainty_weighted.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.schema import check_choices, choice


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
    """Worst-case optimisation: the lowest score (Coste et al. 2024, arXiv 2310.02743, section 3). MORLAIF's max-min."""

    def __call__(self, scores: Tensor) -> Tensor:
        return scores.amin(-1)


@dataclass
class UWO(Combination):
    """Uncertainty-weighted optimisation: mean - weight x variance over the judges (arXiv 2310.02743, section 3).

    MORLAIF has weight 0.5."""

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


@dataclass
class Linear(Combination):
    """The sum over the judges (MORLAIF, arXiv 2406.07295)."""

    def __call__(self, scores: Tensor) -> Tensor:
        return scores.sum(-1)


@dataclass
class SoftMaxMin(Combination):
    """sum_k p_k r_k with p = softmax(-r / temperature): near the lowest score (MORLAIF, arXiv 2406.07295)."""

    temperature: float = 1.0
    """in units of the scores; towards 0 the lowest score, towards infinity the mean"""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            mend = "give a number above 0; max_min is the limit at 0"
            raise ConfigError(f"a temperature of {self.temperature}", "temperature", mend)

    def __call__(self, scores: Tensor) -> Tensor:
        # Apart from the lowest score, lest an infinite quotient make the softmax undefined.
        above = scores - scores.detach().amin(-1, keepdim=True)
        return ((-above / self.temperature).softmax(-1) * scores).sum(-1)


@dataclass
class LowerThird(Combination):
    """The mean of the floor(K / 3) lowest scores, of at least one (MORLAIF, arXiv 2406.07295)."""

    def __call__(self, scores: Tensor) -> Tensor:
        return scores.topk(max(1, scores.shape[-1] // 3), dim=-1, largest=False).values.mean(-1)


@dataclass
class MaxMedian(Combination):
    """The median score (MORLAIF, arXiv 2406.07295)."""

    median: str = choice("lower", "mid")
    """of an even number of scores: the lower one of the two in the middle, as MORLAIF's, or the mean of both"""

    def __call__(self, scores: Tensor) -> Tensor:
        ordered, count = scores.sort(-1).values, scores.shape[-1]
        lower = ordered[..., (count - 1) // 2]
        return lower if self.median == "lower" else (lower + ordered[..., count // 2]) / 2


@dataclass
class BernoulliNash(Combination):
    """The product of utilities u_k = transform(r_k), or its K-th root: the welfare of Bernoulli and Nash (MORLAIF).

    Welfare is of positive utilities: of raw scores the product is positive too where an even number is negative. A judge
    is satisfied with an answer by sigmoid(r) if its score is 0 for an answer that is neither good nor bad.
    """

    transform: str = choice("sigmoid", "softplus", "exp", "none")
    """makes scores positive: sigmoid, into (0, 1), the probability of being preferred to an answer of score 0; softplus,
    log(1 + e^r), about r where that is large; exp, with which this is as Linear; none: as MORLAIF's code"""
    root: bool = True
    """whether to take the K-th root, which leaves utilities in their unit"""

    def __call__(self, scores: Tensor) -> Tensor:
        """Raises `RhtoolError` for a score below 0 if a root is to be taken without a transform."""
        if self.transform == "none":
            if not self.root:
                return scores.prod(-1)
            if (scores < 0).any():
                mend = "choose a transform: sigmoid, softplus or exp; or root=false"
                raise RhtoolError("the product of negative scores has no root", "bernoulli_nash", mend)
        logs = {"sigmoid": torch.nn.functional.logsigmoid, "softplus": _log_softplus, "exp": lambda r: r}
        each = logs.get(self.transform, torch.log)(scores)  # products of small numbers are sums of their logarithms
        return (each.mean(-1) if self.root else each.sum(-1)).exp()


def _log_softplus(r: Tensor) -> Tensor:
    """log log(1 + e^r), which tends to r on the left, where the inner logarithm vanishes."""
    far = math.log(torch.finfo(r.dtype).eps)
    return torch.nn.functional.softplus(r.clamp(min=far)).log() + (r - far).clamp(max=0)


COMBINATIONS: dict[str, type[Combination]] = {
    "mean": Mean,
    "wco": WCO,
    "uwo": UWO,
    "linear": Linear,
    "max_min": WCO,
    "soft_max_min": SoftMaxMin,
    "uncertainty_weighted": UWO,
    "lower_third": LowerThird,
    "max_median": MaxMedian,
    "bernoulli_nash": BernoulliNash,
}
"""{name in the configuration: its class}"""
OF_ENSEMBLES = ("mean", "wco", "uwo")
"""those that compare members of an ensemble, whose scores are of one thing and need no weights"""


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


def chosen(reward: Any) -> Combination:
    """The combination that `reward.combine` names, whose options are the reward's fields of the same names."""
    options = [field.name for field in dataclasses.fields(COMBINATIONS[reward.combine])]
    return combination(reward.combine, **{name: getattr(reward, name) for name in options})
