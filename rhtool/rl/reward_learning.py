"""A reward model from preferences between trajectory segments, to be an environment's learned proxy.

Christiano et al. 2017, "Deep Reinforcement Learning from Human Preferences" (arXiv 1706.03741), section 2.2; the
simulated labels are those of cassidylaidlaw/orpo, `LearnedRewardAlgorithm`: of two segments the first is preferred with

    P = eps / 2 + (1 - eps) sigmoid(clip(m, -50, 50)),     m = rationality * (G_1 - G_2) / unit

where G is the sum of the true rewards of a segment, and eps the share of labels that are coin tosses. The model's
likelihood of a label has the same form, with the sum of its outputs f(s, a) in place of rationality * G / unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rhtool.envs.learned import SLOPE, RewardModel, described
from rhtool.errors import RhtoolError
from rhtool.hacking import correlation
from rhtool.rl.learner import adam_state, set_adam_state
from rhtool.rl.policy import Interface
from rhtool.rl.runner import Rollout
from rhtool.run import Run

CLIP = 50.0
"""largest size of the argument of a sigmoid"""


@dataclass
class Segments:
    """S trajectory segments of L steps."""

    features: Tensor
    """(S, L, F) float32: what a reward model sees of each step"""
    true: np.ndarray
    """(S, L) float64: true rewards"""
    episode: np.ndarray
    """(S,) int64: the episode from which a segment is"""

    @property
    def returns(self) -> np.ndarray:
        """(S,) float64: undiscounted true returns."""
        return self.true.sum(axis=1)


def cut(model: RewardModel, rollouts: list[tuple[Rollout, Tensor]], length: int) -> Segments:
    """Consecutive segments of `length` steps of the episodes of rollouts (with their masks, see `evaluation.rollout`);
    what remains of an episode is dropped.

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
        true.append(steps.true[t, lane].numpy())
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


def empty_model(interface: Interface, hidden: list[int], shown: str = "all") -> RewardModel:
    """A model whose network is all zeros, with the features of an environment: of the observation the columns `shown` ("all",
    or those that describe the "latest" state), normalised as networks see them; bounded actions from -1 to 1."""
    columns = np.asarray(interface.latest if shown == "latest" else np.arange(interface.offset.size), np.int64)
    space = interface.action_space
    action = described(space)
    offset, scale = np.zeros(action.get("n", 0), np.float32), np.ones(action.get("n", 0), np.float32)
    if isinstance(space, gym.spaces.Box):
        low, high = np.ravel(space.low).astype(np.float64), np.ravel(space.high).astype(np.float64)
        bounded = np.isfinite(low) & np.isfinite(high)
        offset = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, 0)
        scale = np.where(bounded, 2 / np.where(bounded, high - low, 1), 1)
    offset, scale = (
        np.concatenate([own[columns], of_action]).astype(np.float32)
        for own, of_action in ((interface.offset, offset), (interface.scale, scale))
    )
    sizes = [len(offset), *hidden, 1]
    layers = [(np.zeros((b, a), np.float32), np.zeros(b, np.float32)) for a, b in pairwise(sizes)]
    return RewardModel(interface.observation_space.shape, action, columns, offset, scale, layers)


def network(model: RewardModel) -> nn.Sequential:
    """The torch module of a model's layers, freshly initialised from torch's global generator."""
    layers = [m for weight, _ in model.layers for m in (nn.Linear(*weight.shape[::-1]), nn.LeakyReLU(SLOPE))]
    return nn.Sequential(*layers[:-1])


