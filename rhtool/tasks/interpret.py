"""`task=interpret`: what a reward function pays for, by the method of the group `method`; figures, tables and a report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rhtool.envs.base import RANDOM
from rhtool.errors import ConfigError, MissingExtra
from rhtool.interpret.base import BASE
from rhtool.run import Run
from rhtool.schema import option_name
from rhtool.tasks.base import Task, check_ranges, require_lm, require_policy, require_rl
from rhtool.tasks.ls import EXTRAS, installed

if TYPE_CHECKING:
    from rhtool.interpret.report import Report
    from rhtool.interpret.rewards import RewardFunction
    from rhtool.interpret.texts import Answers
    from rhtool.interpret.transitions import Transitions
    from rhtool.rl.policy import Policy


@dataclass
class Interpretation(Task):
    """A reward function, looked at by a method."""

    name: ClassVar[str] = "interpretation"

    kind: ClassVar[str] = ""
    """of `rhtool.interpret.base.Method.kinds`"""

    threads: int = 1
    """torch threads of this process"""

    def check(self, run: Run) -> None:
        """Is the method one for this kind of reward?"""
        check_ranges(self)
        method = run.method
        if method.kinds and self.kind not in method.kinds:
            other = "data=... and reward=..." if self.kind == "control" else "env=... without data=..."
            what = f"method={option_name(type(method))} looks at rewards of {' and '.join(method.kinds)}, not of {self.kind}"
            raise ConfigError(what, "method", f"choose another, or {other}: rhtool task=ls lists methods")
        if method.extra and not installed(method.extra):
            raise MissingExtra(method.extra, EXTRAS[method.extra])
        method.check(run)

    def run(self, run: Run) -> dict[str, float]:
        """Let the method work, and write `report.html`."""
        import shlex

        from rhtool.interpret.report import Report

        self.set_up()
        command = " ".join(["rhtool", *map(shlex.quote, run.overrides or [])])
        title = f"{option_name(type(run.method)).replace('_', ' ')}: {self.subject(run)}"
        report: Report = Report(run.path, title[:1].upper() + title[1:], command)
        metrics = run.method.explain(run, report)
        path = report.write()
        print(f"report: {path}")
        return {"steps": 0, **metrics}

    def set_up(self) -> None:
        """Threads and libraries of this process."""
        raise TypeError(f"{type(self).__name__} does not implement set_up")

    def subject(self, run: Run) -> str:
        """What is looked at, for the title."""
        raise TypeError(f"{type(self).__name__} does not implement subject")


@dataclass
class InterpretControl(Interpretation):
    """What an environment's rewards, or a learned one, pay for: figures, tables and a report."""

    name: ClassVar[str] = "interpret_control"

    extra: ClassVar[str] = "rl"

    uses: ClassVar[tuple[str, ...]] = ("method", "env")

    kind: ClassVar[str] = "control"

    rewards: list[str] = field(default_factory=lambda: ["proxy", "true"])
    """reward functions: proxy and true, the environment's own, or directories of runs that left one (task=rm_train)"""
    policies: list[str] = field(default_factory=list)
    """who makes the transitions: runs' directories, base, the env's base policy, or random, one as networks start; empty: the
    method's own, base for most"""
    episodes: int = 100
    """episodes of each policy"""
    evaluation_lanes: int = 0
    """copies of the env over which the episodes are spread; 0: one for each"""

    def __post_init__(self) -> None:
        # In task.rewards=[proxy,true] the second is YAML's truth, which has become a word by now.
        self.rewards = ["true" if name == "True" else name for name in self.rewards]

    def paths(self, run: Run) -> list[str]:
        """The policies, by directory or as "random"."""
        own = run.env.base_policy_path()
        return [own if path == BASE else path for path in self.policies or run.method.policies]

    def check(self, run: Run) -> None:
        """Are rewards and policies there?"""
        require_rl()
        super().check(run)
        for path in self.paths(run):
            if path != RANDOM:
                own = path == run.env.base_policy_path()
                require_policy(path, "task.policies", run.env.base_policy_command() if own else "")
        if not self.rewards or len(set(self.rewards)) < len(self.rewards):
            raise ConfigError(f"{list(self.rewards)} names none, or one twice", "task.rewards", "write [proxy,true]")
        run.env.check()
        self.functions(run)

    def inputs(self, run: Run) -> dict[str, str]:
        """Policies and learned rewards decide the result."""
        from rhtool.interpret.rewards import OWN

        policies = {f"policy_{i}": path for i, path in enumerate(self.paths(run)) if path != RANDOM}
        learned = {f"reward_{i}": path for i, path in enumerate(self.rewards) if path not in OWN}
        return policies | learned | run.method.inputs(run)

    def functions(self, run: Run) -> dict[str, RewardFunction]:
        """The reward functions by name."""
        from rhtool.interpret.rewards import load

        return {name: load(name, run.env) for name in self.rewards}

    def loaded(self, run: Run) -> list[Policy]:
        """The policies, in the order of `paths`."""
        from rhtool.interpret.transitions import load_policy

        return [load_policy(run.env, path, seed) for path, seed in zip(self.paths(run), self._seeds(run), strict=True)]

    def transitions(self, run: Run) -> list[Transitions]:
        """Those of each policy, in the order of `paths`."""
        from rhtool.interpret.transitions import collect

        return [
            collect(run.env, path, self.episodes, seed, self.evaluation_lanes)
            for path, seed in zip(self.paths(run), self._seeds(run), strict=True)
        ]

    def _seeds(self, run: Run) -> list[int]:
        import numpy as np

        return np.random.SeedSequence([run.seed, 70]).generate_state(len(self.paths(run))).tolist()

    def set_up(self) -> None:
        from rhtool.rl.process import set_up

        set_up(self.threads)

    def subject(self, run: Run) -> str:
        return f"{' and '.join(self.rewards)} of {run.option('env')}"


