"""`task=evaluate`: what a policy is worth: returns, correlation, divergences from the base policy; its rollouts as parquet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rhtool.errors import ConfigError
from rhtool.run import Run
from rhtool.schema import choice
from rhtool.tasks.base import Task, check_ranges, require_policy, require_rl


@dataclass
class Evaluate(Task):
    """Proxy and true return of a policy, their correlation, its divergences from the base policy; saves the rollouts."""

    extra: ClassVar[str] = "rl"

    uses: ClassVar[tuple[str, ...]] = ("env",)

    policy: str = ""
    """a run's directory; empty: the environment's base policy"""
    base_policy: str = ""
    """directory of the policy to compare with; empty: the environment's base policy"""
    episodes: int = 100
    """episodes of each policy"""
    explore: bool = True
    """sample actions; false: take the likeliest (of a Beta or Gaussian: the mean)"""
    over: str = choice("state_action", "state")
    """of what the divergences of occupancy measures are"""
    evaluation_lanes: int = 0
    """copies of the env over which the episodes are spread; 0: one for each"""
    discriminator_obs: str = choice("all", "latest")
    """what discriminators see of an observation: all of it, or only what the environment says is its newest part"""
    rollouts: bool = True
    """save the policy's rollouts as rollouts.parquet"""
    video: int = 0
    """episodes of the policy to draw, as video/episode_0.gif, …"""
    threads: int = 1
    """torch threads of this process"""

    def paths(self, run: Run) -> tuple[str, str]:
        """Directories of the policy and of the base policy."""
        own = run.env.base_policy_path()
        return self.policy or own, self.base_policy or own

    def check(self, run: Run) -> None:
        """Are both policies there?"""
        require_rl()
        check_ranges(self)
        for path, where in zip(self.paths(run), ("task.policy", "task.base_policy"), strict=True):
            own = path == run.env.base_policy_path()
            require_policy(path, where, run.env.base_policy_command() if own else "")
        if self.video < 0:
            raise ConfigError(f"{self.video} episodes", "task.video", "choose 0 or more")
        run.env.check()

    def inputs(self, run: Run) -> dict[str, str]:
        """The policies decide the result."""
        return dict(zip(("policy", "base_policy"), self.paths(run), strict=True))

    def run(self, run: Run) -> dict[str, float]:
        """Roll out, measure, save."""
        from rhtool.rl import evaluation
        from rhtool.rl.policy import Policy
        from rhtool.rl.process import accelerator, set_up

        set_up(self.threads)
        policy, base = (Policy.load_for(run.env, path).to(accelerator()) for path in self.paths(run))
        target = run.path / "rollouts.parquet" if self.rollouts else None
        if self.video:
            from rhtool.rl.video import record

            record(run.env, policy, self.video, run.seed, run.path / "video", self.explore)
        return evaluation.evaluate(
            run.env,
            policy,
            base,
            self.episodes,
            run.seed,
            explore=self.explore,
            over=self.over,
            lanes=self.evaluation_lanes,
            shown=self.discriminator_obs,
            parquet=target,
        )
