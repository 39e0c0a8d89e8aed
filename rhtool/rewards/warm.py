"""`reward=warm`: one reward model, whose weights are the mean of several models' weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError
from rhtool.models import Trained
from rhtool.rewards.rm import Learned

if TYPE_CHECKING:
    from rhtool.rewards.base import Scores


@dataclass
class Warm(Learned):
    """One reward model: the mean of several ones' weights (WARM: Ramé et al. 2024, arXiv 2401.12187)."""

    name: ClassVar[str] = "warm"

    models: list[str] = field(default_factory=list)
    """runs of task=rm_train, directories, or names on the hub: fitted from the same model, with different seeds, orders of the
    data or learning rates"""

    def check(self) -> None:
        """Are there models, and are they there?"""
        if not self.models:
            raise ConfigError("no models are named", "reward.models", "give some: reward.models=[run1,run2]")
        super().check()

    def trained(self) -> dict[str, Trained]:
        return {f"reward.models[{i}]": Trained(path) for i, path in enumerate(self.models)}

    def load(self) -> Scores:
        from rhtool.lm.judges import averaged

        options = {"template": self.template, "option": f"{self.option}.template"}
        scorer = averaged([*self.trained().values()], self.dtype, self.max_length, self.batch, **options)
        return lambda rows, answers, finished: scorer([row["prompt"] for row in rows], answers, finished).unsqueeze(1)
