"""A gymnasium environment as a `Program`: what a lane of `env=gym` runs, in whatever process it is."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, registry

from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.schema import see_working_directory

Reader = Callable[[Any, Any, Any, dict[str, Any]], Any]
"""f(obs, action, next_obs, info) -> a reward"""

RESERVED = {"proxy_reward", "true_reward", "final_obs", "final_info", "episode"}
"""keys of info that mean something to rhtool or gymnasium, and are no metrics"""


class GymProgram:
    """One copy of a gymnasium environment, its observations flattened, its two rewards read."""

    def __init__(
        self,
        id: str,
        kwargs: dict[str, Any],
        true_reward: str,
        proxy_reward: str,
        controller: str = "",
        metrics: list[str] | None = None,
        render_mode: str | None = None,
        check: bool = False,
    ):
        """`check` has gymnasium check the first steps. Without `metrics`, none are returned. Raises `ConfigError` for
        names that lead nowhere and spaces that cannot be used."""
        find(id)
        try:
            # The horizon is the caller's, so a time limit that comes with the id is left out.
            rendering = {"render_mode": render_mode} if render_mode else {}  # not every environment takes one
            self.env = gymnasium.make(id, max_episode_steps=-1, disable_env_checker=not check, **rendering, **kwargs)
        except Exception as error:
            raise ConfigError(f"gymnasium.make failed: {one_line(error)}", f"env.id={id}", "see env.kwargs") from error
        self.observation_space = flat_observations(self.env.observation_space, id)
        self.action_space = flat_actions(self.env.action_space, id)
        # Of a space without bounds the finite numbers.
        largest = np.finfo(np.float32).max
        self._low = np.maximum(self.observation_space.low, -largest)
        self._high = np.minimum(self.observation_space.high, largest)
        self._id, self._elapsed = id, 0
        self._true = reader(true_reward, "env.true_reward")
        self._proxy = reader(proxy_reward, "env.proxy_reward") if proxy_reward else None
        # Only functions get the old observation, which an environment may overwrite.
        self._keep = ":" in true_reward + proxy_reward
        self._controller = function(controller, "env.controller") if controller else None
        self._controller_name = controller
        self._metrics = metrics or []
        self._obs: Any = None
        self.info: dict[str, Any] = {}
        """info of the last step"""

    def reset(self, seed: int) -> np.ndarray:
        """As `Program.reset`; the action space is seeded too. Raises `RhtoolError` for an observation that is not finite
        or not in its space."""
        self._elapsed = 0
        self.env.action_space.seed(seed)
        try:
            obs, self.info = self.env.reset(seed=seed)
        except Exception as error:
            raise blamed(error, f"reset({seed})", f"env.id={self._id}", MEND) from error
        return self._observed(obs)

    def step(self, action: Any) -> tuple[np.ndarray, float, float, bool, bool, dict[str, float]]:
        """As `Program.step`. Raises `RhtoolError` as `reset`, and for what cannot be read as a number."""
        action, obs = self._unflat(action), self._obs
        self._elapsed += 1
        try:
            next_obs, reward, terminated, truncated, info = self.env.step(action)
            proxy = float(reward)
        except Exception as error:
            raise blamed(error, f"step {self._elapsed}", f"env.id={self._id}", MEND) from error
        self.info = info
        true = number(self._true(obs, action, next_obs, info), "env.true_reward")
        if self._proxy is not None:
            proxy = number(self._proxy(obs, action, next_obs, info), "env.proxy_reward")
        metrics = {name: number(look_up(info, name, "env.metrics"), "env.metrics") for name in self._metrics}
        return self._observed(next_obs), proxy, true, bool(terminated), bool(truncated), metrics

    def base_action(self) -> np.ndarray | None:
        """The controller's action, flattened. Raises `RhtoolError` where the controller fails."""
        if self._controller is None:
            return None
        space = self.env.action_space
        try:
            action = self._controller(copy.deepcopy(self._obs))
            if isinstance(space, spaces.Box):
                action = np.asarray(action, space.dtype)
        except Exception as error:
            where = f"env.controller={self._controller_name}"
            raise blamed(error, "the controller", where, "it is called as f(obs) and returns an action") from error
        if not space.contains(action):
            raise ConfigError(
                f"the controller's action {brief(repr(action))} is not in {brief(space)}",
                "env.controller",
                "return what step takes",
            )
        if isinstance(space, spaces.Discrete):
            return action - space.start
        return np.asarray(spaces.utils.flatten(space, action), np.float32)

    def render(self, mode: str) -> Any:
        """A frame in the render mode that the environment was made with."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _observed(self, obs: Any) -> np.ndarray:
        if self._keep or self._controller is not None:
            self._obs = copy.deepcopy(obs)
        space = self.env.observation_space
        if not counts_inside(space, obs):
            raise self._refused(f"the observation {brief(obs)} is not in {brief(space)}")
        try:
            flat = np.asarray(spaces.utils.flatten(space, obs), np.float32)
        except Exception as error:
            raise self._refused(f"the observation cannot be flattened: {one_line(error)}") from error
        inside = (flat >= self._low) & (flat <= self._high)
        if not inside.all():
            i = int(np.argmin(inside))
            what = f"element {i} of {flat.size} of the observation is {flat[i]}"
            if np.isfinite(flat[i]):
                what += f", and its space is [{self._low[i]}, {self._high[i]}]"
            raise self._refused(what)
        return flat

    def _refused(self, what: str) -> RhtoolError:
        when = f"step {self._elapsed}" if self._elapsed else "reset"
        mend = "return finite numbers in observation_space: widen it, or wrap the environment to clip them"
        return RhtoolError(what, f"env.id={self._id}, {when}", mend)

    def _unflat(self, action: Any) -> Any:
        space = self.env.action_space
        if isinstance(space, spaces.Discrete):
            return int(action) + int(space.start)
        # float32 rounds the bounds of a float64 space, perhaps outwards
        return np.clip(action.reshape(space.shape).astype(space.dtype), space.low, space.high)


MEND = "mend the environment; gymnasium.utils.env_checker.check_env says more"


def blamed(error: Exception, what: str, where: str, mend: str) -> RhtoolError:
    """What is to be raised from an exception of the user's code: `where` gets the line that raised it."""
    if isinstance(error, RhtoolError):
        return error
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    line = f"; {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return RhtoolError(f"{what} failed: {one_line(error)}", where + line, mend)


