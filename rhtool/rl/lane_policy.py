"""A policy as a lane that steps by itself has it: in numpy, for one observation at a time.

For a single row the cost of torch's calls is more than that of the numbers, and each lane's process would have to import it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


class LanePolicy:
    """The fully connected policy that `Policy.save` wrote: the same function to rounding, and the same distribution of actions.

    Args:
        path: a directory with `policy.json` and `policy.safetensors`.
        explore: sample actions; else the likeliest (of bounded ones the mean, as `distributions.Beta.mode`).

    Raises:
        OSError, KeyError: if no such policy is there.
    """

    def __init__(self, path: str, explore: bool = True):
        directory = Path(path)
        spec, weights = json.loads((directory / "policy.json").read_text()), load_file(directory / "policy.safetensors")
        network, space = spec["network"], spec["action_space"]
        layers = [f"policy_trunk.{2 * i}" for i in range(len(network["hidden"]))] + ["policy_head"]
        self._layers = [
            tuple(weights[f"{name}.{kind}"].astype(np.float32) for kind in ("weight", "bias")) for name in layers
        ]
        self._offset, self._scale = (np.array(network.get(k, d), np.float32) for k, d in (("offset", 0), ("scale", 1)))
        self._act = _categorical(explore) if space["type"] == "Discrete" else _box(space, explore)

    def __call__(self, observation: np.ndarray, generator: np.random.Generator) -> Any:
        """An action for an observation: int, or float32 of the action space's shape."""
        return self._act(self.dist_inputs(observation), generator)

    def dist_inputs(self, observation: np.ndarray) -> np.ndarray:
        """Inputs of the action distribution, float32 (inputs,), for an observation that has the env's shape."""
        x = (observation.ravel().astype(np.float32) - self._offset) * self._scale
        for weight, bias in self._layers[:-1]:
            x = np.tanh(weight @ x + bias)
        weight, bias = self._layers[-1]
        return weight @ x + bias


def can_act(config: dict[str, Any]) -> bool:
    """Whether the network of this `model_config` is one that `LanePolicy` computes."""
    return config["network"] == "mlp"


def _categorical(explore: bool) -> Any:
    def act(inputs: np.ndarray, generator: np.random.Generator) -> int:
        if not explore:
            return int(inputs.argmax())
        # The Gumbel-max trick: the argmax is distributed as softmax(inputs).
        return int((inputs + generator.gumbel(size=inputs.shape)).argmax())

    return act


def _box(space: dict[str, Any], explore: bool) -> Any:
    low, high = (np.broadcast_to(np.array(space[bound], np.float32), space["shape"]) for bound in ("low", "high"))
    half = low.size

    def gaussian(inputs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        mean, log_std = inputs[:half], inputs[half:]
        noise = generator.standard_normal(mean.shape, np.float32) if explore else 0
        return (mean + np.exp(log_std) * noise).reshape(space["shape"])

    def beta(inputs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        parameters = np.logaddexp(0, inputs) + 1
        drawn = generator.standard_gamma(parameters, dtype=np.float32) if explore else parameters
        y = drawn[:half] / (drawn[:half] + drawn[half:])
        return np.minimum(low + (high - low) * y.reshape(space["shape"]), high)  # float32 can round above

    return beta if np.isfinite(low).all() else gaussian
