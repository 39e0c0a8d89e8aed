"""Rewards made of other rewards or of tables: shaped, scaled, tabular; saved as JSON and safetensors.

A directory holds `reward_model.json`, whose `kind` says which class reads it, and `reward_model.safetensors`. A reward that
is made of another has it in `base/`, or names the environment's own in `base`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.numpy

from rhtool.errors import RhtoolError
from rhtool.interpret.potentials import KINDS as POTENTIALS
from rhtool.interpret.potentials import Potential, TablePotential
from rhtool.interpret.rewards import OWN, Learned, Recorded, RewardFunction
from rhtool.interpret.transitions import Transitions

SCHEMA = 1
NAME = "reward_model"


@dataclass
class Shaped:
    """r(s, a, s') + gamma (1 - d) P(s') - P(s), where d is whether s' ends the episode: Ng, Harada and Russell, "Policy
    Invariance Under Reward Transformations", ICML 1999. No optimal policy changes."""

    kind: ClassVar[str] = "shaped"

    base: RewardFunction
    potential: Potential
    gamma: float

    def __call__(self, transitions: Transitions) -> np.ndarray:
        """Rewards (N,) float64. What `base` and `potential` return is left as it is."""
        after = np.where(transitions.terminated, 0.0, self.potential(transitions.next_obs))
        return self.base(transitions) + self.gamma * after - self.potential(transitions.obs)

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What it is besides its base: JSON values and arrays."""
        return {"gamma": self.gamma, "potential": self.potential.kind}, self.potential.arrays()

    @classmethod
    def of(cls, base: RewardFunction, spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> Shaped:
        """The inverse of `parts`."""
        return cls(base, POTENTIALS[spec["potential"]].of(arrays), float(spec["gamma"]))


@dataclass
class Scaled:
    """scale * (r - shift). With a positive scale no optimal policy changes."""

    kind: ClassVar[str] = "scaled"

    base: RewardFunction
    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, transitions: Transitions) -> np.ndarray:
        """Rewards (N,) float64."""
        return self.scale * (self.base(transitions) - self.shift)

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What it is besides its base."""
        return {"scale": self.scale, "shift": self.shift}, {}

    @classmethod
    def of(cls, base: RewardFunction, spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> Scaled:
        """The inverse of `parts`."""
        return cls(base, float(spec["scale"]), float(spec["shift"]))


def normalised(base: RewardFunction, transitions: Transitions) -> Scaled:
    """The reward with mean 0 and standard deviation 1 on these transitions. Raises `RhtoolError` for one that is constant."""
    rewards = base(transitions)
    if not rewards.std() > 0:
        raise RhtoolError("a constant reward has no standard deviation", "normalised", "take other transitions")
    return Scaled(base, 1.0 / float(rewards.std()), float(rewards.mean()))


@dataclass
class Table:
    """r(s, a) of discrete actions in O distinct observations."""

    kind: ClassVar[str] = "table"

    observations: np.ndarray
    """float32 (O, D), flattened, distinct"""
    table: np.ndarray
    """float64 (O, A)"""

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or len(self.table) != len(self.observations):
            raise ValueError("its observations do not fit its numbers")
        self._index = TablePotential(self.observations, np.zeros(len(self.observations)))

    def __call__(self, transitions: Transitions) -> np.ndarray:
        """Rewards (N,) float64. Raises `RhtoolError` for an observation that has none."""
        places = self._index.places(transitions.obs)
        if len(missing := np.flatnonzero(places < 0)):
            i = int(missing[0])
            where = f"episode {transitions.episode[i]}, step {transitions.step[i]}"
            what = f"a table of {len(self.table)} observations has no reward for {len(missing)} of {len(places)}"
            raise RhtoolError(what, where, "evaluate it in the environment of which it is")
        return self.table[places, transitions.actions]

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What it is made of."""
        return {}, {
            "observations": np.asarray(self.observations, np.float32),
            "table": np.asarray(self.table, np.float64),
        }

    @classmethod
    def of(cls, base: None, spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> Table:
        """The inverse of `parts`."""
        return cls(arrays["observations"], arrays["table"])


KINDS: dict[str, Any] = {cls.kind: cls for cls in (Shaped, Scaled, Table)}


def save(function: RewardFunction, directory: Path) -> None:
    """Write a reward function. Raises `TypeError` for one that cannot be written."""
    if isinstance(function, Learned):
        return function.model.save(directory)
    if not isinstance(function, tuple(KINDS.values())):
        if hasattr(network := getattr(function, "network", None), "save"):
            return network.save(directory)
        raise TypeError(f"{type(function).__name__} cannot be saved")
    directory.mkdir(parents=True, exist_ok=True)
    spec, arrays = function.parts()
    head: dict[str, Any] = {"schema": SCHEMA, "kind": function.kind}
    base = getattr(function, "base", None)
    if isinstance(base, Recorded):
        head["base"] = base.which
    elif base is not None:
        save(base, directory / "base")
        head["base"] = "base"
    if not all(np.isfinite(x).all() for x in arrays.values()):
        raise ValueError("some of its numbers are not finite")
    safetensors.numpy.save_file(arrays, directory / f"{NAME}.safetensors")
    (directory / f"{NAME}.json").write_text(json.dumps(head | spec, indent=1) + "\n")
    return None


def load(directory: Path, inner: Callable[[str | Path], RewardFunction]) -> RewardFunction | None:
    """The reward function that `save` wrote, if it is of one of `KINDS`, else None; `inner` makes its base, of a directory or of
    "proxy" or "true".

    Raises `OSError`, `ValueError` (or a subclass), `KeyError`, `TypeError` or `SafetensorError` for files that are none.
    """
    spec = json.loads((directory / f"{NAME}.json").read_text())
    if (cls := KINDS.get(spec.get("kind"))) is None:
        return None
    if spec["schema"] != SCHEMA:
        raise ValueError(f"its schema is {spec['schema']}, not {SCHEMA}")
    arrays = safetensors.numpy.load_file(directory / f"{NAME}.safetensors")
    if not all(np.isfinite(x).all() for x in arrays.values()):
        raise ValueError("some of its numbers are not finite")
    if (name := spec.get("base")) not in (None, "base", *OWN):
        raise ValueError(f"its base is {name!r}, and a reward is made of what is in its own directory")
    base = None if name is None else inner(directory / "base" if name == "base" else name)
    return cls.of(base, spec, arrays)
