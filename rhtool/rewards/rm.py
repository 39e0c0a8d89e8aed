"""`reward=rm`: one learned reward model. `reward=ensemble`: several, combined."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.models import Trained
from rhtool.rewards.base import Reward
from rhtool.schema import choice, incidental

if TYPE_CHECKING:
    from torch import Tensor

    from rhtool.rewards.base import Scores
    from rhtool.rewards.combine import Combination


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

    def trained(self) -> dict[str, Trained]:
        """`{where the configuration names it: model}` of each judge."""
        raise TypeError(f"{type(self).__name__} does not implement trained")

    def check(self) -> None:
        """Are the models there, with one score each? What is on the hub is not asked."""
        for where, model in self.trained().items():
            if not model.path:
                mend = "give a run of task=rm_train, a directory or a hub name"
                raise ConfigError("no reward model is named", where, mend)
            if not model.loads:
                raise RhtoolError(
                    f"there is no reward model at {model.path}",
                    where,
                    "make one: rhtool task=rm_train model=... data=..., and give its directory: outputs/rm_train/…/seed=0",
                )
            if not model.whole and (model.base is None or not model.base.whole):
                at = f" at {model.base.path}" if model.base else ""
                mend = "give base_model_name_or_path in it a directory with config.json, or a hub name"
                raise RhtoolError(f"what the adapter {model.adapter} adapts is not there{at}", where, mend)
            if (file := model.directory / "config.json").is_file():
                _check_score(file, where)

    def inputs(self) -> dict[str, str]:
        """The models that are directories, and the bases of those that are adapters alone."""
        found = {}
        for i, model in enumerate(self.trained().values()):
            found[f"reward_model_{i}"] = model.source
            if not model.whole and model.base:
                found[f"reward_base_{i}"] = model.base.source
        return {name: path for name, path in found.items() if Path(path).is_dir()}

    def load(self) -> Scores:
        """The models, scored one after the other; of adapters of one base only one base, in which they take turns."""
        from rhtool.lm.judges import Judges

        options = {"template": self.template, "option": f"{self.option}.template"}
        judges = Judges([*self.trained().values()], self.dtype, self.max_length, self.batch, **options)
        return lambda rows, answers, finished: judges([row["prompt"] for row in rows], answers, finished)


@dataclass
class Rm(Learned):
    """One learned reward model: of task=rm_train, a directory, or the hub."""

    name: ClassVar[str] = "rm"

    model: str = ""
    """run of task=rm_train, directory with config.json, or name on the hub"""

    def trained(self) -> dict[str, Trained]:
        return {f"{self.option}.model": Trained(self.model)}


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

    def trained(self) -> dict[str, Trained]:
        return {f"{self.option}.models[{i}]": Trained(path) for i, path in enumerate(self.models)}

    def combined(self, scores: Tensor) -> Tensor:
        return self._combination()(scores)

    def _combination(self) -> Combination:
        from rhtool.rewards.combine import chosen

        return chosen(self)


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
