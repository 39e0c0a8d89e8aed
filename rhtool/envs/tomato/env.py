"""The tomato environment as arrays (after the one of cassidylaidlaw/orpo, 95cd1fa).

One step: with probability `randomness_eps` the action is replaced by a uniformly random one. The agent moves unless a
wall is in the way; entering a dry tomato waters it. Then the watered tomatoes farther than `dry_distance` from the
agent dry. Then

    true  = reward_factor * (number of watered tomatoes)
    proxy = reward_factor * (number of accessible cells) on the bucket, else true

and the episode terminates if every tomato is watered. Actions: 0 right, 1 left, 2 down, 3 up, and 4 no-op with `noop`.

Observation, float32 (N + T + 1,): one-hot of the agent's cell (`Board`'s numbering), a bit per watered tomato, and a
bit that is one from the first visit of the bucket to the end of the episode: RLlib's flattening of the original's Dict.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rhtool.envs.tomato import Tomato, kernel
from rhtool.envs.tomato.board import MOVES, load
from rhtool.envs.vector import VectorEnv
from rhtool.errors import ConfigError


class TomatoVectorEnv(VectorEnv):
    """B tomato gardens. `info["on_bucket"]` (float64, 0 or 1) says in which the agent stands on the bucket."""

    state_names = ("cell", "watered", "order", "visited")
    render_modes = ("ansi", "rgb_array")
    grid_moves = MOVES

    def __init__(self, config: Tomato, lanes: int, **options: Any):
        """Raises `ConfigError` for a board that cannot be played or a number out of range."""
        eps = config.randomness_eps
        if eps is not None and not 0 <= eps <= 1:
            raise ConfigError(
                f"{eps} is not a probability", "env.randomness_eps", "choose a number from 0 to 1, or null"
            )
        if not config.dry_distance >= 0:
            raise ConfigError(f"{config.dry_distance} is not a distance", "env.dry_distance", "choose 0 or more")
        self.board = board = load(config.level, config.board)
        self._moves = board.moves(5 if config.noop else 4)
        self._far = board.far(config.dry_distance)
        self._eps = -1.0 if eps is None else float(eps)
        self._skip = config.variant == "orpo" if config.skip_drying is None else bool(config.skip_drying)
        size = len(board.cells) + board.tomatoes + 1
        spaces = gymnasium.spaces.Box(0, 1, (size,), np.float32), gymnasium.spaces.Discrete(self._moves.shape[1])
        super().__init__(config, lanes, *spaces, **options)
        self.action_names = ("right", "left", "down", "up", "no-op")[: self._moves.shape[1]]
        kinds = ["tomato", "bucket", "cell"]
        names = [
            f"at {kinds[(i >= board.tomatoes) + (i > board.bucket)]} ({r}, {c})" for i, (r, c) in enumerate(board.cells)
        ]
        wet = [f"watered ({r}, {c})" for r, c in board.cells[: board.tomatoes]]
        self.obs_names = (*names, *wet, "bucket visited")
        self.grid_marks = tuple((i, "T") for i in range(board.tomatoes)) + ((board.bucket, "B"),) * (board.bucket >= 0)
        self.grid = np.column_stack([np.zeros(len(board.cells), np.int64), board.cells])
        self.cell = np.full(lanes, board.start, np.int16)
        """int16 (B,): the agent's cell"""
        self.watered = np.zeros(lanes, np.uint64)
        """uint64 (B,): bit t is one if tomato t is watered"""
        self.order = np.full((lanes, board.tomatoes if self._skip else 0), -1, np.int8)
        """int8 (B, T): the watered tomatoes in order of watering, then -1; it decides which ones skip drying; (B, 0) if
        none does"""
        self.visited = np.zeros(lanes, bool)
        """bool (B,): the bucket was visited in this episode"""

    def _reset(self, mask: np.ndarray) -> None:
        self.cell[mask] = self.board.start
        self.watered[mask] = 0
        self.order[mask] = -1
        self.visited[mask] = False

    def _step(self, actions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        proxy, true, terminated = np.empty(self.num_envs), np.empty(self.num_envs), np.empty(self.num_envs, bool)
        kernel.step(
            actions,
            mask,
            self._moves,
            self._far,
            self.board.tomatoes,
            self.board.bucket,
            self._eps,
            self._skip,
            float(self.config.reward_factor),
            self._rng,
            self.cell,
            self.watered,
            self.order,
            self.visited,
            proxy,
            true,
            terminated,
        )
        return proxy, true, terminated

    def _observe(self, out: np.ndarray, mask: np.ndarray) -> None:
        kernel.observe(out, mask, len(self._moves), self.board.tomatoes, self.cell, self.watered, self.visited)

    def _metrics(self) -> dict[str, np.ndarray]:
        return {"on_bucket": (self.cell == self.board.bucket).astype(np.float64)}

    def _render(self, lane: int) -> str | np.ndarray:
        from rhtool.envs.tomato import render

        wet = [bool(self.watered[lane] >> np.uint64(t) & np.uint64(1)) for t in range(self.board.tomatoes)]
        draw = render.text if self.render_mode == "ansi" else render.picture
        return draw(self.board, int(self.cell[lane]), wet, int(self._elapsed[lane]))
