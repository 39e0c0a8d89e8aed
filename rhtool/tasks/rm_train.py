"""`task=rm_train`: a reward model from preferences between trajectory segments, or from rewards of steps."""

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
    from rhtool.interpret.nets import RewardNet
    from rhtool.lm.memory import Need
    from rhtool.rl.policy import Interface, Policy


@dataclass
class Convolutions:
    """The network of `network=cnn`."""

    channels: list[int] = field(default_factory=lambda: [32, 32])
    """of each convolution"""
    kernel: int = 3
    """pixels of its side"""
    stride: int = 1
    """pixels from one output to the next: each convolution sees farther"""
    dilation: int = 1
    """pixels from one input to the next"""
    coordinates: bool = False
    """x and y as two further channels: what is far apart can be compared only if places are known"""
    pool: int = 1
    """the last images are averaged to so many places on each side; 1 forgets where things are"""
    dense: list[int] = field(default_factory=list)
    """units of fully connected layers before the last"""


@dataclass
class Adversarial:
    """Training a CNN against the images that maximise its own heads."""

    start: int = 0
    """the pass after which, and after each further one, images are made and added to the data; 0: never"""
    share: float = 0.04
    """images made each time, as a share of the training data"""
    reward: float = 0.0
    """what they are labelled with"""
    keep: int = 5
    """passes whose images are kept"""
    steps: int = 64
    """steps of making them"""
    jitter: int = 4
    """pixels by which they are moved about meanwhile"""
    clip_quantile: float = 0.99
    """gradients are clipped at this quantile of the norms of pass `start`"""


