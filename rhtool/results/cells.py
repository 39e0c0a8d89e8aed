"""Rows of runs summed up: sections (one environment in one setting), methods, and cells (one method at one coeff).

**Reward hacking** (Laidlaw et al. 2025, Correlated Proxies, Definition 4.2): the policy that optimises the proxy has a
lower true return than the base policy, J(pi, R) < J(base, R), while the proxy return says it is better.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from rhtool.results.commands import AUTO
from rhtool.results.rows import COLUMNS, METHOD, PROBLEM, STATUSES
from rhtool.results.statistics import Estimate, estimate, improvement

DIVERGENCES = (
    "none",
    "kl",
    "chi2",
    "sqrt_chi2",
    "tv",
    "wasserstein",
    "base_confidence",
    "max_min",
    "linear_max_min",
    "gail",
)
"""the order in which methods are listed; others follow by name"""
ON_TRUE = "env.reward_fun=true"
"""the override that makes a run an upper reference: it was trained on the true reward"""


Table = tuple[str, tuple[list[str], list[list[str]]], str]
"""a title, (header, rows) as strings, and a note on how to read them"""


@dataclass(frozen=True)
class Keys:
    """The metrics that a report compares. The base policy's are under the same keys after `base/`."""

    true: str = "true/return"
    proxy: str = "proxy/return"
    correlation: str = "correlation"
    divergence: str = "divergence/sqrt_chi2"
    statistic: str = "iqm"


@dataclass(eq=False)
class Cell:
    """The seeds of one method at one coeff; equal to itself alone."""

    divergence: str
    over: str
    tuned: tuple[str, ...]
    coeff: float
    task: str
    runs: pd.DataFrame
    """the rows of `rows.read`, one per seed"""
    reward: str
    """of texts; empty where all cells of the section have the same"""
    true: Estimate
    proxy: Estimate
    correlation: Estimate
    measured: Estimate
    """how far the policies are from the base policy, `Keys.divergence`"""
    hacked: str
    """yes, no, unclear; empty where the base policy's returns are not known"""
    improvement: float
    """probability that a run of this cell has a higher true return than the base policy"""
    best: bool = False
    unsaid: frozenset[str] = frozenset()
    """those of `tuned` that no reader needs to tell the cells of the section apart"""

    @property
    def method(self) -> tuple[str, str, tuple[str, ...], str]:
        return self.divergence, self.over, self.tuned, self.reward

    @property
    def label(self) -> str:
        """What readers call the method."""
        tuned = [word for word in self.tuned if word != ON_TRUE and word not in self.unsaid]
        if self.divergence == "none":
            name = "PPO on the true reward" if ON_TRUE in self.tuned else "no regularisation"
        else:
            over = "" if self.over in ("", "state_action") else f" over {self.over}"
            name = (self.divergence or self.task) + over + (", on the true reward" if ON_TRUE in self.tuned else "")
        return ", ".join([name, *([f"reward={self.reward}"] if self.reward else []), *tuned])

    @property
    def swept(self) -> bool:
        """Whether the coeff means anything."""
        return self.divergence not in ("", "none")

    @property
    def strength(self) -> str:
        """The coeff as readers see it: of coeff=auto the mean of what was measured; empty where it means nothing."""
        if AUTO in self.tuned:
            measured = column(self.runs, "penalty/coeff")
            return f"{np.nanmean(measured):.3g}" if np.isfinite(measured).any() else ""
        return f"{self.coeff:g}" if self.swept or self.coeff else ""

    @property
    def complete(self) -> bool:
        """Whether every seed of the cell is done."""
        return bool((self.runs.status == "done").all())

    @property
    def status(self) -> str:
        """`""` if every seed is done, else their number in each state: "2 done, 1 failed"."""
        counts = Counter(self.runs.status)
        return "" if self.complete else ", ".join(f"{counts[s]} {s}" for s in STATUSES if counts[s])


