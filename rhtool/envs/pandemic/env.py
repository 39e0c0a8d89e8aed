"""The pandemic environment as arrays (after the simulator that cassidylaidlaw/orpo 95cd1fa pins).

One step is a day: the action lowers, keeps or raises the stage of regulations by one, then 24 times everybody acts (work,
school, shops, parties, hospital) and meets others there; at midnight both strains take their course and people are
tested. With the shares of persons after the day, critical for instance, unweighted components of the reward are

    A critical     -(share of persons who need or have a hospital bed)
    B political    -(min(r - 0.005, 0) / 0.005)^2 if the stage rose, r: share ill or dead on the day before
    C lower stage  -(k / (S - 1))^1.5, k: the action (quirk) or the new stage, of S stages
    D smooth       -(1 if the stage changed)

    true = 10 A + 10 B + 0.1 C + 0.01 D,   proxy = 10 A + 0.1 C + 0.01 D

Observation, float32 (24, 13): three snapshots of each of 8 days (after hours 8, 16, 24), oldest first, zeros before the
start: time in years, stage, whether 10 persons or more are tested infected, and the shares of persons that tests say are
critical, dead, infected, none, recovered, of alpha and of delta. The true counts are not in it. Action: 0 lower, 1 keep,
2 raise.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rhtool.envs.pandemic import Pandemic, find, kernel, population, regulation, strategies, town
from rhtool.envs.pandemic.contacts import scratch
from rhtool.envs.pandemic.tables import (
    HOME,
    S_CRITICAL,
    S_DEAD,
    S_INFECTED,
    S_NONE,
    S_RECOVERED,
    Quirks,
    build,
    rates,
)
from rhtool.envs.pandemic.world import POPULATION, World, allocate
from rhtool.envs.rng import streams
from rhtool.envs.vector import VectorEnv
from rhtool.errors import ConfigError, nearest

COUNTS = {"infected": S_INFECTED, "critical": S_CRITICAL, "dead": S_DEAD, "recovered": S_RECOVERED, "none": S_NONE}
COMPONENTS = ("critical_reward", "political_reward", "lower_stage_reward", "smooth_reward")

SUMMARIES = ("critical", "dead", "infected", "none", "recovered")
SEEN = (
    "year",
    "stage",
    "many infected",
    *(f"tested {name} of {kind}" for kind in ("alpha", "delta") for name in SUMMARIES),
)
"""the numbers of a snapshot"""


def _snapshots(days: int) -> list[str]:
    """When the snapshots of an observation were taken, oldest first."""
    hours = [8 * (kernel.SNAPSHOTS * days - 1 - i) for i in range(kernel.SNAPSHOTS * days)]
    return [f"{ago} h ago" if ago else "now" for ago in hours]


class PandemicVectorEnv(VectorEnv):
    """B towns; its state is one attribute for each field of `World`.

    `info`, float64 (B,): `stage`; persons `infected`, `critical`, `dead`, `recovered`, `none` in truth (who has both
    strains counts by the worse one) and `tested_infected`, … according to the tests; the unweighted components
    `critical_reward`, `political_reward`, `lower_stage_reward`, `smooth_reward`.
    """

    state_names = World._fields
    reward_terms = COMPONENTS
    render_modes = ("rgb_array",)
    action_names = ("lower", "keep", "raise")

    def __init__(self, config: Pandemic, lanes: int, **options: Any):
        """Raises `ConfigError` for a town or regulations that cannot be used, an unknown strategy, or bad weights."""
        names = [*strategies.PLANS, strategies.MIXTURE]
        if config.strategy not in names:
            raise ConfigError(f"no strategy '{config.strategy}'", "env.strategy", nearest(config.strategy, names))
        for field in ("true_weights", "proxy_weights"):
            weights = getattr(config, field)
            if len(weights) != 4 or not np.isfinite(weights).all():
                what = f"{len(weights)} weights" if len(weights) != 4 else f"{list(weights)} are not all finite"
                raise ConfigError(what, f"env.{field}", "give four: critical, political, lower stage, smooth")
        if config.observed_days < 1:
            raise ConfigError(
                f"{config.observed_days} days are no observation", "env.observed_days", "choose 1 or more"
            )
        if config.population_seed is not None and not 0 <= config.population_seed < 2**64:
            mend = "choose 0 to 2**64 - 1, or null"
            raise ConfigError(f"{config.population_seed} is no seed", "env.population_seed", mend)
        self.town = town.load(find("towns", config.town))
        """the town's file"""
        self.stages = regulation.load(find("regulations", config.regulations), self.town)
        """the regulations' file"""
        self.tables = build(self.town, self.stages)
        self.quirks = Quirks(*(self._on(config, name) for name in Quirks._fields))
        self.horizon_terminates = self._on(config, "horizon_terminates")
        self._inverted = self._on(config, "inverted_controller")
        self._plan = -1 if config.strategy == strategies.MIXTURE else names.index(config.strategy)
        self._weights = np.array([config.proxy_weights, config.true_weights], float)
        self._rates = rates(self.town)
        home = int(np.flatnonzero(self.tables.kind == HOME)[0])
        self._homes = np.array([self.tables.first[home], self.tables.number[home]], np.int64)
        self._size = (
            self.town.persons,
            kernel.SNAPSHOTS * config.observed_days,
            0 if self.quirks.social_events_always else int(self._homes[1]),
        )
        shape = (self._size[1], kernel.FEATURES)
        high = np.ones(shape, np.float32)
        high[:, 1] = len(self.stages) - 1
        spaces = gymnasium.spaces.Box(np.zeros_like(high), high, dtype=np.float32), gymnasium.spaces.Discrete(3)
        super().__init__(config, lanes, *spaces, **options)
        self.latest = np.arange((shape[0] - 1) * shape[1], shape[0] * shape[1])
        self.obs_names = tuple(f"{name}, {when}" for when in _snapshots(config.observed_days) for name in SEEN)
        for name, value in allocate(self.tables, lanes, *self._size)._asdict().items():
            setattr(self, name, value)
        self._blank = {name: value[0] for name, value in allocate(self.tables, 1, *self._size)._asdict().items()}
        self._memory = scratch(
            self.town.persons, len(self.tables.type_of), len(self.tables.number), int(self._homes[1])
        )
        self._curves: np.ndarray | None = None
        if self.render_mode is not None:
            self._curves = np.full((lanes, config.horizon, len(COUNTS) + 3), np.nan, np.float32)
        if config.population_seed is not None:
            self._settle_all(config.population_seed)

    @staticmethod
    def _on(config: Pandemic, name: str) -> bool:
        """A quirk's flag; null means variant orpo."""
        value = getattr(config, name)
        return config.variant == "orpo" if value is None else bool(value)

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """As `VectorEnv.set_state`. A picture forgets the days from the restored one on."""
        super().set_state(state)
        if self._curves is not None:
            self._curves[np.arange(self._curves.shape[1]) >= self.day[:, None]] = np.nan

    def _world(self) -> World:
        return World(*(getattr(self, name) for name in World._fields))

    def _populate(self, mask: np.ndarray, rng: np.ndarray, world: World) -> None:
        verdict = population.populate(mask, self.tables, self.quirks.uniform_jobs, *self._rates, rng, world)
        if verdict != population.GOOD:
            what = "homes" if verdict == population.TOO_FEW_HOMES else "workers to live with its minors"
            mend = "add homes or take persons away" if verdict == population.TOO_FEW_HOMES else "add persons"
            raise ConfigError(f"the town has too few {what}", f"{self.config.town}, places and persons", mend)

    def _settle_all(self, seed: int) -> None:
        """The same population in all lanes."""
        one = allocate(self.tables, 1, *self._size)
        self._populate(np.ones(1, bool), streams(np.array([seed], np.uint64), np.zeros(1, np.uint64)), one)
        for name in POPULATION:
            getattr(self, name)[:] = getattr(one, name)

    def _seed(self, seed: int | list[int | None], mask: np.ndarray) -> None:
        super()._seed(seed, mask)
        if hasattr(self, "fresh"):
            many = isinstance(seed, list | tuple | np.ndarray)
            self.fresh |= mask & np.array([s is not None for s in seed]) if many else mask

    def _reset(self, mask: np.ndarray) -> None:
        world = self._world()
        if self.config.population_seed is None:
            self._populate(mask & self.fresh, self._rng, world)
        self._begin_episode(mask)
        if self._curves is not None:
            self._curves[mask] = np.nan

    def _begin_episode(self, mask: np.ndarray) -> None:
        """Everybody is well and at home, nothing is forbidden."""
        anew = mask if not self.quirks.schedule_persists else mask & self.fresh
        for name in World._fields[len(POPULATION) :]:
            getattr(self, name)[anew if name == "entry" else mask] = self._blank[name]
        kernel.begin(mask, self.tables.delta_start, self._plan, len(strategies.PLANS), self._rng, self._world())
        self.fresh[mask] = False

    def _step(self, actions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kernel.step(
            actions,
            mask,
            self.tables,
            self.quirks,
            strategies.ENDS,
            self._rng,
            self._world(),
            self._memory,
            self._homes,
        )
        proxy, true = np.where(mask, self._weights @ self.components.T, 0.0)
        if self._curves is not None:
            self._record(mask)
        return proxy, true, np.zeros(self.num_envs, bool)

    def _observe(self, out: np.ndarray, mask: np.ndarray) -> None:
        out[mask] = self.history[mask]

    def _metrics(self) -> dict[str, np.ndarray]:
        found = {"stage": self.stage.astype(np.float64)}
        for prefix, source in (("", self.counts), ("tested_", self.books)):
            found |= {prefix + name: source[:, 0, x].astype(np.float64) for name, x in COUNTS.items()}
        return found | {name: self.components[:, x].copy() for x, name in enumerate(COMPONENTS)}

    def base_action(self, observations: np.ndarray) -> np.ndarray:
        """The actions of the plans of `config.strategy`, int64 (B,); a plan's stages above the highest mean the
        highest."""
        stage = strategies.planned(self.strategy, self.entry, self.day, self.quirks.schedule_persists)
        return strategies.action(np.minimum(stage, len(self.stages) - 1), self.stage, self._inverted)

    def _record(self, mask: np.ndarray) -> None:
        """Keep the day for the picture."""
        lanes = np.flatnonzero(mask)
        days = np.minimum(self.day[lanes] - 1, self._curves.shape[1] - 1)
        shown = [self.counts[lanes, 0, x] for x in COUNTS.values()]
        tested = [self.books[lanes, 0, x] for x in (S_INFECTED, S_CRITICAL)]
        self._curves[lanes, days] = np.stack([*shown, *tested, self.stage[lanes]], 1)

    def _render(self, lane: int) -> np.ndarray:
        from rhtool.envs.pandemic import render

        return render.picture(self._curves[lane], len(self.stages), self.town.persons, int(self.delta_start[lane]))
