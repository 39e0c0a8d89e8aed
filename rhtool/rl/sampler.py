"""The *sample* port: one runner in this process, or the lanes split over Ray actors."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from torch import Tensor

from rhtool.envs.base import Env
from rhtool.errors import ConfigError, RhtoolError
from rhtool.rl.policy import Policy
from rhtool.rl.runner import BatchedEnvRunner, Rollout

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""times that a lost runner is made anew before its question counts as what ends it"""
PATIENCE = 30.0
"""seconds without an answer after which the log says whom the sampler waits for"""


class Sampler:
    """Samples `lanes` lanes of an env under a policy, in this process (`workers=0`) or in `workers` Ray actors.

    The actors keep their own copy of the policy; `sync` sends it the newest weights. An actor that is lost, with its machine or
    alone, is made anew, elsewhere if need be, as it was after the last sample, and asked again: what is sampled stays what it
    would have been.

    Args:
        env: the environment's configuration.
        policy: what acts.
        lanes: copies of the env.
        seed: seeds the lanes and the sampling of actions.
        workers: Ray actors, each with its share of the lanes; 0: this process.
        address: of the Ray cluster; "": one of this machine alone (`rhtool.rl.cluster.start_ray`).
        lost: called with the reason when an actor was lost.
        options: of the runner.

    Raises:
        ConfigError: for more workers than lanes.
        RhtoolError: if there is no cluster at the address, or one with fewer CPUs than workers.
    """

    def __init__(
        self,
        env: Env,
        policy: Policy,
        lanes: int,
        seed: int,
        workers: int = 0,
        address: str = "",
        lost: Callable[[str], None] = log.warning,
        **options: Any,
    ):
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

        from rhtool.rl.cluster import start_ray

        start_ray(address)
        if workers > (there := ray.cluster_resources().get("CPU", 0)):
            mend = f"choose {there:g} or fewer, or add machines: ray start --address=..."
            raise RhtoolError(f"{workers} workers for the {there:g} CPUs of the Ray cluster", "task.workers", mend)
        self._lost, self._common = lost, common
        self._policy, self._bounds = policy.copy(), [lanes * i // workers for i in range(workers + 1)]
        self._states: list[dict[str, Any] | None] = [None] * workers
        self.runners = [self._make(i) for i in range(workers)]

    def sync(self, weights: dict[str, Tensor]) -> None:
        """Give every runner these weights."""
        if not self.workers:
            return self.runners[0].set_weights(weights)
        self._policy.weights = weights
        self._each(lambda runner, i: runner.set_weights.remote(weights))

    def sample(self, steps: int, explore: bool = True) -> Rollout:
        """`steps` env steps in every lane."""
        if not self.workers:
            return self.runners[0].sample(steps=steps, explore=explore)
        both = self._each(
            lambda runner, i: [runner.sample.remote(steps=steps, explore=explore), runner.get_state.remote()]
        )
        self._states = [state for _, state in both]
        return Rollout.concat([rollout for rollout, _ in both])

    def get_state(self) -> dict[str, Any]:
        """The runners' states, by number."""
        if not self.workers:
            return {"0": self.runners[0].get_state()}
        return {str(i): state for i, state in enumerate(self._each(lambda runner, i: runner.get_state.remote()))}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`, for the same number of workers."""
        if not self.workers:
            return self.runners[0].set_state(state["0"])
        self._states = [state[str(i)] for i in range(self.workers)]
        self._each(lambda runner, i: runner.set_state.remote(self._states[i]))

    def close(self) -> None:
        """Close the envs; end the actors."""
        if not self.workers:
            return self.runners[0].stop()
        import ray

        stopped = [runner.stop.remote() for runner in self.runners]
        for runner, reference in zip(self.runners, stopped, strict=True):
            with contextlib.suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                ray.get(reference, timeout=PATIENCE)
            ray.kill(runner)

    def _make(self, i: int, cpus: float = 1) -> Any:
        import ray

        first, end = list(pairwise(self._bounds))[i]
        actor = ray.remote(BatchedEnvRunner).options(num_cpus=cpus, scheduling_strategy="SPREAD")
        return actor.remote(policy=self._policy, lanes=end - first, first_lane=first, **self._common)

    def _each(self, ask: Callable[[Any, int], Any]) -> list[Any]:
        """What the references that `ask(runner, i)` gives refer to, by runner."""
        from ray.exceptions import ObjectLostError, RayActorError

        references = [ask(runner, i) for i, runner in enumerate(self.runners)]
        found = []
        for i in range(self.workers):
            restored: list[Any] = []
            for attempt in range(ATTEMPTS + 1):
                try:
                    _result(restored)  # an error there would leave a runner that samples from its start
                    found.append(_result(references[i]))
                    break
                except (RayActorError, ObjectLostError) as error:
                    if attempt == ATTEMPTS or getattr(error, "actor_init_failed", False):
                        raise
                    restored = self._replace(i, error)
                    references[i] = ask(self.runners[i], i)
        return found

    def _replace(self, i: int, error: Exception) -> list[Any]:
        """Make runner `i` anew, as it was after its last sample; with its own CPU if one is free, else it shares another's.

        What is returned refers to the end of giving it that state.
        """
        import ray

        from rhtool.rl.cluster import cores

        first, end = list(pairwise(self._bounds))[i]
        self._lost(f"the actor with lanes {first} to {end - 1}: {_reason(error)}")
        ray.kill(self.runners[i])
        self.runners[i] = self._make(i, cpus=float(cores() >= 1))
        return [] if self._states[i] is None else [self.runners[i].set_state.remote(self._states[i])]


def _result(references: Any) -> Any:
    """What an actor returns. An error that a user can mend comes as itself, without Ray's frames around it."""
    import ray

    try:
        while True:
            try:
                return ray.get(references, timeout=PATIENCE)
            except ray.exceptions.GetTimeoutError:
                log.info("waiting for an actor of Ray: it samples, or the cluster has no place for it yet")
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RhtoolError):
            raise error.cause from None
        raise


def _reason(error: Exception) -> str:
    """Ray's words for it, on one line."""
    return " ".join(str(error).split())[:300]