@dataclass
class Section:
    """One environment, or one language model on some data, in one setting: what can be compared with each other."""

    group: str
    env: str
    data: str
    model: str
    scale: str
    cells: list[Cell]
    setting: tuple[str, ...] = ()
    """overrides that make another problem of the environment: `env.level=2`"""
    shared: tuple[str, ...] = ()
    """those of `Cell.tuned` that all cells have, fewer iterations say: the title has them, and no label"""
    base: dict[str, Estimate] = field(default_factory=dict)
    """true, proxy and correlation of the base policy, over the seeds (a seed's value is the mean of its runs'); the true
    return alone where the cells differ in reward or its options"""
    further: list[Table] = field(default_factory=list)
    """tables besides those made of the cells"""

    @property
    def title(self) -> str:
        """`tomato (orpo)`, the scale if it is not the paper's, and what all cells share."""
        scale = f"scale={self.scale}" if self.scale not in ("", "paper") else ""
        name = self.env or self.data or self.group
        model = f"model={self.model}" if self.model else ""
        rest = ", ".join(
            filter(None, [self.group if name != self.group else "", model, *self.setting, scale, *self.shared])
        )
        return name + (f" ({rest})" if rest else "")

    @property
    def methods(self) -> dict[tuple, list[Cell]]:
        """The cells of each method, by ascending coeff."""
        methods: dict[tuple, list[Cell]] = {}
        for cell in self.cells:
            methods.setdefault(cell.method, []).append(cell)
        return methods

    @property
    def lengths(self) -> tuple[float, float] | None:
        """Shortest and longest mean length of the episodes of a cell or the base policy, in steps, where `lengths_differ`."""
        done = [cell.runs[cell.runs.status == "done"] for cell in self.cells]
        found = [column(d, whose + "episode/length").mean() for d in done if len(d) for whose in ("", "base/")]
        return (np.nanmin(found), np.nanmax(found)) if lengths_differ(found) else None

    @property
    def unregularised(self) -> Cell | None:
        """Plain PPO on the proxy, or the cell with coeff 0 that stands in for it."""
        proxy = [cell for cell in self.cells if ON_TRUE not in cell.tuned and cell.true.n]
        plain = [cell for cell in proxy if cell.divergence == "none"]
        zero = [cell for cell in proxy if cell.swept and cell.coeff == 0 and AUTO not in cell.tuned]
        return next(iter([*plain, *zero]), None)

    def chosen(self) -> list[Cell]:
        """One cell per method: its best, or where none is marked the one with the most finished seeds."""
        return [
            next((cell for cell in cells if cell.best), max(cells, key=lambda cell: cell.true.n))
            for cells in self.methods.values()
        ]


def sections(rows: pd.DataFrame, keys: Keys | None = None) -> list[Section]:
    """The sections of the rows that `rows.read` gives, by environment or data and model, their tuned fields, group and scale."""
    keys = keys or Keys()
    found = []
    for (*problem, group, scale, setting), part in rows.groupby(
        [*PROBLEM, "group", "scale", rows.tuned.map(setting_of)]
    ):
        done = part[part.status == "done"]
        rewards = sorted({*part.reward} - {""})
        proxies = {(reward, _of_reward(tuned)) for reward, tuned in zip(part.reward, part.tuned, strict=True)}
        compared = _compared(keys) if len(proxies) < 2 else {"true": keys.true}
        base = {name: by_seed(done, f"base/{key}") for name, key in compared.items()}
        cells = [
            _cell(cell, keys, base["true"], of_reward=len(rewards) > 1) for _, cell in part.groupby([*METHOD, "coeff"])
        ]
        paths = {cell: _paths_in_common(cell, cells) for cell in cells}
        shared = sorted(set.intersection(*({*cell.tuned} - paths[cell] - {ON_TRUE, AUTO} for cell in cells)))
        for cell in cells:
            cell.unsaid = paths[cell].union(shared)
        setting = (*(f"reward={name}" for name in rewards if len(rewards) == 1), *setting)
        section = Section(group, *problem, scale, sorted(cells, key=_order), setting, tuple(shared))
        section.base = {name: estimate(values, keys.statistic) for name, values in base.items() if len(values)}
        for method in section.methods.values():
            _mark_best(method)
        found.append(section)
    return sorted(found, key=lambda section: (not section.env, section.data))  # control first


