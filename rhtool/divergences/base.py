"""What a divergence is, and what all of them use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.schema import choice, option_name

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.distributions import Distribution

    from rhtool.envs.base import Env


@dataclass
class Divergence:
    """How far a policy has gone from its base policy."""

    over: str = choice("state_action", "state", "action")
    """of what: occupancy measures of states and actions, of states, or the action distributions in the PPO loss"""

    needs_terms: ClassVar[bool] = False
    """whether `penalty` wants, besides the proxy, the terms of which rewards are sums"""
    additive: ClassVar[bool] = False
    """whether, by a chain rule, the divergence of sequences is the expected sum over their tokens of `score_function`"""

    @property
    def needs_discriminator(self) -> bool:
        """Whether `penalty` wants the scores of a trained discriminator."""
        return self.over != "action"

    @property
    def scores_are_log_ratios(self) -> bool:
        """Whether its discriminator's scores tend to log(mu_pi / mu_base), as those of the logistic loss do."""
        return type(self).discriminator_loss is Divergence.discriminator_loss

    @property
    def needs_base_samples(self) -> bool:
        """Whether the base policy is sampled along with the policy."""
        return self.needs_discriminator

    def scale(self, env: Env) -> float:
        """The unit of `coeff`: the standard deviation of a step's proxy reward (theorem 5.1's sigma; code README)."""
        return env.reward_std

    def theoretical_coeff(self, r: float, sigma: float, env: Env) -> float:
        """The `coeff` that theory gives, for a proxy of correlation `r` with the true reward and of standard deviation
        `sigma` per step, both under the base policy: what `coeff=auto` stands for.

        Raises `RhtoolError` if there is no theory, or it says nothing of such an r.
        """
        name = option_name(type(self))
        mend = "use divergence=sqrt_chi2, max_min or linear_max_min"
        raise ConfigError(f"no theory gives the coefficient of '{name}'", "coeff=auto", mend)

    def discriminator_loss(self, d_current: Tensor, d_base: Tensor) -> Tensor:
        """E_pi log(1 + e^-d) + E_base log(1 + e^d): least at d = log(mu_pi / mu_base) (arXiv 2403.03185, section 5).

        `d_current` (N,) and `d_base` (M,) are scores of the policy's and of the base policy's transitions, each
        averaged apart; a side that a minibatch lacks counts zero. Returns a scalar.
        """
        from torch.nn.functional import softplus

        return mean(softplus(-d_current)) + mean(softplus(d_base))

    def regulariser(self, score_fn: Callable[[Tensor], Tensor], x_current: Tensor, x_base: Tensor) -> Tensor:
        """A term of the discriminator's loss on its inputs (N, K), where `score_fn(x)` is (N,). A scalar; here 0."""
        return x_current.new_zeros(())

    def after_update(self, module: nn.Module) -> None:
        """What is done to the discriminator in place after its update; here nothing."""

    def penalty(self, d: Tensor, **seen: Any) -> Tensor:
        """What each step pays, (N,), before `coeff` and `scale`; its mean estimates the divergence.

        `d` (N,) are the scores of the policy's transitions. `seen` is what else there is, of which a divergence takes by
        name what it needs: `base`, the base policy's action distributions (batch (N,)) at the policy's states; `d_base`
        (M,), the scores of the base policy's transitions; `rewards` (N, K), the standardised rewards of the policy's
        transitions: under the base policy each has mean 0 and variance 1, and any two correlation 0. The first is the
        proxy; others are there if the divergence `needs_terms`.
        """
        raise self._lacks("penalty from scores")

    def estimate(self, d: Tensor, **seen: Any) -> float:
        """The divergence estimated from the arguments of `penalty`, in its own unit."""
        return mean(self.penalty(d, **seen)).item()

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """D(p || q) of each state, (batch,), differentiable in the parameters of both.

        `p` and `q` are torch's Categorical, Normal or Beta, or an `Independent` of them, of equal kind. Raises
        `RhtoolError` for a pair that has no closed form.
        """
        raise self._lacks("closed form between action distributions")

    def sequence(self, log_ratio: Tensor) -> Tensor:
        """D(pi || base), a scalar, for the loss. Differentiable in `log_ratio` (N,) = log pi(y) - log base(y), y ~ pi.

        With sequences as actions the problem is a bandit, where occupancy measures and action distributions have the
        same divergence (lemma A.6). The gradient is the pathwise one, through the log-ratio alone and not through which
        sequences are sampled: not that of D. That is what `score_function` is for.
        """
        raise self._lacks("form for sequences")

    def score_function(self, log_ratio: Tensor) -> Tensor:
        """Weights w (N,), constants, with E[w grad log pi(y)] = grad D(pi || base), from `log_ratio` (N,), y ~ pi.

        In the reward, w is what a sequence pays; in the loss, the mean of w log_ratio has the gradient of D. As
        E[grad log pi] = 0, a constant is free: here w = 0 where l = 0, so that a policy equal to its base pays nothing.
        If D = E_pi f(l), w is f(l) + f'(l) up to that constant.
        """
        raise self._lacks("score-function form")

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        """D(mu || nu) of two arrays of probabilities of one shape, in float64; `inf` where it is infinite.

        Raises `ValueError` if the shapes differ or an array is not a probability distribution.
        """
        raise self._lacks("value from tables of probabilities")

    def _lacks(self, form: str, mend: str = "choose divergence=kl, chi2 or sqrt_chi2") -> RhtoolError:
        name = option_name(type(self))
        where = f"divergence={name} divergence.over={self.over}"
        return RhtoolError(f"the divergence '{name}' has no {form}", where, mend)


def mean(x: Tensor) -> Tensor:
    """Mean, and zero of nothing: a minibatch may lack one side."""
    return x.mean() if x.numel() else x.sum()


def expm1_straight(x: Tensor, clip: float) -> Tensor:
    """e^x - 1 up to `clip`, beyond it the tangent: e^clip (1 + x - clip) - 1."""
    import math

    import torch

    return torch.where(x < clip, x.clamp(max=clip).expm1(), math.exp(clip) * (1 + x - clip) - 1)


def probabilities(mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, or `ValueError`."""
    import numpy as np

    mu, nu = np.asarray(mu, np.float64), np.asarray(nu, np.float64)
    if mu.shape != nu.shape:
        raise ValueError(f"two distributions over the same cells have the same shape, not {mu.shape} and {nu.shape}")
    for x in (mu, nu):
        if not (np.all(x >= 0) and abs(x.sum() - 1) < 1e-6):
            raise ValueError(f"probabilities are not negative and sum to 1; these sum to {x.sum()}, least {x.min()}")
    return mu, nu
