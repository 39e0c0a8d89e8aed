"""How far a policy has gone from its base policy, and what each step pays for it.

One class per divergence D(pi || base), and in each the same forms of it:

- from the scores d ~ log(mu_pi / mu_base) of a discriminator of occupancy measures, in ORPO (Laidlaw et al. 2025,
  arXiv 2403.03185, section 5 and its code): `discriminator_loss`, `penalty`, `estimate`;
- `between`: in closed form between two action distributions, differentiable, for the PPO loss (`over: action`);
- `sequence`: from the log-ratios of sampled sequences, differentiable, for the loss of RLHF; `score_function`: what
  each of them pays, so that the policy gradient is the divergence's own;
- `exact`: from two tables of probabilities, to which the others are held.

Tensors are torch's; torch, numpy and scipy are imported when a method runs.
"""

from rhtool.divergences.base import Divergence
from rhtool.divergences.measures import KL, Chi2, NoDivergence, SqrtChi2
from rhtool.divergences.others import TV, BaseConfidence, Gail, Wasserstein
from rhtool.divergences.pair import chi2_finite
from rhtool.divergences.robust import LinearMaxMin, MaxMin

__all__ = [
    "KL",
    "TV",
    "BaseConfidence",
    "Chi2",
    "Divergence",
    "Gail",
    "LinearMaxMin",
    "MaxMin",
    "NoDivergence",
    "SqrtChi2",
    "Wasserstein",
    "chi2_finite",
]