@dataclass
class InterpretTexts(Interpretation):
    """What a reward of answers to prompts pays for: figures, tables and a report."""

    name: ClassVar[str] = "interpret_texts"

    extra: ClassVar[str] = "lm"

    uses: ClassVar[tuple[str, ...]] = ("method", "data", "reward", "feedback")

    kind: ClassVar[str] = "texts"

    answers: str = ""
    """whose answers: a run of task=rlhf_ppo (all its evaluations) or task=bon; empty: the data's own chosen and rejected answers"""
    prompts: int = 200
    """held-out prompts at most"""
    draws: int = 32
    """answers to a prompt at most, of a run of task=bon"""

    def check(self, run: Run) -> None:
        """Are data, reward and answers there?"""
        require_lm()
        for name in ("prompts", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"task.{name}", "choose 1 or more")
        run.data.check()
        run.data.true_by.check()
        from rhtool.interpret.texts import POOL, given, only_run

        if given(run.reward) or not self.answers:
            run.reward.check()
        if self.answers and not Path(self.answers, POOL).is_file():
            only_run(self.answers)
        super().check(run)

    def inputs(self, run: Run) -> dict[str, str]:
        """The data, the reward's models, the answers."""
        found = run.data.inputs() | run.data.true_by.inputs() | run.reward.inputs() | run.method.inputs(run)
        if self.answers:
            from rhtool.interpret.texts import POOL

            pool = Path(self.answers, POOL)
            found["answers"] = str(pool if pool.is_file() else Path(self.answers, "eval"))
        return found

    def answered(self, run: Run) -> Answers:
        """The answers to be looked at."""
        from rhtool.interpret.texts import answered

        return answered(run, self.answers, self.prompts, self.draws)

    def set_up(self) -> None:
        from rhtool.lm.process import set_up

        set_up(self.threads)

    def subject(self, run: Run) -> str:
        from rhtool.interpret.texts import given

        reward = f"reward={run.option('reward')}" if given(run.reward) else "the reward of its training"
        return f"{reward} on data={run.option('data')}"
