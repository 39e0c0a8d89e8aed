"""No divergence, KL, chi2 and its root: those that the papers compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.divergences.base import Divergence, expm1_straight, mean, probabilities
from rhtool.divergences.pair import Pair
from rhtool.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.distributions import Distribution

    from rhtool.envs.base import Env


@dataclass
class NoDivergence(Divergence):
    """No regularisation: plain PPO. Steps, states and sequences pay zero."""

    name: ClassVar[str] = "none"
    additive: ClassVar[bool] = True

    @property
    def needs_discriminator(self) -> bool:
        return False

    def penalty(self, d: Tensor, **seen: Any) -> Tensor:
        return d.new_zeros(d.shape)

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        pair = Pair(p, q)
        return pair.sum(pair.p[0].new_zeros(pair.shape)).to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.new_zeros(())

    def score_function(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.new_zeros(log_ratio.shape)

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        probabilities(mu, nu)
        return 0.0


@dataclass
class KL(Divergence):
    """KL(pi || base) = E_pi[log(pi / base)]. A step pays d (arXiv 2403.03185, section 5, KL version).

    `sequence` is the k3 estimator, the mean of l + e^-l - 1, l the log-ratio: never negative, and less variable than
    the mean of l. Its gradient through l is that of KL(base || pi), as in the paper's RLHF code
    (cassidylaidlaw/llm_optimization).
    """

    additive: ClassVar[bool] = True

    log_ratio_clip: float = 10.0
    """beyond this log-ratio a sequence's exponential goes on as a straight line"""

    def scale(self, env: Env) -> float:
        """The size of a step's proxy reward (code README: KL coefficients are per-step rewards)."""
        return env.reward_mean

    def penalty(self, d: Tensor, **seen: Any) -> Tensor:
        return d

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Sum of the actions' dimensions. Finite wherever the logits are, also where a probability has underflowed."""
        pair = Pair(p, q)
        return pair.kl().to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        return mean(log_ratio + expm1_straight(-log_ratio, self.log_ratio_clip))

    def score_function(self, log_ratio: Tensor) -> Tensor:
        """l itself, the k1 estimator: f(l) = l. Of tokens they sum to that of their sequence."""
        return log_ratio.detach()

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        from scipy.special import rel_entr

        return float(rel_entr(*probabilities(mu, nu)).sum())


@dataclass
class Chi2(Divergence):
    """chi2(pi || base) = E_base[(pi / base - 1)^2] = E_pi[pi / base - 1]. A step pays e^d - 1.

    `sequence` is the mean of e^l + e^-l - 2, l the log-ratio: e^-l - 1 has mean zero under pi and keeps it from being
    negative (cassidylaidlaw/llm_optimization). Charged in the reward, e^d - 1 has half of chi2's policy gradient.
    """

    score_clip: float = 30.0
    """scores are clipped to this size before their exponential is taken, lest it overflow: e^30 = 1e13"""
    trim: float = 0.01
    """share of the transitions with the lowest, and with the highest, scores that the trimmed mean leaves out"""
    log_ratio_clip: float = 10.0
    """beyond this log-ratio a sequence's exponential goes on as a straight line"""

    def __post_init__(self) -> None:
        if not 0 <= self.trim < 0.5:
            raise ConfigError(f"trim={self.trim} leaves nothing of a mean", "divergence.trim", "0 <= trim < 0.5")

    def penalty(self, d: Tensor, **seen: Any) -> Tensor:
        return d.clamp(-self.score_clip, self.score_clip).expm1()

    def trimmed(self, d: Tensor) -> Tensor:
        """Mean of e^d - 1, a scalar, without the floor(trim N) lowest and as many highest: none if N < 1 / trim."""
        x = Chi2.penalty(self, d).sort().values
        drop = int(self.trim * len(x))
        return mean(x[drop : len(x) - drop])

    def estimate(self, d: Tensor, trimmed: bool = False, **seen: Any) -> float:
        """Mean of e^d - 1, plain or `trimmed`; negative if the discriminator errs the other way."""
        return (self.trimmed(d) if trimmed else mean(Chi2.penalty(self, d))).item()

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Closed forms, with 1 + chi2 a product over the actions' dimensions:

        - Categorical: sum (p - q)^2 / q, infinite if q = 0 < p;
        - Normal: s2^2 / (s1 sqrt(v)) exp((m1 - m2)^2 / v) - 1 with v = 2 s2^2 - s1^2, infinite if v <= 0;
        - Beta: B(2a1 - a2, 2b1 - b2) B(a2, b2) / B(a1, b1)^2 - 1, infinite if 2a1 <= a2 or 2b1 <= b2.

        Where it is infinite, KL(p || q) of that state takes its place, as in the paper's code; `chi2_finite` says where
        it is not.
        """
        import torch

        pair = Pair(p, q)
        finite = pair.chi2_finite()
        # With p = q in the states left out, no infinity is differentiated on the way to being left out.
        value = torch.where(finite, pair.equal_unless(finite).log1p_chi2().expm1(), pair.kl())
        return value.to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        clip = self.log_ratio_clip
        return mean(expm1_straight(log_ratio, clip) + expm1_straight(-log_ratio, clip))

    def score_function(self, log_ratio: Tensor) -> Tensor:
        """2 (e^l - 1), where f(l) = e^l - 1 goes on as a straight line f(l) + f'(l) - 1: the gradient of that E_pi f(l)."""
        l, clip = log_ratio.detach(), self.log_ratio_clip  # noqa: E741
        return expm1_straight(l, clip) + l.clamp(max=clip).expm1()

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        import numpy as np

        mu, nu = probabilities(mu, nu)
        if np.any((nu == 0) & (mu > 0)):
            return float("inf")
        there = nu > 0
        return float(((mu[there] - nu[there]) ** 2 / nu[there]).sum())


