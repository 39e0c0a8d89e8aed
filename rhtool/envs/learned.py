"""Learned rewards: small networks r(s, a) that take the place of an environment's proxy.

`rhtool.rl.reward_learning` fits them to preferences and writes them; here they are read and evaluated, without torch. A
file is `reward_model.json` (what the model is for) beside `reward_model.safetensors` (its numbers).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import safetensors
import safetensors.numpy
from numba import njit

from rhtool.errors import ConfigError

if TYPE_CHECKING:
    from rhtool.envs.base import Env

SCHEMA = 1
SLOPE = 0.01
"""of the leaky ReLU between the layers, for what is negative"""

Layers = list[tuple[np.ndarray, np.ndarray]]
"""float32 weight (outputs, inputs) and bias (outputs,) of each layer, as torch has them; the last one has one output"""


@dataclass
class RewardModel:
    """r(s, a) = multiply * f((x - offset) * scale) + add, where x are the features of observation and action, and f is a
    fully connected network with leaky ReLUs; of an ensemble: the members' mean, and `std_weight` of their standard deviations."""

    observation_shape: tuple[int, ...]
    """of one observation"""
    action: dict[str, Any]
    """`{"n": 4}` of a discrete action, whose features are its one-hot; `{"shape": [10]}` of a continuous one, flattened"""
    columns: np.ndarray
    """int64 (C,): the columns of a flattened observation that are seen"""
    offset: np.ndarray
    """float32 (F,): of the features, those columns and then the action's"""
    scale: np.ndarray
    """float32 (F,): see `offset`"""
    layers: Layers
    """of the network, or of an ensemble's first member"""
    multiply: float = 1.0
    add: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
    """what the model was made of, JSON values"""
    others: list[Layers] = field(default_factory=list)
    """of an ensemble's further members; their layers have the sizes of the first one's"""
    std_weight: float = 0.0
    """below 0: what the members disagree about is worth less (their standard deviation is that of n - 1)"""

    def __post_init__(self) -> None:
        sizes = [len(self.offset), *(len(bias) for _, bias in self.layers)]
        shapes = [(b, a) for a, b in pairwise(sizes)]
        dense = math.prod(self.observation_shape)
        width = len(self.columns) + (self.action["n"] if "n" in self.action else math.prod(self.action["shape"]))
        members = [self.layers, *self.others]
        numbers = [x for layers in members for layer in layers for x in layer]
        if not all(
            np.isfinite(x).all() for x in [self.offset, self.scale, self.multiply, self.add, self.std_weight, *numbers]
        ):
            raise ValueError("some of its numbers are not finite")
        fitting = all(
            [weight.shape for weight, _ in layers] == shapes and [len(bias) for _, bias in layers] == sizes[1:]
            for layers in members
        )
        if not fitting or sizes[-1] != 1 or len(self.scale) != sizes[0]:
            raise ValueError("its layers do not fit each other")
        if width != sizes[0] or (len(self.columns) and not 0 <= self.columns.min() <= self.columns.max() < dense):
            raise ValueError("its layers do not fit observation and action")
        self._sizes = np.array(sizes, np.int64)
        # One row of inputs after the other: the kernel reads them in order.
        parts = [np.concatenate([weight.T.ravel(), bias]) for layers in members for weight, bias in layers]
        self._parameters = np.concatenate(parts).astype(np.float64).reshape(len(members), -1)

    def __call__(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Rewards float64 (B,) of actions (B, …) taken in observations (B, …). A row's reward does not depend on the other
        rows, to the last bit."""
        out = np.empty(len(observations))
        _forward(self.features(observations, actions), self._sizes, self._parameters, self.std_weight, out)
        return self.multiply * out + self.add

    def features(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """What the network sees, float32 (B, F), of observations (B, …) and actions (B, …)."""
        seen = np.asarray(observations, np.float32)
        seen = seen.reshape(len(seen), math.prod(self.observation_shape))[:, self.columns]
        if "n" in self.action:
            done = np.eye(self.action["n"], dtype=np.float32)[np.asarray(actions)]
        else:
            done = np.asarray(actions, np.float32).reshape(len(seen), math.prod(self.action["shape"]))
        return (np.concatenate([seen, done], axis=1) - self.offset) * self.scale

    def fits(self, observation_space: gymnasium.Space, action_space: gymnasium.Space) -> bool:
        """Whether it takes an environment's observations and actions."""
        return self.observation_shape == observation_space.shape and self.action == described(action_space)

    def save(self, directory: Path) -> None:
        """Write the two files."""
        directory.mkdir(parents=True, exist_ok=True)
        arrays = {"columns": self.columns, "offset": self.offset, "scale": self.scale}
        for member, layers in zip(_prefixes(len(self.others)), [self.layers, *self.others], strict=True):
            for i, (weight, bias) in enumerate(layers):
                arrays |= {f"{member}{i}.weight": weight, f"{member}{i}.bias": bias}
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        safetensors.numpy.save_file(arrays, directory / "reward_model.safetensors")
        spec = {
            "schema": SCHEMA,
            "observation_shape": list(self.observation_shape),
            "action": self.action,
            "layers": len(self.layers),
            "others": len(self.others),
            "std_weight": self.std_weight,
            "multiply": self.multiply,
            "add": self.add,
            "about": self.about,
        }
        (directory / "reward_model.json").write_text(json.dumps(spec, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> RewardModel:
        """The model that `save` wrote. Raises `OSError` if there is none, `ValueError` (or a subclass), `KeyError`,
        `TypeError` or `SafetensorError` for files that are none."""
        spec = json.loads((directory / "reward_model.json").read_text())
        if kind := spec.get("kind"):
            raise ValueError(
                f"it is a network of kind '{kind}', which task=interpret reads and no environment evaluates"
            )
        arrays = safetensors.numpy.load_file(directory / "reward_model.safetensors")
        first, *others = (
            [(arrays[f"{member}{i}.weight"], arrays[f"{member}{i}.bias"]) for i in range(spec["layers"])]
            for member in _prefixes(spec.get("others", 0))
        )
        return cls(
            observation_shape=tuple(spec["observation_shape"]),
            action=spec["action"],
            columns=arrays["columns"],
            offset=arrays["offset"],
            scale=arrays["scale"],
            layers=first,
            others=others,
            std_weight=float(spec.get("std_weight", 0)),
            multiply=float(spec["multiply"]),
            add=float(spec["add"]),
            about=spec["about"],
        )


def _prefixes(others: int) -> list[str]:
    """What the names of the members' arrays begin with."""
    return ["", *(f"other{m}." for m in range(others))]


def described(space: gymnasium.Space) -> dict[str, Any]:
    """An action space as `RewardModel.action` says it."""
    return {"n": int(space.n)} if isinstance(space, gymnasium.spaces.Discrete) else {"shape": list(space.shape)}


def proxy_of(config: Env, observation_space: gymnasium.Space, action_space: gymnasium.Space) -> RewardModel | None:
    """The model that is the environment's proxy; None if its own one is.

    Raises:
        ConfigError: if `reward_fun` and `reward_model` contradict each other, or there is no model, or it is for other
            spaces.
    """
    if config.reward_fun == "proxy" and config.reward_model:
        raise ConfigError(
            "a reward model, and a reward that is the environment's own proxy",
            "env.reward_model",
            "add env.reward_fun=learned, or leave env.reward_model out",
        )
    if not config.reward_model:
        if config.reward_fun == "learned":
            raise ConfigError("no reward model is named", "env.reward_model", config.reward_model_command())
        return None
    directory = Path(config.reward_model_path())
    where = f"env.reward_model={config.reward_model}"
    try:
        model = RewardModel.load(directory)
    except FileNotFoundError as error:
        raise ConfigError("there is no reward model", where, config.reward_model_command()) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        why = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"the reward model cannot be read ({type(error).__name__}: {why})", where, config.reward_model_command()
        ) from error
    if not model.fits(observation_space, action_space):
        raise ConfigError(
            f"the reward model is for observations {model.observation_shape} and actions {model.action}, this"
            f" environment has {observation_space.shape} and {described(action_space)}",
            where,
            f"make one with the same env.… options: {config.reward_model_command()}",
        )
    return model


@njit(cache=True, nogil=True)
def _forward(x, sizes, parameters, std_weight, out):
    """The outputs (B,) for features (B, F) of the members, whose parameters are the rows of an (M, P): row by row, in float64, so
    that no row depends on how many there are, as those of a matrix product of BLAS do."""
    members = len(parameters)
    now, then, each = np.empty(sizes.max()), np.empty(sizes.max()), np.empty(members)
    for i in range(len(x)):
        for m in range(members):
            for a in range(sizes[0]):
                now[a] = x[i, a]
            at = 0
            for layer in range(len(sizes) - 1):
                inputs, outputs = sizes[layer], sizes[layer + 1]
                for j in range(outputs):
                    then[j] = parameters[m, at + inputs * outputs + j]
                for a in range(inputs):
                    for j in range(outputs):
                        then[j] += now[a] * parameters[m, at + a * outputs + j]
                at += inputs * outputs + outputs
                for j in range(outputs):
                    linear = layer == len(sizes) - 2 or then[j] > 0
                    now[j] = then[j] if linear else SLOPE * then[j]
            each[m] = now[0]
        out[i] = each.mean()
        if members > 1 and std_weight != 0:
            out[i] += std_weight * np.sqrt(((each - out[i]) ** 2).sum() / (members - 1))
