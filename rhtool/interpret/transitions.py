"""Transitions as columns, which reward functions are evaluated on, and how policies make them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from rhtool.envs.base import RANDOM, Env
from rhtool.rl.policy import Policy, interface_of


@dataclass
class Transitions:
    """N transitions (s, a, s'). Those of an episode stand one after the other, in the order of time."""

    obs: np.ndarray
    """(N, …) in the observation space's dtype: s"""
    actions: np.ndarray
    """(N, …) in the action space's dtype: a"""
    next_obs: np.ndarray
    """(N, …): s', also where an episode ended there"""
    terminated: np.ndarray
    """(N,) bool: nothing follows s'"""
    episode: np.ndarray
    """(N,) int64"""
    step: np.ndarray
    """(N,) int64: since the episode's start"""
    rewards: dict[str, np.ndarray] = field(default_factory=dict)
    """{"proxy", "true": (N,) float64}: what the environment gave"""
    metrics: dict[str, np.ndarray] = field(default_factory=dict)
    """{name: (N,) float64}: the environment's own metrics of the step"""

    def __len__(self) -> int:
        return len(self.episode)

    def __getitem__(self, rows: Any) -> Transitions:
        """Those of an index array, a mask or a slice."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return Transitions(
            **{
                name: {k: v[rows] for k, v in column.items()} if isinstance(column, dict) else column[rows]
                for name, column in columns.items()
            }
        )

    @classmethod
    def concat(cls, parts: list[Transitions]) -> Transitions:
        """Several after each other; episodes are numbered anew. Metrics that not all have are left out."""
        if not parts:
            raise ValueError("no transitions to join")
        first, offset = parts[0], 0
        episodes = []
        for part in parts:
            episodes.append(part.episode + offset)
            offset += int(part.episode.max(initial=-1)) + 1
        columns: dict[str, Any] = {}
        for f in fields(cls):
            columns_of = [getattr(part, f.name) for part in parts]
            if f.name == "episode":
                columns[f.name] = np.concatenate(episodes)
            elif isinstance(columns_of[0], dict):
                names = [name for name in getattr(first, f.name) if all(name in column for column in columns_of)]
                columns[f.name] = {name: np.concatenate([column[name] for column in columns_of]) for name in names}
            else:
                columns[f.name] = np.concatenate(columns_of)
        return cls(**columns)


def load_policy(env: Env, path: str, seed: int) -> Policy:
    """That of a run's directory, or of "random", one as networks start. Raises `RhtoolError` for a policy that does not fit."""
    return Policy.fresh(interface_of(env), env.training, seed) if path == RANDOM else Policy.load_for(env, path)


def collect(env: Env, path: str, episodes: int, seed: int, lanes: int = 0) -> Transitions:
    """Whole episodes of a policy, as many in each of `lanes` copies of the env (0: one for each), with actions sampled.

    `path` is a run's directory, or "random": a policy as networks start. Raises `RhtoolError` for a policy that does not fit.
    """
    policy = load_policy(env, path, seed)
    count = min(lanes or episodes, episodes)
    quota = -(-episodes // count)
    vec = env.make_vec(count, seed=seed, autoreset_mode=AutoresetMode.SAME_STEP)
    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, Any]] = []
    try:
        obs, _ = vec.reset()
        ended, elapsed = np.zeros(count, np.int64), np.zeros(count, np.int64)
        while (ended < quota).any():
            inputs = policy.dist_inputs(torch.as_tensor(obs, dtype=torch.float32).flatten(1))
            actions = policy.distribution.sample(inputs, generator).numpy()
            following, _, terminated, truncated, info = vec.step(actions)
            done = terminated | truncated
            reached = following
            if done.any():
                reached = following.copy()
                reached[done] = info["final_obs"][done]
            given = {key: np.asarray(value, np.float64) for key, value in info.items() if key.strip("_") != "final_obs"}
            rewards = {"proxy": given.pop("proxy_reward"), "true": given.pop("true_reward")}
            counts = ended < quota
            rows.append(
                {
                    "obs": obs[counts],
                    "actions": actions[counts],
                    "next_obs": reached[counts],
                    "terminated": terminated[counts],
                    "episode": (np.arange(count) * quota + ended)[counts],
                    "step": elapsed[counts],
                    "rewards": {name: value[counts] for name, value in rewards.items()},
                    "metrics": {name: value[counts] for name, value in given.items() if value.ndim == 1},
                }
            )
            ended, elapsed = ended + done, np.where(done, 0, elapsed + 1)
            obs = following
    finally:
        vec.close()
    columns = {
        name: {k: np.concatenate([row[name][k] for row in rows]) for k in first}
        if isinstance(first := rows[0][name], dict)
        else np.concatenate([row[name] for row in rows])
        for name in rows[0]
    }
    found = Transitions(**columns)
    return found[np.lexsort((found.step, found.episode))]


def whole_episodes(data: Transitions, most: int, rng: np.random.Generator) -> Transitions:
    """Randomly chosen episodes with at most so many transitions together; of a single longer one its beginning."""
    if len(data) <= most:
        return data
    numbers, lengths = np.unique(data.episode, return_counts=True)
    order = rng.permutation(len(numbers))
    chosen = numbers[order[: max(int((lengths[order].cumsum() <= most).sum()), 1)]]
    return data[np.flatnonzero(np.isin(data.episode, chosen))[:most]]