def one_line(error: Exception) -> str:
    """Type and first line of an exception's text."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def brief(value: Any) -> str:
    """Its text on one line of at most 100 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else text[:97] + "..."


def counts_inside(space: spaces.Space, obs: Any) -> bool:
    """Whether the parts that are no Box are in their spaces: flattened, a wrong one could not be told from a right one.
    Boxes are compared after they are flattened, whatever their dtype."""
    if isinstance(space, spaces.Box):
        return True
    if isinstance(space, spaces.Dict):
        return isinstance(obs, dict) and all(
            key in obs and counts_inside(part, obs[key]) for key, part in space.items()
        )
    if isinstance(space, spaces.Tuple):
        return len(obs) == len(space) and all(map(counts_inside, space, obs))
    return space.contains(obs)


def find(id: str) -> EnvSpec:
    """The registered specification of `id`, its module imported. `ConfigError` with the nearest ids if there is none."""
    module, _, name = id.rpartition(":")
    before = set(registry)
    if module:
        imported(module, "env.id")
    if name in registry:
        return registry[name]
    new = set(registry) - before
    mend = f"it registers {', '.join(sorted(new))}" if module and new else nearest_id(name)
    raise ConfigError(f"gymnasium knows no environment '{name}'", f"env.id={id}", mend)


def nearest_id(name: str) -> str:
    """What may have been meant, and how to name an environment of one's own."""
    close = nearest(name, registry)
    return f"{close if close.startswith('did') else ''} One of your own: env.id=module:{name}".strip()


def own_horizon(id: str) -> int:
    """The id's `max_episode_steps`. `ConfigError` if it has none."""
    steps = find(id).max_episode_steps
    if steps is None:
        raise ConfigError(
            f"'{id}' is registered without max_episode_steps",
            "env.horizon",
            "say how long an episode is: env.horizon=500",
        )
    return int(steps)


