"""A reward model from preferences between trajectory segments, to be an environment's learned proxy.

Christiano et al. 2017, "Deep Reinforcement Learning from Human Preferences" (arXiv 1706.03741), section 2.2. The model's likelihood
of a label has the form of the labels' own (`rhtool.rl.preferences`), with the sum of its outputs f(s, a) over a segment in place of
rationality * G / unit. An ensemble is of networks with different initial weights, each fitted to a bootstrap sample of the pairs.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rhtool.envs.learned import SLOPE, Layers, RewardModel, described
from rhtool.errors import RhtoolError
from rhtool.hacking import correlation
from rhtool.rl.learner import adam_state, set_adam_state
from rhtool.rl.policy import Interface
from rhtool.rl.preferences import Preferences, Segments, draw, log_likelihood, most_disputed, schedule
from rhtool.rl.runner import Rollout
from rhtool.run import Run


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
    """The state of one run of reward learning; `iteration` is one pass over the preferences asked for so far.

    Adam on the mean negative log-likelihood; its learning rate falls linearly to zero over all passes. Pairs are held out by
    episode: no episode has segments on both sides. With several rounds, `task.passes` passes follow each.

    Args:
        run: seed and the task's hyperparameters (`rhtool.tasks.rm_train.RmTrainControl`).
        model: the features, see `empty_model`.
        segments: what is compared.

    Raises:
        RhtoolError: if there is nothing to compare.
    """

    def __init__(self, run: Run, model: RewardModel, segments: Segments):
        task = self.task = run.task
        self.seed, self.model, self.segments = run.seed, model, segments
        spread = float(segments.returns.std())
        rng = np.random.default_rng([run.seed, 30])
        episodes = rng.permutation(np.unique(segments.episode))
        held_out = np.isin(segments.episode, episodes[: round(task.validation * len(episodes))])
        self.candidates, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if len(self.candidates) < 2 or not spread > 0:
            raise RhtoolError(
                f"{len(self.candidates)} segments, whose returns have the standard deviation {spread}, are nothing to compare",
                "task.policies",
                "collect more episodes (task.episodes), of several policies, or cut them into shorter segments (task.segment)",
            )
        self.scale = task.rationality / (spread if task.unit == "std" else 1.0)
        """rationality / unit"""
        held = round(task.validation * task.preferences) if len(validation) > 1 else 0
        self.counts = schedule(max(task.preferences - held, 1), task.rounds, task.first_share, task.schedule)
        """questions of each round"""
        self.training = draw(segments, self.candidates, max(self.counts[0], 1), self.scale, task.label_noise, rng)
        self.validation = draw(segments, validation, held, self.scale, task.label_noise, rng) if held else None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(run.seed)
            self.networks = nn.ModuleList(network(model) for _ in range(task.members))
        self.optimizer = torch.optim.Adam(self.networks.parameters(), lr=task.lr, fused=True)
        self.generator = torch.Generator().manual_seed(run.seed)
        self.steps = self.passes = 0
        self.best, self.best_weights = float("inf"), self._weights()

    @property
    def round(self) -> int:
        """The round under way, or the next one between two."""
        return self.passes // self.task.passes

    def margins(self, pairs: Preferences) -> Tensor:
        """Each member's log-odds of the first of each pair, (M, P) float32."""
        return torch.stack([self._margins_of(network, pairs) for network in self.networks])

    def _margins_of(self, network: nn.Module, pairs: Preferences) -> Tensor:
        outputs = network(self.segments.features[torch.stack([pairs.first, pairs.second])]).squeeze(-1).sum(-1)
        return outputs[0] - outputs[1]

    def iteration(self) -> dict[str, float]:
        """One pass over the training preferences; returns its metrics."""
        task = self.task
        if self.round and self.passes % task.passes == 0:
            self._ask()
        for group in self.optimizer.param_groups:
            group["lr"] = task.lr * (1 - self.passes / (task.passes * task.rounds))
        count, samples = len(self.training), self._samples()
        total, right = 0.0, 0.0
        orders = [sample[torch.randperm(count, generator=self.generator)] for sample in samples]
        for rows in zip(*(order.split(task.minibatch) for order in orders), strict=True):
            loss = torch.zeros(())
            for network, own in zip(self.networks, rows, strict=True):
                pairs = self.training[own]
                margin = self._margins_of(network, pairs)
                loss = loss - log_likelihood(margin, pairs.label, task.label_noise).mean()
                right += float(((margin > 0) == (pairs.label > 0.5)).sum())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach()) * len(rows[0])
        self.steps += 2 * count * task.members * self.segments.features.shape[1]
        self.passes += 1
        metrics = {"steps": self.steps, "rm/preferences": count, "rm/loss": total / count / task.members}
        metrics |= {"rm/accuracy": right / count / task.members, **self._validate()}
        loss = metrics.get("rm/validation_loss", -self.passes)  # nothing held out: the last pass
        if not np.isfinite(total):
            raise RhtoolError("the loss is not finite", "task.lr", "lower task.lr")
        if loss < self.best:
            self.best, self.best_weights = loss, self._weights()
        return metrics

    @torch.no_grad()
    def _ask(self) -> None:
        """Ask the questions of this round, of more pairs those about which the members disagree most."""
        task, count = self.task, self.counts[self.round]
        rng = np.random.default_rng([self.seed, 30, self.round])
        active = task.selection != "random"
        drawn = count * (task.oversampling if active else 1)
        pairs = draw(self.segments, self.candidates, drawn, self.scale, task.label_noise, rng)
        if active:
            pairs = pairs[most_disputed(self.margins(pairs), count, task.selection)]
        self.training = Preferences.concat([self.training, pairs])

    def _samples(self) -> list[Tensor]:
        """The rows of the training pairs to which each member is fitted: of an ensemble bootstrap samples."""
        count = len(self.training)
        if self.task.members == 1:
            return [torch.arange(count)]
        rngs = (np.random.default_rng([self.seed, 31, self.round, member]) for member in range(self.task.members))
        return [torch.from_numpy(rng.integers(count, size=count)) for rng in rngs]

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        if (pairs := self.validation) is None:
            return {}
        each = self.margins(pairs)
        margin = each.mean(0)
        apart = pairs.margin != 0
        metrics = {
            "rm/validation_loss": float(-log_likelihood(margin, pairs.label, self.task.label_noise).mean()),
            "rm/validation_accuracy": float(((margin > 0) == (pairs.label > 0.5)).float().mean()),
        }
        if apart.any():
            agrees = (margin.numpy() > 0) == (pairs.margin > 0)
            metrics["rm/validation_agreement"] = float(agrees[apart].mean())
        if len(each) > 1:
            metrics["rm/disagreement"] = float(each.sigmoid().std(0).mean())
        return metrics

    def finish(
        self, steps: Rollout, mask: Tensor, about: dict[str, Any] | None = None
    ) -> tuple[RewardModel, dict[str, float]]:
        """The model with the weights of the pass with the least validation loss, in the unit of the proxy, and its metrics.

        Preferences between segments of equal length say nothing of a constant, and little of a unit: mean and standard
        deviation of r(s, a) are made those of the environment's proxy on the base policy's `steps` (with their `mask`). Each
        member of an ensemble has a constant of its own, which is made 0 there before they are compared.
        `about` is kept in the model's file, with the metrics.
        """
        self.networks.load_state_dict(self.best_weights)
        obs, actions = steps.obs[mask].numpy(), steps.actions[mask].numpy()
        members = [_numbers(network) for network in self.networks]
        if len(members) > 1:
            for member in members:
                member[-1][1][:] -= np.float32(replace(self.model, layers=member)(obs, actions).mean())
        model = replace(self.model, layers=members[0], others=members[1:], std_weight=self.task.std_weight)
        outputs = model(obs, actions)
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
        """Everything the next pass depends on; segments and the pairs held out come from the seed."""
        return {
            "weights": self._weights(),
            "best_weights": self.best_weights,
            "best": self.best,
            "optimizer": adam_state(self.optimizer),
            "generator": self.generator.get_state(),
            "counts": [self.steps, self.passes],
            "pairs": {name: getattr(self.training, name) for name in ("first", "second", "label", "margin")},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.networks.load_state_dict(state["weights"])
        self.best, self.best_weights = state["best"], state["best_weights"]
        set_adam_state(self.optimizer, state["optimizer"])
        self.generator.set_state(torch.as_tensor(state["generator"]))
        self.steps, self.passes = state["counts"]
        self.training = Preferences(**state["pairs"])

    def _weights(self) -> dict[str, Tensor]:
        return {name: x.detach().clone() for name, x in self.networks.state_dict().items()}


def _numbers(network: nn.Sequential) -> Layers:
    """The layers of a torch module, as a `RewardModel` has them."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in layers]
