"""Closed forms between two action distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.errors import RhtoolError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributions import Distribution


def chi2_finite(p: Distribution, q: Distribution) -> Tensor:
    """Where chi2(p || q) is finite, boolean (batch,): elsewhere `Chi2.between` is the KL. See there for `p` and `q`."""
    return Pair(p, q).chi2_finite()


class Pair:
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
        value = log_beta(a, b) + log_beta(a2, b2) - 2 * log_beta(a1, b1)
        return self.sum(torch.where((a > 0) & (b > 0), value, torch.inf))

    def chi2_finite(self) -> Tensor:
        """Where chi2 is finite, (batch,), and its square too in the distributions' dtype, as Adam squares gradients."""
        import torch

        with torch.no_grad():
            return self.log1p_chi2().expm1() < torch.finfo(self.dtype).max ** 0.5

    def equal_unless(self, keep: Tensor) -> Pair:
        """The same pair with p = q in the states where `keep` (batch,) is false."""
        import torch

        pair = object.__new__(Pair)
        pair.__dict__.update(self.__dict__)
        keep = keep[(..., *[None] * (self.event + (self.kind == "Categorical")))]
        pair.p = tuple(torch.where(keep, a, b.detach()) for a, b in zip(self.p, self.q, strict=True))
        return pair


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """log B(a, b)."""
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


def tv_normal(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> Tensor:
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
