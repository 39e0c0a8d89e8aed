"""Reward networks of (s, a, s', terminated): fully connected and convolutional, saved as JSON and safetensors.

A file is `reward_model.json`, whose `kind` says which class reads it, beside `reward_model.safetensors`: the names that
`rhtool.envs.learned.RewardModel` uses, whose files have no `kind`.
"""

from __future__ import annotations

import copy
import json
import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from scipy.linalg import block_diag
from torch import Tensor, nn

from rhtool.envs.learned import SLOPE, Layers, RewardModel
from rhtool.errors import ConfigError
from rhtool.interpret.rewards import Learned, RewardFunction
from rhtool.interpret.transitions import Transitions

SCHEMA = 1
PARTS = ("obs", "action", "next_obs", "terminated")
"""what a network may look at of a transition, in this order"""
ROWS = 256
"""transitions of one forward pass of `predict`"""

Parts = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""a batch as a network takes it, in the order of `PARTS`; None for what it does not look at"""


class RewardNet(nn.Module):
    """multiply * f(s, a, s', terminated) + add.

    Args:
        observation_shape: of one observation.
        action: `{"n": 4}` of a discrete action, seen as a one-hot; `{"shape": [10]}` of a continuous one, flattened.
        sees: those of `PARTS` that f looks at.
        multiply, add: see above; numbers, which are not trained.
        about: JSON values about what the network was made of.
    """

    kind: ClassVar[str] = ""

    def __init__(
        self,
        observation_shape: Sequence[int],
        action: dict[str, Any],
        sees: Sequence[str] = ("obs", "action"),
        multiply: float = 1.0,
        add: float = 0.0,
        about: dict[str, Any] | None = None,
    ):
        super().__init__()
        if not sees or set(sees) - set(PARTS):
            raise ConfigError(f"a network cannot look at {list(sees)}", "sees", f"choose some of {list(PARTS)}")
        self.observation_shape = tuple(observation_shape)
        self.action = action
        self.sees = tuple(part for part in PARTS if part in sees)
        self.multiply, self.add, self.about = float(multiply), float(add), dict(about or {})

    @property
    def actions(self) -> int:
        """Components of an action as a network sees it: how many there are to choose from, of a discrete one."""
        return int(self.action["n"]) if "n" in self.action else math.prod(self.action["shape"])

    @property
    def device(self) -> torch.device:
        """Where its parameters are; the CPU if it has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @abstractmethod
    def visible(self, obs: Tensor | None, action: Tensor | None, next_obs: Tensor | None, terminated: Tensor | None):
        """The part of the input that visualisation and attribution vary: x, (N, …)."""

    @abstractmethod
    def of_visible(self, x: Tensor, action: Tensor | None = None, terminated: Tensor | None = None) -> Tensor:
        """Rewards (N,) of x as `visible` makes it, and of what x has no part of."""

    def forward(
        self,
        obs: Tensor | None = None,
        action: Tensor | None = None,
        next_obs: Tensor | None = None,
        terminated: Tensor | None = None,
    ) -> Tensor:
        """Rewards (N,) of parts as `parts` makes them. What the network does not look at may be None."""
        return self.of_visible(self.visible(obs, action, next_obs, terminated), action, terminated)

    def observed(self, observations: np.ndarray) -> Tensor:
        """Observations (N, …) as the network takes them, float32."""
        return torch.as_tensor(np.asarray(observations), dtype=torch.float32)

    def parts(self, transitions: Transitions) -> Parts:
        """What the network looks at of N transitions: observations as `observed` has them, actions as one-hots or flattened
        (N, A), `terminated` 0 or 1 (N,), all float32 on the network's device."""

        def acted() -> Tensor:
            if "n" in self.action:
                return torch.eye(self.actions)[torch.as_tensor(np.asarray(transitions.actions), dtype=torch.long)]
            return torch.as_tensor(np.asarray(transitions.actions), dtype=torch.float32).flatten(1)

        makers = (
            lambda: self.observed(transitions.obs),
            acted,
            lambda: self.observed(transitions.next_obs),
            lambda: torch.as_tensor(transitions.terminated, dtype=torch.float32),
        )
        made = (
            maker().to(self.device) if part in self.sees else None for part, maker in zip(PARTS, makers, strict=True)
        )
        return tuple(made)

    @torch.no_grad()
    def predict(self, transitions: Transitions) -> np.ndarray:
        """Rewards (N,) float64, in evaluation mode; the network is left in the mode in which it was."""
        mode = self.training
        self.eval()
        try:
            found = [
                self(*self.parts(transitions[i : i + ROWS])).cpu().double() for i in range(0, len(transitions), ROWS)
            ]
        finally:
            self.train(mode)
        return torch.cat(found).numpy() if found else np.empty(0)

    def options(self) -> dict[str, Any]:
        """The arguments that make such a network, as JSON values."""
        return {
            "observation_shape": list(self.observation_shape),
            "action": self.action,
            "sees": list(self.sees),
            "multiply": self.multiply,
            "add": self.add,
            "about": self.about,
        }

    def fresh(self, seed: int) -> RewardNet:
        """A network of the same architecture as networks start; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return type(self)(**copy.deepcopy(self.options()))

    def save(self, directory: Path) -> None:
        """Write the two files."""
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        safetensors.torch.save_file(weights, directory / "reward_model.safetensors")
        spec = {"schema": SCHEMA, "kind": self.kind, **self.options()}
        (directory / "reward_model.json").write_text(json.dumps(spec, indent=1) + "\n")


class MlpReward(RewardNet):
    """Fully connected: (x - offset) * scale, `dense0`, `act0`, …, `dense_final`; x are the parts that it sees, flattened and joined.

    Args:
        hidden: units of the hidden layers.
        slope: of the activation for what is negative: 0 is a ReLU, 0.01 the leaky one of `RewardModel`.
        columns: of a flattened observation, those that are seen; None: all.
    """

    kind = "mlp"

    def __init__(
        self,
        observation_shape: Sequence[int],
        action: dict[str, Any],
        sees: Sequence[str] = ("obs", "action"),
        hidden: Sequence[int] = (32, 32),
        slope: float = SLOPE,
        columns: Sequence[int] | None = None,
        **rest: Any,
    ):
        super().__init__(observation_shape, action, sees, **rest)
        self.hidden, self.slope = tuple(hidden), float(slope)
        seen = np.arange(math.prod(self.observation_shape)) if columns is None else np.asarray(columns, np.int64)
        self.register_buffer("columns", torch.from_numpy(seen.copy()))
        widths = {"obs": len(seen), "action": self.actions, "next_obs": len(seen), "terminated": 1}
        size = sum(widths[part] for part in self.sees)
        self.register_buffer("offset", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (inputs, outputs) in enumerate(pairwise([size, *self.hidden])):
            layers[f"dense{i}"] = nn.Linear(inputs, outputs)
            layers[f"act{i}"] = nn.LeakyReLU(self.slope)
        layers["dense_final"] = nn.Linear([size, *self.hidden][-1], 1)
        self.mlp = nn.Sequential(layers)

    def visible(self, obs=None, action=None, next_obs=None, terminated=None) -> Tensor:
        """All of the input, (N, F) float32, normalised: attribution is of these."""
        seen = [
            part.flatten(1)[:, self.columns] if name.endswith("obs") else part.reshape(len(part), -1)
            for name, part in zip(PARTS, (obs, action, next_obs, terminated), strict=True)
            if name in self.sees
        ]
        return (torch.cat(seen, 1) - self.offset) * self.scale

    def of_visible(self, x: Tensor, action: Tensor | None = None, terminated: Tensor | None = None) -> Tensor:
        return self.multiply * self.mlp(x).squeeze(-1) + self.add

    def feature_names(self, obs_names: Sequence[str] = (), action_names: Sequence[str] = ()) -> list[str]:
        """Of the F features of `visible`: `obs[3]`, `obs[1,47]`, `action 2`, …; or by what columns of a flattened observation and
        actions are called, if that is given."""

        def observed(part: str, column: int) -> str:
            if obs_names:
                return obs_names[column] if part == "obs" else f"next {obs_names[column]}"
            return f"{part}[{','.join(str(int(i)) for i in np.unravel_index(column, self.observation_shape))}]"

        named = {
            "action": list(action_names) or [f"action {i}" for i in range(self.actions)],
            "terminated": ["terminated"],
            **{part: [observed(part, column) for column in self.columns.tolist()] for part in ("obs", "next_obs")},
        }
        return [name for part in self.sees for name in named[part]]

    def options(self) -> dict[str, Any]:
        own = {"hidden": list(self.hidden), "slope": self.slope, "columns": self.columns.tolist()}
        return super().options() | own

    @classmethod
    def of(cls, model: RewardModel) -> MlpReward:
        """The same function as a model of task=rm_train, in float32; of an ensemble the members side by side, and their mean.
        Raises `ValueError` where the members' standard deviation counts."""
        if model.std_weight and model.others:
            raise ValueError("an ensemble's standard deviation is no network")
        layers = side_by_side([model.layers, *model.others])
        net = cls(
            model.observation_shape,
            model.action,
            hidden=[len(bias) for _, bias in layers[:-1]],
            columns=model.columns,
            multiply=model.multiply,
            add=model.add,
            about=model.about,
        )
        with torch.no_grad():
            net.offset.copy_(torch.as_tensor(model.offset))
            net.scale.copy_(torch.as_tensor(model.scale))
            for linear, (weight, bias) in zip(net.linears(), layers, strict=True):
                linear.weight.copy_(torch.as_tensor(weight))
                linear.bias.copy_(torch.as_tensor(bias))
        return net

    def linears(self) -> list[nn.Linear]:
        """Its fully connected layers, from the input on."""
        return [layer for layer in self.mlp if isinstance(layer, nn.Linear)]

    def to_model(self) -> RewardModel:
        """The inverse of `of`: what an environment can evaluate as its proxy. Raises `ValueError` for a network that is no
        r(s, a) with leaky ReLUs."""
        if self.sees != ("obs", "action") or self.slope != SLOPE:
            raise ValueError(f"a network of {self.sees} with slope {self.slope} is no r(s, a) of an environment")
        numbers = [tuple(p.detach().cpu().numpy().copy() for p in (x.weight, x.bias)) for x in self.linears()]
        columns, offset, scale = (x.cpu().numpy().copy() for x in (self.columns, self.offset, self.scale))
        return RewardModel(
            self.observation_shape, self.action, columns, offset, scale, numbers, self.multiply, self.add, self.about
        )


def side_by_side(members: list[Layers]) -> Layers:
    """One network whose output is the mean of those of several of the same sizes."""
    made: Layers = []
    for i, same in enumerate(zip(*members, strict=True)):
        weights, biases = zip(*same, strict=True)
        if i < len(members[0]) - 1:
            made.append((block_diag(*weights) if i else np.concatenate(weights), np.concatenate(biases)))
        else:
            mean = np.concatenate(weights, axis=1) / len(members) if i else np.mean(weights, axis=0)
            made.append((mean, np.mean(biases, axis=0)))
    return made


class CnnReward(RewardNet):
    """Convolutional, on images; the action is never an input but selects a head of the output, as does `terminated`.

    `conv0`, `act0`, …, `avg_pool`, `flatten`, (`dense0`, `dense_act0`, …,) `dense_final`: the outputs are A (with an action,
    else 1) times 2 (with `terminated`: those of transitions after which an episode goes on, then those that end one).

    Args:
        hidden: channels of the convolutions.
        channels_last: observations are (H, W, C), else (C, H, W). Integers are divided by 255, floats are taken to lie in [0, 1].
        kernel, stride, dilation: of every convolution; each keeps its image's size but for the stride.
        coordinates: two further input channels, x and y from -1 to 1 (Liu et al. 2018, arXiv 1807.03247).
        pool: side of the grid to which the last images are averaged: 1 forgets where things are.
        dense: units of fully connected layers before the last.
    """

    kind = "cnn"

    def __init__(
        self,
        observation_shape: Sequence[int],
        action: dict[str, Any],
        sees: Sequence[str] = ("obs", "action"),
        hidden: Sequence[int] = (32, 32),
        channels_last: bool = True,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        coordinates: bool = False,
        pool: int = 1,
        dense: Sequence[int] = (),
        **rest: Any,
    ):
        super().__init__(observation_shape, action, sees, **rest)
        frames = sum(part in self.sees for part in ("obs", "next_obs"))
        if len(self.observation_shape) != 3 or not frames or ("action" in self.sees and "n" not in action):
            what = f"a CNN of {list(self.sees)} for observations {self.observation_shape} and actions {action}"
            raise ConfigError(
                what, "network", "it looks at images (H, W, C), and at discrete actions; else take an mlp"
            )
        self.hidden, self.channels_last, self.coordinates = tuple(hidden), channels_last, coordinates
        self.kernel, self.stride, self.dilation, self.pool, self.dense = kernel, stride, dilation, pool, tuple(dense)
        *size, channels = self.observation_shape if channels_last else np.roll(self.observation_shape, -1).tolist()
        self.image = (frames * channels, *size)
        """(C, H, W) of `visible`"""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (inputs, outputs) in enumerate(pairwise([self.image[0] + 2 * coordinates, *self.hidden])):
            layers[f"conv{i}"] = nn.Conv2d(
                inputs, outputs, kernel, stride, padding=dilation * (kernel // 2), dilation=dilation
            )
            layers[f"act{i}"] = nn.ReLU()
        layers["avg_pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(pool), nn.Flatten()
        sizes = [[self.image[0] + 2 * coordinates, *self.hidden][-1] * pool**2, *self.dense]
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            layers[f"dense{i}"], layers[f"dense_act{i}"] = nn.Linear(inputs, outputs), nn.ReLU()
        heads = self.actions if "action" in self.sees else 1
        layers["dense_final"] = nn.Linear(sizes[-1], heads * (2 if "terminated" in self.sees else 1))
        self.cnn = nn.Sequential(layers)

    def observed(self, observations: np.ndarray) -> Tensor:
        """Images (N, C, H, W) float32 in [0, 1]."""
        image = torch.as_tensor(np.asarray(observations))
        image = image.float() if image.is_floating_point() else image.float() / 255
        return image.permute(0, 3, 1, 2) if self.channels_last else image

    def visible(self, obs=None, action=None, next_obs=None, terminated=None) -> Tensor:
        """The images that it sees, one after the other in the channels: (N, C, H, W)."""
        return torch.cat([x for part, x in (("obs", obs), ("next_obs", next_obs)) if part in self.sees], 1)

    def heads(self, x: Tensor) -> Tensor:
        """Outputs (N, heads) of all heads."""
        if self.coordinates:
            h, w = x.shape[2:]
            axes = torch.meshgrid(*(torch.linspace(-1, 1, n, device=x.device) for n in (h, w)), indexing="ij")
            x = torch.cat([x, torch.stack(axes[::-1]).to(x.dtype).expand(len(x), 2, h, w)], 1)
        return self.multiply * self.cnn(x) + self.add

    def of_visible(self, x: Tensor, action: Tensor | None = None, terminated: Tensor | None = None) -> Tensor:
        chosen = action if "action" in self.sees else x.new_ones(len(x), 1)
        if "terminated" in self.sees:
            ends = terminated[:, None]
            chosen = torch.cat([chosen * (1 - ends), chosen * ends], 1)
        return (self.heads(x) * chosen).sum(1)

    def options(self) -> dict[str, Any]:
        names = ("channels_last", "kernel", "stride", "dilation", "coordinates", "pool")
        own = {name: getattr(self, name) for name in names}
        return super().options() | own | {"hidden": list(self.hidden), "dense": list(self.dense)}


KINDS: dict[str, type[RewardNet]] = {cls.kind: cls for cls in (MlpReward, CnnReward)}
"""the classes by the `kind` of their files"""


def load(directory: Path) -> RewardNet:
    """The network that `save` wrote, in evaluation mode.

    Raises `OSError` if there is none, `ValueError` (or a subclass), `KeyError`, `TypeError`, `RuntimeError` or `SafetensorError`
    for files that are none.
    """
    spec = json.loads((directory / "reward_model.json").read_text())
    if spec.pop("schema") != SCHEMA or spec["kind"] not in KINDS:
        raise ValueError(f"its kind is {spec.get('kind')!r}, which is none of {sorted(KINDS)}, or its schema another")
    net = KINDS[spec.pop("kind")](**spec)
    net.load_state_dict(safetensors.torch.load_file(directory / "reward_model.safetensors"))
    if not all(value.isfinite().all() for value in net.state_dict().values()):
        raise ValueError("some of its numbers are not finite")
    return net.eval()


class Network:
    """A reward network as a reward function."""

    def __init__(self, network: RewardNet):
        self.network = network

    def __call__(self, transitions: Transitions) -> np.ndarray:
        """`RewardNet.predict`."""
        return self.network.predict(transitions)


def network_of(name: str, function: RewardFunction) -> RewardNet:
    """The network behind a reward function, for methods that look inside. Raises `ConfigError` if there is none."""
    if isinstance(function, Network):
        return function.network
    if isinstance(function, Learned):
        try:
            return MlpReward.of(function.model).eval()
        except ValueError as error:
            raise ConfigError(
                f"the reward '{name}': {error}", "task.rewards", "learn one with task.std_weight=0"
            ) from error
    mend = "name runs of task=rm_train; the environment's own rewards: learn them first, with task.labels=rewards"
    raise ConfigError(f"the reward '{name}' is no network to look into", "task.rewards", mend)
