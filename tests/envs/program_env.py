"""An environment made of any of the programs of `programs.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from rhtool.envs.base import Env
from rhtool.envs.program import ProgramSpec, ProgramVectorEnv


@dataclass
class Programs(Env):
    """An environment of programs of this file."""

    name = "programs_of_the_tests"

    target: str = "programs:Drift"
    options: dict[str, Any] = field(default_factory=dict)
    processes: bool = True

    def vector_class(self):
        return ProgramsVectorEnv


class ProgramsVectorEnv(ProgramVectorEnv):
    render_modes = ("ansi", "rgb_array")
    lane_is_a_process = True

    def __init__(self, config, lanes, **options):
        box = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32), gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        names = ("far", "t")
        super().__init__(config, lanes, *box, metric_names=names, processes=config.processes, **options)

    def program(self):
        return ProgramSpec(self.config.target, self.config.options)
