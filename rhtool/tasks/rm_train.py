"""`task=rm_train`: a reward model from preferences between trajectory segments, for `env.reward_fun=learned`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rhtool.envs.base import RANDOM
from rhtool.errors import ConfigError
from rhtool.models import SAVED
from rhtool.run import Run
from rhtool.schema import choice
from rhtool.tasks.base import Task, check_ranges, require_policy, require_rl
from rhtool.tasks.sft import Fitting

if TYPE_CHECKING:
    from rhtool.lm.memory import Need
    from rhtool.rl.policy import Interface, Policy


@dataclass
class RmTrainControl(Task):
    """A reward model from preferences between trajectory segments, labelled by the true reward: a learned proxy."""

    extra: ClassVar[str] = "rl"

    uses: ClassVar[tuple[str, ...]] = ("env",)

    policies: list[str] = field(default_factory=list)
    """whose segments are compared: runs' directories, or random, a policy as networks start; empty: the env's base policy"""
    episodes: int = 100
    """episodes of each policy, and of the base policy for the model's unit"""
    evaluation_lanes: int = 0
    """copies of the env over which the episodes are spread; 0: one for each"""
    segment: int = 20
    """steps of a segment"""
    preferences: int = 5000
    """labelled pairs of segments, the held-out ones included"""
    label_noise: float = 0.0
    """share of labels that are coin tosses, which the likelihood knows"""
    rationality: float = 5.0
    """log-odds of preferring a segment whose true return is better by one `unit`"""
    unit: str = choice("std", "reward")
    """of the true return of a segment: std: its standard deviation over the segments; reward: 1, as in the original"""
    model_obs: str = choice("all", "latest")
    """what the model sees of an observation: all of it, or only what the environment says is its newest part"""
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    """units of the model's hidden layers"""
    validation: float = 0.2
    """share of the episodes, and of the preferences, that is held out"""
    passes: int = 30
    """passes over the preferences"""
    minibatch: int = 64
    """preferences of one gradient step"""
    lr: float = 1e-3
    """learning rate of Adam at the start; it falls linearly to zero"""
    threads: int = 1
    """torch threads of this process"""

    def paths(self, run: Run) -> list[str]:
        """The policies, by directory or as "random"."""
        return list(self.policies) or [run.env.base_policy_path()]

    def check(self, run: Run) -> None:
        """Are the policies there, and the base policy?"""
        require_rl()
        check_ranges(self)
        for name in ("segment", "preferences"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"task.{name}", "choose 1 or more")
        if not 0 <= self.label_noise <= 1:
            raise ConfigError(f"{self.label_noise} is not a share", "task.label_noise", "choose a number from 0 to 1")
        if not self.rationality > 0:
            raise ConfigError(f"{self.rationality} is too small", "task.rationality", "choose a number above 0")
        require_policy(run.env.base_policy_path(), "env.base_policy", run.env.base_policy_command())
        for path in self.policies:
            if path != RANDOM:
                require_policy(path, "task.policies")
        run.env.check()

    def inputs(self, run: Run) -> dict[str, str]:
        """The policies decide the result."""
        paths = {f"policy_{i}": path for i, path in enumerate(self.policies) if path != RANDOM}
        return {"base_policy": run.env.base_policy_path(), **paths}

    def run(self, run: Run) -> dict[str, float]:
        """Collect segments, label pairs of them, fit, save."""
        import numpy as np

        from rhtool.rl import reward_learning
        from rhtool.rl.evaluation import rollout
        from rhtool.rl.policy import interface_of
        from rhtool.rl.process import set_up

        set_up(self.threads)
        interface, paths = interface_of(run.env), self.paths(run)
        streams = [int(s) for s in np.random.SeedSequence([run.seed, 30]).generate_state(len(paths) + 1)]
        *collected, base = (
            rollout(run.env, self._policy(run, interface, path, seed), self.episodes, seed, lanes=self.evaluation_lanes)
            for path, seed in zip([*paths, run.env.base_policy_path()], streams, strict=True)
        )
        model = reward_learning.empty_model(interface, self.hidden, self.model_obs)
        work = reward_learning.RewardLearning(run, model, reward_learning.cut(model, collected, self.segment))
        for _ in run.loop(work, self.passes):
            run.log(work.iteration())
        about = {"env": run.option("env"), "policies": paths, "seed": run.seed}
        model, metrics = work.finish(*base, about)
        model.save(run.path / "reward_model")
        return metrics

    def _policy(self, run: Run, interface: Interface, path: str, seed: int) -> Policy:
        from rhtool.rl.policy import Policy

        if path != RANDOM:
            return Policy.load_for(run.env, path)
        return Policy.fresh(interface, run.env.training, seed)


@dataclass
class RmTrainTexts(Fitting):
    """A reward model from preferences between answers to prompts: the proxy of RLHF."""

    l2: float = 0.001
    """weight of the mean of half the squared scores of a pair, which keeps scores near zero"""
    margin: bool = False
    """the data's margins are subtracted from the difference of the scores"""
    length_weight: float = 0.0
    """of ODIN's losses, by which a second head learns what an answer's length explains, and is thrown away; 0: there is none"""
    orthogonality: float = 1.0
    """with a second head, weight of the cosine of the two heads' weights"""

    def check(self, run: Run) -> None:
        """Are model and data there, and the second head's weights whole in each process?"""
        super().check(run)
        for name in ("length_weight", "orthogonality"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{getattr(self, name)} is below 0", f"task.{name}", "choose 0 or more")
        if self.length_weight and run.option("accelerate") in ("zero3", "fsdp"):
            said = "a second head's weights are divided among processes"
            raise ConfigError(said, "task.length_weight", "take accelerate=ddp or accelerate=zero2")

    def memory(self, run: Run) -> Need:
        """Of weights, optimiser and the largest of its passes."""
        from rhtool.lm import memory

        return memory.of_rm(run)

    def run(self, run: Run) -> dict[str, float]:
        """Fit, evaluate, save."""
        from rhtool.lm.process import set_up

        set_up(self.threads)
        from rhtool.lm import card, loading, odin, parallel, reward_model, text
        from rhtool.lm.training import steps_of

        tokenizer = text.tokenizer_of(run.model, text.corpus(run.data))
        work = reward_model.trainer(run, self, tokenizer)
        work.fit(steps_of(work))
        metrics = {"steps": work.state.global_step, **reward_model.evaluate(work)}
        made = work.accelerator.unwrap_model(work.model)
        made.config.score_mean, made.config.score_std = (metrics[f"rm/score/{x}"] for x in ("mean", "std"))
        with parallel.exported(work) as first:
            if first:
                if self.length_weight:
                    odin.keep_quality(made)
                loading.save(made, tokenizer, run.path / SAVED)
                card.write(run.path, metrics)
        return metrics
