"""`reward=rm`: one learned reward model. `reward=ensemble`: several, combined."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import SAVED, is_local
from rhtool.rewards.base import Reward
from rhtool.schema import choice, incidental

if TYPE_CHECKING:
    from torch import Tensor

    from rhtool.data.base import Row
    from rhtool.rewards.base import Scores


@dataclass
class Learned(Reward):
    """What learned rewards share."""

    dtype: str = choice("float32", "bfloat16", "float16")
    """of the weights"""
    max_length: int = 776
    """tokens of a prompt with its answer; a longer prompt loses its beginning"""
    batch: int = incidental(32)
    """texts of a forward pass"""

    def paths(self) -> list[str]:
        """Of the models."""
        raise TypeError(f"{type(self).__name__} does not implement paths")

    def check(self) -> None:
        """Are the models there? What is on the hub is not asked."""
        for path in self.paths():
            if not path:
                mend = "give a run of task=rm_train, a directory or a hub name"
                raise ConfigError("no reward model is named", self._field(), mend)
            if is_local(path) and not (directory(path) / "config.json").is_file():
                raise RhtoolError(
                    f"there is no reward model at {path}",
                    self._field(),
                    "make one: rhtool task=rm_train model=... data=..., and give its directory: outputs/rm_train/…/seed=0",
                )

    def inputs(self) -> dict[str, str]:
        """The models that are directories."""
        found = {f"reward_model_{i}": str(directory(path)) for i, path in enumerate(self.paths())}
        return {name: path for name, path in found.items() if Path(path).is_dir()}

    def load(self) -> Scores:
        """The models, scored one after the other."""
        import torch

        from rhtool.lm.loading import score_model
        from rhtool.lm.reward_model import Scorer
        from rhtool.lm.text import tokenizer_at

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        scorers = []
        for path in self.paths():
            source = str(directory(path)) if directory(path).is_dir() else path
            scorers.append(
                Scorer(score_model(source, self.dtype).to(device), tokenizer_at(source), self.max_length, self.batch)
            )

        def scores(rows: list[Row], answers: list[str], finished: list[bool]) -> Tensor:
            prompts = [row["prompt"] for row in rows]
            return torch.stack([scorer(prompts, answers, finished) for scorer in scorers], 1)

        return scores

    def _field(self) -> str:
        return "reward.model"


@dataclass
class Rm(Learned):
    """One learned reward model: of task=rm_train, a directory, or the hub."""

    name: ClassVar[str] = "rm"

    model: str = ""
    """run of task=rm_train, directory with config.json, or name on the hub"""

    def paths(self) -> list[str]:
        return [self.model]


@dataclass
class Ensemble(Learned):
    """Several learned reward models, combined into one reward (Coste et al. 2024, arXiv 2310.02743)."""

    models: list[str] = field(default_factory=list)
    """runs of task=rm_train (of several seeds, say), directories, or names on the hub"""
    combine: str = choice("mean", "wco", "uwo")
    """mean; wco: the lowest score; uwo: the mean less `weight` times the variance"""
    weight: float = 0.1
    """of the variance in uwo"""
    ddof: int = 0
    """0: the variance divides by the number of models; 1: by one less"""

    def check(self) -> None:
        """Are there models, and are they there?"""
        if not self.models:
            raise ConfigError("an ensemble has members", "reward.models", "give some: reward.models=[run1,run2]")
        super().check()
        self._combination()

    def paths(self) -> list[str]:
        return list(self.models)

    def combined(self, scores: Tensor) -> Tensor:
        return self._combination()(scores)

    def _combination(self):
        from rhtool.rewards.combine import combination

        return combination(
            self.combine, **({"weight": self.weight, "ddof": self.ddof} if self.combine == "uwo" else {})
        )

    def _field(self) -> str:
        return "reward.models"


def directory(path: str) -> Path:
    """`path`, or the model in it if that is a run's directory."""
    made = Path(path).expanduser() / SAVED
    return made if (made / "config.json").is_file() else Path(path).expanduser()
