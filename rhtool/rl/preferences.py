"""Pairs of trajectory segments and who judges them: what a reward model learns preferences from.

The simulated labels are those of cassidylaidlaw/orpo, `LearnedRewardAlgorithm`: of two segments the first is preferred with

    P = eps / 2 + (1 - eps) sigmoid(clip(m, -50, 50)),     m = rationality * (G_1 - G_2) / unit

where G is the sum of the true rewards of a segment, and eps the share of labels that are coin tosses. Schedules of questions and
their choice by the disagreement of an ensemble: Christiano et al. 2017 (arXiv 1706.03741), section 2.2.4, as in imitation's
`PreferenceComparisons`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rhtool.envs.learned import RewardModel
from rhtool.errors import RhtoolError
from rhtool.rl.policy import Policy
from rhtool.rl.runner import Rollout

CLIP = 50.0
"""largest size of the argument of a sigmoid"""

SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": np.ones_like,
    "hyperbolic": lambda t: 1 / (1 + t),
    "inverse_quadratic": lambda t: 1 / (1 + t**2),
}
"""how many questions are asked at t, from 0 in the second round to 1 in the last, up to a factor"""

SELECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "logit": lambda margins: margins,
    "probability": torch.sigmoid,
    "label": lambda margins: (margins > 0).float(),
}
"""of the members' log-odds (M, P), that whose variance over members says which pairs are asked about"""


@dataclass
class Segments:
    """S trajectory segments of L steps."""

    features: Tensor
    """(S, L, F) float32: what a reward model sees of each step"""
    true: np.ndarray
    """(S, L) float64: rewards that the teacher sums: the true ones, perhaps shaped"""
    episode: np.ndarray
    """(S,) int64: the episode from which a segment is"""

    @property
    def returns(self) -> np.ndarray:
        """(S,) float64: undiscounted returns."""
        return self.true.sum(axis=1)


def shaping(potential: Policy, steps: Rollout, gamma: float) -> Tensor:
    """gamma Phi(s') - Phi(s) of each step, (T, B) float32, where Phi is the value that a policy's critic gives a state, and 0
    where an episode has ended for good (Ng, Harada, Russell 1999)."""
    now = potential.values(steps.flat(steps.obs)).view(steps.rewards.shape)
    later = torch.cat([now[1:], potential.values(steps.last_obs)[None]])
    later[steps.truncated] = potential.values(steps.final_obs)
    later[steps.terminated] = 0
    return gamma * later - now


def cut(
    model: RewardModel,
    rollouts: list[tuple[Rollout, Tensor]],
    length: int,
    potential: Policy | None = None,
    gamma: float = 1.0,
) -> Segments:
    """Consecutive segments of `length` steps of the episodes of rollouts (with their masks, see `evaluation.rollout`);
    what remains of an episode is dropped. With a `potential` their rewards are shaped by it.

    Raises:
        RhtoolError: if no episode is long enough.
    """
    features, true, episode, episodes = [], [], [], 0
    for steps, mask in rollouts:
        done = steps.terminated | steps.truncated
        number = done.int().cumsum(0) - done.int()
        times = torch.arange(len(done))[:, None]
        first = torch.cat([torch.ones_like(done[:1]), done[:-1]])
        since = times - torch.where(first, times, 0).cummax(0).values
        starts = mask & (since % length == 0)
        starts[max(len(done) - length + 1, 0) :] = False
        t, lane = starts.nonzero().T
        whole = number[t + length - 1, lane] == number[t, lane]
        t, lane = t[whole, None] + torch.arange(length), lane[whole, None].expand(-1, length)
        obs, actions = (column[t, lane].flatten(0, 1).numpy() for column in (steps.obs, steps.actions))
        features.append(torch.from_numpy(model.features(obs, actions)).unflatten(0, t.shape))
        reward = steps.true if potential is None else steps.true + shaping(potential, steps, gamma)
        true.append(reward[t, lane].numpy())
        names = lane[:, 0] * int(number.max() + 1) + number[t[:, 0], lane[:, 0]]
        episode.append(episodes + np.unique(names.numpy(), return_inverse=True)[1])
        episodes += len(np.unique(names.numpy()))
    found = Segments(torch.cat(features), np.concatenate(true), np.concatenate(episode))
    if not len(found.true):
        raise RhtoolError(
            f"no episode has {length} steps, of which a segment is made", "task.segment", "choose a smaller number"
        )
    return found


@dataclass
class Preferences:
    """P labelled pairs of segments."""

    first: Tensor
    """(P,) int64: index of a segment"""
    second: Tensor
    """(P,) int64"""
    label: Tensor
    """(P,) float32: 1 if the first was preferred, 0 if the second"""
    margin: np.ndarray
    """(P,) float64: m, the log-odds of the first without noise"""

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: Tensor) -> Preferences:
        return Preferences(self.first[rows], self.second[rows], self.label[rows], self.margin[rows.numpy()])

    @classmethod
    def concat(cls, parts: list[Preferences]) -> Preferences:
        """All pairs of several."""
        tensors = (torch.cat([getattr(part, name) for part in parts]) for name in ("first", "second", "label"))
        return cls(*tensors, np.concatenate([part.margin for part in parts]))


def schedule(total: int, rounds: int, first_share: float, kind: str) -> list[int]:
    """How many of `total` questions are asked in each of `rounds`: the share `first_share` in the first, the others by
    `SCHEDULES[kind]`. They sum to `total`."""
    if rounds == 1:
        return [total]
    first = round(first_share * total)
    weights = SCHEDULES[kind](np.linspace(0, 1, rounds - 1))
    ends = np.round(np.cumsum(weights) / weights.sum() * (total - first)).astype(int)
    return [first, *np.diff(ends, prepend=0).tolist()]


def most_disputed(margins: Tensor, count: int, by: str) -> Tensor:
    """Of P pairs the `count` about which the members of an ensemble, with log-odds (M, P), disagree most; their indices."""
    return SELECTIONS[by](margins).var(dim=0).argsort(descending=True, stable=True)[:count]


def draw(
    segments: Segments, candidates: np.ndarray, pairs: int, scale: float, noise: float, rng: np.random.Generator
) -> Preferences:
    """`pairs` pairs of two different segments among `candidates` (indices, at least two), drawn uniformly, and their labels.

    `scale` is rationality / unit, `noise` eps.
    """
    first = rng.integers(len(candidates), size=pairs)
    second = (first + rng.integers(1, len(candidates), size=pairs)) % len(candidates)
    first, second = candidates[first], candidates[second]
    margin = scale * (segments.returns[first] - segments.returns[second])
    label = rng.random(pairs) < probability(margin, noise)
    return Preferences(torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(label).float(), margin)


def probability(margin: np.ndarray, noise: float) -> np.ndarray:
    """P that the first is preferred, (P,) float64."""
    return noise / 2 + (1 - noise) / (1 + np.exp(-np.clip(margin, -CLIP, CLIP)))


def log_likelihood(margin: Tensor, label: Tensor, noise: float) -> Tensor:
    """log P of the labels (P,) for margins (P,)."""
    clipped = margin.clamp(-CLIP, CLIP)
    chosen = nn.functional.logsigmoid(torch.where(label > 0.5, clipped, -clipped))
    coin, judged = (torch.tensor(p, dtype=margin.dtype).log() for p in (noise / 2, 1 - noise))
    return torch.logaddexp(coin.expand_as(chosen), judged + chosen)
