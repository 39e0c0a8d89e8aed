"""What each stage forbids: the schema of the YAML files in `regulations/`, and how one is read and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from rhtool.envs.pandemic.files import read
from rhtool.envs.pandemic.town import Town
from rhtool.errors import ConfigError, nearest


@dataclass
class Gathering:
    """Persons at a home from which somebody stays away; 0: from all, null: from none."""

    low: int | None = MISSING
    """somebody at low risk"""
    high: int | None = MISSING
    """somebody at high risk"""


@dataclass
class Stage:
    """The regulation of one stage."""

    stage: int = MISSING
    """its number, from 0"""
    stay_home_if_sick: bool = MISSING
    """who was tested positive goes home"""
    hygiene: bool = MISSING
    """infectious persons transmit 0.8 times as often"""
    masks: bool = MISSING
    """infectious persons transmit 0.6 times as often"""
    social_distancing: float = MISSING
    """share of the usual contacts that are avoided everywhere but at home"""
    largest_gathering: Gathering = field(default_factory=Gathering)
    """the gatherings that are avoided"""
    locked: list[str] = MISSING
    """types of place that are closed"""


@dataclass
class Regulations:
    """The stages, in order."""

    stages: list[Stage] = MISSING
    """stage 0 first"""


def load(path: Path, town: Town) -> list[Stage]:
    """The stages of a YAML file for a town. Raises `ConfigError`, naming file and field, for a stage or a field that is
    missing and for a place that the town has not or that cannot be locked."""
    regulations: Regulations = read(Regulations, path)
    stages = regulations.stages
    numbers = [stage.stage for stage in stages]
    for number in numbers:
        if numbers.count(number) > 1:
            raise ConfigError(f"stage {number} is given twice", str(path), "number the stages 0, 1, 2, …")
    for expected in range(max(1, len(stages), max(numbers, default=0) + 1)):
        if expected not in numbers:
            raise ConfigError(f"stage {expected} is missing", str(path), f"add an entry with 'stage: {expected}'")
    if numbers != sorted(numbers):
        raise ConfigError(f"the stages are in the order {numbers}", str(path), "number them 0, 1, 2, … in this order")
    for i, stage in enumerate(stages):
        where = f"{path}, stages[{i}]"
        if not 0 <= stage.social_distancing <= 1:
            raise ConfigError(
                f"{stage.social_distancing} is not a share", f"{where}.social_distancing", "choose 0 to 1"
            )
        for name in ("low", "high"):
            size = getattr(stage.largest_gathering, name)
            if size is not None and not 0 <= size <= 30_000:
                raise ConfigError(f"{size} persons", f"{where}.largest_gathering.{name}", "choose 0 to 30000, or null")
        for name in stage.locked:
            if name not in town.places:
                raise ConfigError(f"the town has no '{name}'", f"{where}.locked", nearest(name, town.places))
            if town.places[name].kind == "home" or town.places[name].essential:
                raise ConfigError(f"'{name}' cannot be locked", f"{where}.locked", "remove it")
    return stages
