"""Demonstrations for behaviour cloning, from a controller, a policy or recorded rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from rhtool.envs.base import Env
from rhtool.errors import RhtoolError
from rhtool.rl.evaluation import rollout
from rhtool.rl.policy import Policy, spaces_of


def collect(
    env: Env, demonstrator: str, labels: str, episodes: int, seed: int
) -> tuple[tuple[Any, Any], dict[str, Tensor]]:
    """Spaces of the env, and columns `obs` (N, D) float32, `actions` (N, …), `episode` (N,) int64.

    Args:
        demonstrator: path of a policy, a run or a parquet of `task=evaluate`; empty: the env's controller, else its base policy.
        labels: "actions" taken, or "controller": its action in each state visited.

    Raises:
        RhtoolError: if there is nothing to clone, or `labels` asks for a controller that the env lacks.
    """
    spaces, probe = spaces_of(env), env.make_vec(1)
    obs, _ = probe.reset(seed=0)
    has_controller = probe.base_action(obs) is not None
    probe.close()
    if labels == "controller" and not has_controller:
        raise RhtoolError("this environment has no controller", "task.labels", "use task.labels=actions")
    if demonstrator.endswith(".parquet"):
        return spaces, _read(Path(demonstrator))
    path = demonstrator or ("" if has_controller else env.base_policy_path())
    if path:
        steps, mask = rollout(env, Policy.load_for(env, path), episodes, seed)
        t, lane = mask.nonzero(as_tuple=True)
        return spaces, {"obs": steps.obs[t, lane], "actions": steps.actions[t, lane], "episode": lane}
    return spaces, _controlled(env, episodes, seed)


def _controlled(env: Env, episodes: int, seed: int) -> dict[str, Tensor]:
    """One episode of the controller in each of `episodes` lanes."""
    lanes = env.make_vec(episodes, autoreset_mode=AutoresetMode.SAME_STEP)
    obs, _ = lanes.reset(seed=seed)
    alive, columns = np.ones(episodes, bool), {"obs": [], "actions": [], "episode": []}
    for _ in range(env.horizon):
        actions = lanes.base_action(obs)
        for key, value in (("obs", obs), ("actions", actions), ("episode", np.arange(episodes))):
            columns[key].append(np.array(value[alive]))
        obs, _, terminated, truncated, _ = lanes.step(actions)
        alive &= ~(terminated | truncated)
        if not alive.any():
            break
    lanes.close()
    return {key: torch.from_numpy(np.concatenate(parts)) for key, parts in columns.items()}


def _read(path: Path) -> dict[str, Tensor]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["obs", "action", "episode"])
    columns = {name: np.stack(table[name].to_numpy()) for name in table.column_names}
    return {
        "obs": torch.from_numpy(columns["obs"].astype(np.float32)),
        "actions": torch.from_numpy(columns["action"]),
        "episode": torch.from_numpy(columns["episode"].astype(np.int64)),
    }
