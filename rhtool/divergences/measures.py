"""Divergences between two distributions: KL, chi2 and its root, total variation, Wasserstein; and none, and a rule to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.divergences.base import Divergence, expm1_straight, mean, probabilities
from rhtool.divergences.pair import Pair, tv_normal
from rhtool.errors import ConfigError
from rhtool.schema import choice

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.distributions import Distribution

    from rhtool.envs.base import Env


@dataclass
class NoDivergence(Divergence):
    """No regularisation: plain PPO. Steps, states and sequences pay zero."""

    name: ClassVar[str] = "none"

    @property
    def needs_discriminator(self) -> bool:
        return False

    def penalty(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> Tensor:
        return d.new_zeros(d.shape)

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        pair = Pair(p, q)
        return pair.sum(pair.p[0].new_zeros(pair.shape)).to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.new_zeros(())

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

    log_ratio_clip: float = 10.0
    """beyond this log-ratio a sequence's exponential goes on as a straight line"""

    def scale(self, env: Env) -> float:
        """The size of a step's proxy reward (code README: KL coefficients are per-step rewards)."""
        return env.reward_mean

    def penalty(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> Tensor:
        return d

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Sum of the actions' dimensions. Finite wherever the logits are, also where a probability has underflowed."""
        pair = Pair(p, q)
        return pair.kl().to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        return mean(log_ratio + expm1_straight(-log_ratio, self.log_ratio_clip))

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

    def penalty(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> Tensor:
        return d.clamp(-self.score_clip, self.score_clip).expm1()

    def trimmed(self, d: Tensor) -> Tensor:
        """Mean of e^d - 1, a scalar, without the floor(trim N) lowest and as many highest: none if N < 1 / trim."""
        x = Chi2.penalty(self, d).sort().values
        drop = int(self.trim * len(x))
        return mean(x[drop : len(x) - drop])

    def estimate(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
        trimmed: bool = False,
    ) -> float:
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
        """sigma sqrt(1 - r^2) (after theorem 5.1), in the unit of `coeff`."""
        from rhtool.hacking import theoretical_coeff

        return theoretical_coeff(sigma, r) / self.scale(env)

    def penalty(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> Tensor:
        """(e^d - 1) / sqrt(m), m = `trimmed(d)`, and e^d - 1 if m is not above zero, as only noise makes it."""
        m = self.trimmed(d)
        return super().penalty(d) / (m.sqrt() if m > 0 else 1.0)

    def estimate(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
        trimmed: bool = False,
    ) -> float:
        """sqrt of the mean of e^d - 1, plain or `trimmed`, and 0 if that is below zero."""
        return max(super().estimate(d, trimmed=trimmed), 0.0) ** 0.5

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """sqrt(max(chi2, floor)) of each state, with `Chi2.between`'s chi2."""
        return super().between(p, q).clamp(min=self.floor).sqrt()

    def sequence(self, log_ratio: Tensor) -> Tensor:
        """sqrt(max(mean, floor)), with `Chi2.sequence`'s mean."""
        return super().sequence(log_ratio).clamp(min=self.floor).sqrt()

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        return super().exact(mu, nu) ** 0.5


@dataclass
class TV(Divergence):
    """Total variation, TV(pi, base) = 1/2 sum |pi - base| = max_A pi(A) - base(A). A step pays sign(d).

    The discriminator maximises E_pi tanh(d) - E_base tanh(d), whose supremum is 2 TV, where d has the sign of
    mu_pi - mu_base (paper's code). `sequence` is the mean of max(0, 1 - e^-l), l the log-ratio; through l alone, the
    sequences that pi prefers push back with their probability under the base policy.
    """

    score_l2: float = 0.01
    """weight of the scores' mean square in the discriminator's loss, which keeps them finite"""

    def discriminator_loss(self, d_current: Tensor, d_base: Tensor) -> Tensor:
        """-E_pi tanh(d) + E_base tanh(d) + score_l2 (E_pi d^2 + E_base d^2)."""
        size = mean(d_current.square()) + mean(d_base.square())
        return mean(d_base.tanh()) - mean(d_current.tanh()) + self.score_l2 * size

    def penalty(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> Tensor:
        return d.sign()

    def estimate(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> float:
        """1/2 (E_pi sign(d) - E_base sign(d)), at most TV; without `d_base` E_pi sign(d), as the paper's code logs."""
        if d_base is None:
            return super().estimate(d)
        return (mean(d.sign()) - mean(d_base.sign())).item() / 2

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Categorical: 1/2 sum |p - q|. Normal, one dimension: |P(A) - Q(A)| of A between the densities' crossings."""
        pair = Pair(p, q)
        if pair.actions > 1 or pair.kind == "Beta":
            raise self._lacks(f"closed form between {pair} distributions")
        if pair.kind == "Categorical":
            value = (pair.p[0] - pair.q[0]).abs().sum(-1) / 2
        else:
            value = tv_normal(*pair.p, *pair.q)
        return pair.sum(value).to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        return mean(-(-log_ratio.relu()).expm1())

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        mu, nu = probabilities(mu, nu)
        return float(abs(mu - nu).sum() / 2)


@dataclass
class Gail(Divergence):
    """Twice the Jensen-Shannon divergence, 2 JS = KL(pi || m) + KL(base || m), m = (pi + base) / 2: at most 2 log 2.

    A step pays log 2 + log D, D = 1 / (1 + e^-d) the probability with which the discriminator takes it for the policy's:
    the derivative of 2 JS in mu_pi, and zero where the two cannot be told apart. With `task.reward_weight=0` that is
    GAIL (Ho and Ermon 2016, arXiv 1606.03476, algorithm 1 and its appendix, where it is the divergence behind psi_GA),
    whose reward -log D is log 2 larger.
    """

    log_ratio_clip: float = 10.0
    """beyond this log-ratio a sequence's exponential goes on as a straight line"""

    def penalty(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> Tensor:
        """log 2 - log(1 + e^-d)."""
        import math

        from torch.nn.functional import softplus

        return math.log(2) - softplus(-d)

    def estimate(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> float:
        """2 JS, at least as the discriminator bounds it; without `d_base` its first term, KL(pi || m)."""
        # The penalty of -d is that of the two policies in exchanged roles.
        return (mean(self.penalty(d)) + (0.0 if d_base is None else mean(self.penalty(-d_base)))).item()

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Categorical: the definition."""
        import torch

        pair = Pair(p, q)
        if pair.kind != "Categorical":
            raise self._lacks(f"closed form between {pair} distributions")
        p, q = pair.p[0], pair.q[0]
        both = torch.where(p + q > 0, p + q, 1.0)
        terms = (x * torch.where(x > 0, 2 * x / both, 1.0).log() for x in (p, q))
        return pair.sum(sum(terms).sum(-1)).to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        """Mean of (log 2 - log(1 + e^-l)) + e^-l (log 2 - log(1 + e^l)), l the log-ratio; no term is negative."""
        weight = expm1_straight(-log_ratio, self.log_ratio_clip) + 1
        return mean(self.penalty(log_ratio) + weight * self.penalty(-log_ratio))

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        from scipy.special import rel_entr

        mu, nu = probabilities(mu, nu)
        middle = (mu + nu) / 2
        return float(rel_entr(mu, middle).sum() + rel_entr(nu, middle).sum())


@dataclass
class Wasserstein(Divergence):
    """W1(pi, base) = sup E_pi d - E_base d over scores d of slope 1 (WGAN, arXiv 1701.07875). A step pays d.

    `weight_clip`, up to a constant factor, or `gradient_penalty` bounds the slope in the discriminator's inputs. Where
    there is no discriminator the metric is another: 0-1 between categories, sequences and cells of a table, so that
    W1 = TV; Euclidean between Gaussian actions, as W2.
    """

    weight_clip: float | None = 0.01
    """the discriminator's weights are clamped to this size after its update; null: they are not"""
    gradient_penalty: float | None = None
    """weight of E (|grad_x d| - 1)^2 on either side in the discriminator's loss; null: it is not there"""
    center: bool = False
    """a step pays d less its mean under the base policy, which fixes the constant that the loss leaves free"""

    def discriminator_loss(self, d_current: Tensor, d_base: Tensor) -> Tensor:
        """-E_pi d + E_base d."""
        return mean(d_base) - mean(d_current)

    def regulariser(self, score_fn: Callable[[Tensor], Tensor], x_current: Tensor, x_base: Tensor) -> Tensor:
        """gradient_penalty (E_pi (|grad_x d| - 1)^2 + E_base (|grad_x d| - 1)^2), at the samples (paper's code)."""
        import torch

        if self.gradient_penalty is None:
            return super().regulariser(score_fn, x_current, x_base)
        total = x_current.new_zeros(())
        for x in (x_current, x_base):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(score_fn(x).sum(), x, create_graph=True)
            total = total + mean((slope.norm(dim=-1) - 1).square())
        return self.gradient_penalty * total

    def after_update(self, module: nn.Module) -> None:
        """Clamp every parameter of `module` to [-weight_clip, weight_clip]."""
        if self.weight_clip is not None:
            for parameter in module.parameters():
                parameter.data.clamp_(-self.weight_clip, self.weight_clip)

    def penalty(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> Tensor:
        """d, or d - E_base d with `center`, for which `d_base` is needed."""
        if not self.center:
            return d
        if d_base is None:
            raise self._lacks("centre without the base policy's scores", "pass d_base, or set divergence.center=false")
        return d - mean(d_base)

    def estimate(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> float:
        """E_pi d - E_base d; without `d_base` E_pi d, as the paper's code logs, which the loss leaves undetermined."""
        return (mean(d) - (0.0 if d_base is None else mean(d_base))).item()

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Categorical: TV. Normal: W2 = sqrt(|m1 - m2|^2 + |s1 - s2|^2) over all dimensions of the action."""
        import torch

        pair = Pair(p, q)
        if pair.kind == "Categorical":
            return TV(self.over).between(p, q)
        if pair.kind == "Beta":
            raise self._lacks(f"closed form between {pair} distributions")
        # At zero, torch's norm has a zero gradient, where the square root's is not finite.
        apart = torch.stack([pair.p[0] - pair.q[0], pair.p[1] - pair.q[1]], dim=-1).flatten(-pair.event - 1)
        return apart.norm(dim=-1).to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        return TV(self.over).sequence(log_ratio)

    def exact(self, mu: np.ndarray, nu: np.ndarray, cost: np.ndarray | None = None) -> float:
        """W1 of the 0-1 metric, which is TV, or of the metric `cost` (n, n) between cells, by a linear program."""
        if cost is None:
            return TV(self.over).exact(mu, nu)
        import numpy as np
        from scipy import sparse
        from scipy.optimize import linprog

        mu, nu = (x.ravel() for x in probabilities(mu, nu))
        one, each = np.ones((1, mu.size)), sparse.eye_array(mu.size)
        marginals = sparse.vstack([sparse.kron(each, one), sparse.kron(one, each)])
        # The last marginal follows from the others; left in, rounding can make the program infeasible.
        result = linprog(np.ravel(cost), A_eq=marginals.tocsr()[:-1], b_eq=np.concatenate([mu, nu])[:-1])
        return float(result.fun)


@dataclass
class BaseConfidence(Divergence):
    """No divergence, but a rule to compare with: a step pays the base policy's entropy at its state.

    It keeps the policy where the base policy is sure of itself (paper's code, there `safe_policy_confidence`).
    """

    over: str = choice("state")
    """of what: the penalty depends on the state alone"""

    @property
    def needs_discriminator(self) -> bool:
        return False

    def penalty(
        self,
        d: Tensor,
        base: Distribution | None = None,
        d_base: Tensor | None = None,
        rewards: Tensor | None = None,
    ) -> Tensor:
        if base is None:
            raise self._lacks("penalty without the base policy's action distributions", "pass base")
        return base.entropy()
