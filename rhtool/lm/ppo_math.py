"""The mathematics of PPO on texts: advantages, losses, what a score becomes before it is a reward, coefficients.

Shapes: B texts of T tokens, padded. `mask` (B, T) is boolean and true at a reply's tokens, which are consecutive in
each row; a row without any is a text that does not count. What stands elsewhere, be it NaN or infinite, is looked at
by nothing: no value and no gradient depends on it. Torch alone; nothing here knows of a model or a trainer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rhtool.divergences import KL, Chi2, Divergence
from rhtool.divergences.base import mean
from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.schema import check_choices, choice, option_name

# --- over valid tokens ----------------------------------------------------------------------------------------------


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (B, T) over the valid tokens, a scalar; zero if there are none."""
    # Selected, not multiplied: then no padding, not even its amount, changes a bit of the result.
    return mean(x[mask])


def masked_variance(x: Tensor, mask: Tensor) -> Tensor:
    """Population variance (ddof 0) of x (B, T) over the valid tokens, a scalar; zero if there are none."""
    x = x[mask]
    return mean((x - mean(x)).square())


def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(variance + eps) with both over the valid tokens (ddof 0); zero elsewhere. (B, T)."""
    scaled = (x - masked_mean(x, mask)) * torch.rsqrt(masked_variance(x, mask) + eps)
    return torch.where(mask, scaled, 0.0)


def at_last_token(x: Tensor, mask: Tensor) -> Tensor:
    """x (B,) at the last valid token of each row, zero elsewhere: (B, T). A row without a valid token stays zero."""
    still_to_come = mask.long().flip(1).cumsum(1).flip(1)
    return torch.where(mask & (still_to_come == 1), x.unsqueeze(1), 0.0)


def sequence_log_ratio(log_prob: Tensor, base_log_prob: Tensor, mask: Tensor) -> Tensor:
    """l (B,) = sum over valid tokens of log pi - log base, from both per token (B, T). Summed in float64, given in the
    dtype of the arguments, or float32 if theirs has half the bits."""
    ratio = torch.where(mask, log_prob - base_log_prob, 0.0)
    return ratio.sum(1, dtype=torch.float64).to(torch.promote_types(ratio.dtype, torch.float32))


# --- advantages and losses ------------------------------------------------------------------------------------------


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Advantages and returns (B, T), zero at padding (Schulman et al. 2015, arXiv 1506.02438, eq. 16).

        A_t = sum_k (gamma lam)^k delta_{t+k},   delta_t = r_t + gamma V_{t+1} - V_t,   return_t = A_t + V_t

    `rewards` and `values` are (B, T). After its last token a text is over: the value there is zero. No gradient.
    """
    with torch.no_grad():
        rewards, values = (torch.where(mask, x, 0.0) for x in (rewards, values))
        following = torch.nn.functional.pad(values[:, 1:], (0, 1))
        delta = rewards + gamma * following - values
        advantage, advantages = values.new_zeros(len(values)), []
        for step in delta.flip(1).unbind(1):
            advantage = torch.add(step, advantage, alpha=gamma * lam)
            advantages.append(advantage)
        advantages = torch.where(mask, torch.stack(advantages, 1).flip(1), 0.0)
        return advantages, advantages + values


def policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Mean of max(-A rho, -A clip(rho, 1 - clip, 1 + clip)) over valid tokens, rho = pi / pi_old, and the share of them
    with abs(rho - 1) > clip: two scalars (arXiv 1707.06347, eq. 7). All arguments (B, T).
    """
    # exp only of what counts: the gradient of an overflow at a padded token would be NaN.
    ratio = (log_prob[mask] - old_log_prob[mask]).exp()
    advantage = advantages[mask]
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))
    return mean(loss), mean(((ratio.detach() - 1).abs() > clip).to(ratio.dtype))


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Half the mean of max((V - return)^2, (clip(V, V_old - clip, V_old + clip) - return)^2) over valid tokens, and the
    share of them in which the clipped one is the larger: two scalars. All arguments (B, T).
    """
    value, old, target = values[mask], old_values[mask], returns[mask]
    plain = (value - target).square()
    clipped = (torch.clamp(value, old - clip, old + clip) - target).square()
    return mean(torch.maximum(plain, clipped)) / 2, mean((clipped > plain).to(value.dtype))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(return - V) / Var(return) over valid tokens; NaN if the returns are constant."""
    total = masked_variance(returns, mask).item()
    return 1 - masked_variance(returns - values, mask).item() / total if total > 0 else math.nan


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's, in float64; NaN if either is constant."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    scale = (x.square().sum() * y.square().sum()).sqrt().item()
    return float((x * y).sum()) / scale if scale > 0 else math.nan


# --- divergence from the base policy --------------------------------------------------------------------------------


def divergence_loss(
    divergence: Divergence, log_ratio: Tensor, mask: Tensor, level: str = "sequence", grad: str = "pathwise"
) -> Tensor:
    """D(pi || base), a scalar to be added to the loss, from log pi - log base of each token (B, T), sampled from pi.

    `level`: of what. `sequence`: of whole texts, l summed over tokens. `token`: of the next token's distribution, mean
    over the texts' tokens (which states are visited is taken as given).
    `grad`: how to differentiate. `pathwise`: through the log-ratio alone, the gradient of `Divergence.sequence`.
    `reinforce`: the mean of w l with w = `Divergence.score_function`, which is D's own gradient. The value is the same.

    Raises `RhtoolError` if the divergence lacks the form, `ConfigError` for another level or grad.
    """
    _known("level", level, ("sequence", "token"))
    _known("grad", grad, ("pathwise", "reinforce"))
    ratio = _samples(log_ratio, mask, level)
    if grad == "pathwise":
        return divergence.sequence(ratio)
    surrogate = mean(divergence.score_function(ratio) * ratio)
    return divergence.sequence(ratio.detach()) + surrogate - surrogate.detach()


def divergence_cost(divergence: Divergence, log_ratio: Tensor, mask: Tensor, level: str = "sequence") -> Tensor:
    """What each token pays in the reward, (B, T), before the coefficient, so that the policy gradient is that of D.

    `log_ratio` (B, T) is that of the sampling policy. `level`: where the text's `Divergence.score_function` is paid.
    `sequence`: at its last token. `token`: token by token, as log pi - log base (k1), which sums to the same for KL.

    Raises `RhtoolError` if the divergence lacks the form, `ConfigError` if it is no sum over tokens (`level="token"`).
    """
    _known("level", level, ("sequence", "token"))
    if level == "token" and not divergence.additive:
        name = option_name(type(divergence))
        raise ConfigError(
            f"the divergence '{name}' of texts is no sum over their tokens, which could pay it each for itself",
            f"divergence={name}, in the reward, level=token",
            "charge it by sequence, or in the loss, or take divergence=kl",
        )
    with torch.no_grad():
        paid = divergence.score_function(_samples(log_ratio, mask, level))
        if level == "token":
            return torch.zeros_like(log_ratio).masked_scatter(mask, paid)
        return at_last_token(paid.new_zeros(len(mask)).masked_scatter(mask.any(1), paid), mask)


def divergence_metrics(log_ratio: Tensor, mask: Tensor, clip: float = 10.0) -> dict[str, float]:
    """Of texts sampled from pi, from log pi - log base of each token (B, T); with l its sum over a text's tokens:

    - `kl`: mean of l (k1); `kl_k3`: of l + e^-l - 1;
    - `chi2`: mean of e^l + e^-l - 2; `sqrt_chi2`: its root;
    - `ratio_clipfrac`, `inverse_ratio_clipfrac`: shares with l > clip and l < -clip, whose exponentials are straight.

    NaN without a text.
    """
    ratio = _samples(log_ratio.detach(), mask, "sequence")
    chi2 = Chi2(log_ratio_clip=clip).sequence(ratio).item()
    found = {
        "kl": mean(ratio).item(),
        "kl_k3": KL(log_ratio_clip=clip).sequence(ratio).item(),
        "chi2": chi2,
        "sqrt_chi2": math.sqrt(chi2),
        "ratio_clipfrac": mean((ratio > clip).double()).item(),
        "inverse_ratio_clipfrac": mean((ratio < -clip).double()).item(),
    }
    return found if len(ratio) else dict.fromkeys(found, math.nan)


def _samples(log_ratio: Tensor, mask: Tensor, level: str) -> Tensor:
    """Log-ratios of the texts that count, or of the tokens."""
    if level == "token":
        return log_ratio[mask]
    return sequence_log_ratio(log_ratio, torch.zeros_like(log_ratio), mask)[mask.any(1)]


def _known(field: str, value: str, values: tuple[str, ...]) -> None:
    if value not in values:
        raise ConfigError(f"'{value}' is not a value of {field}", field, nearest(value, values))


# --- from score to reward -------------------------------------------------------------------------------------------


class RunningMoments:
    """Mean and sample standard deviation (ddof 1) of all scores so far, in float64. Scores that are NaN do not count."""

    def __init__(self) -> None:
        self.count, self.mean, self.scatter = 0, 0.0, 0.0

    def add(self, scores: Tensor) -> None:
        """More scores, of any shape."""
        x = scores.detach().double()
        x = x[~x.isnan()]
        if not (n := x.numel()):
            return
        # Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1.
        average = x.mean()
        total, step = self.count + n, average.item() - self.mean
        self.scatter += (x - average).square().sum().item() + step * step * (self.count * n / total)
        self.mean += step * (n / total)
        self.count = total

    @property
    def std(self) -> float:
        """NaN of fewer than two scores, zero if all are equal."""
        if self.count < 2:
            return math.nan
        std = math.sqrt(self.scatter / (self.count - 1))
        # The deviations of equal scores are rounding errors of their mean.
        return std if std > 1e-9 * abs(self.mean) else 0.0

    def get_state(self) -> dict[str, float]:
        """Plain numbers, for JSON."""
        return {"count": self.count, "mean": self.mean, "scatter": self.scatter}

    def set_state(self, state: Mapping[str, float]) -> None:
        """The inverse of `get_state`."""
        self.count, self.mean, self.scatter = int(state["count"]), float(state["mean"]), float(state["scatter"])


@dataclass
class ScoreShaping:
    """What a score becomes before it is a text's reward: scaled, clipped, less the baseline, less a fine for no end."""

    scale: str = choice("none", "running", "norm", "ref")
    """`running`: over the running standard deviation. `norm`: less the running mean, over it. `ref`: over the standard
    deviation of the first batch, that of the base policy"""
    clip: float | None = None
    """bound of the scaled score's size"""
    baseline: float = 0.0
    """subtracted after the clip"""
    missing_eos_penalty: float = 0.0
    """subtracted from texts that were cut off before they ended"""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip={self.clip} leaves no score", "clip", "clip > 0, or null for none")
        self.moments, self._ref = RunningMoments(), RunningMoments()

    def __call__(self, scores: Tensor, finished: Tensor, fit: bool = True) -> Tensor:
        """Rewards (B,) of scores (B,), whose text ended by itself where `finished` (B,).

        The running moments take these scores in first, unless `fit` is false (evaluation). A standard deviation that is
        zero or not known yet counts as 1. NaN, a score that could not be had, stays NaN. Of several processes each must
        add all of their scores: `add` the gathered ones, and call with `fit=False`.
        """
        if fit:
            self.add(scores)
        moments = self._ref if self.scale == "ref" else self.moments
        unit = moments.std if self.scale != "none" and moments.std > 0 else 1.0
        shaped = (scores - (moments.mean if self.scale == "norm" else 0.0)) / unit
        if self.clip is not None:
            shaped = shaped.clamp(-self.clip, self.clip)
        return shaped - self.baseline - self.missing_eos_penalty * (~finished).to(shaped.dtype)

    def add(self, scores: Tensor) -> None:
        """Take scores into the moments; the first ones are also those of the base policy."""
        if not self._ref.count:
            self._ref.add(scores)
        self.moments.add(scores)

    def get_state(self) -> dict[str, dict[str, float]]:
        """Plain numbers, for JSON."""
        return {"moments": self.moments.get_state(), "ref": self._ref.get_state()}

    def set_state(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """The inverse of `get_state`."""
        self.moments.set_state(state["moments"])
        self._ref.set_state(state["ref"])


# --- coefficients ---------------------------------------------------------------------------------------------------


class FixedCoeff:
    """A divergence's coefficient that stays."""

    def __init__(self, value: float):
        self.value = value

    def update(self, kl: float, texts: int) -> None:
        """After an update of the policy on `texts` texts, with their mean `kl` from the base policy."""

    def get_state(self) -> dict[str, float]:
        """Plain numbers, for JSON."""
        return {"value": self.value}

    def set_state(self, state: Mapping[str, float]) -> None:
        """The inverse of `get_state`."""
        self.value = float(state["value"])


class AdaptiveCoeff(FixedCoeff):
    """A coefficient that holds the KL at `target` (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

        value <- value (1 + clip(kl / target - 1, -0.2, 0.2) texts / horizon)

    so that over `horizon` texts it changes by a fifth or so of itself at most.
    """

    def __init__(self, value: float, target: float = 6.0, horizon: float = 10_000):
        if not (target > 0 and horizon > 0):
            said = f"a target of {target} and a horizon of {horizon} cannot steer a coefficient"
            raise ConfigError(said, "target, horizon", "both are above zero")
        super().__init__(value)
        self.target, self.horizon = target, horizon

    def update(self, kl: float, texts: int) -> None:
        """Raises `RhtoolError` if `kl` is not finite, or the batch so large that the coefficient could turn negative."""
        if not math.isfinite(kl):
            raise RhtoolError(f"the KL from the base policy is {kl}", "adaptive coefficient", "look at the log-probs")
        if texts >= 5 * self.horizon:
            said = f"a step of {texts} texts over a horizon of {self.horizon} could turn the coefficient negative"
            raise ConfigError(said, "horizon", f"a horizon above {texts / 5:g}")
        self.value *= 1 + min(max(kl / self.target - 1, -0.2), 0.2) * texts / self.horizon
