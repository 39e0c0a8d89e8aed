"""Sampling: a vectorised env stepped with one batched forward pass per step, its columns kept as arrays from end to end. Lanes that
are processes step by themselves, and what they found is collected.

RLlib's stock runner makes Python objects per env per step; this one writes rows of preallocated tensors. It is an RLlib `EnvRunner`, so it
runs in this process or as a Ray actor (`rhtool/rl/sampler.py`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner import EnvRunner
from torch import Tensor

from rhtool.envs.base import Env
from rhtool.rl.lane_policy import can_act
from rhtool.rl.policy import Policy

AHEAD = 1000
"""steps that lanes that are processes make by themselves at a time: at its end some core waits for the last lane, and what they did is
collected while the lanes of another policy make theirs"""


@dataclass
class Rollout:
    """T steps of B lanes as columns. `N = T * B` rows when flattened; row (t, b) is one transition."""

    obs: Tensor
    """(T, B, D) float32: observation, flattened, in which the action was taken"""
    actions: Tensor
    """(T, B, …): action taken"""
    dist_inputs: Tensor
    """(T, B, inputs) float32: inputs of the action distribution it was drawn from"""
    rewards: Tensor
    """(T, B) float32: the training reward"""
    proxy: Tensor
    """(T, B) float64: proxy reward"""
    true: Tensor
    """(T, B) float64: true reward"""
    terms: Tensor
    """(T, B, K) float64: the env's `reward_terms`; K = 0 where it names none"""
    terminated: Tensor
    """(T, B) bool: the episode ended there, and nothing follows"""
    truncated: Tensor
    """(T, B) bool: the episode was cut there, and its value goes on"""
    last_obs: Tensor
    """(B, D) float32: observation after the last step"""
    final_obs: Tensor
    """(K, D) float32: observations in which the K truncated episodes were cut, in the order of `truncated.nonzero()`"""
    episodes: dict[str, np.ndarray]
    """of the E episodes that ended here, each (E,): `true`, `proxy` (undiscounted returns), `length`, and `env/<name>`,
    the means over its steps of the env's own metrics; of one runner in the order of `(terminated | truncated).nonzero()`"""

    def flat(self, column: Tensor) -> Tensor:
        """(T, B, …) -> (T * B, …)."""
        return column.flatten(0, 1)

    @classmethod
    def concat(cls, rollouts: list[Rollout]) -> Rollout:
        """The lanes of several rollouts of equal T, side by side."""
        if len(rollouts) == 1:
            return rollouts[0]
        columns = {}
        for f in fields(cls):
            parts = [getattr(r, f.name) for r in rollouts]
            if f.name == "episodes":
                columns[f.name] = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
            elif f.name == "final_obs":
                # `truncated.nonzero()` goes by time first, then by lane: put the parts' rows into that order.
                steps = torch.cat([r.truncated.nonzero()[:, 0] for r in rollouts])
                columns[f.name] = torch.cat(parts)[torch.argsort(steps, stable=True)]
            else:
                columns[f.name] = torch.cat(parts, dim=0 if f.name == "last_obs" else 1)
        return cls(**columns)