@dataclass
class SqrtChi2(Chi2):
    """sqrt(chi2(pi || base)), the divergence of theorem 5.1 (arXiv 2403.03185).

    A step pays (e^d - 1) / sqrt(m), with m the trimmed mean of e^d - 1: its mean is sqrt(chi2), and its policy gradient
    is that of sqrt(chi2), because the derivative 2 mu_pi / mu_base of chi2 and that of the root, 1 / (2 sqrt(chi2)),
    lose their twos.
    """

    floor: float = 1e-4
    """chi2 below this is taken for this, without a gradient, before the root of `between` and `sequence`"""

    def theoretical_coeff(self, r: float, sigma: float, env: Env) -> float:
        """sigma sqrt(1 - r^2), as theorem 5.1 has it, in the unit of `coeff`."""
        from rhtool.hacking import theoretical_coeff

        return theoretical_coeff(sigma, r) / self.scale(env)

    def penalty(self, d: Tensor, **seen: Any) -> Tensor:
        """(e^d - 1) / sqrt(m), m = `trimmed(d)`, and e^d - 1 if m is not above zero, as only noise makes it."""
        m = self.trimmed(d)
        return super().penalty(d) / (m.sqrt() if m > 0 else 1.0)

    def estimate(self, d: Tensor, trimmed: bool = False, **seen: Any) -> float:
        """sqrt of the mean of e^d - 1, plain or `trimmed`, and 0 if that is below zero."""
        return max(super().estimate(d, trimmed=trimmed), 0.0) ** 0.5

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """sqrt(max(chi2, floor)) of each state, with `Chi2.between`'s chi2."""
        return super().between(p, q).clamp(min=self.floor).sqrt()

    def sequence(self, log_ratio: Tensor) -> Tensor:
        """sqrt(max(mean, floor)), with `Chi2.sequence`'s mean."""
        return super().sequence(log_ratio).clamp(min=self.floor).sqrt()

    def score_function(self, log_ratio: Tensor) -> Tensor:
        """(e^l - 1) / sqrt(m), m `Chi2.sequence`'s mean over these sequences: `Chi2`'s weights by the root's slope. Zero
        where m is below `floor`, where `sequence` has no gradient either.
        """
        m = super().sequence(log_ratio.detach())
        return super().score_function(log_ratio) * (m > self.floor) / (2 * m.clamp(min=self.floor).sqrt())

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        return super().exact(mu, nu) ** 0.5
