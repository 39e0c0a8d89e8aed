"""A reward network fitted to the rewards of transitions, and, if asked, trained against its own visualisations.

The supervised reward learning of reward-function-interpretability: mean squared error on standardised rewards. Adversarial: after
every pass from `start` on, images that maximise each head of the network are made, labelled with a reward that says nothing,
and added to the data; the loss is then Huber's (delta = sqrt(3), in standard deviations), and gradients are clipped at a
quantile of the norms of that pass, so that the new data cannot throw the network off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rhtool.errors import RhtoolError
from rhtool.interpret import visualise
from rhtool.interpret.layers import names
from rhtool.interpret.nets import CnnReward, MlpReward, RewardNet
from rhtool.interpret.transitions import Transitions
from rhtool.rl.learner import adam_state, set_adam_state
from rhtool.rl.policy import Interface
from rhtool.rl.reward_learning import empty_model

if TYPE_CHECKING:
    from rhtool.run import Run

HUBER = 3**0.5


def network_for(interface: Interface, task: Any, seed: int) -> RewardNet:
    """A fresh network for an environment's spaces, as `rhtool.tasks.rm_train.RmTrainControl` says: `network`, `sees`, `hidden`,
    `model_obs`, `cnn`. Raises `ConfigError` for a CNN of what is no image."""
    frame = empty_model(interface, list(task.hidden), task.model_obs)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if task.network == "cnn":
            shape, c = interface.observation_space.shape, task.cnn
            last = len(shape) == 3 and shape[0] not in (1, 3, 4)
            return CnnReward(
                shape, frame.action, task.sees, list(c.channels), last,
                c.kernel, c.stride, c.dilation, c.coordinates, c.pool, list(c.dense),
            )  # fmt: skip
        net = MlpReward(frame.observation_shape, frame.action, task.sees, list(task.hidden), columns=frame.columns)
    seen = len(frame.columns)
    for buffer, of_frame, neutral in ((net.offset, frame.offset, 0), (net.scale, frame.scale, 1)):
        parts = {
            "obs": of_frame[:seen],
            "action": of_frame[seen:],
            "next_obs": of_frame[:seen],
            "terminated": [neutral],
        }
        buffer.copy_(torch.as_tensor(np.concatenate([parts[part] for part in net.sees]), dtype=torch.float32))
    return net


def without_zeros(rewards: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Indices, in order, of all rewards that are not zero and of exactly round(share * number) of those that are."""
    zero = np.flatnonzero(rewards == 0)
    kept = rng.choice(zero, round(share * len(zero)), replace=False)
    return np.sort(np.concatenate([np.flatnonzero(rewards != 0), kept]))


def statistics(data: Transitions, rewards: np.ndarray) -> dict[str, Any]:
    """What the data is, as JSON values; `constant_mse` is the loss of the best constant prediction."""
    own = rewards[rewards != 0]
    obs = np.asarray(data.obs, np.float64).reshape(len(data), -1, data.obs.shape[-1] if data.obs.ndim == 4 else 1)
    counts, edges = np.histogram(rewards, 20) if len(rewards) else (np.zeros(0), np.zeros(0))
    found: dict[str, Any] = {
        "transitions": len(data),
        "episodes": len(np.unique(data.episode)),
        "obs": {"mean": obs.mean((0, 1)).tolist(), "std": obs.std((0, 1)).tolist()},
        "terminated": int(data.terminated.sum()),
        "reward": {"mean": float(rewards.mean()), "std": float(rewards.std()), "constant_mse": float(rewards.var())},
        "reward_histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        "nonzero": {"count": len(own)},
    }
    if len(own):
        found["nonzero"] |= {"mean": float(own.mean()), "std": float(own.std()), "median": float(np.median(own))}
    if np.asarray(data.actions).dtype.kind in "iu":
        values, count = np.unique(data.actions, return_counts=True)
        found["actions"] = {str(v): int(c) for v, c in zip(values, count, strict=True)}
    return found


