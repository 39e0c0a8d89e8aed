"""Any registered gymnasium environment as an environment of rhtool."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rhtool.envs.base import Env
from rhtool.errors import ConfigError
from rhtool.schema import incidental

if TYPE_CHECKING:
    from rhtool.envs.gym.env import GymVectorEnv

BOAT_RACE = "rhtool.envs.gym.boat_race:BoatRace-v0"


@dataclass
class Gym(Env):
    """Any registered gymnasium environment, yours too; of itself a boat race that can be hacked."""

    id: str = BOAT_RACE
    """what gymnasium.make takes: CartPole-v1, or module:Name-v0, where importing the module registers the environment; a
    module may be a file in the working directory"""
    true_reward: str = "true_reward"
    """a key of info (a dot goes into nested dicts), or module:function, called as f(obs, action, next_obs, info)"""
    proxy_reward: str = ""
    """a key of info or module:function, as true_reward; empty: the environment's own reward"""
    controller: str = ""
    """module:function, called as f(obs) -> action: a hand-written policy, which task=bc clones; empty: there is none"""
    kwargs: Any = None
    """keyword arguments of gymnasium.make: "env.kwargs={current: 0.2}" """
    metrics: list[str] | None = None
    """keys of info reported as metrics, in every step there; null: all those of the first step that hold a number"""
    horizon: int = -1
    """steps after which an episode is truncated, in place of a time limit of its own; -1: the id's max_episode_steps"""
    processes: bool = incidental(False)
    """each lane in a process of its own: for environments that are slow, or of which one process can hold only one"""

    def __post_init__(self) -> None:
        """Raises `ConfigError` for kwargs that are no dict, and for an unknown id when there is no horizon to go by."""
        if not isinstance(self.kwargs, dict | None):
            raise ConfigError(f"{self.kwargs!r} are no keyword arguments", "env.kwargs", 'write "env.kwargs={name: 1}"')
        if self.horizon == -1:
            from rhtool.envs.gym.program import own_horizon

            self.horizon = own_horizon(self.id)

    def vector_class(self) -> type[GymVectorEnv]:
        """The lanes."""
        from rhtool.envs.gym.env import GymVectorEnv

        return GymVectorEnv

    def has_controller(self) -> bool:
        """Whether one is named."""
        return bool(self.controller)

    def base_policy_path(self) -> str:
        """`base_policy`, else of the boat race the one shipped, else a path at which there is nothing."""
        if self.base_policy or self.id == BOAT_RACE:
            return super().base_policy_path()
        return f"no-base-policy/{_file_name(self.id)}"

    def base_policy_command(self) -> str:
        """PPO on the true reward, stopped early."""
        from rhtool.envs.gym.program import find

        words = ["task=orpo env=gym"]
        own = {f.name: f.default for f in fields(self)} | {"horizon": find(self.id).max_episode_steps}
        for name in ("id", "true_reward", "proxy_reward", "kwargs", "horizon"):
            value = getattr(self, name)
            if (value or None) != (own[name] or None):
                words.append(shlex.quote(f"env.{name}={_spelled(value)}"))
        where = f"base/{_file_name(self.id)}"
        return (
            f"rhtool {' '.join(words)} divergence=none env.reward_fun=true task.iterations=5 dir={where},"
            f" then env.base_policy={where}"
        )

    def modules(self) -> list[str]:
        """The modules that are named."""
        named = (self.id, self.true_reward, self.proxy_reward, self.controller)
        return sorted({text.partition(":")[0] for text in named if ":" in text})

    def inputs(self) -> dict[str, str]:
        """The files of the modules that are named: to change one is to change the environment."""
        from rhtool.envs.gym.program import module_file

        return {f"module {name}": path for name in self.modules() if (path := module_file(name))}


def _spelled(value: Any) -> str:
    """A value as Hydra reads it on a command line; what stands in a dict or list may be any text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_inner(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inner, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _inner(value: Any) -> str:
    return '"' + value.replace('"', '\\"') + '"' if isinstance(value, str) else _spelled(value)


def _file_name(id: str) -> str:
    return re.sub(r"[^\w.-]", "_", id)
