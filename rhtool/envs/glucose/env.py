"""The glucose environment as arrays (after the one of cassidylaidlaw/orpo, 95cd1fa, and the simulator under it).

A step is five minutes of a patient (`kernel.py`), whose day began at midnight when the episode did. The action `a` is
insulin: `a * basal_scaling * basal rate` U/min, rounded by the pump, for five minutes. The patient eats meals of random
size at random times (`scenario.py`), at no more than 5 g of carbohydrate a minute. A sensor reads blood glucose (BG) every
third minute and holds the reading (CGM) in between; BG, CGM, insulin and meals of a step are means over its five minutes.

Observation, float32 (2, 48): CGM (mg/dL) and insulin (U/min) of the last 48 steps, the newest last.

An episode ends when BG leaves [bg_min, bg_max], and is truncated after `horizon` steps.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rhtool.envs.glucose import REWARDS, Glucose, kernel, patients, scenario
from rhtool.envs.vector import VectorEnv
from rhtool.errors import ConfigError

LARGEST = 0.1
"""the largest action"""

LONGEST = 10 * 365 * 288
"""steps of the longest episode"""

PICTURED = 3 * 288
"""steps that a picture shows"""


class GlucoseVectorEnv(VectorEnv):
    """B patients. `info` has of each step: `bg`, `cgm` (mg/dL), `insulin` (U/min), `cho` (g/min of the meals announced),
    `magni_risk`, and 0 or 1 in `hypoglycemic` (BG < 70), `hyperglycemic` (BG > 180), `euglycemic` (neither)."""

    state_names = (
        "state",
        "stomach",
        "held",
        "window",
        "meal_time",
        "meal_size",
        "next_meal",
        "noise",
        "last",
        "memory",
        "controller",
        "seeds",
    )
    reward_terms = ("magni_risk", "insulin", "hypoglycemic")
    render_modes = ("rgb_array",)
    obs_offset = np.array([[100.0], [0.0]])
    obs_scale = np.array([[0.01], [10.0]])
    obs_names = tuple(
        f"{what} {5 * ago} min ago" if ago else f"{what} now"
        for what in ("CGM", "insulin")
        for ago in reversed(range(patients.HISTORY))
    )
    action_names = ("dose",)
    latest = np.array([patients.HISTORY - 1])

    def __init__(self, config: Glucose, lanes: int, **options: Any):
        """Raises `ConfigError` for an unknown patient and numbers out of range."""
        _check(config)
        self._fixed_seeds = (config.meal_seed, config.sensor_seed)
        self.seeds = np.zeros((max(lanes, 0), 2), np.int64)
        """int64 (B, 2): seeds of the last episode's meals and of its sensor noise"""
        highest = np.array([[config.cgm_max], [kernel.PUMP_MAX]]) * np.ones(patients.HISTORY)
        spaces = (
            gymnasium.spaces.Box(np.float32(0.0), highest.astype(np.float32), dtype=np.float32),
            gymnasium.spaces.Box(0.0, LARGEST, (1,), np.float32),
        )
        super().__init__(config, lanes, *spaces, **options)
        chosen = patients.select(config.patient)
        self._who = who = chosen[np.arange(lanes) % len(chosen)]
        """int64 (B,): index of each lane's patient"""
        self._starts = {key: value[who] for key, value in patients.starts(config.start).items()}
        np.clip(self._starts["cgm"], config.cgm_min, config.cgm_max, out=self._starts["cgm"])
        self._constants = kernel.constants(patients.parameters())[who]
        self._gains = patients.gains()[who]
        self._scale = patients.basal_rates()[who] * config.basal_scaling
        """float64 (B,): U/min of action 1"""
        self._meal_means = patients.meal_means()[who]
        self._steady_bg = (patients.steady_states()[:, 12] / patients.column("Vg"))[who]
        self._settings = (
            float(config.bg_min),
            float(config.bg_max),
            float(config.cgm_min),
            float(config.cgm_max),
            LARGEST,
            float(config.controller_noise),
        )
        self._flags = tuple(map(self._quirk, ("gram_meals", "cost_per_minute", "windup", "derivative_kick")))
        self._codes = (REWARDS.index(config.proxy_reward), REWARDS.index(config.true_reward))
        days = -(-5 * config.horizon // 1440)
        samples = 5 * config.horizon // 3 if config.noise_scale else 0
        self.state = self._starts["state"].copy()
        """float64 (B, 13): the patient's state (`kernel.py`)"""
        self.stomach = np.zeros((lanes, 4))
        """float64 (B, 4): mg in the stomach when the last meal began, g eaten of it, g still to eat, g eaten in the last
        minute"""
        self.held = np.zeros(lanes)
        """float64 (B,): the sensor's last reading, mg/dL"""
        self.window = np.zeros((lanes, 2, patients.HISTORY), np.float32)
        """float32 (B, 2, 48): CGM and insulin as rings; the oldest sample is at `elapsed % 48`"""
        self.meal_time = np.zeros((lanes, scenario.SLOTS * days), np.int32)
        """int32 (B, M): minute of the episode at which each meal begins"""
        self.meal_size = np.zeros((lanes, scenario.SLOTS * days))
        """float64 (B, M): grams of carbohydrate of each meal"""
        self.next_meal = np.zeros(lanes, np.int64)
        """int64 (B,): the first meal that is not over"""
        self.noise = np.zeros((lanes, samples))
        """float64 (B, S): what is added to each reading of the episode, mg/dL; (B, 0) without noise"""
        self.last = np.zeros((lanes, 5))
        """float64 (B, 5): BG, CGM, insulin, meals and Magni's risk of the last step"""
        self.memory = np.zeros((lanes, 2))
        """float64 (B, 2): the controller's sum of errors and last error"""
        self.controller = np.zeros((lanes, 1), np.float32)
        """float32 (B, 1): the controller's next action"""
        # What a picture shows: BG, CGM, insulin, meals of the last steps as rings. It decides nothing, so it is no state.
        self._trace = None if self.render_mode is None else np.full((lanes, 4, PICTURED), np.nan, np.float32)

    def _quirk(self, name: str) -> bool:
        """A flag of the configuration; null is true in variant orpo alone."""
        value = getattr(self.config, name)
        return self.config.variant == "orpo" if value is None else bool(value)

    def _seed(self, seed: int | list[int | None], mask: np.ndarray) -> None:
        super()._seed(seed, mask)
        # A seeded lane begins its fixed seeds anew, so that a seed decides all that follows.
        given = np.array([s is not None for s in seed]) if isinstance(seed, list | tuple | np.ndarray) else True
        self.seeds[mask & given] = [s or 0 for s in self._fixed_seeds]

    def _reset(self, mask: np.ndarray) -> None:
        for column, fixed in enumerate(self._fixed_seeds):
            if fixed is not None:
                self.seeds[mask, column] += 1
            elif column == 0 or self.config.noise_scale:
                kernel.draw_seeds(mask, self._rng, self.seeds[:, column])
        start = {key: value[mask] for key, value in self._starts.items()}
        self.state[mask] = start["state"]
        self.stomach[mask] = 0.0
        if not self._quirk("empty_memory"):
            self.stomach[mask, 0] = start["state"][:, 0] + start["state"][:, 1]
        self.window[mask, 0], self.window[mask, 1] = start["cgm"], start["insulin"]
        self.last[mask] = 0.0
        self.last[mask, 0], self.last[mask, 1] = start["bg"], start["cgm"][:, -1]
        days = self.meal_time.shape[1] // scenario.SLOTS
        self.meal_time[mask], self.meal_size[mask] = scenario.meals(
            self.seeds[mask, 0].astype(np.uint32), self._meal_means[mask], days
        )
        self.next_meal[mask] = 0
        present = start["state"][:, 12] * self._constants[mask, kernel.CONSTANTS.index("per_Vg")]
        reading = self._steady_bg[mask] if self._quirk("stale_sensor") else present
        if self.config.noise_scale:
            # Seeds as the original's: one higher than the scenario's, and two readings are taken during its reset.
            noise = scenario.sensor_noise(self.seeds[mask, 1] + 1, self.noise.shape[1] + 2)
            noise *= self.config.noise_scale
            self.noise[mask] = noise[:, 2:]
            reading = reading + noise[:, 1]
        self.held[mask] = np.clip(reading, self.config.cgm_min, self.config.cgm_max)
        if self._trace is not None:
            self._trace[mask] = np.nan
            self._trace[mask, 1:3, -patients.HISTORY :] = self.window[mask]
        _, _, windup, kick = self._flags
        kernel.begin_control(
            mask,
            self._gains,
            self._scale,
            LARGEST,
            windup,
            kick,
            float(self.config.controller_noise),
            self._rng,
            self.last,
            self.memory,
            self.controller,
        )

    def _step(self, actions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        proxy, true, terminated = np.empty(self.num_envs), np.empty(self.num_envs), np.empty(self.num_envs, bool)
        kernel.step(
            actions[:, 0] * self._scale,
            mask,
            self._constants,
            self._gains,
            self._scale,
            self._settings,
            self._flags,
            self._codes,
            self._rng,
            self._elapsed,
            self.state,
            self.stomach,
            self.held,
            self.window,
            self.meal_time,
            self.meal_size,
            self.next_meal,
            self.noise,
            self.last,
            self.memory,
            self.controller,
            proxy,
            true,
            terminated,
        )
        if self._trace is not None:
            lanes = np.flatnonzero(mask)
            self._trace[lanes, :, self._elapsed[lanes] % PICTURED] = self.last[lanes, :4]
        return proxy, true, terminated

    def _observe(self, out: np.ndarray, mask: np.ndarray) -> None:
        kernel.observe(out, mask, self._elapsed, self.window)

    def _reward(self, proxy: np.ndarray, true: np.ndarray, terminated: np.ndarray) -> np.ndarray:
        early = terminated & (self._elapsed < self.config.horizon)
        return super()._reward(proxy, true, terminated) - self.config.termination_penalty * early

    def _metrics(self) -> dict[str, np.ndarray]:
        bg, cgm, insulin, cho, risk = self.last.T.copy()
        hypo, hyper = (bg < 70.0).astype(np.float64), (bg > 180.0).astype(np.float64)
        return {
            "bg": bg,
            "cgm": cgm,
            "insulin": insulin,
            "cho": cho,
            "magni_risk": risk,
            "hypoglycemic": hypo,
            "hyperglycemic": hyper,
            "euglycemic": 1.0 - hypo - hyper,
        }

    def base_action(self, observations: np.ndarray) -> np.ndarray:
        """The PID controller's action, float32 (B, 1), with its noise."""
        return self.controller.copy()

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """As `VectorEnv.set_state`; pictures go on from the history that an observation has."""
        super().set_state(state)
        if self._trace is not None:
            place = (self._elapsed[:, None] - patients.HISTORY + np.arange(patients.HISTORY)) % PICTURED
            self._trace[:] = np.nan
            self._trace[np.arange(self.num_envs)[:, None], 1:3, place] = self.observe().swapaxes(1, 2)

    def _render(self, lane: int) -> np.ndarray:
        from rhtool.envs.glucose import render

        elapsed = int(self._elapsed[lane])
        trace = np.roll(self._trace[lane], -(elapsed % PICTURED), axis=1)
        name = patients.names()[self._who[lane]]
        return render.picture(trace, elapsed, name, (self.config.bg_min, self.config.bg_max))


def _check(config: Glucose) -> None:
    """Raise `ConfigError` for numbers that make no sense."""
    for low, high in (("bg_min", "bg_max"), ("cgm_min", "cgm_max")):
        a, b = getattr(config, low), getattr(config, high)
        if not 0.0 <= a < b < np.inf:
            where, mend = f"env.{low}, env.{high}", f"choose 0 <= {low} < {high}, in mg/dL"
            raise ConfigError(f"{low} {a} and {high} {b} are no range", where, mend)
    for name in ("basal_scaling", "proxy_scale", "true_scale"):
        if not 0.0 < getattr(config, name) < np.inf:
            raise ConfigError(f"{getattr(config, name)} is no factor", f"env.{name}", "choose a number above 0")
    for name in ("noise_scale", "controller_noise", "termination_penalty"):
        if not 0.0 <= getattr(config, name) < np.inf:
            raise ConfigError(f"{getattr(config, name)} is negative or no number", f"env.{name}", "choose 0 or more")
    for name in ("meal_seed", "sensor_seed"):
        seed = getattr(config, name)
        if seed is not None and not 0 <= seed < 2**31:
            raise ConfigError(f"{seed} is not a seed", f"env.{name}", "choose an integer from 0 to 2**31 - 1, or null")
    if config.horizon > LONGEST:
        mend = f"choose {LONGEST} or less: meals and noise of an episode are drawn when it begins"
        raise ConfigError(f"{config.horizon} steps of five minutes are more than ten years", "env.horizon", mend)
