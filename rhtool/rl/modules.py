"""The networks, as RLModules of RLlib's new API stack: policy with value function, and discriminator."""

from __future__ import annotations

from itertools import pairwise

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from rhtool.rl.distributions import action_distribution


class PolicyModule(TorchRLModule, ValueFunctionAPI):
    """Fully connected tanh networks for the action distribution and the value.

    `model_config`: `hidden` (units per layer), `share_value` (the value is a linear layer on the policy's last hidden layer, else a
    tower of its own). Initialisation: normalised columns, 1.0 for hidden layers, 0.01 for the outputs, biases zero (RLlib's normc,
    which the paper's policies start from). Observations (B, D) float32.
    """

    def setup(self) -> None:
        """Build the layers from the spaces and `model_config`."""
        self.distribution = action_distribution(self.action_space)
        inputs, hidden = self.observation_space.shape[0], list(self.model_config["hidden"])
        self.policy_trunk = tower(inputs, hidden)
        self.policy_head = normc(nn.Linear(hidden[-1], self.distribution.inputs), 0.01)
        self.value_trunk = None if self.model_config["share_value"] else tower(inputs, hidden)
        self.value_head = normc(nn.Linear(hidden[-1], 1), 0.01)

    def dist_inputs(self, obs: Tensor) -> Tensor:
        """Inputs of the action distribution, (B, inputs)."""
        return self.policy_head(self.policy_trunk(obs))

    def values(self, obs: Tensor) -> Tensor:
        """State values, (B,)."""
        return self.value_head((self.value_trunk or self.policy_trunk)(obs)).squeeze(-1)

    def _forward(self, batch: dict, **kwargs) -> dict:
        return {Columns.ACTION_DIST_INPUTS: self.dist_inputs(batch[Columns.OBS])}

    def _forward_train(self, batch: dict, **kwargs) -> dict:
        hidden = self.policy_trunk(batch[Columns.OBS])
        values = hidden if self.value_trunk is None else self.value_trunk(batch[Columns.OBS])
        return {
            Columns.ACTION_DIST_INPUTS: self.policy_head(hidden),
            Columns.VF_PREDS: self.value_head(values).squeeze(-1),
        }

    def compute_values(self, batch: dict, embeddings: Tensor | None = None) -> Tensor:
        """RLlib's name for `values`."""
        return self.values(batch[Columns.OBS])


class DiscriminatorModule(TorchRLModule):
    """Scores d(s, a) that tend to log(mu_pi / mu_base): a LeakyReLU network over the features of a transition.

    `model_config`: `inputs` (features of a transition), `hidden` (units per layer; the paper's are 256, 256).
    Batch: `inputs` (N, F) float32.
    """

    def setup(self) -> None:
        """Build the layers from `model_config`."""
        sizes = [self.model_config["inputs"], *self.model_config["hidden"]]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.LeakyReLU(0.01))]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def score(self, inputs: Tensor) -> Tensor:
        """Scores (N,) of features (N, F)."""
        return self.net(inputs).squeeze(-1)

    def _forward(self, batch: dict, **kwargs) -> dict:
        return {"scores": self.score(batch["inputs"])}


def tower(inputs: int, hidden: list[int]) -> nn.Sequential:
    """Linear and tanh layers of the given sizes."""
    sizes = [inputs, *hidden]
    layers = [m for a, b in pairwise(sizes) for m in (normc(nn.Linear(a, b), 1.0), nn.Tanh())]
    return nn.Sequential(*layers)


def normc(layer: nn.Linear, std: float) -> nn.Linear:
    """Gaussian weights whose rows have norm `std`; zero bias."""
    with torch.no_grad():
        layer.weight.normal_()
        layer.weight.mul_(std / layer.weight.norm(dim=1, keepdim=True))
        layer.bias.zero_()
    return layer