def setting_of(tuned: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides that make another problem: fields of the environment, but for how a policy is trained on it, of the data,
    and the model's path."""
    fields = ("reward_fun", "base_policy", "reward_std", "reward_mean", "proxy_scale", "true_scale")
    training = ("env.training.", *(f"env.{name}=" for name in fields))
    of_problem = ("env.", "data.", "model.path=")
    return tuple(word for word in tuned if word.startswith(of_problem) and not word.startswith(training))


def _of_reward(tuned: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides that make another proxy of texts."""
    return tuple(word for word in tuned if word.startswith("reward."))


def _compared(keys: Keys) -> dict[str, str]:
    return {"true": keys.true, "proxy": keys.proxy, "correlation": keys.correlation}


def column(rows: pd.DataFrame, key: str) -> np.ndarray:
    """The metric as floats, NaN where there is none. Shape (len(rows),)."""
    return rows[key].to_numpy(float) if key in rows else np.full(len(rows), np.nan)


def lengths_differ(lengths: Iterable[float]) -> bool:
    """Whether episodes are of lengths (steps; NaN: not known) whose sums should not be compared without saying so: more than
    5 % apart. Of rewards that are never positive the higher sum can be that of the earlier end."""
    known = [length for length in lengths if math.isfinite(length)]
    return bool(known) and max(known) > 1.05 * min(known)


def metrics(rows: pd.DataFrame) -> list[str]:
    """The columns of `rows` that are metrics."""
    return [name for name in rows.columns if name not in COLUMNS]


def by_seed(rows: pd.DataFrame, key: str) -> np.ndarray:
    """One value per seed: the runs of a seed are not independent measurements of the base policy. Shape (seeds,)."""
    return pd.Series(column(rows, key)).groupby(rows.seed.to_numpy()).mean().dropna().to_numpy()


def _cell(runs: pd.DataFrame, keys: Keys, base_true: np.ndarray, of_reward: bool) -> Cell:
    first, done = runs.iloc[0], runs[runs.status == "done"]
    true, proxy, correlation, measured = (
        estimate(column(done, key), keys.statistic)
        for key in (keys.true, keys.proxy, keys.correlation, keys.divergence)
    )
    values = column(done, keys.true)
    return Cell(
        divergence=first.divergence,
        over=first.over,
        tuned=tuple(word for word in first.tuned if word not in setting_of(first.tuned)),
        coeff=first.coeff,
        task=first.task or first.group,
        runs=runs,
        reward=first.reward if of_reward else "",
        true=true,
        proxy=proxy,
        correlation=correlation,
        measured=measured,
        hacked=_hacked(done, keys),
        improvement=improvement(values[np.isfinite(values)], base_true),
    )


def _hacked(done: pd.DataFrame, keys: Keys) -> str:
    """Definition 4.2 with its uncertainty, from each run's difference to the base policy it started from.

    yes: the interval of true - base lies below zero and that of proxy - base above it. no: the true return is not
    lower, or the proxy return is not higher, with the whole interval. Else, and with too few seeds for an interval,
    unclear.
    """
    true, proxy = (
        estimate(column(done, key) - column(done, f"base/{key}"), keys.statistic) for key in (keys.true, keys.proxy)
    )
    if not (true.n and proxy.n):
        return ""
    if true.high < 0 and proxy.low > 0:
        return "yes"
    return "no" if true.low >= 0 or proxy.high <= 0 else "unclear"


def _paths_in_common(cell: Cell, cells: list[Cell]) -> frozenset[str]:
    """Where the models of a reward are, if all cells with this reward have them from there."""
    alike = [set(other.tuned) for other in cells if other.runs.reward.iloc[0] == cell.runs.reward.iloc[0]]
    common = set.intersection(*alike)
    return frozenset(word for word in common if word.startswith("reward.") and "/" in word)


def _order(cell: Cell) -> tuple:
    """None first, the divergences in their order, what was trained on the true reward last; then by coeff."""
    place = DIVERGENCES.index(cell.divergence) if cell.divergence in DIVERGENCES else len(DIVERGENCES)
    return ON_TRUE in cell.tuned, place, cell.divergence, cell.over, cell.tuned, cell.reward, cell.coeff


def _mark_best(cells: list[Cell]) -> None:
    """Mark the highest true return among the cells whose seeds are all done; of equal ones, the smallest coeff."""
    complete = [cell for cell in cells if cell.complete and cell.true.n]
    if cells[0].swept and len(cells) > 1 and complete:
        max(complete, key=lambda cell: (cell.true.value, -cell.coeff)).best = True
