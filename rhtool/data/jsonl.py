"""Data of one's own, a JSON object a line."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rhtool.data.base import TRAIN, Data, Row
from rhtool.data.noise import coin_labels
from rhtool.data.rows import DEMONSTRATIONS, EXPECTED, PREFERENCES, PROMPTS, read
from rhtool.errors import ConfigError, RhtoolError


@dataclass
class Jsonl(Data):
    """Files of your own: prompts, demonstrations and preferences, a JSON object a line, recognised by their keys."""

    path: str = ""
    """the file; it may hold rows of every kind"""
    validation_path: str = ""
    """a file of the validation split; empty: a share of `path` is held out"""
    validation_share: float = 0.1
    """share of the different prompts of `path` that are held out with all their rows; 0: there is no validation split"""
    split_seed: int = 0
    """of which those are"""
    n_train: int | None = None
    """rows of each kind in the training split, the first of the file; null: all"""
    n_validation: int | None = None
    """likewise in the validation split"""
    label_noise: float = 0.0
    """share of the training labels that are replaced by a fair coin"""
    noise_seed: int = 0
    """of these coins, and of which labels they replace"""

    def check(self) -> None:
        """Raise `RhtoolError` for a file that is missing or empty, and for the first line that cannot be read, by its number."""
        if not self.path:
            raise ConfigError("no file is named", "data.path", "give one: data.path=my.jsonl")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"{self.validation_share} is no share to hold out",
                "data.validation_share",
                "give 0, or a number below 1",
            )
        coin_labels([], self.label_noise, self.noise_seed)
        for file in self.inputs().values():
            for _ in records(file):
                pass

    def inputs(self) -> dict[str, str]:
        """The files."""
        return {name: file for name in ("path", "validation_path") if (file := getattr(self, name))}

    def prompts(self, split: str) -> list[Row]:
        """Every conversation of the file once, of rows of every kind, with the columns of the first of them."""
        found: dict[str, Row] = {}
        for _, row in self._rows(split):
            only = {key: value for key, value in row.items() if key not in ("answer", "chosen", "rejected", "margin")}
            found.setdefault(_key(row), only)
        return self._cut(list(found.values()), split, PROMPTS)

    def demonstrations(self, split: str) -> list[Row]:
        """The rows with an answer."""
        return self._cut([row for kind, row in self._rows(split) if kind == DEMONSTRATIONS], split, DEMONSTRATIONS)

    def preferences(self, split: str) -> list[Row]:
        """The rows with two answers, in the training split with `label_noise`."""
        rows = self._cut([row for kind, row in self._rows(split) if kind == PREFERENCES], split, PREFERENCES)
        return coin_labels(rows, self.label_noise, self.noise_seed) if split == TRAIN else rows

    def _rows(self, split: str) -> list[tuple[str, Row]]:
        """(kind, row) of a split, in the order of the file."""
        if self.validation_path:
            return list(records(self.path if split == TRAIN else self.validation_path))
        rows = list(records(self.path))
        keys = sorted({_key(row) for _, row in rows})
        held = set(random.Random(f"split {self.split_seed}").sample(keys, math.ceil(self.validation_share * len(keys))))
        return [(kind, row) for kind, row in rows if (_key(row) in held) == (split != TRAIN)]

    def _cut(self, rows: list[Row], split: str, what: str) -> list[Row]:
        rows = rows[: self.n_train if split == TRAIN else self.n_validation]
        if not rows:
            file = self.path if split == TRAIN or not self.validation_path else self.validation_path
            raise RhtoolError(f"there are no {what} for the {split} split", file, f"add lines, {EXPECTED}")
        return rows


def records(path: str) -> Iterator[tuple[str, Row]]:
    """(kind, row) of each line of a file. Raises `RhtoolError` for one that is missing or empty, and for a line that is empty, or
    no JSON, or no row (`rows.read`), with its number."""
    file, number = Path(path).expanduser(), 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield read(_parse(line, f"{path}, line {number}"), f"{path}, line {number}")
    except OSError as error:
        raise RhtoolError(f"the file cannot be read: {error.strerror}", path, "name a file of JSON lines") from error
    if not number:
        raise RhtoolError("the file is empty", path, f"write a JSON object a line, {EXPECTED}")


def _parse(line: bytes, where: str) -> object:
    try:
        text = line.decode("utf-8-sig" if where.endswith("line 1") else "utf-8")
        if text.strip():
            return json.loads(text.rstrip())
        raise RhtoolError("the line is empty", where, "delete it: every line holds a JSON object")
    except UnicodeDecodeError as error:
        raise RhtoolError(f"the line is not UTF-8: {error.reason}", where, "save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        said = f"the line is no JSON: {error.msg} at column {error.colno}"
        raise RhtoolError(said, where, f"write {EXPECTED}") from error
    except RecursionError as error:
        raise RhtoolError("the line is nested too deep", where, f"write {EXPECTED}") from error


def _key(row: Row) -> str:
    return json.dumps(row["prompt"])
