"""The *sample* port: one runner in this process, or the lanes split over Ray actors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from torch import Tensor

from rhtool.envs.base import Env
from rhtool.errors import ConfigError, RhtoolError
from rhtool.rl.policy import Policy
from rhtool.rl.runner import BatchedEnvRunner, Rollout


class Sampler:
    """Samples `lanes` lanes of an env under a policy, in this process (`workers=0`) or in `workers` Ray actors.

    The actors keep their own copy of the policy; `sync` sends it the newest weights.
    """

    def __init__(self, env: Env, policy: Policy, lanes: int, seed: int, workers: int = 0, **options: Any):
        if workers > lanes:
            raise ConfigError(
                f"{workers} workers for {lanes} lanes", "task.workers", "use at least one lane per worker"
            )
        self.lanes, self.workers = lanes, workers
        common = dict(config=AlgorithmConfig(), env=env, seed=seed, **options)
        if not workers:
            self.runners = [BatchedEnvRunner(policy=policy, lanes=lanes, **common)]
            return
        import ray

        from rhtool.rl.private_ray import start_ray

        start_ray()
        actor = ray.remote(num_cpus=1)(BatchedEnvRunner)
        bounds = [lanes * i // workers for i in range(workers + 1)]
        self.runners = [
            actor.remote(policy=policy.copy(), lanes=end - start, first_lane=start, **common)
            for start, end in pairwise(bounds)
        ]

    def sync(self, weights: dict[str, Tensor]) -> None:
        """Give every runner these weights."""
        self._all("set_weights", weights)

    def sample(self, steps: int, explore: bool = True) -> Rollout:
        """`steps` env steps in every lane."""
        return Rollout.concat(self._all("sample", steps=steps, explore=explore))

    def get_state(self) -> dict[str, Any]:
        """The runners' states, by number."""
        return {str(i): state for i, state in enumerate(self._all("get_state"))}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`, for the same number of workers."""
        if not self.workers:
            return self.runners[0].set_state(state["0"])
        _results([runner.set_state.remote(state[str(i)]) for i, runner in enumerate(self.runners)])

    def close(self) -> None:
        """Close the envs; end the actors."""
        self._all("stop")
        if self.workers:
            import ray

            for runner in self.runners:
                ray.kill(runner)

    def _all(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        if not self.workers:
            return [getattr(self.runners[0], method)(*args, **kwargs)]
        return _results([getattr(runner, method).remote(*args, **kwargs) for runner in self.runners])


def _results(references: list[Any]) -> list[Any]:
    """What the actors return. An error that a user can mend comes as itself, without Ray's frames around it."""
    import ray

    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RhtoolError):
            raise error.cause from None
        raise