class RewardLearning:
    """The state of one run of reward learning; `iteration` is one pass over the preferences.

    Adam on the mean negative log-likelihood; its learning rate falls linearly to zero over the passes. Pairs are held out
    by episode: no episode has segments on both sides.

    Args:
        run: seed and the task's hyperparameters (`rhtool.tasks.rm_train.RmTrain`).
        model: the features, see `empty_model`.
        segments: what is compared.

    Raises:
        RhtoolError: if there is nothing to compare.
    """

    def __init__(self, run: Run, model: RewardModel, segments: Segments):
        task = self.task = run.task
        self.model, self.features = model, segments.features
        spread = float(segments.returns.std())
        rng = np.random.default_rng([run.seed, 30])
        episodes = rng.permutation(np.unique(segments.episode))
        held_out = np.isin(segments.episode, episodes[: round(task.validation * len(episodes))])
        training, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if len(training) < 2 or not spread > 0:
            raise RhtoolError(
                f"{len(training)} segments, whose true returns have the standard deviation {spread}, are nothing to compare",
                "task.policies",
                "collect more episodes (task.episodes), of several policies, or cut them into shorter segments (task.segment)",
            )
        self.scale = task.rationality / (spread if task.unit == "std" else 1.0)
        """rationality / unit"""
        held = round(task.validation * task.preferences) if len(validation) > 1 else 0
        count = max(task.preferences - held, 1)
        self.training = draw(segments, training, count, self.scale, task.label_noise, rng)
        self.validation = draw(segments, validation, held, self.scale, task.label_noise, rng) if held else None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(run.seed)
            self.network = network(model)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=task.lr, fused=True)
        self.generator = torch.Generator().manual_seed(run.seed)
        self.steps = self.passes = 0
        self.best, self.best_weights = float("inf"), self._weights()

    def margins(self, pairs: Preferences, rows: Tensor | slice = slice(None)) -> Tensor:
        """The model's log-odds of the first of each pair, (P,) float32."""
        chosen = torch.stack([pairs.first[rows], pairs.second[rows]])
        outputs = self.network(self.features[chosen]).squeeze(-1).sum(-1)
        return outputs[0] - outputs[1]

    def iteration(self) -> dict[str, float]:
        """One pass over the training preferences; returns its metrics."""
        task, pairs = self.task, self.training
        for group in self.optimizer.param_groups:
            group["lr"] = task.lr * (1 - self.passes / task.passes)
        count = len(pairs.label)
        total, right = 0.0, 0.0
        for rows in torch.randperm(count, generator=self.generator).split(task.minibatch):
            margin, label = self.margins(pairs, rows), pairs.label[rows]
            loss = -log_likelihood(margin, label, task.label_noise).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach()) * len(rows)
            right += float(((margin > 0) == (label > 0.5)).sum())
        self.steps += 2 * count * self.features.shape[1]
        self.passes += 1
        metrics = {"steps": self.steps, "rm/loss": total / count, "rm/accuracy": right / count, **self._validate()}
        loss = metrics.get("rm/validation_loss", -self.passes)  # nothing held out: the last pass
        if not np.isfinite(total):
            raise RhtoolError("the loss is not finite", "task.lr", "lower task.lr")
        if loss < self.best:
            self.best, self.best_weights = loss, self._weights()
        return metrics

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        if (pairs := self.validation) is None:
            return {}
        margin = self.margins(pairs)
        apart = pairs.margin != 0
        metrics = {
            "rm/validation_loss": float(-log_likelihood(margin, pairs.label, self.task.label_noise).mean()),
            "rm/validation_accuracy": float(((margin > 0) == (pairs.label > 0.5)).float().mean()),
        }
        if apart.any():
            agrees = (margin.numpy() > 0) == (pairs.margin > 0)
            metrics["rm/validation_agreement"] = float(agrees[apart].mean())
        return metrics

    def finish(
        self, steps: Rollout, mask: Tensor, about: dict[str, Any] | None = None
    ) -> tuple[RewardModel, dict[str, float]]:
        """The model with the weights of the pass with the least validation loss, in the unit of the proxy, and its metrics.

        Preferences between segments of equal length say nothing of a constant, and little of a unit: mean and standard
        deviation of r(s, a) are made those of the environment's proxy on the base policy's `steps` (with their `mask`).
        `about` is kept in the model's file, with the metrics.
        """
        self.network.load_state_dict(self.best_weights)
        layers = [layer for layer in self.network if isinstance(layer, nn.Linear)]
        numbers = [(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in layers]
        model = replace(self.model, layers=numbers)
        outputs = model(steps.obs[mask].numpy(), steps.actions[mask].numpy())
        proxy, true = steps.proxy[mask].numpy(), steps.true[mask].numpy()
        learned, own = correlation(outputs, true), correlation(proxy, true)
        metrics = {**self._validate(), "rm/correlation": learned.r, "rm/proxy_correlation": own.r}
        multiply = (own.proxy_std or 1.0) / learned.proxy_std if learned.proxy_std > 0 else 1.0
        model = replace(
            model,
            multiply=multiply,
            add=own.proxy_mean - multiply * learned.proxy_mean,
            about=(about or {}) | {key: value for key, value in metrics.items() if np.isfinite(value)},
        )
        return model, {"steps": self.steps, **metrics}

    def get_state(self) -> dict[str, Any]:
        """Everything the next pass depends on; segments and preferences come from the seed."""
        return {
            "weights": self._weights(),
            "best_weights": self.best_weights,
            "best": self.best,
            "optimizer": adam_state(self.optimizer),
            "generator": self.generator.get_state(),
            "counts": [self.steps, self.passes],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.network.load_state_dict(state["weights"])
        self.best, self.best_weights = state["best"], state["best_weights"]
        set_adam_state(self.optimizer, state["optimizer"])
        self.generator.set_state(torch.as_tensor(state["generator"]))
        self.steps, self.passes = state["counts"]

    def _weights(self) -> dict[str, Tensor]:
        return {name: x.detach().clone() for name, x in self.network.state_dict().items()}
