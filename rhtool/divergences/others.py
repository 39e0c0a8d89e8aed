"""Divergences by other discriminators (total variation, Wasserstein) or other rewards (GAIL), and a rule to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rhtool.divergences.base import Divergence, expm1_straight, mean, probabilities
from rhtool.divergences.pair import Pair, tv_normal
from rhtool.schema import choice

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.distributions import Distribution


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

    def penalty(self, d: Tensor, **seen: Any) -> Tensor:
        return d.sign()

    def estimate(self, d: Tensor, d_base: Tensor | None = None, **seen: Any) -> float:
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

    def penalty(self, d: Tensor, **seen: Any) -> Tensor:
        """log 2 - log(1 + e^-d)."""
        import math

        from torch.nn.functional import softplus

        return math.log(2) - softplus(-d)

    def estimate(self, d: Tensor, d_base: Tensor | None = None, **seen: Any) -> float:
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

    def penalty(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None, **seen: Any) -> Tensor:
        """d, or d - E_base d with `center`, for which `d_base` is needed."""
        if not self.center:
            return d
        if d_base is None:
            raise self._lacks("centre without the base policy's scores", "pass d_base, or set divergence.center=false")
        return d - mean(d_base)

    def estimate(self, d: Tensor, d_base: Tensor | None = None, **seen: Any) -> float:
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

    def penalty(self, d: Tensor, base: Distribution | None = None, **seen: Any) -> Tensor:
        if base is None:
            raise self._lacks("penalty without the base policy's action distributions", "pass base")
        return base.entropy()
