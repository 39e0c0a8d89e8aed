"""ROUGE-L: how much of a reference's words an answer has, in their order (Lin 2004, aclanthology.org/W04-1013)."""

from __future__ import annotations

import re
from collections.abc import Sequence

WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """The runs of letters and digits of ASCII, in lower case, as google's rouge_score has them without its stemmer."""
    return WORD.findall(text.lower())


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, by dynamic programming."""
    best = [0] * (len(b) + 1)
    for x in a:
        corner = 0
        for j, y in enumerate(b, 1):
            corner, best[j] = best[j], corner + 1 if x == y else max(best[j], best[j - 1])
    return best[-1]


def rouge_l(answer: str, reference: str) -> float:
    """2 P R / (P + R), P and R being the longest common subsequence over the words of the answer and of the reference; 0 where
    one of the two has none."""
    a, b = words(answer), words(reference)
    return 2 * common(a, b) / (len(a) + len(b)) if a and b else 0.0
