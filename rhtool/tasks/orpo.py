"""`task=orpo`: train a policy on the environment's reward, regularised to its base policy. `divergence=none` is plain PPO."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.divergences import KL, BaseConfidence, LinearMaxMin, MaxMin, NoDivergence
from rhtool.envs.base import Training
from rhtool.errors import ConfigError
from rhtool.run import AUTO, Run
from rhtool.schema import choice
from rhtool.tasks.base import Task, check_ranges, require_policy, require_rl

if TYPE_CHECKING:
    from rhtool.rl.policy import Policy


@dataclass
class Orpo(Training, Task):
    """PPO on the proxy (or true) reward, charged for its divergence from a base policy: ORPO, and plain PPO with divergence=none."""

    extra: ClassVar[str] = "rl"

    lr_schedule: list[Any] | None = None
    """[[env steps, lr], …], interpolated; replaces lr"""
    kl_coeff_schedule: list[Any] | None = None
    """[[env steps, weight], …], interpolated; replaces the adaptive kl_coeff"""
    reward_weight: float = 1.0
    """factor of the environment's reward; 0 with divergence=gail is GAIL, imitation of the base policy alone"""
    base_policies: list[str] = field(default_factory=list)
    """base policies: runs' directories; empty: the environment's own"""
    base_weights: list[float] = field(default_factory=list)
    """factor of coeff for each base policy (negative: away from it); empty: 1 for each"""
    base_share: float = 0.5
    """share of lanes and batch that belongs to the base policies (and stays unused if nothing needs their data)"""
    base_pool: int = 0
    """0: the base policies are sampled anew every iteration, as in the paper; N: N env steps of each are sampled once and drawn from"""
    base_update_every: int = 0
    """every so many iterations base_i becomes base_(i+1) and the last one the current policy; 0: never"""
    discriminator: str = choice("first", "last")
    """train the discriminator before or after the rewards are charged"""
    discriminator_hidden: list[int] = field(default_factory=lambda: [256, 256])
    """units of the discriminator's hidden layers"""
    split: bool = False
    """divergence=kl by the chain rule: KL of states by the discriminator, KL of actions in closed form"""
    coeff_schedule: list[Any] | None = None
    """[[env steps, coeff], …], interpolated; replaces coeff"""
    correlation: float | None = None
    """correlation of proxy and true reward by which coeff=auto goes; null: the one measured under the base policy"""
    divergence_target: float | None = None
    """coeff adapts (x1.5, x0.5) to keep the estimated divergence within a factor of two of this; null: coeff stays"""
    divergence_measure: str = choice("kl", "chi2", "sqrt_chi2")
    """the divergence that divergence_target speaks of"""
    workers: int = 0
    """Ray actors that sample; 0: this process samples and starts no Ray. Where: ray.address"""
    learners: int = 0
    """remote learners (DDP); 0: this process learns. Where: ray.address"""
    gpus: float | None = None
    """GPUs per learner; null: one if there is one for each. Of this process's learner the policies are on it too, when they act and when
    they are scored"""
    tf32: bool = False
    """on a GPU, products with TF32's 10 bits instead of float32's 23"""
    threads: int = 1
    """torch threads of this process"""
    exact: bool = True
    """where the environment is tabular, also give exact values (exact/…)"""

    def base_paths(self, run: Run) -> list[str]:
        """Directories of the base policies."""
        return list(self.base_policies) or [run.env.base_policy_path()]

    def needs_base(self, run: Run) -> bool:
        """Whether the run can't do without a base policy."""
        return not isinstance(run.divergence, NoDivergence) or self.init_from_base or bool(self.base_policies)

    def reference(self, run: Run) -> Policy | None:
        """The environment's base policy for comparison, where it has one that fits it."""
        from rhtool.rl.policy import Policy

        path = Path(run.env.base_policy_path())
        # The run that makes the base policy has nothing to be compared with yet.
        there = path.exists() and path.resolve() != run.path.resolve()
        policy = Policy.load(path) if there else None
        return policy if policy and policy.fits(run.env) else None

    def check(self, run: Run) -> None:
        """Base policies there? Options that go together?"""
        require_rl()
        check_ranges(self)
        if self.needs_base(run):
            where = "task.base_policies" if self.base_policies else "env.base_policy"
            for path in self.base_paths(run):
                require_policy(path, where, "" if self.base_policies else run.env.base_policy_command())
        run.env.check()
        for name in ("network", "hidden", "share_value") if self.init_from_base else ():
            if f"task.{name}" in run.tuned:
                raise ConfigError(
                    "the policy starts from the base policy's weights, and so with its network",
                    f"task.{name}",
                    f"leave task.{name} out, or set task.init_from_base=false",
                )
        if self.split and not (isinstance(run.divergence, KL) and run.divergence.over == "state_action"):
            raise ConfigError(
                "split is the chain rule of KL", "task.split", "use divergence=kl divergence.over=state_action"
            )
        if self.reward_weight == 0 and run.coeff in (0, AUTO):
            raise ConfigError(
                "nothing is left to learn: neither reward nor penalty counts",
                "task.reward_weight",
                "raise it, or coeff",
            )
        if self.base_weights and len(self.base_weights) != len(self.base_paths(run)):
            raise ConfigError(
                "as many base_weights as base policies", "task.base_weights", "one number per base policy"
            )
        if (run.divergence.over == "action" or self.split) and len(self.base_paths(run)) > 1:
            raise ConfigError(
                "action distributions are regularised to one base policy", "task.base_policies", "give one"
            )
        of_proxy = {"coeff=auto": run.coeff == AUTO, "divergence": isinstance(run.divergence, MaxMin | LinearMaxMin)}
        for where in (where for where, holds in of_proxy.items() if holds and run.env.reward_fun == "true"):
            mend = "leave env.reward_fun out, or choose another divergence and give coeff a number"
            raise ConfigError("the theory is of a proxy, and this is trained on the true reward", where, mend)
        if run.coeff == AUTO:
            if run.divergence.over == "action":
                raise ConfigError(
                    "the theory is of occupancy measures", "coeff=auto", "use divergence.over=state_action"
                )
            if self.coeff_schedule:
                raise ConfigError(
                    "a coeff that is measured has no schedule", "task.coeff_schedule", "leave it out, or give a coeff"
                )
            # Whether it has a theory: at a correlation for which every one says something.
            run.divergence.theoretical_coeff(0.5, 1.0, run.env)
        if self.correlation is not None:
            if run.coeff != AUTO:
                mend = "add coeff=auto, or leave task.correlation out"
                raise ConfigError("the correlation counts for coeff=auto alone", "task.correlation", mend)
            if not 0 < self.correlation <= 1:
                mend = "give a number above 0 and at most 1, like 0.5"
                raise ConfigError(f"{self.correlation} is not the correlation of a proxy", "task.correlation", mend)
        for name in ("lr_schedule", "entropy_schedule", "kl_coeff_schedule", "coeff_schedule"):
            check_schedule(getattr(self, name), f"task.{name}")
        if self.divergence_target is not None:
            if (
                isinstance(run.divergence, NoDivergence | BaseConfidence | LinearMaxMin)
                or not run.divergence.scores_are_log_ratios
            ):
                raise ConfigError(
                    "there is no estimate to hold to it", "task.divergence_target", "use kl, chi2 or sqrt_chi2"
                )
            if self.coeff_schedule or run.coeff == 0:
                raise ConfigError(
                    "a coeff that adapts starts above zero and has no schedule", "coeff", "set coeff alone"
                )
            if run.divergence.over == "action" and self.divergence_measure == "sqrt_chi2":
                raise ConfigError("it is not measured over actions", "task.divergence_measure", "choose kl or chi2")
        if self.lanes < 1 or self.batch < self.lanes:
            raise ConfigError(f"batch {self.batch} for {self.lanes} lanes", "task.batch", "at least one step per lane")

    def inputs(self, run: Run) -> dict[str, str]:
        """The base policies decide the result, if only as what it is compared with."""
        paths = self.base_paths(run) if self.needs_base(run) else [run.env.base_policy_path()]
        return {f"base_policy_{i}": path for i, path in enumerate(paths)}

    def run(self, run: Run) -> dict[str, float]:
        """Train, evaluate, compare with the base policy."""
        from rhtool.results.overoptimisation import hacking_along
        from rhtool.rl import evaluation
        from rhtool.rl.orpo import Orpo as Algorithm
        from rhtool.rl.policy import Policy
        from rhtool.rl.process import set_up

        set_up(self.threads)
        paths = self.base_paths(run)
        bases = [Policy.load_for(run.env, path) for path in paths] if self.needs_base(run) else []
        away = run.coeff != AUTO and run.coeff * (self.base_weights[0] if self.base_weights else 1.0) < 0
        base = self.reference(run) if away or not bases else bases[0].copy()
        work = Algorithm(run, bases)
        try:
            for _ in run.loop(work, self.iterations):
                run.log(work.iteration())
        finally:
            work.close()
        work.policy.save(run.path / "policy")
        metrics = {
            "steps": work.steps,
            **evaluation.evaluate(
                run.env,
                work.policy,
                base and base.to(work.device),
                self.episodes,
                run.seed,
                exactly=self.exact,
                lanes=self.evaluation_lanes,
                shown=self.discriminator_obs,
            ),
        }
        if run.coeff == AUTO:
            metrics["penalty/coeff"] = work.coeff
        if self.workers:
            metrics["workers/lost"] = work.lost
        return metrics | hacking_along(run.path, metrics)


def check_schedule(schedule: list[Any] | None, where: str) -> None:
    """Raise `ConfigError` unless it is None or `[[steps, value], …]` with ascending steps."""
    try:
        steps = [float(at) for at, value in schedule or [] if float(value) == value]
        good = len(steps) == len(schedule or []) and steps == sorted(steps)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ConfigError(
            f"{schedule} is not a schedule", where, "write [[env steps, value], …]: [[0,0.1],[500000,0.01]]"
        )
