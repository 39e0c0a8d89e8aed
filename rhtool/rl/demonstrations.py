"""Demonstrations for behaviour cloning, from a controller, a policy or recorded rollouts."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from rhtool.envs.base import RANDOM, Env
from rhtool.envs.vector import VectorEnv
from rhtool.errors import RhtoolError
from rhtool.rl.policy import Interface, Policy


def collect(env: Env, interface: Interface, task: Any, seed: int) -> dict[str, Tensor]:
    """Columns `obs` (N, D) float32, `actions` (N, …), `episode` (N,) int64.

    `task.demonstrator` is the path of a policy, a run or a parquet of `task=evaluate`; empty: the env's controller, else its
    base policy; "random": a policy as networks start. For the rest see `rhtool.envs.base.Cloning`.

    Raises:
        RhtoolError: if there is nothing to clone, or `task.labels` asks for a controller that the env lacks.
    """
    demonstrator, controller = task.demonstrator, env.has_controller()
    if task.labels == "controller" and not controller:
        raise RhtoolError("this environment has no controller", "task.labels", "use task.labels=actions")
    if demonstrator.endswith(".parquet"):
        if task.labels == "controller":
            raise RhtoolError(
                "recorded rollouts hold no controller's actions", "task.labels", "use task.labels=actions"
            )
        return _read(Path(demonstrator), interface.spaces)
    if not demonstrator and controller:
        return _drive(env, lambda lanes, obs: lanes.base_action(obs), task, seed)
    if demonstrator == RANDOM:
        policy = Policy.fresh(interface, task, seed)
    else:
        policy = Policy.load_for(env, demonstrator or env.base_policy_path())
    generator = torch.Generator().manual_seed(seed)

    def act(lanes: VectorEnv, obs: np.ndarray) -> np.ndarray:
        inputs = policy.dist_inputs(torch.as_tensor(obs, dtype=torch.float32).flatten(1))
        return policy.distribution.sample(inputs, generator).numpy()

    return _drive(env, act, task, seed)


def _drive(env: Env, act: Callable[[VectorEnv, np.ndarray], np.ndarray], task: Any, seed: int) -> dict[str, Tensor]:
    """`task.demonstrations` episodes under `act(lanes, obs)`, with its actions or the controller's as labels."""
    lanes = env.make_vec(
        min(task.demonstrations, task.evaluation_lanes or task.demonstrations), autoreset_mode=AutoresetMode.SAME_STEP
    )
    quota = -(-task.demonstrations // lanes.num_envs)
    obs, _ = lanes.reset(seed=seed)
    number, columns = np.arange(lanes.num_envs), {"obs": [], "actions": [], "episode": []}
    with contextlib.closing(lanes):
        for t in range(quota * env.horizon):
            actions = act(lanes, obs)
            wanted = number < task.demonstrations
            if t % task.every == 0:
                label = lanes.base_action(obs) if task.labels == "controller" else actions
                for key, value in (("obs", obs.reshape(len(obs), -1)), ("actions", label), ("episode", number)):
                    columns[key].append(np.array(value[wanted]))
            obs, _, terminated, truncated, _ = lanes.step(actions)
            number = number + lanes.num_envs * (terminated | truncated)
            if number.min() >= task.demonstrations:
                break
    columns["obs"] = [part.astype(np.float32) for part in columns["obs"]]
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
            if found.reshape(len(found), -1).shape[1] != math.prod(space.shape):
                raise ValueError(f"its {name} have shape {found.shape[1:]}, this environment's {space.shape}")
        actions = actions.reshape(-1, *spaces[1].shape)
        if actions.ndim == 1 and not all(map(spaces[1].contains, np.unique(actions))):
            raise ValueError(f"some of its actions are not in {spaces[1]}")
        episode = columns["episode"].astype(np.int64)
    except (pa.ArrowInvalid, OSError, TypeError, ValueError) as error:
        raise RhtoolError(f"{path.name} holds no rollouts: {error}", f"task.demonstrator={path}", mend) from error
    return {"obs": torch.from_numpy(obs), "actions": torch.from_numpy(actions), "episode": torch.from_numpy(episode)}
