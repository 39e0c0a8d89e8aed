"""Behaviour cloning: the base policies from which ORPO starts, fitted to demonstrations.

Loss = -mean log pi(a|s) - entropy * mean H(pi(.|s)) (cassidylaidlaw/orpo, `agents/bc.py`), training episodes only; the validation episodes
give `bc/validation_cross_entropy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rhtool.rl.distributions import ActionDistribution
from rhtool.rl.learner import OrpoConfig, Updater
from rhtool.rl.policy import Interface, Policy
from rhtool.run import Run


@dataclass
class BcLoss:
    """The loss of a minibatch with columns `actions`; parts `bc/cross_entropy` and `bc/entropy`."""

    distribution: ActionDistribution

    def __call__(
        self, inputs: Tensor, values: Tensor, batch: dict[str, Tensor], entropy: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts, each a scalar; `inputs` (M, inputs) are those of the policy's action distribution."""
        cross_entropy = -self.distribution.log_prob(inputs, batch["actions"]).mean()
        bonus = self.distribution(inputs).entropy().mean()
        return cross_entropy - entropy * bonus, {"bc/cross_entropy": cross_entropy, "bc/entropy": bonus}


class Bc:
    """The state of one run of behaviour cloning; `iteration` is one pass over the demonstrations. The learning rate falls
    linearly to zero over the passes.

    Args:
        run: seed and the task's hyperparameters (`rhtool.tasks.bc.Bc`).
        interface: of the env.
        demonstrations: columns `obs` (N, D), `actions` (N, …) and `episode` (N,).
    """

    def __init__(self, run: Run, interface: Interface, demonstrations: dict[str, Tensor]):
        self.task = run.task
        spaces, network = interface.spaces, interface.network(run.task)
        self.policy = Policy(*spaces, network)
        config = OrpoConfig()
        config.seed_, config.grad_clip, config.loss = run.seed, self.task.grad_clip, BcLoss(self.policy.distribution)
        self.updater = Updater(spaces, network, config)
        episodes = demonstrations["episode"].unique()
        order = episodes[torch.randperm(len(episodes), generator=torch.Generator().manual_seed(run.seed))]
        held_out = torch.isin(demonstrations["episode"], order[: round(self.task.validation * len(order))])
        columns = {key: demonstrations[key] for key in ("obs", "actions")}
        self.training = {key: column[~held_out] for key, column in columns.items()}
        self.validation = {key: column[held_out] for key, column in columns.items()}
        self.steps = self.passes = 0

    def iteration(self) -> dict[str, float]:
        """One pass over the training episodes; returns its metrics."""
        task = self.task
        metrics = self.updater.update(
            "policy",
            self.training,
            num_epochs=1,
            minibatch_size=task.minibatch,
            lr=task.lr * (1 - self.passes / task.passes),
            coefficients={"entropy": task.entropy},
        )
        metrics = {key.replace("gradient_norm", "bc/gradient_norm"): value for key, value in metrics.items()}
        self.steps += len(self.training["obs"])
        self.passes += 1
        self.policy.weights = self.updater.weights("policy")
        if len(self.validation["obs"]):
            inputs, actions = self.policy.dist_inputs(self.validation["obs"]), self.validation["actions"]
            log_prob = self.policy.distribution.log_prob(inputs, actions)
            metrics["bc/validation_cross_entropy"] = float(-log_prob.mean())
            if not actions.is_floating_point():
                agree = self.policy.distribution.mode(inputs) == actions
                metrics["bc/validation_accuracy"] = float(agree.float().mean())
        return {"steps": self.steps, **metrics}

    def get_state(self) -> dict[str, Any]:
        """Everything the next pass depends on."""
        return {
            "policy": {"spec": self.policy.spec(), "weights": self.updater.weights("policy")},
            "learner": self.updater.get_state(),
            "counts": [self.steps, self.passes],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.updater.set_state(state["learner"])
        self.policy.weights = self.updater.weights("policy")
        self.steps, self.passes = state["counts"]