class RewardRegression:
    """The state of one run; `iteration` is one pass over the transitions.

    Adam; its learning rate falls linearly to zero over the passes. Transitions are held out by episode.

    Args:
        run: seed and the task's hyperparameters (`rhtool.tasks.rm_train.RmTrainControl`).
        net: to be fitted; `multiply` and `add` become standard deviation and mean of the training rewards.
        data: the transitions.
        rewards: theirs, (N,).

    Raises:
        RhtoolError: if there is nothing to learn.
    """

    def __init__(self, run: Run, net: RewardNet, data: Transitions, rewards: np.ndarray):
        task = self.task = run.task
        self.net = net
        rng = np.random.default_rng([run.seed, 32])
        rows = np.arange(len(data)) if task.zero_share is None else without_zeros(rewards, task.zero_share, rng)
        data, self.rewards = data[rows], np.asarray(rewards, np.float64)[rows]
        episodes = rng.permutation(np.unique(data.episode))
        held_out = np.isin(data.episode, episodes[: round(task.validation * len(episodes))])
        self.data = Transitions(data.obs, data.actions, data.next_obs, data.terminated, data.episode, data.step)
        self.training, self.validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        spread = float(self.rewards[self.training].std()) if len(self.training) else 0.0
        if not spread > 0:
            raise RhtoolError(
                f"{len(self.training)} transitions, whose rewards have the standard deviation {spread}, teach nothing",
                "task.policies",
                "collect more episodes (task.episodes), of other policies, or keep more zeros (task.zero_share)",
            )
        net.multiply, net.add = spread, float(self.rewards[self.training].mean())
        self.optimizer = torch.optim.Adam(net.parameters(), lr=task.lr)
        self.generator = torch.Generator().manual_seed(run.seed)
        self.seed, self.steps, self.passes = run.seed, 0, 0
        self.clip = float("inf")
        self.nonsense: list[np.ndarray] = []
        """images (M, C, H, W) float32 of the newest passes, the heads taking turns"""
        self.best, self.best_weights = float("inf"), self._weights()

    def statistics(self) -> dict[str, Any]:
        """Of the training and of the validation data."""
        parts = {"training": self.training, "validation": self.validation}
        return {name: statistics(self.data[rows], self.rewards[rows]) for name, rows in parts.items() if len(rows)}

    def iteration(self) -> dict[str, float]:
        """One pass over the training data; returns its metrics."""
        task, net = self.task, self.net
        for group in self.optimizer.param_groups:
            group["lr"] = task.lr * (1 - self.passes / task.passes)
        start = task.adversarial.start
        added = sum(map(len, self.nonsense))
        images = np.concatenate(self.nonsense) if added else None
        order = torch.randperm(len(self.training) + added, generator=self.generator).numpy()
        net.train()
        total, real, norms = 0.0, 0, []
        for rows in np.array_split(order, max(1, -(-len(order) // task.minibatch))):
            own, nonsense = rows[rows < len(self.training)], rows[rows >= len(self.training)] - len(self.training)
            losses = []
            if len(own):
                chosen = self.training[own]
                predicted = net(*net.parts(self.data[chosen]))
                error = (predicted - torch.from_numpy(self.rewards[chosen]).float()) / net.multiply
                losses.append(error)
                total, real = total + float((error.detach() ** 2).sum()), real + len(own)
            if len(nonsense):
                predicted = self._judge(torch.from_numpy(images[nonsense]), nonsense)
                losses.append((predicted - task.adversarial.reward) / net.multiply)
            error = torch.cat(losses)
            loss = nn.functional.huber_loss(error, 0 * error, delta=HUBER) if start else (error**2).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(net.parameters(), self.clip)))
            self.optimizer.step()
        self.steps += len(order)
        self.passes += 1
        if not np.isfinite(total):
            raise RhtoolError("the loss is not finite", "task.lr", "lower task.lr")
        metrics = {"steps": self.steps, "rm/mse": total / real * net.multiply**2, **self.validate()}
        if start and self.passes == start:
            self.clip = float(np.quantile(norms, task.adversarial.clip_quantile))
        if start and self.passes >= start:
            metrics["rm/visualised_reward"] = self._visualise()
        loss = metrics.get("rm/validation_mse", -self.passes)
        # Trained against itself, a network is better in what the held-out data does not show.
        if loss < self.best or (start and self.passes > start):
            self.best, self.best_weights = loss, self._weights()
        return metrics

    def validate(self) -> dict[str, float]:
        """On what is held out: the mean squared error, that of the best constant, and the share of variance that is explained."""
        if not len(self.validation):
            return {}
        rewards = self.rewards[self.validation]
        error = float(((self.net.predict(self.data[self.validation]) - rewards) ** 2).mean())
        constant = float(rewards.var())
        r2 = 1 - error / constant if constant > 0 else float("nan")
        return {"rm/validation_mse": error, "rm/constant_mse": constant, "rm/validation_r2": r2}

    def finish(self, about: dict[str, Any]) -> tuple[RewardNet, dict[str, float]]:
        """The network with the weights of the pass with the least validation error (trained adversarially: of the last), and its
        metrics, which `about` gets too."""
        self.net.load_state_dict(self.best_weights)
        metrics = self.validate()
        rows = self.validation if len(self.validation) else self.training
        predicted, rewards = self.net.predict(self.data[rows]), self.rewards[rows]
        if predicted.std() > 0 and rewards.std() > 0:
            metrics["rm/correlation"] = float(np.corrcoef(predicted, rewards)[0, 1])
        self.net.about = about | {key: value for key, value in metrics.items() if np.isfinite(value)}
        return self.net.eval(), {"steps": self.steps, **metrics}

    def get_state(self) -> dict[str, Any]:
        """Everything the next pass depends on; the data comes from the seed."""
        return {
            "weights": self._weights(),
            "best_weights": self.best_weights,
            "best": self.best,
            "optimizer": adam_state(self.optimizer),
            "generator": self.generator.get_state(),
            "counts": [self.steps, self.passes],
            "clip": self.clip,
            "nonsense": list(self.nonsense),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.net.load_state_dict(state["weights"])
        self.best, self.best_weights = state["best"], state["best_weights"]
        set_adam_state(self.optimizer, state["optimizer"])
        self.generator.set_state(torch.as_tensor(state["generator"]))
        self.steps, self.passes = state["counts"]
        self.clip, self.nonsense = state["clip"], [np.asarray(x) for x in state["nonsense"]]

    def _heads(self) -> int:
        return self.net.actions if "action" in self.net.sees else 1

    def _judge(self, images: Tensor, rows: np.ndarray) -> Tensor:
        """Rewards of visualisations, image i being of head i modulo their number."""
        action = torch.eye(self.net.actions)[torch.as_tensor(rows % self._heads())]
        return self.net.of_visible(images, action, torch.zeros(len(images)))

    def _visualise(self) -> float:
        """Add images that maximise the heads; the mean reward that the network gave them."""
        task, heads = self.task.adversarial, self._heads()
        rounds = max(1, round(task.share * len(self.training) / heads))
        seed = int(np.random.SeedSequence([self.seed, 33, self.passes]).generate_state(1)[0])
        shape = (rounds * heads, *self.net.image)
        images = visualise.Fourier(shape, torch.Generator().manual_seed(seed))
        found = visualise.maximise(
            self.net,
            visualise.units(names(self.net)[-1], [i % heads for i in range(rounds * heads)]),
            images,
            [visualise.jitter(task.jitter)],
            task.steps,
            seed=seed,
        ).images
        with torch.no_grad():
            reward = float(self._judge(found, np.arange(len(found))).mean())
        self.nonsense = [*self.nonsense, found.numpy()][-task.keep :]
        return reward

    def _weights(self) -> dict[str, Tensor]:
        return {name: x.detach().clone() for name, x in self.net.state_dict().items()}
