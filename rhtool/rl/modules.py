"""The networks, as RLModules of RLlib's new API stack: policy with value function, and discriminator."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from rhtool.errors import ConfigError
from rhtool.rl.dense import Layers
from rhtool.rl.distributions import action_distribution
from rhtool.rl.lstm import LastOutput


class PolicyModule(TorchRLModule, ValueFunctionAPI):
    """Policy and value function over flattened observations (B, D) float32.

    `model_config`:
        network: "mlp" (fully connected, tanh), or "lstm" over the last axis of the observation (features, time), whose
            output at the newest time is the hidden layer. Missing: "mlp".
        hidden: units per layer.
        share_value: the value is a linear layer on the policy's last hidden layer, else it has a network of its own.
        offset, scale: the networks see (observation - offset) * scale, elementwise. Missing: the observation as it is.
        action_margin: of bounded actions, see `distributions.Beta`. Missing: 0.01.

    Initialisation: fully connected layers with normalised columns, 1.0 for hidden layers, 0.01 for the outputs, biases zero
    (RLlib's normc, which the paper's policies start from); an LSTM and its heads as torch does, the action head's outputs
    being ten times what its weights, a tenth at the start, say (the paper's glucose policy).
    """

    def setup(self) -> None:
        """Build the layers from the spaces and `model_config`."""
        config = self.model_config
        margin = config.get("action_margin", 0.01)
        self.distribution = action_distribution(self.action_space, margin)
        recurrent = config.get("network", "mlp") == "lstm"
        shape, hidden = self.observation_space.shape, list(config["hidden"])
        self.normalise = Normalise(config["offset"], config["scale"]) if "scale" in config else nn.Identity()

        def trunk() -> nn.Module:
            return Recurrent(shape, hidden) if recurrent else tower(math.prod(shape), hidden)

        def head(outputs: int) -> nn.Linear:
            layer = nn.Linear(hidden[-1], outputs)
            return layer if recurrent else normc(layer, 0.01)

        self.policy_trunk, self.policy_head = trunk(), head(self.distribution.inputs)
        self.value_trunk, self.value_head = None if config["share_value"] else trunk(), head(1)
        self.head_scale = HEAD_SCALE if recurrent else 1.0
        if recurrent:
            with torch.no_grad():
                self.policy_head.weight /= HEAD_SCALE
                self.policy_head.bias /= HEAD_SCALE

    def dist_inputs(self, obs: Tensor) -> Tensor:
        """Inputs of the action distribution, (B, inputs)."""
        return self.policy_head(self.policy_trunk(self.normalise(obs))) * self.head_scale

    def values(self, obs: Tensor) -> Tensor:
        """State values, (B,)."""
        return self.value_head((self.value_trunk or self.policy_trunk)(self.normalise(obs))).squeeze(-1)

    def _forward(self, batch: dict, **kwargs) -> dict:
        return {Columns.ACTION_DIST_INPUTS: self.dist_inputs(batch[Columns.OBS])}

    def _forward_train(self, batch: dict, **kwargs) -> dict:
        obs = self.normalise(batch[Columns.OBS])
        hidden = self.policy_trunk(obs)
        values = hidden if self.value_trunk is None else self.value_trunk(obs)
        return {
            Columns.ACTION_DIST_INPUTS: self.policy_head(hidden) * self.head_scale,
            Columns.VF_PREDS: self.value_head(values).squeeze(-1),
        }

    def compute_values(self, batch: dict, embeddings: Tensor | None = None) -> Tensor:
        """RLlib's name for `values`."""
        return self.values(batch[Columns.OBS])


HEAD_SCALE = 10.0
"""of a recurrent policy's action head"""


class Normalise(nn.Module):
    """(x - offset) * scale; both are flattened lists, kept with the weights but not trained."""

    def __init__(self, offset: list[float], scale: list[float]):
        super().__init__()
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, D)."""
        return (x - self.offset) * self.scale


class Recurrent(nn.Module):
    """An LSTM that reads observations of shape (features, time), flattened, from the oldest time on; returns its last output."""

    def __init__(self, shape: tuple[int, ...], hidden: list[int]):
        super().__init__()
        if len(shape) != 2 or len(set(hidden)) != 1:
            raise ConfigError(
                f"an LSTM of {hidden} units for observations {shape}",
                "task.network",
                "it takes observations (features, time) and layers of equal size: task.hidden=[64,64], or task.network=mlp",
            )
        self.shape = shape
        self.lstm = LastOutput(shape[0], hidden[0], len(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """(B, features * time) -> (B, units)."""
        return self.lstm(x.unflatten(-1, self.shape))


class DiscriminatorModule(TorchRLModule):
    """Scores d(s, a) that tend to log(mu_pi / mu_base): a LeakyReLU network over the features of a transition.

    `model_config`: `inputs` (features of a transition), `hidden` (units per layer; the paper's are 256, 256).
    Batch: `inputs` (N, F) float32.
    """

    def setup(self) -> None:
        """Build the layers from `model_config`."""
        sizes = [self.model_config["inputs"], *self.model_config["hidden"]]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.LeakyReLU(0.01))]
        self.net = Layers(*layers, nn.Linear(sizes[-1], 1))

    def score(self, inputs: Tensor) -> Tensor:
        """Scores (N,) of features (N, F)."""
        return self.net(inputs).squeeze(-1)

    def _forward(self, batch: dict, **kwargs) -> dict:
        return {"scores": self.score(batch["inputs"])}


def tower(inputs: int, hidden: list[int]) -> Layers:
    """Linear and tanh layers of the given sizes."""
    sizes = [inputs, *hidden]
    return Layers(*(m for a, b in pairwise(sizes) for m in (normc(nn.Linear(a, b), 1.0), nn.Tanh())))


def normc(layer: nn.Linear, std: float) -> nn.Linear:
    """Gaussian weights whose rows have norm `std`; zero bias."""
    with torch.no_grad():
        layer.weight.normal_()
        layer.weight.mul_(std / layer.weight.norm(dim=1, keepdim=True))
        layer.bias.zero_()
    return layer
