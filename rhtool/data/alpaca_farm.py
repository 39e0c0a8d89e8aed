"""AlpacaFarm: instructions with demonstrations, and pairs that people compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhtool.data import hub
from rhtool.data.base import TRAIN, Data, Row
from rhtool.data.noise import coin_labels
from rhtool.data.rows import DEMONSTRATIONS, PREFERENCES, read_as
from rhtool.errors import ConfigError


@dataclass
class AlpacaFarm(Data):
    """AlpacaFarm (Dubois et al. 2023, arXiv 2305.14387) as Coste et al. use it; their gold-labelled pairs are data=coste.

    Of the numbers of rows, `n_...`, null takes all.
    """

    path: str = "tatsu-lab/alpaca_farm"
    """instructions: a name on the hub, or a local folder of its files"""
    config: str = "alpaca_instructions"
    """a configuration of the dataset; in a local folder, a folder; empty: it has none"""
    revision: str | None = hub.CONVERTED
    """branch, tag or commit on the hub"""
    sft_split: str = "sft"
    """rows with `instruction`, `input`, `output`, for demonstrations"""
    prompt_split: str = "unlabeled"
    """rows for prompts; their `output`, where they have one, becomes the column `reference`"""
    validation_split: str = "val"
    """rows of the validation split, of both"""
    n_prompts: int | None = None
    """rows of `prompt_split`, the first"""
    filter_refusals: bool = True
    """leave out the instructions, demonstrations and prompts in which a model speaks of itself (rhtool/data/refusals.txt)"""
    preference_path: str = "tatsu-lab/alpaca_farm"
    """pairs: a name on the hub, or a local folder of its files"""
    preference_config: str = "alpaca_human_preference"
    """likewise"""
    preference_revision: str | None = hub.CONVERTED
    """likewise"""
    preference_split: str = "preference"
    """pairs of the training split"""
    preference_validation_split: str = ""
    """pairs of the validation split; empty: `n_validation_pairs` of `preference_split` are held out"""
    n_pairs: int | None = None
    """pairs of the training split, the first"""
    n_validation_pairs: int = 500
    """pairs of the validation split, the first, or as many held out"""
    split_seed: int = 287631038922
    """of torch's generator that draws those that are held out"""
    label_noise: float = 0.0
    """share of the training labels that are replaced by a fair coin"""
    noise_seed: int = 0
    """of these coins, and of which labels they replace"""

    def check(self) -> None:
        """Raise `RhtoolError` without the library `datasets`, and for numbers that cannot be. What is on the hub is not asked."""
        hub.needs_datasets()
        coin_labels([], self.label_noise, self.noise_seed)
        if self.n_validation_pairs < 0:
            raise ConfigError(f"{self.n_validation_pairs} pairs", "data.n_validation_pairs", "give 0 or more")

    def inputs(self) -> dict[str, str]:
        """The local folders."""
        return {name: path for name in ("path", "preference_path") if Path(path := getattr(self, name)).is_dir()}

    def downloads(self) -> dict[str, tuple[str, str | None]]:
        """Of the instructions and of the pairs."""
        pairs = (self.preference_path, self.preference_revision)
        both = {"path": (self.path, self.revision), "preference_path": pairs}
        return {field: of for field, of in both.items() if not Path(of[0]).is_dir()}

    def prompts(self, split: str) -> list[Row]:
        """Instructions, with their `input` if any in a new line; columns `instruction`, `input`, `reference`."""
        name = self.prompt_split if split == TRAIN else self.validation_split
        rows = self._instructions(name, lambda record, where: read_as(None, _referenced(record), where))
        return rows[: self.n_prompts] if split == TRAIN else rows

    def demonstrations(self, split: str) -> list[Row]:
        """Instructions with their `output` as `answer`."""
        name = self.sft_split if split == TRAIN else self.validation_split
        return self._instructions(name, lambda record, where: read_as(DEMONSTRATIONS, record, where))

    def preferences(self, split: str) -> list[Row]:
        """Pairs; those of the training split with `label_noise`."""
        train, apart = split == TRAIN, self.preference_validation_split
        name = apart if apart and not train else self.preference_split
        records = hub.load(
            self.preference_path, self.preference_config, name, self.preference_revision, "preference_path"
        )
        if not apart:
            if self.n_validation_pairs >= len(records):
                raise ConfigError(
                    f"{self.n_validation_pairs} of {len(records)} pairs cannot be held out",
                    "data.n_validation_pairs",
                    f"give a number below {len(records)}",
                )
            training, validation = hub.held_out(len(records), self.n_validation_pairs, self.split_seed)
            records = [records[i] for i in (training if train else validation)]
        where = f"{self.preference_path}, {name}"
        rows = hub.rows(records, lambda record, at: read_as(PREFERENCES, record, at), where)
        rows = rows[: self.n_pairs if train else self.n_validation_pairs]
        return coin_labels(rows, self.label_noise, self.noise_seed) if train else rows

    def _instructions(self, split: str, read: Any) -> list[Row]:
        records = hub.load(self.path, self.config, split, self.revision, "path")
        rows = hub.rows(records, read, f"{self.path}, {split}")
        return [row for row in rows if not hub.refused(row)] if self.filter_refusals else rows


def _referenced(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its output under the name that rewards read."""
    return {"reference" if key == "output" else key: value for key, value in record.items()}
