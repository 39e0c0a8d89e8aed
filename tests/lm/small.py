"""Models and texts made on the spot: small enough that a run takes a second or two.

Not in conftest.py, of which Python knows several by one name: composing looks up the fields of `Words` in its module.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from rhtool.data.base import TRAIN, Data, Fit
from rhtool.models import Tiny
from rhtool.run import Run

WORDS = ["cat", "dog", "bee", "ant", "fox", "owl", "cow", "pig", "hen", "elk"]


@dataclass
class Words(Data):
    """Repeat two words: an answer that does is right."""

    size: int = 64
    sft: Fit = field(default_factory=lambda: Fit(passes=2, minibatch=16, lr=3e-3, max_length=48))
    rm: Fit = field(default_factory=lambda: Fit(passes=2, minibatch=16, lr=1e-3, max_length=48))

    def demonstrations(self, split):
        draw = random.Random(split)
        pairs = [draw.sample(WORDS, 2) for _ in range(self.size if split == TRAIN else 16)]
        return [{"prompt": [{"role": "user", "content": f"say {a} {b}"}], "answer": f"{a} {b}"} for a, b in pairs]

    prompts = demonstrations

    def preferences(self, split):
        return [
            {"prompt": row["prompt"], "chosen": row["answer"], "rejected": "cow cow cow cow", "margin": 0.5}
            for row in self.demonstrations(split)
        ]

    def true_reward(self):
        return lambda rows, answers: [
            float(a.split() == r["answer"].split()) for r, a in zip(rows, answers, strict=True)
        ]


SMALL = {"layers": 2, "width": 32, "heads": 2, "context": 64, "vocabulary": 300}


def small(**options) -> Tiny:
    return Tiny(**SMALL | options)


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int):
    """Have runs die when they log their row number `after`, as if killed before it was written."""
    write = Run.log

    def log(self, metrics, iteration=None):
        if (self._iteration if iteration is None else iteration) == after:
            raise MemoryError("killed")
        write(self, metrics, iteration)

    monkeypatch.setattr(Run, "log", log)
