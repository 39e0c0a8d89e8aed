"""How far a policy has gone from its base policy, and what each step pays for it.

One class per divergence D(pi || base), and in each the same five forms of it:

- from the scores d ~ log(mu_pi / mu_base) of a discriminator of occupancy measures, in ORPO (Laidlaw et al. 2025,
  arXiv 2403.03185, section 5 and its code): `discriminator_loss`, `penalty`, `estimate`;
- `between`: in closed form between two action distributions, differentiable, for the PPO loss (`over: action`);
- `sequence`: from the log-ratios of sampled sequences, differentiable, for the loss of RLHF;
- `exact`: from two tables of probabilities, to which the others are held.

Tensors are torch's; torch, numpy and scipy are imported when a method runs.
"""

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

    @property
    def needs_discriminator(self) -> bool:
        """Whether `penalty` wants the scores of a trained discriminator."""
        return self.over != "action"

    @property
    def scores_are_log_ratios(self) -> bool:
        """Whether its discriminator's scores tend to log(mu_pi / mu_base), as those of the logistic loss do."""
        return type(self).discriminator_loss is Divergence.discriminator_loss

    def scale(self, env: Env) -> float:
        """The unit of `coeff`: the standard deviation of a step's proxy reward (theorem 5.1's sigma; code README)."""
        return env.reward_std

    def theoretical_coeff(self, r: float, sigma: float, env: Env) -> float:
        """The `coeff` that theory gives, for a proxy of correlation `r` with the true reward and of standard deviation
        `sigma` per step, both under the base policy: what `coeff=auto` stands for.

        Raises `RhtoolError` if there is no theory, or it says nothing of such an r.
        """
        name = option_name(type(self))
        raise ConfigError(f"no theory gives the coefficient of '{name}'", "coeff=auto", "use divergence=sqrt_chi2")

    def discriminator_loss(self, d_current: Tensor, d_base: Tensor) -> Tensor:
        """E_pi log(1 + e^-d) + E_base log(1 + e^d): least at d = log(mu_pi / mu_base) (arXiv 2403.03185, section 5).

        `d_current` (N,) and `d_base` (M,) are scores of the policy's and of the base policy's transitions, each
        averaged apart; a side that a minibatch lacks counts zero. Returns a scalar.
        """
        from torch.nn.functional import softplus

        return _mean(softplus(-d_current)) + _mean(softplus(d_base))

    def regulariser(self, score_fn: Callable[[Tensor], Tensor], x_current: Tensor, x_base: Tensor) -> Tensor:
        """A term of the discriminator's loss on its inputs (N, K), where `score_fn(x)` is (N,). A scalar; here 0."""
        return x_current.new_zeros(())

    def after_update(self, module: nn.Module) -> None:
        """What is done to the discriminator in place after its update; here nothing."""

    def penalty(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> Tensor:
        """What each step pays, (N,), before `coeff` and `scale`; its mean estimates the divergence.

        `d` (N,) are the scores of the policy's transitions, `base` the base policy's action distributions (batch (N,))
        at their states, `d_base` (M,) the scores of the base policy's transitions.
        """
        raise self._lacks("penalty from scores")

    def estimate(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> float:
        """The divergence estimated from the arguments of `penalty`, in its own unit."""
        return _mean(self.penalty(d, base, d_base)).item()

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """D(p || q) of each state, (batch,), differentiable in the parameters of both.

        `p` and `q` are torch's Categorical, Normal or Beta, or an `Independent` of them, of equal kind. Raises
        `RhtoolError` for a pair that has no closed form.
        """
        raise self._lacks("closed form between action distributions")

    def sequence(self, log_ratio: Tensor) -> Tensor:
        """D(pi || base), a scalar, for the loss. Differentiable in `log_ratio` (N,) = log pi(y) - log base(y), y ~ pi.

        In the reward a sequence pays `penalty(log_ratio)` instead: with sequences as actions the problem is a bandit,
        where occupancy measures and action distributions have the same divergence (lemma A.6).
        """
        raise self._lacks("form for sequences")

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        """D(mu || nu) of two arrays of probabilities of one shape, in float64; `inf` where it is infinite.

        Raises `ValueError` if the shapes differ or an array is not a probability distribution.
        """
        raise self._lacks("value from tables of probabilities")

    def _lacks(self, form: str, mend: str = "choose divergence=kl, chi2 or sqrt_chi2") -> RhtoolError:
        name = option_name(type(self))
        where = f"divergence={name} divergence.over={self.over}"
        return RhtoolError(f"the divergence '{name}' has no {form}", where, mend)


@dataclass
class NoDivergence(Divergence):
    """No regularisation: plain PPO. Steps, states and sequences pay zero."""

    name: ClassVar[str] = "none"

    @property
    def needs_discriminator(self) -> bool:
        return False

    def penalty(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> Tensor:
        return d.new_zeros(d.shape)

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        pair = _Pair(p, q)
        return pair.sum(pair.p[0].new_zeros(pair.shape)).to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.new_zeros(())

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        _probabilities(mu, nu)
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

    def penalty(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> Tensor:
        return d

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Sum of the actions' dimensions. Finite wherever the logits are, also where a probability has underflowed."""
        pair = _Pair(p, q)
        return pair.kl().to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        return _mean(log_ratio + _expm1_straight(-log_ratio, self.log_ratio_clip))

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        from scipy.special import rel_entr

        return float(rel_entr(*_probabilities(mu, nu)).sum())


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

    def penalty(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> Tensor:
        return d.clamp(-self.score_clip, self.score_clip).expm1()

    def trimmed(self, d: Tensor) -> Tensor:
        """Mean of e^d - 1, a scalar, without the floor(trim N) lowest and as many highest: none if N < 1 / trim."""
        x = Chi2.penalty(self, d).sort().values
        drop = int(self.trim * len(x))
        return _mean(x[drop : len(x) - drop])

    def estimate(
        self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None, trimmed: bool = False
    ) -> float:
        """Mean of e^d - 1, plain or `trimmed`; negative if the discriminator errs the other way."""
        return (self.trimmed(d) if trimmed else _mean(Chi2.penalty(self, d))).item()

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Closed forms, with 1 + chi2 a product over the actions' dimensions:

        - Categorical: sum (p - q)^2 / q, infinite if q = 0 < p;
        - Normal: s2^2 / (s1 sqrt(v)) exp((m1 - m2)^2 / v) - 1 with v = 2 s2^2 - s1^2, infinite if v <= 0;
        - Beta: B(2a1 - a2, 2b1 - b2) B(a2, b2) / B(a1, b1)^2 - 1, infinite if 2a1 <= a2 or 2b1 <= b2.

        Where it is infinite, KL(p || q) of that state takes its place, as in the paper's code; `chi2_finite` says where
        it is not.
        """
        import torch

        pair = _Pair(p, q)
        finite = pair.chi2_finite()
        # With p = q in the states left out, no infinity is differentiated on the way to being left out.
        value = torch.where(finite, pair.equal_unless(finite).log1p_chi2().expm1(), pair.kl())
        return value.to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        clip = self.log_ratio_clip
        return _mean(_expm1_straight(log_ratio, clip) + _expm1_straight(-log_ratio, clip))

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        import numpy as np

        mu, nu = _probabilities(mu, nu)
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

    def penalty(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> Tensor:
        """(e^d - 1) / sqrt(m), and e^d - 1 if m is not above zero, as only noise makes it."""
        m = self.trimmed(d)
        return super().penalty(d) / (m.sqrt() if m > 0 else 1.0)

    def estimate(
        self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None, trimmed: bool = False
    ) -> float:
        """sqrt of the mean of e^d - 1, plain or `trimmed`, and 0 if that is below zero."""
        return max(super().estimate(d, base, d_base, trimmed), 0.0) ** 0.5

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
        size = _mean(d_current.square()) + _mean(d_base.square())
        return _mean(d_base.tanh()) - _mean(d_current.tanh()) + self.score_l2 * size

    def penalty(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> Tensor:
        return d.sign()

    def estimate(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> float:
        """1/2 (E_pi sign(d) - E_base sign(d)), at most TV; without `d_base` E_pi sign(d), as the paper's code logs."""
        if d_base is None:
            return super().estimate(d)
        return (_mean(d.sign()) - _mean(d_base.sign())).item() / 2

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Categorical: 1/2 sum |p - q|. Normal, one dimension: |P(A) - Q(A)| of A between the densities' crossings."""
        pair = _Pair(p, q)
        if pair.actions > 1 or pair.kind == "Beta":
            raise self._lacks(f"closed form between {pair} distributions")
        if pair.kind == "Categorical":
            value = (pair.p[0] - pair.q[0]).abs().sum(-1) / 2
        else:
            value = _tv_normal(*pair.p, *pair.q)
        return pair.sum(value).to(pair.dtype)

    def sequence(self, log_ratio: Tensor) -> Tensor:
        return _mean(-(-log_ratio.relu()).expm1())

    def exact(self, mu: np.ndarray, nu: np.ndarray) -> float:
        mu, nu = _probabilities(mu, nu)
        return float(abs(mu - nu).sum() / 2)


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
        return _mean(d_base) - _mean(d_current)

    def regulariser(self, score_fn: Callable[[Tensor], Tensor], x_current: Tensor, x_base: Tensor) -> Tensor:
        """gradient_penalty (E_pi (|grad_x d| - 1)^2 + E_base (|grad_x d| - 1)^2), at the samples (paper's code)."""
        import torch

        if self.gradient_penalty is None:
            return super().regulariser(score_fn, x_current, x_base)
        total = x_current.new_zeros(())
        for x in (x_current, x_base):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(score_fn(x).sum(), x, create_graph=True)
            total = total + _mean((slope.norm(dim=-1) - 1).square())
        return self.gradient_penalty * total

    def after_update(self, module: nn.Module) -> None:
        """Clamp every parameter of `module` to [-weight_clip, weight_clip]."""
        if self.weight_clip is not None:
            for parameter in module.parameters():
                parameter.data.clamp_(-self.weight_clip, self.weight_clip)

    def penalty(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> Tensor:
        """d, or d - E_base d with `center`, for which `d_base` is needed."""
        if not self.center:
            return d
        if d_base is None:
            raise self._lacks("centre without the base policy's scores", "pass d_base, or set divergence.center=false")
        return d - _mean(d_base)

    def estimate(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> float:
        """E_pi d - E_base d; without `d_base` E_pi d, as the paper's code logs, which the loss leaves undetermined."""
        return (_mean(d) - (0.0 if d_base is None else _mean(d_base))).item()

    def between(self, p: Distribution, q: Distribution) -> Tensor:
        """Categorical: TV. Normal: W2 = sqrt(|m1 - m2|^2 + |s1 - s2|^2) over all dimensions of the action."""
        import torch

        pair = _Pair(p, q)
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

        mu, nu = (x.ravel() for x in _probabilities(mu, nu))
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

    def penalty(self, d: Tensor, base: Distribution | None = None, d_base: Tensor | None = None) -> Tensor:
        if base is None:
            raise self._lacks("penalty without the base policy's action distributions", "pass base")
        return base.entropy()


def chi2_finite(p: Distribution, q: Distribution) -> Tensor:
    """Where chi2(p || q) is finite, boolean (batch,): elsewhere `Chi2.between` is the KL. See there for `p` and `q`."""
    return _Pair(p, q).chi2_finite()


class _Pair:
    """Two action distributions as their parameters, in float64: differences of lgammas cost float32 its digits.

    `p`, `q`: tuples of tensors, as `NAMES` says; `event`: how many trailing dimensions of the batch are one action's.
    """

    NAMES: ClassVar = {
        "Categorical": ("probs", "logits"),
        "Normal": ("loc", "scale"),
        "Beta": ("concentration1", "concentration0"),
    }

    def __init__(self, p: Distribution, q: Distribution):
        from torch import broadcast_shapes
        from torch.distributions import Independent

        self.event = 0
        while isinstance(p, Independent) and isinstance(q, Independent):
            self.event += p.reinterpreted_batch_ndims
            p, q = p.base_dist, q.base_dist
        self.kind = type(p).__name__
        names = self.NAMES.get(self.kind)
        if names is None or type(q) is not type(p):
            raise RhtoolError(
                f"no closed form between {type(p).__name__} and {type(q).__name__} distributions",
                "divergence.over=action",
                "use Categorical, Normal or Beta (or an Independent of them), the same for both policies",
            )
        self.shape = broadcast_shapes(p.batch_shape, q.batch_shape)
        self.dtype = getattr(p, names[0]).dtype
        self.p, self.q = (tuple(getattr(dist, name).double() for name in names) for dist in (p, q))

    def __str__(self) -> str:
        return f"{self.kind} ({self.actions} dimensions)"

    @property
    def actions(self) -> int:
        """How many dimensions an action has."""
        return self.shape[len(self.shape) - self.event :].numel()

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the dimensions of an action: (batch, event) -> (batch,)."""
        return x.sum(tuple(range(-self.event, 0))) if self.event else x

    def kl(self) -> Tensor:
        """KL(p || q), (batch,)."""
        import torch
        from torch.distributions import Beta, Normal, kl_divergence

        if self.kind == "Categorical":
            (p, log_p), (_, log_q) = self.p, self.q
            return self.sum((p * torch.where(p > 0, log_p - log_q, 0.0)).sum(-1))
        cls: Any = {"Normal": Normal, "Beta": Beta}[self.kind]
        return self.sum(kl_divergence(cls(*self.p, validate_args=False), cls(*self.q, validate_args=False)))

    def log1p_chi2(self) -> Tensor:
        """log(1 + chi2(p || q)), (batch,); inf or NaN where chi2 is infinite."""
        import torch

        if self.kind == "Categorical":
            p, q = self.p[0], self.q[0]
            ratio = (p - q).square() / torch.where(q > 0, q, 1.0)
            return self.sum(torch.where((q > 0) | (p == 0), ratio, torch.inf).sum(-1).log1p())
        if self.kind == "Normal":
            (m1, s1), (m2, s2) = self.p, self.q
            v = 2 * s2.square() - s1.square()
            return self.sum(2 * s2.log() - s1.log() - v.log() / 2 + (m1 - m2).square() / v)
        (a1, b1), (a2, b2) = self.p, self.q
        a, b = 2 * a1 - a2, 2 * b1 - b2
        value = _log_beta(a, b) + _log_beta(a2, b2) - 2 * _log_beta(a1, b1)
        return self.sum(torch.where((a > 0) & (b > 0), value, torch.inf))

    def chi2_finite(self) -> Tensor:
        """Where chi2 is finite, (batch,), and its square too in the distributions' dtype, as Adam squares gradients."""
        import torch

        with torch.no_grad():
            return self.log1p_chi2().expm1() < torch.finfo(self.dtype).max ** 0.5

    def equal_unless(self, keep: Tensor) -> _Pair:
        """The same pair with p = q in the states where `keep` (batch,) is false."""
        import torch

        pair = object.__new__(_Pair)
        pair.__dict__.update(self.__dict__)
        keep = keep[(..., *[None] * (self.event + (self.kind == "Categorical")))]
        pair.p = tuple(torch.where(keep, a, b.detach()) for a, b in zip(self.p, self.q, strict=True))
        return pair


def _mean(x: Tensor) -> Tensor:
    """Mean, and zero of nothing: a minibatch may lack one side."""
    return x.mean() if x.numel() else x.sum()


def _expm1_straight(x: Tensor, clip: float) -> Tensor:
    """e^x - 1 up to `clip`, beyond it the tangent: e^clip (1 + x - clip) - 1."""
    import math

    import torch

    return torch.where(x < clip, x.clamp(max=clip).expm1(), math.exp(clip) * (1 + x - clip) - 1)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    """log B(a, b)."""
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


def _tv_normal(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> Tensor:
    """TV of two Gaussians on the line.

    log p - log q is a quadratic in x. P - Q of the interval between its roots is +-TV; the derivative with respect to
    the roots vanishes, as p = q there, so that they need no gradient.
    """
    import torch
    from torch.distributions import Normal

    with torch.no_grad():
        m = m2 - m1
        a, b, c = (s2**-2 - s1**-2) / 2, -m / s2**2, (m / s2).square() / 2 + (s2 / s1).log()
        half = -(b + torch.where(b < 0, -1.0, 1.0) * (b * b - 4 * a * c).clamp(min=0).sqrt()) / 2
        far = 40 * (s1 + s2) + m.abs()  # a root at infinity, or none for p = q
        lower, upper = (torch.clamp(m1 + x.nan_to_num(0.0), m1 - far, m1 + far) for x in (half / a, c / half))
    p, q = Normal(m1, s1, validate_args=False), Normal(m2, s2, validate_args=False)
    return ((p.cdf(upper) - p.cdf(lower)) - (q.cdf(upper) - q.cdf(lower))).abs()


def _probabilities(mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, or `ValueError`."""
    import numpy as np

    mu, nu = np.asarray(mu, np.float64), np.asarray(nu, np.float64)
    if mu.shape != nu.shape:
        raise ValueError(f"two distributions over the same cells have the same shape, not {mu.shape} and {nu.shape}")
    for x in (mu, nu):
        if not (np.all(x >= 0) and abs(x.sum() - 1) < 1e-6):
            raise ValueError(f"probabilities are not negative and sum to 1; these sum to {x.sum()}, least {x.min()}")
    return mu, nu
