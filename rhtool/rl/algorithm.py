"""ORPO for those who come from RLlib and Tune: an `Algorithm` around the loop of `rhtool/rl/orpo.py`.

    from rhtool.rl.algorithm import OrpoAlgorithmConfig

    algo = OrpoAlgorithmConfig().orpo("env=tomato", "divergence=sqrt_chi2", coeff=0.1).build_algo()
    algo.train()

The loop samples and updates by itself, so RLlib's env-runner and learner groups are not made. Checkpoints are safetensors and JSON.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune import Trainable

from rhtool.checkpoints import Checkpoints
from rhtool.config import compose
from rhtool.rl.orpo import Orpo
from rhtool.rl.policy import Policy
from rhtool.rl.process import set_up


class OrpoAlgorithmConfig(AlgorithmConfig):
    """Configuration of `OrpoAlgorithm`: what the command line would say."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class or OrpoAlgorithm)
        self.overrides: list[str] = []
        """overrides of the command line: "env=tomato", "task.lr=1e-3", …"""
        self.coeff: float = 0.0
        """the regularisation's coefficient; of its own, so that Tune can search over it"""

    def orpo(self, *overrides: str, coeff: float | None = None, seed: int | None = None) -> OrpoAlgorithmConfig:
        """Set the overrides, and the coefficient and seed if given."""
        self.overrides = list(overrides)
        self.coeff = self.coeff if coeff is None else coeff
        self.seed = self.seed if seed is None else seed
        return self


class OrpoAlgorithm(Algorithm):
    """One iteration of ORPO per `train()`; the result holds its metrics (docs/metrics.md)."""

    @classmethod
    def get_default_config(cls) -> OrpoAlgorithmConfig:
        """RLlib's question."""
        return OrpoAlgorithmConfig()

    def setup(self, config: OrpoAlgorithmConfig) -> None:
        """Compose the run, load its base policies, make the loop."""
        run = compose("task=orpo", *config.overrides, f"coeff={config.coeff}", f"seed={config.seed or 0}")
        run.task.check(run)
        set_up(run.task.threads)
        bases = (
            [Policy.load_for(run.env, path) for path in run.task.base_paths(run)] if run.task.needs_base(run) else []
        )
        self.loop = Orpo(run, bases)

    def step(self) -> dict[str, Any]:
        """One iteration."""
        metrics = self.loop.iteration()
        return {**metrics, "num_env_steps_sampled_lifetime": self.loop.total_steps}

    def log_result(self, result: dict[str, Any]) -> None:
        """Tune's loggers, without RLlib's callbacks, which speak of groups that are not there."""
        Trainable.log_result(self, result)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the loop's state."""
        Checkpoints(checkpoint_dir).save(self.loop.iterations, self.loop.get_state())

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Restore the loop's state."""
        self.loop.set_state(Checkpoints(checkpoint_dir).latest()[1])

    def cleanup(self) -> None:
        """End the actors and learners, if there are any."""
        self.loop.close()