class BatchedEnvRunner(EnvRunner):
    """Steps `lanes` copies of an env together under one policy.

    Args:
        config: RLlib's configuration (only its framework settings matter here).
        env: the environment's configuration.
        policy: what acts; its weights can be replaced with `set_weights`.
        lanes: copies of the env, B.
        seed: seeds the env's lanes and the sampling of actions.
        first_lane: index of the first lane among those of all runners, so that no two runners share a lane's stream.
    """

    def __init__(
        self,
        *,
        config: AlgorithmConfig,
        env: Env,
        policy: Policy,
        lanes: int,
        seed: int,
        first_lane: int = 0,
        **kwargs: Any,
    ):
        super().__init__(config=config, **kwargs)
        self.policy, self.lanes = policy, lanes
        self.env = env.make_vec(lanes, autoreset_mode=AutoresetMode.SAME_STEP)
        self._folder: tempfile.TemporaryDirectory | None = None
        self.generator = torch.Generator().manual_seed(seed * 10_007 + first_lane)
        seeds = np.random.SeedSequence([seed, 1]).generate_state(first_lane + lanes, np.uint32)[first_lane:]
        obs, info = self.env.reset(seed=[int(s) for s in seeds])
        self._obs = _flat(obs)
        self._metrics = [key for key in info if key not in ("true_reward", "proxy_reward")]
        self._running = {key: np.zeros(lanes) for key in ("true", "proxy", "length", *self._metrics)}

    @torch.no_grad()
    def sample(self, *, steps: int, explore: bool = True, **kwargs: Any) -> Rollout:
        """`steps` env steps in every lane, going on where the last call ended; episodes are cut only by the env."""
        policy, distribution = self.policy, self.policy.distribution
        size, lanes = (steps, self.lanes), self.lanes
        obs = torch.empty(*size, self._obs.shape[1])
        inputs = torch.empty(*size, distribution.inputs)
        actions = torch.empty(*size, *distribution.action_shape, dtype=distribution.dtype)
        rewards, proxy, true = np.empty(size, np.float32), np.empty(size), np.empty(size)
        terms = np.empty((*size, len(self.env.reward_terms)))
        terminated, truncated = np.empty(size, bool), np.empty(size, bool)
        finals, ended, running = [], [], self._running
        ahead = self.env.lane_is_a_process and can_act(policy.config)
        for t in range(steps):
            obs[t] = self._obs
            if ahead:
                if t % AHEAD == 0:
                    actions[t : t + AHEAD] = self._go_ahead(min(AHEAD, steps - t), explore)
            else:
                inputs[t] = policy.dist_inputs(self._obs)
                actions[t] = distribution.sample(inputs[t], self.generator) if explore else distribution.mode(inputs[t])
            next_obs, rewards[t], terminated[t], truncated[t], info = self.env.step(actions[t].numpy())
            proxy[t], true[t] = info["proxy_reward"], info["true_reward"]
            for k, name in enumerate(self.env.reward_terms):
                terms[t, :, k] = info[name]
            running["true"] += true[t]
            running["proxy"] += proxy[t]
            running["length"] += 1
            for name in self._metrics:
                running[name] += info[name]
            done = terminated[t] | truncated[t]
            if done.any():
                if truncated[t].any():
                    finals.append(_flat(info["final_obs"][truncated[t]]))
                ended.append({key: values[done] for key, values in running.items()})
                for values in running.values():
                    values[done] = 0
            self._obs = _flat(next_obs)
        if ahead:
            inputs = policy.dist_inputs(obs.flatten(0, 1)).view_as(inputs)
        self.num_env_steps_sampled_lifetime += steps * lanes
        return Rollout(
            obs=obs,
            actions=actions,
            dist_inputs=inputs,
            rewards=torch.from_numpy(rewards),
            proxy=torch.from_numpy(proxy),
            true=torch.from_numpy(true),
            terms=torch.from_numpy(terms),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            last_obs=self._obs.clone(),
            final_obs=torch.cat(finals) if finals else torch.empty(0, obs.shape[2]),
            episodes=self._episodes(ended),
        )

    def _go_ahead(self, steps: int, explore: bool) -> Tensor:
        """The actions (T, B, …) of lanes that have made their steps by themselves, for `step` to collect: lanes that are processes
        spend more time on being woken for each step than on a policy of their own."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="rhtool-policy-")
        self.policy.save(Path(self._folder.name))
        draws = torch.randint(2**63 - 1, (self.lanes,), generator=self.generator).tolist()
        options = {"path": self._folder.name, "explore": explore}
        return torch.from_numpy(self.env.go_ahead("rhtool.rl.lane_policy:LanePolicy", options, steps, draws))

    def _episodes(self, ended: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        keys = ["true", "proxy", "length"]
        columns = {k: np.concatenate([e[k] for e in ended]) if ended else np.empty(0) for k in [*keys, *self._metrics]}
        return {k: columns[k] for k in keys} | {f"env/{k}": columns[k] / columns["length"] for k in self._metrics}

    def set_weights(self, weights: dict[str, Tensor]) -> None:
        """Replace the policy's weights."""
        self.policy.weights = weights

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Where sampling stands: env lanes, observations, RNG, unfinished returns. Not the policy's weights."""
        return {
            "env": self.env.get_state(),
            "obs": self._obs.clone(),
            "running": {key: values.copy() for key, values in self._running.items()},
            "generator": self.generator.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.env.set_state(state["env"])
        self._obs = torch.as_tensor(state["obs"]).clone()
        self._running = {key: np.array(values) for key, values in state["running"].items()}
        self.generator.set_state(torch.as_tensor(state["generator"]))

    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """RLlib's question: the spaces of the env and of its policy."""
        spaces = (self.env.single_observation_space, self.env.single_action_space)
        return {"__env__": spaces, "policy": spaces}

    def assert_healthy(self) -> None:
        """RLlib's question: is there an env and a policy?"""
        assert self.env is not None and self.policy is not None

    def stop(self) -> None:
        """Close the env."""
        self.env.close()
        if self._folder is not None:
            self._folder.cleanup()


def _flat(observations: np.ndarray) -> Tensor:
    """(B, …) -> a new (B, D) float32."""
    return torch.from_numpy(np.array(observations, np.float32).reshape(len(observations), -1))