@dataclass
class RmTrainControl(Task):
    """A reward model from preferences between trajectory segments, or from rewards of steps: a learned proxy."""

    extra: ClassVar[str] = "rl"

    uses: ClassVar[tuple[str, ...]] = ("env",)

    labels: str = choice("preferences", "rewards")
    """what is learned from: preferences between segments, by their true returns; or the rewards of steps themselves"""
    network: str = choice("mlp", "cnn")
    """fully connected; or convolutional, of images, with labels=rewards"""
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
    members: int = 1
    """networks, each fitted to a bootstrap sample of the preferences: the model is their mean"""
    std_weight: float = 0.0
    """with members: of their standard deviation, added to their mean; below 0: a pessimist's reward"""
    rounds: int = 1
    """rounds in which the preferences are asked for; `passes` passes follow each"""
    first_share: float = 0.1
    """with rounds: the share asked for in the first one"""
    schedule: str = choice("hyperbolic", "constant", "inverse_quadratic")
    """with rounds: how many are asked for in the others: 1 / (1 + t), 1, 1 / (1 + t²), for t from 0 to 1"""
    selection: str = choice("random", "logit", "probability", "label")
    """with rounds and members: the pairs asked about: any, or those with the largest variance of this over the members"""
    oversampling: int = 2
    """with selection: pairs drawn for each one asked about"""
    potential: str = ""
    """directory of a run of task=orpo whose critic shapes what the teacher sums, by gamma V(s') - V(s); empty: it is not shaped"""
    potential_gamma: float = 1.0
    """discount of the shaping; with 1 a segment's return changes by its two ends alone"""
    of: str = choice("true", "proxy")
    """labels=rewards: which reward is learned"""
    sees: list[str] = field(default_factory=lambda: ["obs", "action"])
    """labels=rewards: what the network looks at, of obs, action, next_obs, terminated; an environment's proxy can be what an mlp
    learned of obs and action"""
    zero_share: float | None = None
    """labels=rewards: share of the transitions with a reward of zero that is kept; null: all"""
    cnn: Convolutions = field(default_factory=Convolutions)
    """network=cnn: its layers"""
    adversarial: Adversarial = field(default_factory=Adversarial)
    """network=cnn: training against its own visualisations"""
    threads: int = 1
    """torch threads of this process"""

    def paths(self, run: Run) -> list[str]:
        """The policies, by directory or as "random"."""
        return list(self.policies) or [run.env.base_policy_path()]

    def check(self, run: Run) -> None:
        """Are the policies there, and the base policy?"""
        require_rl()
        check_ranges(self)
        for name in ("segment", "preferences", "members", "rounds", "oversampling"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"task.{name}", "choose 1 or more")
        if not 0 <= self.label_noise <= 1:
            raise ConfigError(f"{self.label_noise} is not a share", "task.label_noise", "choose a number from 0 to 1")
        if not self.rationality > 0:
            raise ConfigError(f"{self.rationality} is too small", "task.rationality", "choose a number above 0")
        if not 0 < self.first_share <= 1:
            raise ConfigError(
                f"{self.first_share} is not a share", "task.first_share", "choose a number above 0, up to 1"
            )
        if self.selection != "random" and (self.members == 1 or self.rounds == 1):
            what = "one network has nobody to disagree with" if self.members == 1 else "all questions are asked at once"
            mend = "add task.members=5 task.rounds=6, or leave it out"
            raise ConfigError(what, f"task.selection={self.selection}", mend)
        if self.std_weight and self.members == 1:
            what = "one network has no standard deviation"
            raise ConfigError(what, "task.std_weight", "add task.members=5, or leave it out")
        if self.potential:
            require_policy(self.potential, "task.potential")
        if self.zero_share is not None and not 0 <= self.zero_share <= 1:
            raise ConfigError(f"{self.zero_share} is not a share", "task.zero_share", "choose a number from 0 to 1")
        if self.network == "cnn" and self.labels != "rewards":
            what = "preferences are learned by an mlp alone"
            raise ConfigError(what, "task.network=cnn", "add task.labels=rewards, or take task.network=mlp")
        if self.adversarial.start and self.network != "cnn":
            raise ConfigError("only images are visualised", "task.adversarial", "add task.network=cnn")
        if self.labels == "preferences" or not self.policies:
            require_policy(run.env.base_policy_path(), "env.base_policy", run.env.base_policy_command())
        for path in self.policies:
            if path != RANDOM:
                require_policy(path, "task.policies")
        run.env.check()
        if self.labels == "rewards":
            self._network(run)

    def inputs(self, run: Run) -> dict[str, str]:
        """The policies decide the result."""
        paths = {f"policy_{i}": path for i, path in enumerate(self.policies) if path != RANDOM}
        paths |= {"potential": self.potential} if self.potential else {}
        needed = self.labels == "preferences" or not self.policies
        return {"base_policy": run.env.base_policy_path(), **paths} if needed else paths

    def run(self, run: Run) -> dict[str, float]:
        """Collect, fit, save."""
        return self._regress(run) if self.labels == "rewards" else self._compare(run)

    def _network(self, run: Run) -> RewardNet:
        from rhtool.interpret.regression import network_for
        from rhtool.rl.policy import interface_of

        return network_for(interface_of(run.env), self, run.seed)

    def _regress(self, run: Run) -> dict[str, float]:
        """Fit a network to the rewards of transitions."""
        import json

        import numpy as np

        from rhtool.checkpoints import write_atomic
        from rhtool.interpret.nets import MlpReward
        from rhtool.interpret.regression import RewardRegression
        from rhtool.interpret.transitions import Transitions, collect
        from rhtool.rl.process import set_up

        set_up(self.threads)
        paths = self.paths(run)
        seeds = np.random.SeedSequence([run.seed, 31]).generate_state(len(paths))
        data = Transitions.concat(
            [
                collect(run.env, path, self.episodes, int(seed), self.evaluation_lanes)
                for path, seed in zip(paths, seeds, strict=True)
            ]
        )
        work = RewardRegression(run, self._network(run), data, data.rewards[self.of])
        found = work.statistics()
        write_atomic(run.path / "dataset.json", (json.dumps(found, indent=1) + "\n").encode())
        said = ", ".join(f"{n} of {s['transitions']}: {s['reward']['constant_mse']:.4g}" for n, s in found.items())
        print(f"mean squared error of the best constant: {said}")
        for _ in run.loop(work, self.passes):
            run.log(work.iteration())
        about = {"env": run.option("env"), "policies": paths, "seed": run.seed, "labels": self.labels, "of": self.of}
        net, metrics = work.finish(about)
        # What an environment can evaluate is saved in its format.
        plain = isinstance(net, MlpReward) and net.sees == ("obs", "action")
        (net.to_model() if plain else net).save(run.path / "reward_model")
        return metrics

    def _compare(self, run: Run) -> dict[str, float]:
        """Collect segments, label pairs of them, fit, save."""
        import numpy as np

        from rhtool.rl import reward_learning
        from rhtool.rl.evaluation import rollout
        from rhtool.rl.policy import Policy, interface_of
        from rhtool.rl.preferences import cut
        from rhtool.rl.process import set_up

        set_up(self.threads)
        interface, paths = interface_of(run.env), self.paths(run)
        streams = [int(s) for s in np.random.SeedSequence([run.seed, 30]).generate_state(len(paths) + 1)]
        *collected, base = (
            rollout(run.env, self._policy(run, interface, path, seed), self.episodes, seed, lanes=self.evaluation_lanes)
            for path, seed in zip([*paths, run.env.base_policy_path()], streams, strict=True)
        )
        model = reward_learning.empty_model(interface, self.hidden, self.model_obs)
        potential = Policy.load_for(run.env, self.potential) if self.potential else None
        segments = cut(model, collected, self.segment, potential, self.potential_gamma)
        work = reward_learning.RewardLearning(run, model, segments)
        for _ in run.loop(work, self.passes * self.rounds):
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
