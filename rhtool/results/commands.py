"""The commands that finish runs, from what `provenance.json` says of how each was composed: nothing is guessed from names.

Pasted into a shell they finish these very runs: with the options as they were given, in the working directory to which
relative paths refer, whatever the directory is called and wherever the report is made.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from rhtool.config import quoted
from rhtool.launchers import flags

AUTO = "coeff=auto"
"""among the tuned words of a run whose coeff was measured (its `coeff` is 0 in a table), so that it is a method of its own"""


@dataclass(frozen=True)
class Command:
    """What composes one run."""

    words: tuple[str, ...]
    """overrides in Hydra's grammar"""
    cd: str = ""
    """the working directory; empty: this one"""
    config_dirs: tuple[str, ...] = ()
    plugins: str = ""

    @classmethod
    def of(cls, attempt: Any, path: Path) -> Command | None:
        """The command of the run at `path`, whose last attempt is recorded as `attempt`; None if it cannot be known."""
        try:
            words, directory, was = attempt["overrides"], attempt["directory"], attempt["dir"]
            command = cls(tuple(words), directory, tuple(attempt["config_dirs"]), attempt["plugins"])
            there, here = Path(directory, was), path.resolve()
            if not all(
                text.isprintable() for text in (*command.words, command.cd, *command.config_dirs, command.plugins)
            ):
                return None  # nobody would see what he pastes into his shell
        except (KeyError, TypeError, AttributeError, ValueError):
            return None
        command = replace(command, words=command.without("fresh"))
        if there.resolve() == here:
            return replace(command, cd="" if Path(directory).resolve() == Path.cwd() else directory)
        if not Path(was).is_absolute() and Path(was).resolve() == here:  # the whole tree was moved, and we are in it
            return replace(command, cd="")
        if not Path(directory).is_dir():
            return None
        # A run that was moved or copied away from where its options put it.
        safe = str(here).replace("'", "\\'").replace("${", "\\${")
        return replace(command, words=(*command.without("dir"), f"dir='{safe}'"))

    def without(self, *keys: str) -> tuple[str, ...]:
        """The words that do not set these fields."""
        return tuple(word for word in self.words if word.partition("=")[0] not in keys)

    @property
    def named(self) -> bool:
        """Whether its directory is given, and not made up from the options."""
        return self.without("dir") != self.words

    def of_seed(self, seed: float) -> Command | None:
        """The command of another seed; None if the directory is given, which is then another one too."""
        return None if self.named else replace(self, words=(*self.without("seed"), f"seed={seed:.0f}"))

    def line(self, words: tuple[str, ...] | None = None) -> str:
        """The command for a shell, with other words if they are given."""
        words = self.words if words is None else words
        text = shlex.join(["rhtool", *flags(self.config_dirs), *map(_plain, words)])
        text = f"RHTOOL_PLUGINS={shlex.quote(self.plugins)} {text}" if self.plugins else text
        return f"(cd {shlex.quote(self.cd)} && {text})" if self.cd else text


def commands(rows: pd.DataFrame) -> list[str]:
    """The commands that finish the given rows of `rows.read`, those that differ in coeff and seed alone in one with -m.

    A row whose command is not known has none.
    """
    alike: dict[Any, list[Any]] = {}
    for row in rows.itertuples():
        if command := row.command:
            swept = ("seed",) if AUTO in row.tuned else ("coeff", "seed")
            common = command.words if command.named else command.without(*swept)
            alike.setdefault(replace(command, words=common), []).append(row)
    lines = []
    for common, part in alike.items():
        seeds: dict[float, set[float]] = {}
        for row in part:
            seeds.setdefault(row.coeff, set()).add(row.seed)
        by_seeds: dict[tuple[float, ...], list[float]] = {}
        for coeff in sorted(seeds):
            by_seeds.setdefault(tuple(sorted(seeds[coeff])), []).append(coeff)
        for of_seeds, coeffs in by_seeds.items():
            these = [row for row in part if row.coeff in coeffs]
            if len(these) == 1:
                lines.append(these[0].command.line())
                continue
            given = _sets(these, "coeff") and common.without("coeff") == common.words
            sweep = ["coeff=" + ",".join(map(_text, coeffs))] if given else []
            sweep += ["seed=" + ",".join(f"{seed:.0f}" for seed in of_seeds)]
            lines.append(common.line(("-m", *common.words, *sweep)))
    return lines


def _sets(rows: list[Any], key: str) -> bool:
    return any(row.command.without(key) != row.command.words for row in rows)


def _text(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _plain(word: str) -> str:
    """A word without the quotes of Hydra's grammar where the command line puts them back."""
    key, _, value = word.partition("=")
    if value[:1] == "'" == value[-1:] and quoted(plain := f"{key}={value[1:-1]}") == word:
        return plain
    return word
