"""Demonstrations for behaviour cloning, from a controller, a policy or recorded rollouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from rhtool.envs.base import Env
from rhtool.envs.vector import VectorEnv
from rhtool.errors import RhtoolError
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
    if demonstrator.endswith(".parquet") and labels == "controller":
        raise RhtoolError("recorded rollouts hold no controller's actions", "task.labels", "use task.labels=actions")
    if demonstrator.endswith(".parquet"):
        return spaces, _read(Path(demonstrator), spaces)
    path = demonstrator or ("" if has_controller else env.base_policy_path())
    if not path:
        return spaces, _drive(env, lambda lanes, obs: lanes.base_action(obs), episodes, seed, labels)
    policy, generator = Policy.load_for(env, path), torch.Generator().manual_seed(seed)

    def act(lanes: VectorEnv, obs: np.ndarray) -> np.ndarray:
        inputs = policy.dist_inputs(torch.as_tensor(obs, dtype=torch.float32))
        return policy.distribution.sample(inputs, generator).numpy()

    return spaces, _drive(env, act, episodes, seed, labels)


def _drive(
    env: Env, act: Callable[[VectorEnv, np.ndarray], np.ndarray], episodes: int, seed: int, labels: str
) -> dict[str, Tensor]:
    """One episode in each of `episodes` lanes under `act(lanes, obs)`, with its actions or the controller's as labels."""
    lanes = env.make_vec(episodes, autoreset_mode=AutoresetMode.SAME_STEP)
    obs, _ = lanes.reset(seed=seed)
    alive, columns = np.ones(episodes, bool), {"obs": [], "actions": [], "episode": []}
    for _ in range(env.horizon):
        actions = act(lanes, obs)
        label = lanes.base_action(obs) if labels == "controller" else actions
        for key, value in (("obs", obs), ("actions", label), ("episode", np.arange(episodes))):
            columns[key].append(np.array(value[alive]))
        obs, _, terminated, truncated, _ = lanes.step(actions)
        alive &= ~(terminated | truncated)
        if not alive.any():
            break
    lanes.close()
    return {key: torch.from_numpy(np.concatenate(parts)) for key, parts in columns.items()}


def _read(path: Path, spaces: tuple[Any, Any]) -> dict[str, Tensor]:
    """The columns of a rollouts.parquet; `RhtoolError` if it is another table, or of an env with other spaces."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    mend = "give the rollouts.parquet of a run of task=evaluate with the same env.… options"
    names = ["obs", "action", "episode"]
    try:
        known = pq.read_schema(path).names
        if absent := [name for name in names if name not in known]:
            raise ValueError(f"it has no column {', '.join(absent)} (it has {', '.join(known)})")
        table = pq.read_table(path, columns=names)
        columns = {name: np.stack(table[name].to_numpy()) for name in names}
        obs, actions = columns["obs"].astype(np.float32), columns["action"].astype(spaces[1].dtype)
        for name, found, space in (("obs", obs, spaces[0]), ("action", actions, spaces[1])):
            if found.shape[1:] != space.shape:
                raise ValueError(f"its {name} have shape {found.shape[1:]}, this environment's {space.shape}")
        if actions.ndim == 1 and not all(map(spaces[1].contains, np.unique(actions))):
            raise ValueError(f"some of its actions are not in {spaces[1]}")
        episode = columns["episode"].astype(np.int64)
    except (pa.ArrowInvalid, OSError, TypeError, ValueError) as error:
        raise RhtoolError(f"{path.name} holds no rollouts: {error}", f"task.demonstrator={path}", mend) from error
    return {"obs": torch.from_numpy(obs), "actions": torch.from_numpy(actions), "episode": torch.from_numpy(episode)}
