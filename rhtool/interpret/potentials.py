"""Potentials P(s), with which rewards are shaped, as arrays: a number per observation, a linear function, a small network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass
class TablePotential:
    """A number for each of O distinct observations, and zero for others."""

    kind: ClassVar[str] = "table"

    observations: np.ndarray
    """float32 (O, D), flattened, distinct"""
    values: np.ndarray
    """float64 (O,)"""

    def __post_init__(self) -> None:
        if self.observations.ndim != 2 or self.values.shape != self.observations.shape[:1]:
            raise ValueError("its observations do not fit its values")
        rows = np.ascontiguousarray(self.observations, np.float32)
        self._places = {row.tobytes(): i for i, row in enumerate(rows)}

    def places(self, obs: np.ndarray) -> np.ndarray:
        """Which of the O each observation (N, …) is, int64 (N,); -1 for none."""
        flat = np.ascontiguousarray(obs.reshape(len(obs), -1), np.float32)
        return np.array([self._places.get(row.tobytes(), -1) for row in flat], np.int64)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """P float64 (N,) of observations (N, …)."""
        places = self.places(obs)
        return np.where(places >= 0, self.values[places], 0.0)

    def arrays(self) -> Arrays:
        """What it is made of."""
        return {
            "observations": np.asarray(self.observations, np.float32),
            "values": np.asarray(self.values, np.float64),
        }

    @classmethod
    def of(cls, arrays: Arrays) -> TablePotential:
        """The inverse of `arrays`."""
        return cls(arrays["observations"], arrays["values"])


@dataclass
class LayeredPotential:
    """Fully connected layers with ReLUs between them on (observation - offset) * scale; one layer is a linear function."""

    kind: ClassVar[str] = "layers"

    offset: np.ndarray
    """float64 (D,)"""
    scale: np.ndarray
    """float64 (D,)"""
    layers: list[tuple[np.ndarray, np.ndarray]]
    """weight (outputs, inputs) and bias (outputs,) of each; the last one has one output"""

    def __post_init__(self) -> None:
        sizes = [len(self.offset), *(len(bias) for _, bias in self.layers)]
        shapes = [(sizes[i + 1], sizes[i]) for i in range(len(self.layers))]
        if (
            [weight.shape for weight, _ in self.layers] != shapes
            or sizes[-1] != 1
            or self.scale.shape != self.offset.shape
        ):
            raise ValueError("its layers do not fit each other")

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """P float64 (N,) of observations (N, …)."""
        x = (obs.reshape(len(obs), -1).astype(np.float64) - self.offset) * self.scale
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if i < len(self.layers) - 1:
                x = np.maximum(x, 0.0)
        return x[:, 0]

    def arrays(self) -> Arrays:
        """What it is made of."""
        numbers = {"offset": self.offset, "scale": self.scale}
        for i, (weight, bias) in enumerate(self.layers):
            numbers |= {f"{i}.weight": weight, f"{i}.bias": bias}
        return {name: np.ascontiguousarray(value, np.float64) for name, value in numbers.items()}

    @classmethod
    def of(cls, arrays: Arrays) -> LayeredPotential:
        """The inverse of `arrays`."""
        count = sum(name.endswith(".weight") for name in arrays)
        layers = [(arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in range(count)]
        return cls(arrays["offset"], arrays["scale"], layers)


Potential = TablePotential | LayeredPotential
KINDS: dict[str, Any] = {cls.kind: cls for cls in (TablePotential, LayeredPotential)}
