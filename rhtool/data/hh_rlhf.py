"""Anthropic's dialogues about helpfulness and harmlessness, in pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rhtool.data import hub
from rhtool.data.base import TRAIN, Data, Row
from rhtool.data.noise import coin_labels
from rhtool.data.rows import PREFERENCES, read_as


@dataclass
class HhRlhf(Data):
    """HH-RLHF (Bai et al. 2022, arXiv 2204.05862): pairs of dialogues that differ in the last answer.

    Rows whose dialogues do not end with an answer of the assistant, or differ before it, are left out and a warning names them by
    number.
    """

    path: str = "Anthropic/hh-rlhf"
    """a name on the hub, or a local folder of its files"""
    config: str = ""
    """a configuration of the dataset; in a local folder, a folder; empty: all its parts"""
    revision: str | None = None
    """branch, tag or commit on the hub"""
    train_split: str = "train"
    """of the dataset"""
    validation_split: str = "test"
    """likewise"""
    n_train: int | None = None
    """rows of the training split, the first; null: all"""
    n_validation: int | None = None
    """likewise of the validation split"""
    label_noise: float = 0.0
    """share of the training labels that are replaced by a fair coin"""
    noise_seed: int = 0
    """of these coins, and of which labels they replace"""

    def check(self) -> None:
        """Raise `RhtoolError` without the library `datasets`, and for numbers that cannot be. What is on the hub is not asked."""
        hub.needs_datasets()
        coin_labels([], self.label_noise, self.noise_seed)

    def inputs(self) -> dict[str, str]:
        """The local folder."""
        return {"path": self.path} if Path(self.path).is_dir() else {}

    def downloads(self) -> dict[str, tuple[str, str | None]]:
        """Of the dialogues."""
        return {} if Path(self.path).is_dir() else {"path": (self.path, self.revision)}

    def prompts(self, split: str) -> list[Row]:
        """The dialogues up to the last answer, each once."""
        rows = {repr(row["prompt"]): {"prompt": row["prompt"]} for row in self._pairs(split)}
        return list(rows.values())

    def demonstrations(self, split: str) -> list[Row]:
        """The answers that were preferred, as is usual with these data: they have no demonstrations of their own."""
        return [{"prompt": row["prompt"], "answer": row["chosen"]} for row in self._pairs(split)]

    def preferences(self, split: str) -> list[Row]:
        """The pairs; those of the training split with `label_noise`."""
        rows = self._pairs(split)
        return coin_labels(rows, self.label_noise, self.noise_seed) if split == TRAIN else rows

    def _pairs(self, split: str) -> list[Row]:
        name = self.train_split if split == TRAIN else self.validation_split
        records = hub.load(self.path, self.config, name, self.revision, "path")
        rows = hub.rows(records, lambda record, at: read_as(PREFERENCES, record, at), f"{self.path}, {name}")
        return rows[: self.n_train if split == TRAIN else self.n_validation]
