"""`reward=rm`: one learned reward model. `reward=ensemble`: several, combined."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import SAVED
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
    template: str = ""
    """how the models see conversations, as model.template; empty: their tokenizers' own chat templates"""
    batch: int = incidental(32)
    """texts of a forward pass"""

    def paths(self) -> list[str]:
        """Of the models."""
        raise TypeError(f"{type(self).__name__} does not implement paths")

    def check(self) -> None:
        """Are the models there, with one score each? What is on the hub is not asked."""
        for path in self.paths():
            if not path:
                mend = "give a run of task=rm_train, a directory or a hub name"
                raise ConfigError("no reward model is named", self._field(), mend)
            local = path.startswith((".", "/", "~")) or path.count("/") > 1
            if local and not (directory(path) / "config.json").is_file():
                raise RhtoolError(
                    f"there is no reward model at {path}",
                    self._field(),
                    "make one: rhtool task=rm_train model=... data=..., and give its directory: outputs/rm_train/…/seed=0",
                )
            if (file := directory(path) / "config.json").is_file():
                _check_score(file, self._field())

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
            tokenizer = tokenizer_at(source, self.template, option=f"{self.option}.template", new_tokens=False)
            model = score_model(source, self.dtype)
            scorers.append(Scorer(model.to(device), tokenizer, self.max_length, self.batch))

        def scores(rows: list[Row], answers: list[str], finished: list[bool]) -> Tensor:
            prompts = [row["prompt"] for row in rows]
            return torch.stack([scorer(prompts, answers, finished) for scorer in scorers], 1)

        return scores

    def _field(self) -> str:
        return f"{self.option}.model"


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
        return f"{self.option}.models"


def _check_score(file: Path, field: str) -> None:
    """Raise `RhtoolError` unless this config.json is that of a sequence classifier with one label."""
    config = json.loads(file.read_text())
    kinds = ", ".join(config.get("architectures") or ["no classifier"])
    labels = len(config.get("id2label") or ("LABEL_0", "LABEL_1"))  # two, where transformers writes none
    if "SequenceClassification" not in kinds or labels != 1:
        has = f"{labels} labels" if "SequenceClassification" in kinds else f"none: it is {kinds}"
        raise RhtoolError(
            f"a reward model has one score, and the one at {file.parent} has {has}",
            field,
            "give a model that task=rm_train made, or another sequence classifier with num_labels=1",
        )


def directory(path: str) -> Path:
    """`path`, or the model in it if that is a run's directory."""
    made = Path(path).expanduser() / SAVED
    return made if (made / "config.json").is_file() else Path(path).expanduser()
