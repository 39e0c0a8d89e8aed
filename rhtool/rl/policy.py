"""A policy as one saves, loads and samples it: spaces, network, weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rhtool.checkpoints import read
from rhtool.envs.base import Env
from rhtool.errors import RhtoolError
from rhtool.rl.modules import PolicyModule

ROWS = 2048
"""observations of one forward pass: a bound on its memory; on a GPU 32 times as many"""


class Policy:
    """A `PolicyModule` with what is needed to build it again.

    Args:
        observation_space: Box, which the network sees flattened: (D,).
        action_space: Discrete or Box.
        config: `model_config` of `PolicyModule`.
    """

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, config: dict[str, Any]):
        self.observation_space, self.action_space = observation_space, action_space
        self.config = {"network": "mlp"} | config
        self.module = PolicyModule(
            observation_space=observation_space, action_space=action_space, model_config=self.config
        )
        self.module.eval()
        self.distribution = self.module.distribution

    @classmethod
    def fresh(cls, interface: Interface, options: Any, seed: int) -> Policy:
        """One as networks start, for an environment's `interface` and the network that `options` describe."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return cls(*interface.spaces, interface.network(options))

    def to(self, device: torch.device) -> Policy:
        """Itself, computing on this device from now on; what it takes and returns stays on the CPU."""
        self.module.to(device)
        return self

    def dist_inputs(self, obs: Tensor) -> Tensor:
        """Inputs of the action distribution (B, inputs) for observations (B, D) float32."""
        return self._in_parts(self.module.dist_inputs, obs)

    def values(self, obs: Tensor) -> Tensor:
        """Values (B,) of observations (B, D)."""
        return obs.new_zeros(0) if not len(obs) else self._in_parts(self.module.values, obs)

    @torch.no_grad()
    def _in_parts(self, function: Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
        device = self.module.policy_head.weight.device
        rows = ROWS if device.type == "cpu" else 32 * ROWS
        if len(obs) <= rows:
            return function(obs.to(device)).cpu()
        return torch.cat([function(part.to(device)).cpu() for part in obs.split(rows)])

    def probabilities(self, obs: np.ndarray) -> np.ndarray:
        """Action probabilities (B, A) float64 of observations (B, D), for a Discrete action space."""
        return torch.softmax(self.dist_inputs(torch.as_tensor(obs)).double(), -1).numpy()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The module's parameters by name, on the CPU: the very ones if it computes there."""
        return {name: value.cpu() for name, value in self.module.state_dict().items()}

    @weights.setter
    def weights(self, weights: dict[str, Tensor]) -> None:
        self.module.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})

    def spec(self) -> dict[str, Any]:
        """Spaces and network as JSON values."""
        return {
            "observation_space": _space_to_json(self.observation_space),
            "action_space": _space_to_json(self.action_space),
            "network": self.config,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Policy:
        """The inverse of `spec`, with fresh weights."""
        return cls(_space_from_json(spec["observation_space"]), _space_from_json(spec["action_space"]), spec["network"])

    def copy(self) -> Policy:
        """A policy with the same network and its own copy of the weights."""
        other = Policy.from_spec(self.spec())
        other.weights = self.weights
        return other

    def save(self, directory: Path, dtype: str = "float32") -> None:
        """Write `policy.safetensors`, its numbers as `dtype` ("float32" or "float16"), and `policy.json`, the spec."""
        directory.mkdir(parents=True, exist_ok=True)
        weights = {n: value.to(getattr(torch, dtype)).contiguous() for n, value in self.weights.items()}
        safetensors.torch.save_file(weights, directory / "policy.safetensors")
        (directory / "policy.json").write_text(json.dumps({"schema": 1, **self.spec()}) + "\n")

    def fits(self, env: Env) -> bool:
        """Whether it takes an env's observations and gives its actions."""
        return (self.observation_space, self.action_space) == interface_of(env).spaces

    @classmethod
    def load_for(cls, env: Env, path: str | Path) -> Policy:
        """`load`, and `RhtoolError` if the policy is of an env with other spaces (another board, another patient)."""
        policy = cls.load(path)
        if not policy.fits(env):
            spaces = interface_of(env).spaces
            raise RhtoolError(
                f"the policy is for observations {policy.observation_space.shape} and actions {policy.action_space},"
                f" this environment has {spaces[0].shape} and {spaces[1]}",
                str(path),
                f"make one with the same env.… options: {env.base_policy_command()}",
            )
        return policy

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """A policy from a run's directory (finished, or its last checkpoint) or from a directory that `save` wrote.

        Raises:
            RhtoolError: if there is no policy there.
        """
        path = Path(path)
        for directory in (path, path / "policy"):
            if (directory / "policy.json").is_file():
                try:
                    policy = cls.from_spec(json.loads((directory / "policy.json").read_text()))
                    policy.weights = safetensors.torch.load_file(directory / "policy.safetensors")
                except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
                    why = str(error).splitlines()[0]
                    raise RhtoolError(
                        f"the policy cannot be read ({type(error).__name__}: {why})", str(directory), "make it again"
                    ) from error
                return policy
        if not path.is_dir():
            raise RhtoolError(f"there is no policy at {path}", str(path), "give a run's directory: outputs/…/seed=0")
        state = read(path, "policy")
        policy = cls.from_spec(state["spec"])
        policy.weights = state["weights"]
        return policy


@dataclass
class Grid:
    """Cells that the first columns of an observation are a one-hot of; see `VectorEnv.grid`."""

    cells: np.ndarray
    """int64 (C, 3): panel, row, column"""
    panels: tuple[str, ...]
    """titles"""
    moves: tuple[tuple[int, int], ...]
    """(row, column) of each action; empty: actions are no moves"""
    marks: tuple[tuple[int, str], ...] = ()
    """(cell, letter) of what stands where"""


@dataclass
class Interface:
    """What networks must know of an environment."""

    observation_space: gym.spaces.Box
    action_space: gym.Space
    offset: np.ndarray
    """float32 (D,): networks see (observation - offset) * scale"""
    scale: np.ndarray
    """float32 (D,)"""
    latest: np.ndarray
    """int64: the columns of a flattened observation that describe the newest state"""
    obs_names: tuple[str, ...] = ()
    """of the columns of a flattened observation"""
    action_names: tuple[str, ...] = ()
    """of discrete actions, or of the columns of continuous ones"""
    grid: Grid | None = None
    """where the agent is, if it moves on a grid"""

    @property
    def spaces(self) -> tuple[gym.Space, gym.Space]:
        """Observation and action space."""
        return self.observation_space, self.action_space

    def network(self, options: Any) -> dict[str, Any]:
        """The `model_config` of a policy: `network`, `hidden`, `share_value`, `action_margin` of a task, and the normalisation."""
        config = {"network": options.network, "hidden": list(options.hidden), "share_value": options.share_value}
        if not isinstance(self.action_space, gym.spaces.Discrete):
            config["action_margin"] = options.action_margin
        if (self.offset != 0).any() or (self.scale != 1).any():
            config |= {"offset": self.offset.tolist(), "scale": self.scale.tolist()}
        return config


def interface_of(env: Env) -> Interface:
    """Read it off one copy of the env."""
    probe = env.make_vec(1)
    shape = probe.single_observation_space.shape
    offset, scale = (np.broadcast_to(x, shape).astype(np.float32).ravel() for x in (probe.obs_offset, probe.obs_scale))
    latest = np.arange(offset.size) if probe.latest is None else probe.latest
    probe.close()
    space = probe.single_action_space
    width = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape))
    places = [",".join(map(str, np.unravel_index(i, shape))) for i in range(offset.size)]
    return Interface(
        probe.single_observation_space,
        space,
        offset,
        scale,
        latest,
        probe.obs_names or tuple(f"obs[{place}]" for place in places),
        probe.action_names or tuple(f"{i}" for i in range(width)),
        None if probe.grid is None else Grid(probe.grid, probe.grid_panels, probe.grid_moves, probe.grid_marks),
    )


def _space_to_json(space: gym.Space) -> dict[str, Any]:
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n)}
    # Bounds as text: an infinite one is not a JSON number.
    bounds = {}
    for name, bound in (("low", space.low), ("high", space.high)):
        same = bound.size and (bound == bound.flat[0]).all()
        bounds[name] = str(bound.flat[0]) if same else bound.astype(str).tolist()
    return {"type": "Box", **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}


def _space_from_json(spec: dict[str, Any]) -> gym.Space:
    if spec["type"] == "Discrete":
        return gym.spaces.Discrete(spec["n"])
    low, high = (np.array(spec[bound]).astype(spec["dtype"]) for bound in ("low", "high"))
    if "shape" in spec:
        low, high = (np.broadcast_to(bound, spec["shape"]) for bound in (low, high))
    return gym.spaces.Box(low, high, dtype=np.dtype(spec["dtype"]).type)
