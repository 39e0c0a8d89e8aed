"""What every environment declares: its rewards, its base policy, and the numbers with which the paper trains on it.

This module is the schema and stays light; the arrays live in `vector.py` and in each environment's own folder.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.errors import ConfigError, nearest
from rhtool.schema import check_choices, choice, option_name

if TYPE_CHECKING:
    from rhtool.envs.tabular import TabularMDP
    from rhtool.envs.vector import SingleEnv, VectorEnv

RANDOM = "random"
"""in the place of a policy's directory: a policy as networks start"""


@dataclass
class Training:
    """The hyperparameters of PPO and ORPO with which the paper trains an environment. `task=orpo` takes them unless
    told otherwise."""

    iterations: int = 200
    """iterations of sample, discriminate, update"""
    batch: int = 4000
    """env steps of an iteration, those of the base policies included"""
    lanes: int = 16
    """copies of the env stepped together, those of the base policies included"""
    minibatch: int = 128
    """transitions of one gradient step"""
    epochs: int = 8
    """passes of the policy and value function over an iteration's data"""
    discriminator_epochs: int = 8
    """passes of the discriminator over an iteration's data"""
    lr: float = 3e-4
    """learning rate of Adam, for policy, value function and discriminator"""
    grad_clip: float | None = None
    """gradients are scaled down to this global norm; null: they are not"""
    gamma: float = 0.99
    """discount"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation"""
    clip: float = 0.2
    """PPO's clip of the probability ratio"""
    vf_coeff: float = 0.5
    """weight of the value loss"""
    vf_clip: float | None = None
    """upper limit of a transition's squared value error; null: none"""
    entropy: float = 0.01
    """entropy bonus"""
    entropy_schedule: list[Any] | None = None
    """[[env steps, bonus], …], interpolated; replaces `entropy`"""
    kl_coeff: float = 0.2
    """weight of KL(old || new) in the loss at the start; it adapts to `kl_target`"""
    kl_target: float = 0.01
    """KL(old || new) of an iteration that leaves `kl_coeff` alone"""
    network: str = choice("mlp", "lstm")
    """policy and value function: fully connected, or an LSTM over the last axis of the observation (features, time)"""
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    """units of the hidden layers of policy and value function (of an LSTM: equal ones)"""
    share_value: bool = False
    """one trunk for policy and value function"""
    action_margin: float = 0.01
    """bounded actions: share of the range, next to each bound, over which log-probabilities stay constant"""
    discriminator_obs: str = choice("all", "latest")
    """what discriminators see of an observation: all of it, or only what the environment says is its newest part"""
    reward_clip: float = 1000.0
    """the penalty of one step is clipped to this size"""
    init_from_base: bool = False
    """start from the base policy's weights"""
    episodes: int = 100
    """episodes of an evaluation"""
    evaluation_lanes: int = 0
    """copies of the env over which an evaluation spreads its episodes evenly; 0: one for each"""


@dataclass
class Cloning:
    """How an environment's base policy is cloned from its controller: what `task=bc` takes unless told otherwise."""

    demonstrator: str = ""
    """who acts: a run's directory, a policy, or a rollouts.parquet; empty: the environment's controller, else its base policy;
    random: a policy as networks start, which makes sense with labels=controller"""
    demonstrations: int = 1000
    """episodes of the demonstrator"""
    every: int = 1
    """one of so many steps of an episode is kept: neighbouring steps of long episodes are nearly the same"""
    labels: str = choice("actions", "controller")
    """what is cloned: the actions taken, or the controller's action in each state visited"""
    passes: int = 20
    """passes over the demonstrations"""
    minibatch: int = 1024
    """transitions of one gradient step"""
    lr: float = 1e-3
    """learning rate of Adam at the start; it falls linearly to zero"""
    grad_clip: float | None = None
    """gradients are scaled down to this global norm; null: they are not"""
    entropy: float = 0.0
    """entropy bonus"""


@dataclass
class Scale:
    """How large a run is: numbers that replace an environment's `training`; null leaves the environment's own."""

    iterations: int | None = None
    """iterations of training"""
    batch: int | None = None
    """env steps of an iteration"""
    lanes: int | None = None
    """copies of the env stepped together"""
    minibatch: int | None = None
    """transitions of one gradient step"""
    epochs: int | None = None
    """passes over an iteration's data"""
    discriminator_epochs: int | None = None
    """passes of the discriminator over an iteration's data"""
    lr: float | None = None
    """learning rate"""
    hidden: list[int] | None = None
    """units of the hidden layers"""
    demonstrations: int | None = None
    """episodes that task=bc clones"""
    passes: int | None = None
    """passes of task=bc over them"""
    episodes: int | None = None
    """episodes of an evaluation"""


