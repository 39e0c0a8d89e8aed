"""`reward=morl`: preference models of several principles, combined by a scalariser."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.models import Trained
from rhtool.rewards.rm import Learned
from rhtool.schema import choice

if TYPE_CHECKING:
    from torch import Tensor

    from rhtool.rewards.combine import Combination


@dataclass
class Morl(Learned):
    """Preference models of several principles, combined by a scalariser (MORLAIF: Williams 2024, arXiv 2406.07295)."""

    name: ClassVar[str] = "morl"

    principles: list[str] = field(default_factory=list)
    """names of those that count; empty: all of which `directory` has a model, in alphabetical order"""
    directory: str = ""
    """where the models are, each at the name of its principle"""
    models: list[str] = field(default_factory=list)
    """in the place of `directory`, of each of the `principles`: run of task=rm_train, directory of a model or of an adapter,
    or hub name"""
    weights: list[float] = field(default_factory=list)
    """of each of the `principles`: what its score is multiplied by; empty, and no `weights_file`: 1"""
    weights_file: str = ""
    """in the place of `weights`: a JSON file {principle: weight}"""
    combine: str = choice(
        "linear",
        "mean",
        "max_min",
        "soft_max_min",
        "uncertainty_weighted",
        "lower_third",
        "max_median",
        "bernoulli_nash",
    )
    """the scalariser of weighted scores"""
    weight: float = 0.5
    """of the variance in uncertainty_weighted"""
    ddof: int = 0
    """of the variance in uncertainty_weighted; 0: it divides by the number of principles, 1: by one less"""
    temperature: float = 1.0
    """of soft_max_min"""
    median: str = choice("lower", "mid")
    """in max_median, of an even number of scores: the lower one of the two in the middle, or the mean of both"""
    transform: str = choice("sigmoid", "softplus", "exp", "none")
    """in bernoulli_nash: makes weighted scores positive"""
    root: bool = True
    """in bernoulli_nash: whether to take the K-th root of the product"""

    def check(self) -> None:
        """Are there principles, with models that are there and a weight each?"""
        for one, other in (("models", "directory"), ("weights", "weights_file")):
            if getattr(self, one) and getattr(self, other):
                both = f"reward.{one}, reward.{other}"
                raise ConfigError(f"both reward.{one} and reward.{other} are given", both, "give one of the two")
        for name in ("models", "weights"):
            if (number := len(getattr(self, name))) and number != len(self.principles):
                said = f"{number} {name} for {len(self.principles)} principles"
                raise ConfigError(
                    said, f"reward.{name}", "give reward.principles, and one for each of them, in their order"
                )
        if twice := [name for name in self.principles if self.principles.count(name) > 1]:
            raise ConfigError(f"the principle '{twice[0]}' is given twice", "reward.principles", "give it once")
        super().check()
        _ = self._weights
        self._combination()

    def inputs(self) -> dict[str, str]:
        """The models, and the file of weights."""
        return super().inputs() | ({"weights": self.weights_file} if self.weights_file else {})

    def judges(self, count: int) -> list[str]:
        """The principles."""
        return list(self._models())

    def trained(self) -> dict[str, Trained]:
        return {f"reward.models.{principle}": Trained(path) for principle, path in self._models().items()}

    def combined(self, scores: Tensor) -> Tensor:
        return self._combination()(scores * scores.new_tensor(self._weights))

    def _combination(self) -> Combination:
        from rhtool.rewards.combine import chosen

        return chosen(self)

    def _models(self) -> dict[str, str]:
        """`{principle: path}` of those that count."""
        if self.models:
            return dict(zip(self.principles, self.models, strict=True))
        if not self.directory:
            mend = "reward.directory=<where models have names of principles>, or reward.principles=[a,b] reward.models=[run1,run2]"
            raise ConfigError("no models of principles are named", "reward.directory", mend)
        folder = Path(self.directory).expanduser()
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        found = {path.name: str(path) for path in inside if path.is_dir() and Trained(str(path)).loads}
        if not found:
            mend = f"give the directory of models whose names are principles: {folder}/helpfulness, ..."
            raise RhtoolError(f"there are no reward models in {folder}", "reward.directory", mend)
        for principle in self.principles:
            if principle not in found:
                said = f"there is no model of the principle '{principle}' in {folder}"
                raise ConfigError(said, "reward.principles", nearest(principle, found))
        return {principle: found[principle] for principle in self.principles or found}

    @cached_property
    def _weights(self) -> list[float]:
        """Of the principles that count, read once."""
        if not self.weights_file:
            return list(self.weights) or [1.0] * len(self._models())
        given = read_weights(self.weights_file)
        for principle in self._models():
            if principle not in given:
                mend = f"give it one, or leave it out of reward.principles; given: {', '.join(given)}"
                raise ConfigError(f"the principle '{principle}' has no weight", self.weights_file, mend)
        return [given[principle] for principle in self._models()]


def read_weights(path: str | Path) -> dict[str, float]:
    """`{principle: weight}` of a JSON file that is just that: an object of numbers. Raises `RhtoolError` for any other."""
    mend = 'write {"helpfulness": 0.8, "sycophancy": -0.2, ...}'
    try:
        found = json.loads(Path(path).expanduser().read_bytes())
    except OSError as error:
        raise RhtoolError(f"the weights cannot be read: {error.strerror}", str(path), mend) from error
    except ValueError as error:
        raise RhtoolError(f"the weights are no JSON: {error}", str(path), mend) from error
    if not isinstance(found, dict) or not found:
        raise RhtoolError("the weights are no object {principle: weight}", str(path), mend)
    for principle, weight in found.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise RhtoolError(f"the weight of '{principle}' is {weight!r}, which is no finite number", str(path), mend)
    return {principle: float(weight) for principle, weight in found.items()}
