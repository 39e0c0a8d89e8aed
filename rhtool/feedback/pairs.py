"""Pairs of answers and what was said of them, as files of JSON lines that the stages of `task=morlaif_pm` hand on.

pairs.jsonl       split, prompt, a, b, human ("a", "b" or null), the data's other columns; a line a pair
feedback.jsonl    pair (line number), principle, wording, first ("a" or "b", shown as option A), log_prob_a, log_prob_b (of a and b)
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rhtool.checkpoints import write_atomic
from rhtool.data.base import TRAIN, VALIDATION, Row
from rhtool.feedback.base import Comparison, Judge, Opinion, wordings

PAIRS, FEEDBACK = "pairs.jsonl", "feedback.jsonl"


def of_preferences(rows: Sequence[Row], split: str, seed: int) -> list[Row]:
    """Pairs of `chosen` and `rejected`, which of them is a by a coin, so that its place says nothing about people."""
    rng = random.Random(f"pairs {seed} {split}")
    pairs = []
    for row in rows:
        first = rng.random() < 0.5
        answers = {"a": row["chosen" if first else "rejected"], "b": row["rejected" if first else "chosen"]}
        pairs.append(_pair(row, split) | answers | {"human": "a" if first else "b"})
    return pairs


def of_prompts(rows: Sequence[Row], split: str) -> list[Row]:
    """Pairs whose answers are still to be given."""
    return [_pair(row, split) | {"a": None, "b": None, "human": None} for row in rows]


def _pair(row: Row, split: str) -> Row:
    rest = {key: value for key, value in row.items() if key not in ("answer", "chosen", "rejected", "margin")}
    return {"split": split, **rest}


def write(file: Path, rows: Iterable[Row]) -> None:
    """Whole or not at all."""
    write_atomic(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def read(file: Path) -> list[Row]:
    """The rows of a file that `write` wrote."""
    return [json.loads(line) for line in file.read_text().splitlines()]


@dataclass
class Asking:
    """All comparisons of some pairs, put to a judge one after the other. `Run.loop` can stop and resume it.

    Args:
        pairs: rows of pairs.jsonl.
        principles: names.
        judge: who compares.
        seed: of the order in which answers are shown, of the wordings, and of the draws of principles.
        one_each: one principle, drawn for each pair, in the place of all (the constitutional baseline).
        directory: of principles of your own.
        at_once: comparisons of an iteration.
    """

    pairs: list[Row]
    principles: list[str]
    judge: Judge
    seed: int
    one_each: bool = False
    directory: str = ""
    at_once: int = 32

    def __post_init__(self) -> None:
        texts = {name: wordings(name, self.directory) for name in self.principles}
        rng = random.Random(f"feedback {self.seed}")
        self.lines: list[Row] = []
        """of feedback.jsonl, without the log-probabilities"""
        for number in range(len(self.pairs)):
            for name in [rng.choice(self.principles)] if self.one_each else self.principles:
                first = "a" if rng.random() < 0.5 else "b"
                self.lines.append(
                    {"pair": number, "principle": name, "wording": rng.choice(texts[name]), "first": first}
                )
        self.opinions: list[Opinion] = []
        self._rest: Iterator[Opinion] | None = None

    @property
    def iterations(self) -> int:
        """Number of iterations of them all."""
        return -(-len(self.lines) // self.at_once)

    def iteration(self) -> dict[str, float]:
        """The next comparisons."""
        if self._rest is None:
            rest = self.lines[len(self.opinions) :]
            self._rest = iter(self.judge(comparison(self.pairs, line) for line in rest))
        for _ in range(min(self.at_once, len(self.lines) - len(self.opinions))):
            self.opinions.append(next(self._rest))
        return {"steps": len(self.opinions), **self.metrics()}

    def close(self) -> None:
        """Let the judge finish what it has begun."""
        if hasattr(self._rest, "close"):
            self._rest.close()

    def metrics(self) -> dict[str, float]:
        """`feedback/position_bias`: P(the option shown first) - 1/2, and its standard error; of ties half."""
        odds = np.array([first - second for first, second in self.opinions])
        first = (odds > 0) + 0.5 * (odds == 0)
        return {
            "feedback/position_bias": float(first.mean() - 0.5),
            "feedback/position_bias_se": float(first.std() / np.sqrt(len(first))),
            "feedback/ties": float((odds == 0).mean()),
        }

    def answered(self) -> list[Row]:
        """The lines of feedback.jsonl."""
        found = []
        for line, (first, second) in zip(self.lines, self.opinions, strict=True):
            a, b = (first, second) if line["first"] == "a" else (second, first)
            found.append(line | {"log_prob_a": a, "log_prob_b": b})
        return found

    def get_state(self) -> dict[str, Any]:
        """What was said so far."""
        return {"opinions": np.array(self.opinions, np.float64).reshape(-1, 2)}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.opinions = [tuple(row) for row in np.asarray(state["opinions"]).tolist()]


def comparison(pairs: Sequence[Row], line: Row) -> Comparison:
    """What a line of feedback.jsonl says something about."""
    pair = pairs[line["pair"]]
    a, b = (pair["a"], pair["b"]) if line["first"] == "a" else (pair["b"], pair["a"])
    return Comparison(line["principle"], line["wording"], pair, a, b)


def preferences(pairs: Sequence[Row], feedback: Iterable[Row], principle: str | None) -> dict[str, list[Row]]:
    """`{split: rows}` with `prompt`, `chosen`, `rejected` and `margin`, the log-odds, as `principle` (None: each pair's own) has
    it. What is equally good is left out."""
    found: dict[str, list[Row]] = {TRAIN: [], VALIDATION: []}
    for line in feedback:
        if principle not in (None, line["principle"]) or (odds := line["log_prob_a"] - line["log_prob_b"]) == 0:
            continue
        pair = pairs[line["pair"]]
        chosen, rejected = ("a", "b") if odds > 0 else ("b", "a")
        row = {"prompt": pair["prompt"], "chosen": pair[chosen], "rejected": pair[rejected], "margin": abs(odds)}
        found[pair["split"]].append(row)
    return found


def log_odds(feedback: Iterable[Row], pairs: Sequence[Row], principles: Sequence[str]) -> np.ndarray:
    """log P(a) - log P(b) by each principle, (pairs, K), NaN where nobody was asked."""
    found = np.full((len(pairs), len(principles)), np.nan)
    column = {name: k for k, name in enumerate(principles)}
    for line in feedback:
        if line["principle"] in column:
            found[line["pair"], column[line["principle"]]] = line["log_prob_a"] - line["log_prob_b"]
    return found
