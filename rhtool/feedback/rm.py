"""`feedback=rm`: the scores of a reward model, whatever the principle."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rhtool.feedback.base import Comparison, Feedback, Judge, Opinion
from rhtool.rewards import rm
from rhtool.schema import choice, incidental


@dataclass
class Rm(Feedback):
    """A reward model: its score of an answer is the answer's log-probability, up to a constant."""

    name: ClassVar[str] = "rm"

    model: str = ""
    """run of task=rm_train, directory with config.json, or name on the hub"""
    dtype: str = choice("float32", "bfloat16", "float16")
    """of the weights"""
    max_length: int = 776
    """tokens of a prompt with its answer; a longer prompt loses its beginning"""
    template: str = ""
    """how the model sees conversations, as model.template; empty: its tokenizer's own chat template"""
    batch: int = incidental(32)
    """texts of a forward pass"""

    def check(self, data: Any) -> None:
        """Is the model there?"""
        self._reward().check()

    def inputs(self) -> dict[str, str]:
        """The model's directory."""
        return self._reward().inputs()

    def load(self, data: Any, cache: Path) -> Judge:
        """The model."""
        scores = self._reward().load()

        def judge(comparisons: Iterable[Comparison]) -> Iterator[Opinion]:
            rest = iter(comparisons)
            while part := tuple(itertools.islice(rest, self.batch)):
                rows, finished = [one.row for one in part], [True] * len(part)
                both = [scores(rows, [getattr(one, side) for one in part], finished)[:, 0].tolist() for side in "ab"]
                yield from zip(*both, strict=True)

        return judge

    def _reward(self) -> rm.Rm:
        shared = ("model", "dtype", "max_length", "template", "batch")
        reward = rm.Rm(**{name: getattr(self, name) for name in shared})
        reward.option = "feedback"
        return reward