@dataclass
class Env:
    """A control problem with a proxy reward, a true reward and a base policy."""

    extra: ClassVar[str] = ""
    """the extra of pyproject.toml that it needs"""

    reward_fun: str = choice("proxy", "true", "learned")
    """the reward that `step` returns; both are always in `info`. learned: the proxy, which is then the `reward_model`"""
    reward_model: str = ""
    """directory of a run of task=rm_train: with reward_fun=learned or true the proxy is its model, not the environment's own"""
    variant: str = choice("orpo", "corrected")
    """orpo: the original's behaviour, quirks included; corrected: its quirks mended"""
    horizon: int = 100
    """steps after which an episode is truncated"""
    proxy_scale: float = 1.0
    """the training reward is the proxy times this; info has it unscaled"""
    true_scale: float = 1.0
    """with reward_fun=true the training reward is the true reward times this; info has it unscaled"""
    reward_std: float = 1.0
    """standard deviation of the proxy reward of a step under the base policy, scaled: the unit of `coeff` for chi2,
    sqrt_chi2, tv, wasserstein"""
    reward_mean: float = 1.0
    """size of the proxy reward of a step under the base policy, scaled: the unit of `coeff` for kl"""
    base_policy: str = ""
    """directory of the base policy's checkpoint; empty: the one shipped with the package"""
    training: Training = field(default_factory=Training)
    """the paper's hyperparameters for this environment"""
    cloning: Cloning = field(default_factory=Cloning)
    """how its base policy is cloned"""

    def base_policy_path(self) -> str:
        """Directory of the base policy: `base_policy`, else the one shipped with the environment."""
        return self.base_policy or str(Path(inspect.getfile(type(self))).parent / "base_policy")

    def base_policy_command(self) -> str:
        """How to make a base policy, for the error of a run that lacks one: by cloning the controller, or by a few iterations
        of PPO on the true reward where there is none."""
        name = option_name(type(self))
        task = "task=bc" if self.has_controller() else "task=orpo divergence=none env.reward_fun=true task.iterations=3"
        return f"rhtool {task} env={name} dir=base/{name}, then env.base_policy=base/{name}"

    def has_controller(self) -> bool:
        """Whether there is a hand-written controller to clone (`VectorEnv.base_action`)."""
        from rhtool.envs.vector import VectorEnv

        return self.vector_class().base_action is not VectorEnv.base_action

    def reward_model_path(self) -> str:
        """Directory of the reward model's files: in the run that `reward_model` names, or itself."""
        inside = Path(self.reward_model) / "reward_model"
        return str(inside if inside.is_dir() else Path(self.reward_model))

    def reward_model_command(self) -> str:
        """How to make a reward model, for the error of a run that lacks one."""
        name = option_name(type(self))
        where = f"reward_models/{name}"
        return f"rhtool task=rm_train env={name} dir={where}, then env.reward_fun=learned env.reward_model={where}"

    def check(self) -> None:
        """Raise what making the environment would raise: a package or file that is missing, a value that cannot be used."""
        self.make_vec(1).close()

    def inputs(self) -> dict[str, str]:
        """`{name: path}` of the files whose content decides what the environment is; their hashes enter the fingerprint,
        besides that of a `reward_model`."""
        return {}

    def tabular(self) -> TabularMDP | None:
        """The environment as tables, for exact values; None if it is too large for that."""
        return None

    def vector_class(self) -> type[VectorEnv]:
        """The environment's arrays and kernels: `vector_class()(config, lanes, **options)`. Imported here, not with
        this module."""
        raise TypeError(f"{type(self).__name__} does not implement vector_class")

    def make_vec(
        self,
        lanes: int,
        seed: int | None = None,
        *,
        autoreset_mode: str = "NextStep",
        render_mode: str | None = None,
        **changes: Any,
    ) -> VectorEnv:
        """`lanes` copies stepped together as arrays; `changes` replace fields of this dataclass (`reward_fun="true"`).

        `autoreset_mode` is gymnasium's `AutoresetMode` or its value: NextStep, SameStep, Disabled. Raises `ConfigError`
        for a change that is no field or no choice of it, `RhtoolError` for the rest.
        """
        config = self._changed(changes)
        return config.vector_class()(config, lanes, seed=seed, autoreset_mode=autoreset_mode, render_mode=render_mode)

    def make(self, seed: int | None = None, *, render_mode: str | None = None, **changes: Any) -> SingleEnv:
        """One copy as a `gymnasium.Env`, without autoreset."""
        from rhtool.envs.vector import SingleEnv

        return SingleEnv(self.make_vec(1, seed, autoreset_mode="Disabled", render_mode=render_mode, **changes))

    def _changed(self, changes: dict[str, Any]) -> Env:
        names = [f.name for f in fields(self)]
        for name in changes:
            if name not in names:
                raise ConfigError(f"'{name}' is not a field of {type(self).__name__}", name, nearest(name, names))
        config = replace(self, **changes)
        check_choices(config, type(self).__name__)
        return config
