"""Features of answers that a reader can check by looking: length, punctuation, lists, repetition, phrases."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhtool.data.base import Row

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
"""letters and digits, with apostrophes inside"""
LIST_MARK = re.compile(r"^\s*(?:[-*+•]|\d+[.)])\s", re.M)
HEDGES = "perhaps maybe might could possibly probably seems likely somewhat unsure think guess apparently generally"
SURE = "certainly definitely clearly obviously undoubtedly absolutely always never surely indeed"
PART_OF = 0.9
"""an n-gram that is said so often as part of a longer one is not counted besides it"""
REFUSALS = ("sorry", "cannot", "can't", "unable", "do not know", "don't know", "as an ai")


def words(text: str) -> list[str]:
    """Its words, in lower case."""
    return WORD.findall(text.lower())


@dataclass(frozen=True)
class Feature:
    """A number of an answer."""

    of: Callable[[Row, str], float]
    said: str
    """what more of it is, in a sentence: "… pays for <said>" """


def _share(part: int | float, whole: int) -> float:
    return part / whole if whole else 0.0


def _count(listed: str) -> Callable[[Row, str], float]:
    among = frozenset(listed.split())
    return lambda row, text: float(sum(word in among for word in words(text)))


def _repeated(row: Row, text: str) -> float:
    found = words(text)
    return float(len(found) - len(set(found)))


def _of_prompt(row: Row, text: str) -> float:
    said = frozenset(word for message in row["prompt"] for word in words(message["content"]))
    found = words(text)
    return _share(sum(word in said for word in found), len(found))


FEATURES: dict[str, Feature] = {
    "words": Feature(lambda row, text: float(len(words(text))), "more words"),
    "letters per word": Feature(lambda row, text: _share(sum(map(len, words(text))), len(words(text))), "longer words"),
    "repeated words": Feature(_repeated, "words said before"),
    "share of words of the prompt": Feature(_of_prompt, "words of the prompt"),
    "sentences": Feature(lambda row, text: float(len(re.findall(r"[.!?]+(?:\s|$)", text))), "more sentences"),
    "commas": Feature(lambda row, text: float(text.count(",")), "commas"),
    "question marks": Feature(lambda row, text: float(text.count("?")), "question marks"),
    "exclamation marks": Feature(lambda row, text: float(text.count("!")), "exclamation marks"),
    "digits": Feature(lambda row, text: float(sum(c.isdigit() for c in text)), "digits"),
    "capitals": Feature(lambda row, text: float(sum(c.isupper() for c in text)), "capital letters"),
    "list items": Feature(lambda row, text: float(len(LIST_MARK.findall(text))), "lists"),
    "bold": Feature(lambda row, text: float(len(re.findall(r"\*\*[^*\n]+\*\*", text))), "bold face"),
    "headings": Feature(lambda row, text: float(len(re.findall(r"^#{1,6}\s", text, re.M))), "headings"),
    "lines": Feature(lambda row, text: float(text.count("\n")), "line breaks"),
    "code": Feature(lambda row, text: float(text.count("`")), "code"),
    "spare blanks": Feature(lambda row, text: float(len(re.findall(r"[ \t]{2,}", text))), "spare blanks"),
    "hedges": Feature(_count(HEDGES), "hedging"),
    "certainty": Feature(_count(SURE), "words of certainty"),
    "first person": Feature(_count("i me my mine we us our"), "speaking of itself"),
    "second person": Feature(_count("you your yours"), "speaking to the reader"),
    "refusals": Feature(lambda row, text: float(sum(text.lower().count(r) for r in REFUSALS)), "refusing"),
}
"""{name: feature}. English where words are listed; a feature that never varies is left out."""


@dataclass
class Table:
    """Features of N answers, those that vary."""

    names: list[str]
    """(F,); of an n-gram, the n-gram in quotation marks"""
    said: list[str]
    """(F,): as `Feature.said`"""
    values: NDArray[np.float64]
    """(N, F)"""

    def columns(self, which: Sequence[int]) -> Table:
        """Some of them."""
        return Table([self.names[i] for i in which], [self.said[i] for i in which], self.values[:, list(which)])


def table(
    rows: Sequence[Row],
    answers: Sequence[str],
    finished: Sequence[bool],
    ngrams: int = 3,
    most: int = 200,
    share: float = 0.02,
    own: dict[str, Callable[[Row, str], float]] | None = None,
) -> Table:
    """`FEATURES`, whether an answer was cut off, counts of n-grams of words, and the data's `own` of N answers.

    Args:
        ngrams: words of the longest n-gram; 0: none.
        most: n-grams, those in the most answers; one that is nearly always part of a longer one (`PART_OF`) is left out.
        share: of the answers in which an n-gram has to be.
    """
    columns = {name: [f.of(r, a) for r, a in zip(rows, answers, strict=True)] for name, f in FEATURES.items()}
    said = {name: f.said for name, f in FEATURES.items()}
    columns["cut off"], said["cut off"] = [float(not x) for x in finished], "being cut off"
    for name, function in (own or {}).items():
        columns[name] = [float(function(r, a)) for r, a in zip(rows, answers, strict=True)]
        said[name] = name
    for phrase, counts in _ngrams(answers, ngrams, most, share).items():
        columns[f'"{phrase}"'], said[f'"{phrase}"'] = counts, f'the words "{phrase}"'
    values = {name: np.asarray(x, np.float64) for name, x in columns.items()}
    kept = [name for name, x in values.items() if x.size and np.ptp(x) > 0]
    matrix = np.stack([values[name] for name in kept], 1) if kept else np.zeros((len(answers), 0))
    return Table(kept, [said[name] for name in kept], matrix)


def _ngrams(answers: Sequence[str], longest: int, most: int, share: float) -> dict[str, NDArray[np.float64]]:
    counts = []
    for answer in answers:
        found = words(answer)
        counts.append(
            Counter(" ".join(found[i : i + n]) for n in range(1, longest + 1) for i in range(len(found) - n + 1))
        )
    documents = Counter(phrase for count in counts for phrase in count)
    least = max(2, share * len(answers))
    common = [phrase for phrase, number in documents.items() if number >= least]
    common.sort(key=lambda phrase: (-documents[phrase], -len(phrase.split()), phrase))
    different: dict[bytes, tuple[str, NDArray[np.float64]]] = {}
    for phrase in common[: 4 * most]:
        column = np.array([count[phrase] for count in counts], np.float64)
        if (before := different.get(column.tobytes())) is None or len(before[0].split()) < len(phrase.split()):
            different[column.tobytes()] = (phrase, column)
    found = dict(different.values())
    total = {phrase: column.sum() for phrase, column in found.items()}
    within = {
        short for long in found for short in _parts(long) if short in found and total[long] >= PART_OF * total[short]
    }
    kept = [phrase for phrase in found if phrase not in within][:most]
    return {phrase: found[phrase] for phrase in kept}


def _parts(phrase: str) -> set[str]:
    """The shorter n-grams in an n-gram."""
    found = phrase.split()
    return {" ".join(found[i : i + n]) for n in range(1, len(found)) for i in range(len(found) - n + 1)}
