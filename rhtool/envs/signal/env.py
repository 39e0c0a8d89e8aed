"""The traffic light as a vector environment: a process with a SUMO in it for each lane."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rhtool.envs import sumo
from rhtool.envs.program import ProgramSpec, ProgramVectorEnv
from rhtool.envs.signal import PHASES, Signal
from rhtool.errors import ConfigError

METRICS = ("throughput", "queue", "outside", "longest_wait", "switched")
"""crossing, vehicles/h; standing on the approaches; waiting outside; s that the vehicle worst off has stood without a
move (on the approaches); share of steps with a yellow light"""
_FEATURES = PHASES + 1 + 2 * 8 + 1


class SignalVectorEnv(ProgramVectorEnv):
    """B junctions. `info` has the metrics of `METRICS`, float64 `(B,)`.

    Observation, float32 (22,): one-hot of the green phase; whether it may be left; for each of the 8 approach lanes its
    density, then its queue (vehicles, and standing ones, by what fits); minutes since the phase began, at most 1.
    """

    render_modes = ("rgb_array",)
    lane_is_a_process = True

    def __init__(self, config: Signal, lanes: int, **options: Any):
        """Raises `ConfigError` for numbers out of range, `MissingExtra` without SUMO or sumo-rl."""
        _check(config)
        sumo.check()
        sumo.installed("sumo_rl", "sumo-rl")
        if not sumo.has_libsumo():
            sumo.warn_of_traci()
        observations = gymnasium.spaces.Box(0, 1, (_FEATURES,), np.float32)
        actions = gymnasium.spaces.Discrete(PHASES)
        super().__init__(config, lanes, observations, actions, metric_names=METRICS, **options)

    def program(self) -> ProgramSpec:
        """A `SignalProgram`."""
        return ProgramSpec("rhtool.envs.signal.program:SignalProgram", {"config": self.config})


def _check(config: Signal) -> None:
    if config.delta_time < 2:
        raise ConfigError(
            f"{config.delta_time} s between decisions leave no room for yellow and green",
            "env.delta_time",
            "choose 2 or more seconds",
        )
    if not 0 < config.yellow_time < config.delta_time:
        raise ConfigError(
            f"{config.yellow_time} s of yellow do not fit between decisions",
            "env.yellow_time",
            f"choose 1 to {config.delta_time - 1}, or a longer env.delta_time",
        )
    if config.min_green < 0:
        raise ConfigError(f"{config.min_green} is no duration", "env.min_green", "choose 0 or more seconds")
    for name in ("inflow_main", "inflow_side"):
        if not 0 <= getattr(config, name) < np.inf:
            raise ConfigError(f"{getattr(config, name)} is not a rate", f"env.{name}", "choose zero or more vehicles/h")
    for name in ("left", "right"):
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{getattr(config, name)} is not a share", f"env.{name}", "choose a number from 0 to 1")
    if config.left + config.right > 1:
        raise ConfigError(
            f"the shares {config.left} and {config.right} are together more than 1", "env.left, env.right", "lower them"
        )
    if len(config.greens) != PHASES or min(config.greens) <= 0:
        raise ConfigError(
            f"{list(config.greens)} is no plan", "env.greens", f"give {PHASES} numbers of seconds, each above zero"
        )
