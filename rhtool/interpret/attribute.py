"""How much each part of an input contributed to a reward: attributions, and what they are worth.

Every method takes `f`, rewards (N,) of inputs (N, …) row by row, `x` (N, …) and a baseline of x's shape or one that broadcasts to
it, and returns attributions of x's shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def gradient(f: Function, x: Tensor) -> Tensor:
    """df/dx (N, …)."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def saliency(f: Function, x: Tensor, baseline: Tensor | None = None) -> Tensor:
    """|df/dx| (Simonyan et al. 2013, arXiv 1312.6034): how sensitive, not how much."""
    return gradient(f, x).abs()


def gradient_input(f: Function, x: Tensor, baseline: Tensor) -> Tensor:
    """(x - x0) df/dx: the change from the baseline, to first order at x."""
    return (x - baseline) * gradient(f, x)


def integrated_gradients(f: Function, x: Tensor, baseline: Tensor, steps: int = 32) -> Tensor:
    """(x - x0) times the mean of df/dx at x0 + (k - 1/2) / m (x - x0), k = 1 … m = `steps`: the midpoint rule.

    Sundararajan, Taly and Yan 2017, arXiv 1703.01365, equation 1. Sums to f(x) - f(x0) but for the rule's error.
    """
    total = torch.zeros_like(x)
    for k in range(steps):
        total += gradient(f, baseline + (k + 0.5) / steps * (x - baseline))
    return (x - baseline) * total / steps


def expected_gradients(
    f: Function, x: Tensor, baselines: Tensor, steps: int = 32, generator: torch.Generator | None = None
) -> Tensor:
    """Integrated gradients averaged over baselines (M, …) drawn from the data, one path point each: row by row `steps` pairs, the
    points stratified (Erion et al. 2021, arXiv 1906.10670). Sums to f(x) - mean f(baselines), in the mean over draws."""
    total = torch.zeros_like(x)
    for k in range(steps):
        chosen = baselines[torch.randint(len(baselines), (len(x),), generator=generator)]
        place = (k + torch.rand(len(x), generator=generator)).reshape(-1, *[1] * (x.dim() - 1)) / steps
        total += (x - chosen) * gradient(f, chosen + place * (x - chosen))
    return total / steps


def blocks(shape: tuple[int, ...], size: int = 1) -> Tensor:
    """int64, `shape` without the first dimension for (C, H, W), else `shape`: groups of inputs that are changed together. Of images the
    squares of `size` pixels, all channels; of vectors each input."""
    if len(shape) != 3:
        return torch.arange(int(np.prod(shape))).reshape(shape)
    h, w = shape[1:]
    rows, columns = torch.arange(h) // size, torch.arange(w) // size
    return rows[:, None] * (int(columns[-1]) + 1) + columns


