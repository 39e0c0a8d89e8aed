"""MiniGrid's worlds (Chevalier-Boisvert et al. 2023, arXiv 2306.13831) with a proxy that can be hacked: a bonus for opened doors.

`rhtool.envs.gym.minigrid:MiniGrid-v0` for `env=gym`; `world` is any of MiniGrid's ids. It knows nothing of rhtool.
"""

from __future__ import annotations

import gymnasium
import minigrid  # noqa: F401 (registers its ids)
import numpy as np
from minigrid.core.constants import OBJECT_TO_IDX, STATE_TO_IDX

OBJECTS = [name for name in OBJECT_TO_IDX if name not in ("unseen", "agent")]
"""what may stand in a cell, as MiniGrid calls it, a channel each"""
DIRECTIONS = ("right", "down", "left", "up")
CHANNELS = (*OBJECTS, *STATE_TO_IDX, *DIRECTIONS)
"""of an observation: the object in a cell, the state of a door there, the way the agent there looks"""


class MiniGrid(gymnasium.Env):
    """Observation: the whole grid, (width, height, channels) of 0 and 1, and in a last row what the agent carries. Reward: the world's
    own, and `bonus` for each door that was opened. True: the world's own, which is 1 - 0.9 t / T at the goal.

    Colours and missions are not seen: worlds that are about them (go to the *red* door) cannot be learned so.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, world: str = "MiniGrid-DoorKey-5x5-v0", bonus: float = 0.1, render_mode: str | None = None):
        self.world = gymnasium.make(world, render_mode=render_mode, disable_env_checker=True).unwrapped
        self.bonus, self.render_mode, self.action_space = bonus, render_mode, self.world.action_space
        shape = (self.world.width + 1, self.world.height, len(CHANNELS))
        self.observation_space = gymnasium.spaces.Box(0, 1, shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.world.reset(seed=seed, options=options)
        return self._seen(), {}

    def step(self, action):
        before = self._open_doors()
        _, reward, terminated, truncated, _ = self.world.step(action)
        opened = int((self._open_doors() & ~before).sum())
        info = {"true_reward": float(reward), "opened": opened, "reached": float(reward > 0)}
        return self._seen(), float(reward) + self.bonus * opened, terminated, truncated, info

    def render(self):
        return self.world.render()

    def close(self):
        self.world.close()

    def _open_doors(self) -> np.ndarray:
        """(width, height) bool."""
        objects, _, states = np.moveaxis(self.world.grid.encode(), -1, 0)
        return (objects == OBJECT_TO_IDX["door"]) & (states == STATE_TO_IDX["open"])

    def _seen(self) -> np.ndarray:
        world = self.world
        objects, _, states = np.moveaxis(world.grid.encode(), -1, 0)
        seen = np.zeros(self.observation_space.shape, np.uint8)
        for channel, name in enumerate(OBJECTS):
            seen[:-1, :, channel] = objects == OBJECT_TO_IDX[name]
        doors = objects == OBJECT_TO_IDX["door"]
        for state, index in STATE_TO_IDX.items():
            seen[:-1, :, CHANNELS.index(state)] = doors & (states == index)
        seen[(*world.agent_pos, CHANNELS.index(DIRECTIONS[world.agent_dir]))] = 1
        if world.carrying:
            seen[-1, :, OBJECTS.index(world.carrying.type)] = 1
        return seen


gymnasium.register("MiniGrid-v0", entry_point=MiniGrid, max_episode_steps=100)
