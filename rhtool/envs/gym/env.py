"""Lanes of a gymnasium environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rhtool.envs.gym import Gym
from rhtool.envs.gym.program import GymProgram, find, look_up, metric_names, number
from rhtool.envs.program import ProgramSpec, ProgramVectorEnv


def column_names(space: spaces.Space, path: str = "") -> list[str]:
    """What the columns of a flattened observation are, in the order of `gymnasium.spaces.flatten`."""
    if isinstance(space, spaces.Dict):
        return [name for key, part in space.spaces.items() for name in column_names(part, f"{path}.{key}".lstrip("."))]
    if isinstance(space, spaces.Tuple):
        return [name for i, part in enumerate(space.spaces) for name in column_names(part, f"{path}.{i}".lstrip("."))]
    path = path or "obs"
    if isinstance(space, spaces.Discrete):
        return [f"{path} = {i}" for i in range(int(space.start), int(space.start + space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        return [f"{path}[{i}] = {k}" for i, n in enumerate(space.nvec.ravel()) for k in range(int(n))]
    return [f"{path}[{','.join(map(str, np.unravel_index(i, space.shape)))}]" for i in range(int(np.prod(space.shape)))]


class GymVectorEnv(ProgramVectorEnv):
    """B copies of `config.id`. Observations are flattened to float32 of one dimension; `info` has the metrics of `config`."""

    render_modes = ("ansi", "rgb_array")

    def __init__(self, config: Gym, lanes: int, *, render_mode: str | None = None, **options: Any):
        """Steps a copy once, to see what it is. Raises `RhtoolError` for one that cannot be used."""
        self._arguments = {
            "id": config.id,
            "kwargs": dict(config.kwargs or {}),
            "true_reward": config.true_reward,
            "proxy_reward": config.proxy_reward,
            "controller": config.controller,
        }
        probe = GymProgram(**self._arguments, check=True)
        try:
            metrics = self._look(probe, config)
            modes = probe.env.metadata.get("render_modes") or ()
            self.render_modes = tuple(mode for mode in modes if mode in ("ansi", "rgb_array"))
            own = probe.observation_space, probe.action_space
            self.obs_names = tuple(column_names(probe.env.observation_space))
        finally:
            probe.close()
        super().__init__(
            config,
            lanes,
            *own,
            metric_names=tuple(metrics),
            processes=config.processes,
            render_mode=render_mode,
            **options,
        )

    def program(self) -> ProgramSpec:
        """A `GymProgram`."""
        options = {"metrics": list(self.metric_names), "render_mode": self.render_mode}
        entry = find(self.config.id).entry_point
        modules = [*self.config.modules(), *([entry.partition(":")[0]] if isinstance(entry, str) else [])]
        return ProgramSpec("rhtool.envs.gym.program:GymProgram", self._arguments | options, tuple(modules))

    @staticmethod
    def _look(probe: GymProgram, config: Gym) -> list[str]:
        """The names of the metrics, after a first step under gymnasium's checks."""
        probe.reset(0)
        probe.base_action()
        action = probe.action_space
        action.seed(0)
        probe.step(action.sample())
        if config.metrics is not None:
            for name in config.metrics:
                number(look_up(probe.info, name, "env.metrics"), f"env.metrics={name}")
            return list(config.metrics)
        return metric_names(probe.info, (config.true_reward, config.proxy_reward))
