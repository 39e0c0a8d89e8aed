"""`task=bc`: clone a demonstrator: the environment's controller, another policy, or recorded rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rhtool.envs.base import Cloning
from rhtool.errors import RhtoolError
from rhtool.run import Run
from rhtool.schema import choice
from rhtool.tasks.base import Task, check_ranges, require_rl


@dataclass
class Bc(Cloning, Task):
    """Behaviour cloning, for base policies: from the environment's controller, a policy, or rollouts of task=evaluate."""

    extra: ClassVar[str] = "rl"

    uses: ClassVar[tuple[str, ...]] = ("env",)

    validation: float = 0.1
    """share of the episodes that is held out"""
    network: str = choice("mlp", "lstm")
    """fully connected, or an LSTM over the last axis of the observation (features, time)"""
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    """units of the hidden layers"""
    share_value: bool = False
    """one trunk for the policy and the value function, which is not trained here"""
    action_margin: float = 0.01
    """bounded actions: share of the range, next to each bound, over which log-probabilities stay constant"""
    weights: str = choice("float32", "float16")
    """the numbers in which the policy is saved; float16 halves the file"""
    episodes: int = 100
    """episodes of the evaluation at the end"""
    evaluation_lanes: int = 0
    """copies of the env over which demonstrations and evaluation spread their episodes; 0: one for each"""
    threads: int = 1
    """torch threads of this process"""

    def check(self, run: Run) -> None:
        """Is the demonstrator there?"""
        require_rl()
        check_ranges(self)
        run.env.check()
        if self.demonstrator not in ("", "random") and not Path(self.demonstrator).exists():
            raise RhtoolError(
                f"there is no demonstrator at {self.demonstrator}",
                "task.demonstrator",
                "give a run's directory, or outputs/evaluate/…/rollouts.parquet",
            )

    def inputs(self, run: Run) -> dict[str, str]:
        """The demonstrator decides the result, where it is a file: a controller is part of the environment."""
        path = self.demonstrator or ("" if run.env.has_controller() else run.env.base_policy_path())
        return {"demonstrator": path} if path and Path(path).exists() else {}

    def run(self, run: Run) -> dict[str, float]:
        """Collect demonstrations, fit, evaluate."""
        from rhtool.rl import bc, demonstrations, evaluation
        from rhtool.rl.policy import interface_of
        from rhtool.rl.process import set_up

        set_up(self.threads)
        interface = interface_of(run.env)
        columns = demonstrations.collect(run.env, interface, self, run.seed)
        work = bc.Bc(run, interface, columns)
        for _ in run.loop(work, self.passes):
            run.log(work.iteration())
        work.policy.save(run.path / "policy", self.weights)
        return {
            "steps": work.steps,
            **evaluation.evaluate(run.env, work.policy, None, self.episodes, run.seed, lanes=self.evaluation_lanes),
        }
