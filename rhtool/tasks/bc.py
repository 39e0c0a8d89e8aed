"""`task=bc`: clone a demonstrator: the environment's controller, another policy, or recorded rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rhtool.errors import RhtoolError
from rhtool.run import Run
from rhtool.schema import choice
from rhtool.tasks.base import Task, require_rl


@dataclass
class Bc(Task):
    """Behaviour cloning, for base policies: from the environment's controller, a policy, or rollouts of task=evaluate."""

    extra: ClassVar[str] = "rl"

    uses: ClassVar[tuple[str, ...]] = ("env",)

    demonstrator: str = ""
    """a run's directory, a policy, or a rollouts.parquet; empty: the environment's controller, else its base policy"""
    labels: str = choice("actions", "controller")
    """what is cloned: the actions taken, or the controller's action in each state visited"""
    demonstrations: int = 1000
    """episodes of the demonstrator"""
    iterations: int = 20
    """passes over the demonstrations"""
    minibatch: int = 1024
    """transitions of one gradient step"""
    lr: float = 1e-3
    """learning rate of Adam"""
    grad_clip: float | None = None
    """gradients are scaled down to this global norm; null: they are not"""
    entropy: float = 0.0
    """entropy bonus"""
    validation: float = 0.1
    """share of the episodes that is held out"""
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    """units of the hidden layers"""
    episodes: int = 100
    """episodes of the evaluation at the end"""
    threads: int = 1
    """torch threads of this process"""

    def check(self, run: Run) -> None:
        """Is the demonstrator there?"""
        from pathlib import Path

        require_rl()
        if self.demonstrator and not Path(self.demonstrator).exists():
            raise RhtoolError(
                f"there is no demonstrator at {self.demonstrator}",
                "task.demonstrator",
                "give a run's directory, or outputs/evaluate/…/rollouts.parquet",
            )

    def inputs(self, run: Run) -> dict[str, str]:
        """The demonstrator decides the result."""
        return {"demonstrator": self.demonstrator or run.env.base_policy_path()}

    def run(self, run: Run) -> dict[str, float]:
        """Collect demonstrations, fit, evaluate."""
        import torch

        from rhtool.rl import bc, demonstrations, evaluation

        torch.set_num_threads(self.threads)
        spaces, columns = demonstrations.collect(run.env, self.demonstrator, self.labels, self.demonstrations, run.seed)
        work = bc.Bc(run, spaces, columns)
        for _ in run.loop(work, self.iterations):
            run.log(work.iteration())
        work.policy.save(run.path / "policy")
        return {"steps": work.steps, **evaluation.evaluate(run.env, work.policy, None, self.episodes, run.seed)}