def _spread(per_group: Tensor, groups: Tensor, x: Tensor) -> Tensor:
    """Values (N, G) of groups shared out evenly among their inputs: (N, …)."""
    sizes = torch.bincount(groups.flatten()) * (x[0].numel() // groups.numel())
    shared = (per_group / sizes)[:, groups.flatten()].reshape(len(x), *groups.shape)
    return shared.unsqueeze(1).expand_as(x) if x.dim() == 4 else shared


def _kept(x: Tensor, baseline: Tensor, keep: Tensor, groups: Tensor) -> Tensor:
    """x where its group is kept (`keep` (N, G) bool), else the baseline."""
    mask = keep[:, groups.flatten()].reshape(len(x), *groups.shape)
    return torch.where(mask.unsqueeze(1) if x.dim() == 4 else mask, x, baseline)


@torch.no_grad()
def occlusion(f: Function, x: Tensor, baseline: Tensor, groups: Tensor) -> Tensor:
    """f(x) - f(x with a group at the baseline), shared out evenly within the group (Zeiler and Fergus 2013, arXiv 1311.2901)."""
    whole, count = f(x), int(groups.max()) + 1
    effects = []
    for g in range(count):
        keep = torch.ones(len(x), count, dtype=torch.bool)
        keep[:, g] = False
        effects.append(whole - f(_kept(x, baseline, keep, groups)))
    return _spread(torch.stack(effects, 1), groups, x)


@torch.no_grad()
def shapley(
    f: Function,
    x: Tensor,
    baseline: Tensor,
    groups: Tensor,
    permutations: int = 16,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Shapley values of the groups by sampling orders in which they are added to the baseline (Castro, Gomez and Tejada 2009), every
    order and its reverse, the same of all rows. Sums to f(x) - f(x0) exactly, whatever the number of orders."""
    count = int(groups.max()) + 1
    total, used = torch.zeros(len(x), count, dtype=x.dtype), 0
    start = f(baseline.expand_as(x))
    while used < permutations:
        order = torch.randperm(count, generator=generator)
        for direction in (order, order.flip(0)):
            keep, before = torch.zeros(len(x), count, dtype=torch.bool), start
            for g in direction.tolist():
                keep[:, g] = True
                after = f(_kept(x, baseline, keep, groups))
                total[:, g] += after - before
                before = after
        used += 2
    return _spread(total / used, groups, x)


def completeness(attributions: Tensor, difference: Tensor) -> Tensor:
    """|sum of attributions - difference| over the median |difference| of all rows, (N,): what is attributed beyond, or short of, what
    is to be explained."""
    error = (attributions.flatten(1).sum(1) - difference).abs()
    return error / difference.abs().median().clamp(min=1e-12)


@torch.no_grad()
def faithfulness(
    f: Function, attributions: Tensor, x: Tensor, baseline: Tensor, groups: Tensor, points: int = 10
) -> dict[str, float]:
    """Whether what is said to matter does: groups are put to the baseline, or to x from the baseline, the largest attribution first.

    With F(share) the reward after a share of the groups, and D = f(x) - f(x0): `deletion`, the mean over shares of
    (F - f(x0)) / D when removing, is low for a good order; `insertion`, the same when adding, is high. Of rows with D < 0 the most
    negative come first. `comprehensiveness` and `sufficiency` are (f(x) - F) / D after removing, and after keeping alone, the first
    fifth (DeYoung et al. 2020, arXiv 1911.03429). Means over the rows, weighted by |D|.
    """
    count = int(groups.max()) + 1
    flat = attributions.sum(1) if attributions.dim() == 4 else attributions
    per_group = torch.zeros(len(x), count, dtype=x.dtype)
    per_group.index_add_(1, groups.flatten(), flat.flatten(1))
    whole, empty = f(x), f(baseline.expand_as(x))
    gap = whole - empty
    rank = (per_group * gap.sign()[:, None]).argsort(1, descending=True).argsort(1)
    total = gap.abs().sum().clamp(min=1e-12)

    def share(kept: Tensor) -> float:
        return float(((f(_kept(x, baseline, kept, groups)) - empty) * gap.sign()).sum() / total)

    cuts = [round(i * count / points) for i in range(1, points)] if count > points else range(1, count)
    fifth = max(1, round(count / 5))
    return {
        "deletion": float(np.mean([share(rank >= cut) for cut in cuts])) if len(cuts) else float("nan"),
        "insertion": float(np.mean([share(rank < cut) for cut in cuts])) if len(cuts) else float("nan"),
        "comprehensiveness": 1 - share(rank >= fifth),
        "sufficiency": 1 - share(rank < fifth),
    }


def blurred(x: Tensor, sd: float) -> Tensor:
    """Images (N, C, H, W) under a Gaussian blur of `sd` pixels, edges replicated."""
    reach = int(min(3 * sd + 1, min(x.shape[2:]) - 1))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sd) ** 2)
    kernel = kernel / kernel.sum()
    padded = torch.nn.functional.pad(x, (reach,) * 4, mode="replicate")
    for size in ((len(kernel), 1), (1, len(kernel))):
        weight = kernel.reshape(1, 1, *size).expand(x.shape[1], 1, *size)
        padded = torch.nn.functional.conv2d(padded, weight, groups=x.shape[1])
    return padded