def imported(module: str, where: str) -> ModuleType:
    """Import a module, which may lie in the working directory. `ConfigError` if it cannot be imported."""
    see_working_directory()
    try:
        return importlib.import_module(module)
    except Exception as error:
        lost = isinstance(error, ModuleNotFoundError) and error.name == module
        raise ConfigError(
            f"there is no module '{module}'" if lost else f"importing it failed: {one_line(error)}",
            f"{where}, module '{module}'",
            f"go to the directory of {module}.py, or set PYTHONPATH to it" if lost else "mend the module",
        ) from error


def module_file(module: str) -> str:
    """Path of a module's source; empty if there is none."""
    see_working_directory()
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(module)
        return spec.origin if spec and spec.has_location else ""
    return ""


def function(text: str, where: str) -> Callable:
    """The function `module:name`."""
    module, _, name = text.partition(":")
    found = getattr(imported(module, where), name, None)
    if not callable(found):
        names = [key for key, value in vars(imported(module, where)).items() if callable(value)]
        raise ConfigError(f"'{module}' has no function '{name}'", where, nearest(name, names))
    return found


def reader(text: str, where: str) -> Reader:
    """What reads a reward: a function of the user's, or a look-up in info."""
    if ":" in text:
        call, called = function(text, where), "it is called as f(obs, action, next_obs, info) and returns a number"

        def read(*arguments: Any) -> Any:
            try:
                return call(*arguments)
            except Exception as error:
                raise blamed(error, "the function", f"{where}={text}", called) from error

        return read
    return lambda obs, action, next_obs, info: look_up(info, text, where)


def look_up(info: dict[str, Any], key: str, where: str) -> Any:
    """`info["a.b"]`, else `info["a"]["b"]`. `ConfigError` with the keys there are."""
    if key in info:
        return info[key]
    found: Any = info
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            raise ConfigError(
                f"info has no key '{key}'",
                f"{where}={key}",
                f"it must be there in every step; this one has {', '.join(keys(info)) or 'none'}"
                + ("" if where == "env.metrics" else ". Write module:function to compute it"),
            )
        found = found[part]
    return found


def keys(info: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys of info, those of nested dicts with dots."""
    found = []
    for key, value in info.items():
        found += keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return found


def number(value: Any, where: str) -> float:
    """A float of what is a number: Python's or numpy's, or an array of one. `ConfigError` otherwise."""
    if is_number(value) or (isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "biuf"):
        return float(value.item() if isinstance(value, np.ndarray) else value)
    raise ConfigError(f"{brief(repr(value))} is not a number", where, "name something that is one in every step")


def is_number(value: Any) -> bool:
    """Whether it is a scalar."""
    return isinstance(value, bool | int | float | np.number | np.bool_) and not isinstance(value, np.complexfloating)


def metric_names(info: dict[str, Any], rewards: tuple[str, ...]) -> list[str]:
    """The keys of info that hold a number and are no rewards."""
    return [key for key, value in info.items() if is_number(value) and key not in RESERVED and key not in rewards]


def flat_observations(space: spaces.Space, id: str) -> spaces.Box:
    """The float32 Box of the flattened observations. `ConfigError` for a space without a fixed size."""
    try:
        flat = spaces.utils.flatten_space(space)
    except NotImplementedError:
        flat = None
    if not isinstance(flat, spaces.Box):
        raise ConfigError(
            f"observations {brief(space)} have no fixed size",
            f"env.id={id}",
            "wrap the environment so that they are a Box",
        )
    return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)


def flat_actions(space: spaces.Space, id: str) -> spaces.Space:
    """Discrete from zero, or a float32 Box of one dimension. `ConfigError` for anything else."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        low, high = (bound.ravel().astype(np.float32) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32)
    raise ConfigError(
        f"actions {brief(space)} are neither Discrete nor a Box of floats",
        f"env.id={id}",
        "wrap the environment (gymnasium.ActionWrapper) so that they are",
    )
