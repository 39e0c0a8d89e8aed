"""What data are: conversations to answer, answers to imitate, pairs of answers to prefer; the schema of the group `data`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from rhtool.errors import RhtoolError
from rhtool.rewards.true import TrueReward
from rhtool.schema import choice, option_name

TRAIN, VALIDATION = "train", "validation"
"""the splits that every kind of row comes in; validation rows are never trained on and carry no artificial noise"""

Message = dict[str, str]
"""{"role": "user" | "assistant" | "system", "content": text}"""
Row = dict[str, Any]
"""a row; what it holds besides the keys below are columns that rewards may read

    prompt      list[Message]   the conversation so far; its last message is the user's
    answer      str             of a demonstration: what the assistant should say
    chosen      str             of a preference: the answer preferred
    rejected    str             ... and the other
    margin      float           ... by how much, where it is known

columns that have a meaning:

    reference   str             a good answer
    qtype       str             `OPENENDED`: many different answers are good; `CONSTRAINED`: only those like the reference
"""
OPENENDED, CONSTRAINED = "OPENENDED", "CONSTRAINED"
"""types of queries, as the data of reverse reward engineering spell them (arXiv 2402.03469)"""


@dataclass
class Optimiser:
    """AdamW and its schedule, as language models are trained with."""

    minibatch: int = 32
    """rows (of preferences pairs, in RLHF answers) of one gradient step"""
    lr: float = 1e-5
    """learning rate of AdamW after the warm-up"""
    schedule: str = choice("linear", "cosine", "constant")
    """of the learning rate after the warm-up: falls to zero linearly or as a cosine, or stays"""
    warmup: int = 0
    """gradient steps in which the learning rate rises to `lr`"""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """of AdamW"""
    eps: float = 1e-8
    """of AdamW"""
    weight_decay: float = 0.0
    """of AdamW"""
    grad_clip: float | None = 1.0
    """gradients are scaled down to this global norm; null: they are not"""


@dataclass
class Fit(Optimiser):
    """How a model is fitted to data. Tasks take these numbers unless told otherwise, as those of `env.training`."""

    passes: int = 1
    """passes over the data"""
    max_length: int = 512
    """tokens of a prompt with its answer; a longer prompt loses its beginning, then a longer answer its end"""


@dataclass
class Data:
    """Prompts, demonstrations and preferences."""

    name: ClassVar[str] = "none"

    sft: Fit = field(default_factory=Fit)
    """how a model is fitted to the demonstrations"""
    rm: Fit = field(default_factory=Fit)
    """how a reward model is fitted to the preferences"""
    true_by: TrueReward = field(default_factory=TrueReward)
    """who gives the true reward of answers, in the place of the data's own program if they have one"""

    def check(self) -> None:
        """Raise `RhtoolError` if something that it reads or needs is missing or malformed; quick."""

    def inputs(self) -> dict[str, str]:
        """`{name: path}` of the files whose content decides the rows."""
        return {}

    def downloads(self) -> dict[str, tuple[str, str | None]]:
        """`{field: (name, revision)}` of the datasets of the hub that it reads; those that are local folders are none."""
        return {}

    def prompts(self, split: str) -> list[Row]:
        """Rows with `prompt`, in a fixed order. Raises `RhtoolError` if these data have none, as the two below."""
        raise self._lacks("prompts")

    def demonstrations(self, split: str) -> list[Row]:
        """Rows with `prompt` and `answer`."""
        raise self._lacks("demonstrations")

    def preferences(self, split: str) -> list[Row]:
        """Rows with `prompt`, `chosen`, `rejected`, and perhaps `margin`."""
        raise self._lacks("preferences")

    def true_reward(self) -> Callable[[list[Row], list[str]], list[float]] | None:
        """What gives the true reward of answers to rows of `prompts`; None where nothing does."""
        return self.true_by.load()

    def principles(self) -> dict[str, Callable[[Row, str], float]]:
        """`{principle: how well an answer to a row keeps to it}` of the principles that the data's own program knows."""
        return {}

    def programs(self) -> dict[str, Callable[[Row, str], float]]:
        """All principles by which that program can compare answers: those, and perhaps what sums them up."""
        return self.principles()

    def edits(self) -> dict[str, Callable[[Row, str, Random], str]]:
        """`{name: (row, answer, source of chance) -> the answer with one thing changed}` in these data's own language, for
        task=interpret; an answer that comes back as it was cannot be edited so. Empty: the data are in English."""
        return {}

    def _lacks(self, what: str) -> RhtoolError:
        name = option_name(type(self))
        return RhtoolError(f"data={name} has no {what}", "data", "choose data=toy, or see: rhtool task=ls")
