"""The merge as a vector environment: a process with a SUMO in it for each lane."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rhtool.envs import sumo
from rhtool.envs.program import ProgramSpec, ProgramVectorEnv
from rhtool.envs.traffic import Traffic
from rhtool.errors import ConfigError

METRICS = (
    "mean_speed",
    "vehicles",
    "rl_vehicles",
    "outflow",
    "backlog",
    "stopped",
    "crash",
    "commute",
    "accel",
    "headway",
)
"""m/s; in the network; in the slots; leaving, vehicles/h; waiting to enter; share slower than 0.1 m/s; 0 or 1; and the rewards'
parts besides `mean_speed`: mean of 1 / (v + 0.001), s/m; -J, m/s2; H, s/s"""

MOST = 18_000
"""vehicles/h of one inflow: one in each step of SUMO of 0.2 s, several times what a lane of a road takes"""


class TrafficVectorEnv(ProgramVectorEnv):
    """B merges. `info` has the metrics of `METRICS`, float64 `(B,)`."""

    reward_terms = ("mean_speed", "commute", "accel", "headway")
    render_modes = ("rgb_array",)
    lane_is_a_process = True
    slot_names = ("speed", "leader is faster by", "gap ahead", "faster than follower by", "follower's headway")

    def __init__(self, config: Traffic, lanes: int, **options: Any):
        """Raises `ConfigError` for numbers out of range, `MissingExtra` without SUMO."""
        _check(config)
        sumo.check()
        if config.backend == "libsumo" and not config.gui and not sumo.has_libsumo():
            sumo.warn_of_traci()
        observations = gymnasium.spaces.Box(-np.inf, np.inf, (5 * config.slots,), np.float32)
        actions = gymnasium.spaces.Box(-config.max_decel, config.max_accel, (config.slots,), np.float32)
        super().__init__(config, lanes, observations, actions, metric_names=METRICS, **options)
        self.obs_names = tuple(f"slot {i}: {name}" for i in range(config.slots) for name in self.slot_names)
        self.action_names = tuple(f"acceleration of slot {i}" for i in range(config.slots))

    def program(self) -> ProgramSpec:
        """A `TrafficProgram`."""
        library = self.config.backend == "libsumo" and sumo.has_libsumo() and not self.config.gui
        module = "preloaded" if library else "program"
        return ProgramSpec(f"rhtool.envs.traffic.{module}:TrafficProgram", {"config": self.config})


def _check(config: Traffic) -> None:
    for name, least in (("slots", 1), ("sims_per_step", 1), ("stale_slots", 0)):
        if getattr(config, name) < least:
            raise ConfigError(f"{getattr(config, name)} is too small", f"env.{name}", f"choose {least} or more")
    for name in ("max_accel", "max_decel", "sim_step", "proxy_scale", "true_scale"):
        if not 0 < getattr(config, name) < np.inf:
            raise ConfigError(f"{getattr(config, name)} is not positive", f"env.{name}", "choose a number above zero")
    for name in ("inflow_highway", "inflow_ramp", "inflow_rl"):
        if not 0 <= getattr(config, name) <= MOST:
            mend = f"choose 0 to {MOST} vehicles/h"
            raise ConfigError(f"{getattr(config, name)} vehicles/h cannot be simulated", f"env.{name}", mend)
