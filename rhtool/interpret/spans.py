"""What each part of an answer does to its score, asked of the score alone: for any reward. And how faithful such attributions are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Value = Callable[[list[str]], Array]
"""versions of one answer -> their scores"""

UNITS = {"word": re.compile(r"\S+"), "sentence": re.compile(r"\S(?:.*?)(?:[.!?…]+(?=\s|$)|\n+|$)", re.S)}
"""{unit: what one is}; what stands between them belongs to the one before"""
SHARES = (0.1, 0.2, 0.3, 0.5)
"""of the units that comprehensiveness and sufficiency take"""
EXACT = 6
"""units up to which Shapley values are computed over all subsets"""


def units(text: str, unit: str) -> list[tuple[int, int]]:
    """(first character, one after the last) of each unit of a text."""
    found = [match.span() for match in UNITS[unit].finditer(text)]
    return [(a, b) for a, b in found if b > a]


@dataclass
class Pieces:
    """An answer in n units, of which some can be left out."""

    text: str
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, text: str, unit: str) -> Pieces:
        """Cut by unit."""
        return cls(text, units(text, unit))

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def units(self) -> list[str]:
        """Their texts."""
        return [self.text[a:b] for a, b in self.spans]

    def without(self, left_out: Sequence[int]) -> str:
        """The answer without these units, and without what follows each up to the next."""
        gone = set(left_out)
        ends = [a for a, _ in self.spans[1:]] + [len(self.text)]
        kept = [self.text[a:end] for i, ((a, _), end) in enumerate(zip(self.spans, ends, strict=True)) if i not in gone]
        return "".join(kept).rstrip() if gone else self.text

    def only(self, kept: Sequence[int]) -> str:
        """The answer of these units alone."""
        return self.without([i for i in range(len(self)) if i not in set(kept)])


class Remembered:
    """A `Value` that is asked for each version once.

    Args:
        value: asked for the versions of one answer.
        pieces: the answer.
    """

    def __init__(self, value: Value, pieces: Pieces):
        self._value, self.pieces = value, pieces
        self._known: dict[str, float] = {}

    def __call__(self, kept: Sequence[Sequence[int]]) -> Array:
        """Scores of the answer with these units alone, (B,)."""
        texts = [self.pieces.only(some) for some in kept]
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            self._known |= dict(zip(new, np.asarray(self._value(new), np.float64).tolist(), strict=True))
        return np.array([self._known[text] for text in texts], np.float64)


def leave_one_out(value: Remembered) -> Array:
    """(n,): the answer's score less that without the unit."""
    n = len(value.pieces)
    every = range(n)
    scores = value([[*every], *([j for j in every if j != i] for i in every)])
    return scores[0] - scores[1:]


def prefix_increments(value: Remembered) -> Array:
    """(n,): the score with the unit as the last one, less that before it. They sum to the score less that of an empty answer.
    The increments of RED (Li et al. 2024, arXiv 2411.08302)."""
    scores = value([[*range(i)] for i in range(len(value.pieces) + 1)])
    return np.diff(scores)


def shapley(value: Remembered, permutations: int, seed: int) -> Array:
    """(n,): the Shapley values (1953) of the units, with units left out in the place of absent players; their sum is the score less
    that of an empty answer. Of up to `EXACT` units exact; else the mean over `permutations` random orders, each with its reverse."""
    n = len(value.pieces)
    if n <= EXACT:
        return _exact(value)
    rng, total, orders = np.random.default_rng(seed), np.zeros(n), 0
    for _ in range(max(1, permutations // 2)):
        order = rng.permutation(n)
        for one in (order, order[::-1]):
            scores = value([sorted(one[:k].tolist()) for k in range(n + 1)])
            total[one] += np.diff(scores)
            orders += 1
    return total / orders


def _exact(value: Remembered) -> Array:
    n = len(value.pieces)
    subsets = [subset for k in range(n + 1) for subset in itertools.combinations(range(n), k)]
    score = dict(zip(subsets, value(subsets), strict=True))
    found = np.zeros(n)
    for i in range(n):
        by_size: dict[int, list[float]] = {}
        for subset in subsets:
            if i not in subset:
                by_size.setdefault(len(subset), []).append(score[tuple(sorted((*subset, i)))] - score[subset])
        found[i] = np.mean([np.mean(gains) for gains in by_size.values()])
    return found


@dataclass
class Faithfulness:
    """How an answer's score follows attributions (DeYoung et al. 2020, arXiv 1911.03429; Petsiuk et al. 2018, arXiv 1806.07421)."""

    comprehensiveness: float
    """the score less that without the highest units, mean over `SHARES` of them; high is faithful"""
    sufficiency: float
    """the score less that of the highest units alone, likewise; low is faithful"""
    deletion: float
    """mean score while the units are taken away one after the other, the highest first; low is faithful"""
    random_deletion: float
    """the same in random order"""
    insertion: float
    """mean score while the units are put in, the highest first (each at its place); high is faithful"""


def faithfulness(value: Remembered, attributions: Array, orders: int, seed: int) -> Faithfulness:
    """Of attributions (n,) to the units; `orders` random ones."""
    n = len(value.pieces)
    every, ranked = [*range(n)], np.argsort(-attributions, kind="stable").tolist()
    whole = value([every])[0]
    counts = [max(1, round(share * n)) for share in SHARES]
    without = value([sorted(ranked[k:]) for k in counts])
    alone = value([sorted(ranked[:k]) for k in counts])
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(n).tolist() for _ in range(orders)]
    return Faithfulness(
        float(whole - without.mean()),
        float(whole - alone.mean()),
        _deletion(value, ranked),
        float(np.mean([_deletion(value, order) for order in shuffled])) if orders else float("nan"),
        float(value([sorted(ranked[:k]) for k in range(n + 1)]).mean()),
    )


def _deletion(value: Remembered, order: Sequence[int]) -> float:
    return float(value([sorted(order[k:]) for k in range(len(order) + 1)]).mean())
