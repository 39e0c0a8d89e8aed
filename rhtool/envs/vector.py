"""What an environment is at run time: B lanes as arrays, stepped together by a compiled kernel.

A subclass holds its state in arrays whose first axis is the lane and implements a few hooks (`_reset`, `_step`,
`_observe`, and where it has them `_metrics`, `_reward`, `base_action`, `_render`). This module does the rest once for
all environments: checking actions, truncation, the three autoreset conventions, rewards and info, seeding, snapshots,
and the single environment, which is the batch of one.
"""

from __future__ import annotations

import secrets
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rhtool.envs.base import Env
from rhtool.envs.rng import streams
from rhtool.errors import ConfigError, RhtoolError


class VectorEnv(gymnasium.vector.VectorEnv):
    """B copies ("lanes") of an environment, stepped together.

    `step(actions)` returns `(observations, reward, terminated, truncated, info)`: observations `(B, *shape)` in the
    observation space's dtype, reward float64 `(B,)` (the training reward: the proxy, the environment's own or a learned
    one, or the true one, as `config.reward_fun` says), flags bool `(B,)`. `info` holds `proxy_reward` and
    `true_reward`, float64 `(B,)`, and the environment's metrics, each `(B,)`. Every array is new: none is overwritten
    later.

    Lanes are independent: lane `i` of seed `s` draws from the stream (s, i) whatever the number of lanes, so the same
    seed and actions give the same trajectory alone and among 512.

    What happens to a lane after its episode ended (`terminated` or `truncated`, which comes after `config.horizon`
    steps):

    - `AutoresetMode.NEXT_STEP` (gymnasium's default): the next `step` ignores its action and resets it; reward, flags
      and info are zero there.
    - `AutoresetMode.SAME_STEP`: it is reset at once; the observation returned is the new episode's first, and the old
      one's last is in `info["final_obs"]` (shaped as the observations, zero elsewhere) where `info["_final_obs"]` (bool
      `(B,)`) is true. Both keys are absent from steps in which no episode ended.
    - `AutoresetMode.DISABLED`: the caller resets it with `reset(options={"reset_mask": mask})`; stepping before that is
      an error.
    """

    state_names: ClassVar[tuple[str, ...]] = ()
    """attributes that hold the subclass's state: arrays whose first axis is the lane"""
    render_modes: ClassVar[tuple[str, ...]] = ()
    """values of `render_mode` besides None"""
    horizon_terminates: bool = False
    """the end of the horizon is signalled as `terminated`, not as `truncated`"""
    obs_offset: np.ndarray | float = 0.0
    """networks see `(observation - obs_offset) * obs_scale`; each broadcasts to an observation"""
    obs_scale: np.ndarray | float = 1.0
    """see `obs_offset`"""
    reward_terms: ClassVar[tuple[str, ...]] = ()
    """metrics in `info` of which the rewards are weighted sums, or nearly: what `divergence=linear_max_min` takes every
    reward to be a weighted sum of; empty: it takes the observation and the action instead"""
    lane_is_a_process: ClassVar[bool] = False
    """each lane is a process of the operating system, so hundreds of them are many, and each can step by itself
    (`ProgramVectorEnv.go_ahead`)"""
    obs_names: tuple[str, ...] = ()
    """what each column of a flattened observation is, for tables and pictures; empty: columns are numbered"""
    action_names: tuple[str, ...] = ()
    """what each discrete action, or each column of a continuous one, is; empty: they are numbered"""
    grid: np.ndarray | None = None
    """int64 (C, 3): where the agent is, if the first C columns of a flattened observation are a one-hot of that: panel, row
    and column of a picture, for heat maps; None: not on a grid"""
    grid_panels: tuple[str, ...] = ("",)
    """titles of the panels"""
    grid_marks: tuple[tuple[int, str], ...] = ()
    """(cell, letter) of what stands where"""
    grid_moves: tuple[tuple[int, int], ...] = ()
    """(row, column) in that picture of each discrete action"""
    latest: np.ndarray | None = None
    """int64: columns of the flattened observation that describe the newest state, the rest being history; None: all"""

    def __init__(
        self,
        config: Env,
        lanes: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        *,
        seed: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ):
        """`seed` seeds the lanes as `reset(seed=seed)` does; None draws one from the operating system.

        Raises `RhtoolError` for a number of lanes below one and for unknown modes.
        """
        where = f"{type(self).__name__}({lanes} lanes)"
        if lanes < 1:
            raise RhtoolError(f"{lanes} lanes cannot be stepped", where, "ask for one lane or more")
        if render_mode not in (None, *self.render_modes):
            raise RhtoolError(
                f"render_mode '{render_mode}' is not supported",
                where,
                f"choose one of {list(self.render_modes)} or None",
            )
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            names = [mode.value for mode in AutoresetMode]
            raise RhtoolError(f"unknown autoreset mode {autoreset_mode!r}", where, f"choose one of {names}") from error
        if config.horizon < 1:
            raise ConfigError(f"{config.horizon} steps are no episode", "env.horizon", "set it to 1 or more")
        self.config, self.num_envs, self.render_mode = config, lanes, render_mode
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space, self.action_space = (
            batch_space(observation_space, lanes),
            batch_space(action_space, lanes),
        )
        self._learned = None
        if config.reward_model or config.reward_fun == "learned":
            from rhtool.envs.learned import proxy_of

            self._learned = proxy_of(config, observation_space, action_space)
        self.metadata = {
            "autoreset_mode": self.autoreset_mode,
            "render_modes": list(self.render_modes),
            "render_fps": 10,
        }
        self._everyone = np.ones(lanes, bool)
        self._ready = False
        self._elapsed = np.zeros(lanes, np.int64)
        self._pending = np.zeros(lanes, bool)
        self._rng = np.zeros((lanes, 4), np.uint64)
        self._seed(secrets.randbits(63) if seed is None else seed, self._everyone)

    # --- what a subclass implements

    def _reset(self, mask: np.ndarray) -> None:
        """Start a new episode in the lanes where `mask` (bool `(B,)`) is true, drawing from their streams in
        `self._rng` (uint64 `(B, 4)`)."""
        raise TypeError(f"{type(self).__name__} does not implement _reset")

    def _step(self, actions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step the lanes where `mask` is true and leave the others as they are, streams included.

        `actions` are checked, contiguous and of the action space's dtype. Returns new arrays proxy float64 `(B,)`, true
        float64 `(B,)`, terminated bool `(B,)`, all zero where `mask` is false.
        """
        raise TypeError(f"{type(self).__name__} does not implement _step")

    def _truncated(self) -> np.ndarray:
        """The lanes, bool `(B,)`, whose episode the environment itself cut in the step just made, before the horizon."""
        return ~self._everyone

    def _observe(self, out: np.ndarray, mask: np.ndarray) -> None:
        """Write the observations of the lanes where `mask` is true into those rows of `out` (`(B, *shape)`, not
        initialised)."""
        raise TypeError(f"{type(self).__name__} does not implement _observe")

    def _metrics(self) -> dict[str, np.ndarray]:
        """New arrays `(B,)` about the step just made, for `info`; called before a finished lane is reset."""
        return {}

    def _reward(self, proxy: np.ndarray, true: np.ndarray, terminated: np.ndarray) -> np.ndarray:
        """The training reward, a new float64 `(B,)`. An environment that penalises it overrides this; `info` stays as it
        is."""
        config = self.config
        return true * config.true_scale if config.reward_fun == "true" else proxy * config.proxy_scale

    def _render(self, lane: int) -> Any:
        """One frame of one lane in `self.render_mode`."""
        raise TypeError(f"{type(self).__name__} does not implement _render")

    def base_action(self, observations: np.ndarray) -> np.ndarray | None:
        """The hand-written controller's actions, `(B, …)`, for the lanes' present state, noise that it is configured to
        add included; None where the base policy is a trained one. A question: asking changes nothing, and asking twice
        gives the same answer (a controller with memory or noise keeps its next action in the state)."""
        return None

    # --- what every environment shares

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode in every lane, or in those of `options["reset_mask"]` (bool `(B,)`).

        An int `seed` gives lane `i` the stream (seed, i); a list gives lane `i` the stream (seed[i], 0), that of a
        single environment seeded so; None, also within a list, goes on with the stream that is there. Returns the
        observations of all lanes, and info with zero rewards.
        """
        mask = self._reset_mask(options)
        if seed is not None:
            self._seed(seed, mask)
        if not (self._ready or mask.all()):
            raise RhtoolError("some lanes were never reset", "reset_mask", "call reset() once without a mask first")
        self._begin(mask)
        self._ready = True
        zeros = {"proxy_reward": np.zeros(self.num_envs), "true_reward": np.zeros(self.num_envs)}
        return self.observe(), zeros | {key: np.zeros_like(value) for key, value in self._metrics().items()}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every lane; see the class. Raises `RhtoolError` for actions outside the action space, before
        anything moved. If the reset of a lane fails here, the others have made their step, and the next step begins the
        new episode, as in `AutoresetMode.NEXT_STEP`."""
        actions = self._checked(actions)
        if not self._ready:
            raise RhtoolError(
                "the environment was stepped before it was reset", type(self).__name__, "call reset() first"
            )
        resetting = self._pending if self._pending.any() else None
        if resetting is not None and self.autoreset_mode is AutoresetMode.DISABLED:
            raise RhtoolError(
                "an episode that has ended was stepped",
                f"lanes {np.flatnonzero(resetting)[:5].tolist()} of {type(self).__name__}",
                "reset() it, or reset(options={'reset_mask': terminated | truncated}) among many lanes",
            )
        active = self._everyone if resetting is None else ~resetting
        before = None if self._learned is None else self.observe()
        proxy, true, terminated = self._step(actions, active)
        if before is not None:
            proxy = np.where(active, self._learned(before, actions), 0.0)
        self._elapsed += active
        ended, truncated = active & (self._elapsed >= self.config.horizon), self._truncated() & active
        if self.horizon_terminates:
            terminated = terminated | ended
        else:
            truncated = truncated | ended
        info = {"proxy_reward": proxy, "true_reward": true, **self._metrics()}
        reward = self._reward(proxy, true, terminated)
        done = terminated | truncated
        self._pending = self._pending | done  # so that the next step resets them if a reset below fails
        if resetting is not None:
            self._begin(resetting)
            reward = np.where(active, reward, 0.0)
            info = {key: np.where(active, value, np.zeros_like(value)) for key, value in info.items()}
        observations = self.observe()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and done.any():
            final = np.zeros_like(observations)
            final[done] = observations[done]
            info |= {"final_obs": final, "_final_obs": done}
            self._begin(done)
            self._observe(observations, done)
        return observations, reward, terminated, truncated, info

    def observe(self) -> np.ndarray:
        """The present observations, `(B, *shape)`: what the last `reset` or `step` returned, also after `set_state`."""
        out = np.empty(self.observation_space.shape, self.observation_space.dtype)
        self._observe(out, self._everyone)
        return out

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that decides what comes next, as copies: the lanes' state, their streams, steps taken and resets
        due."""
        return {name: getattr(self, attribute).copy() for name, attribute in self._state_attributes().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of `get_state`. Raises `RhtoolError` if the state is another environment's or has another number
        of lanes."""
        attributes = self._state_attributes()
        if set(state) != set(attributes):
            raise RhtoolError(
                f"the state holds {sorted(state)}, not {sorted(attributes)}",
                f"{type(self).__name__}.set_state",
                "pass what get_state() of the same environment returned",
            )
        for name, attribute in attributes.items():
            value, own = np.asarray(state[name]), getattr(self, attribute)
            if value.shape != own.shape or value.dtype != own.dtype:
                raise RhtoolError(
                    f"'{name}' is {value.dtype}{value.shape}, not {own.dtype}{own.shape}",
                    f"{type(self).__name__}.set_state",
                    "make the environment with the lanes and the configuration of the one that was saved",
                )
        for name, attribute in attributes.items():
            setattr(self, attribute, np.array(state[name]))
        self._ready = True

    def render(self) -> tuple[Any, ...] | None:
        """One frame per lane, or None without a `render_mode`."""
        return None if self.render_mode is None else tuple(self._render(lane) for lane in range(self.num_envs))

    def _state_attributes(self) -> dict[str, str]:
        own = {"rng": "_rng", "elapsed": "_elapsed", "pending": "_pending"}
        return own | {name: name for name in self.state_names}

    def _begin(self, mask: np.ndarray) -> None:
        self._reset(mask)
        self._elapsed[mask] = 0
        self._pending = self._pending & ~mask

    def _seed(self, seed: int | list[int | None], mask: np.ndarray) -> None:
        many = isinstance(seed, list | tuple | np.ndarray)
        seeds = list(seed) if many else [seed] * self.num_envs
        if len(seeds) != self.num_envs:
            raise RhtoolError(f"{len(seeds)} seeds for {self.num_envs} lanes", "seed", "give one seed, or one per lane")
        for s in seeds if many else seeds[:1]:
            if s is not None and not 0 <= int(s) < 2**64:
                raise RhtoolError(f"{s} is not a seed", "seed", "give an integer from 0 to 2**64 - 1")
        given = mask & np.array([s is not None for s in seeds])
        words = np.array([0 if s is None else int(s) for s in seeds], np.uint64)
        lanes = np.zeros(self.num_envs, np.uint64) if many else np.arange(self.num_envs, dtype=np.uint64)
        self._rng[given] = streams(words, lanes)[given]

    def _reset_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        if not options or "reset_mask" not in options:
            return self._everyone
        mask = np.asarray(options["reset_mask"])
        if mask.dtype != bool or mask.shape != (self.num_envs,):
            raise RhtoolError(
                f"the mask is {mask.dtype}{mask.shape}",
                "options['reset_mask']",
                f"pass a bool array ({self.num_envs},)",
            )
        return mask

    def _checked(self, actions: Any) -> np.ndarray:
        """`actions` as a contiguous array of the action space's dtype, or `RhtoolError`."""
        space, single = self.action_space, self.single_action_space
        given = np.asarray(actions)
        if isinstance(single, gymnasium.spaces.Discrete):
            first, end = int(single.start), int(single.start + single.n)
            mend = f"pass an integer array {space.shape} with values {first} to {end - 1}"
            fits = given.dtype.kind in "iu" and given.shape == space.shape
            inside = fits and given.min() >= first and given.max() < end
        else:
            mend = f"pass a float array {space.shape} with values from {single.low.min()} to {single.high.max()}"
            fits = given.dtype.kind in "fiu" and given.shape == space.shape
            # A comparison with NaN is false, so NaN is outside too.
            inside = fits and bool(((given >= space.low) & (given <= space.high)).all())
        if not fits:
            raise RhtoolError(f"the actions are {given.dtype}{given.shape}", f"{type(self).__name__}.step", mend)
        if not inside:
            lanes = np.flatnonzero([not single.contains(a.astype(single.dtype)) for a in given])[:5]
            raise RhtoolError(
                f"actions {given[lanes].tolist()} are outside the action space",
                f"lanes {lanes.tolist()} of {type(self).__name__}.step",
                mend,
            )
        return np.ascontiguousarray(given, space.dtype)


class SingleEnv(gymnasium.Env):
    """One lane of a `VectorEnv` as a `gymnasium.Env`: observations `shape`, python scalars for reward, flags and info;
    no autoreset."""

    def __init__(self, vector: VectorEnv):
        """`vector` has one lane and `AutoresetMode.DISABLED`; else `RhtoolError`."""
        if vector.num_envs != 1 or vector.autoreset_mode is not AutoresetMode.DISABLED:
            raise RhtoolError(
                f"{vector.num_envs} lanes with autoreset {vector.autoreset_mode.value} are no single environment",
                type(vector).__name__,
                "use config.make() or gymnasium.make()",
            )
        self.vector, self.config, self.render_mode = vector, vector.config, vector.render_mode
        self.observation_space, self.action_space = vector.single_observation_space, vector.single_action_space
        self.metadata = {key: value for key, value in vector.metadata.items() if key != "autoreset_mode"}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A new episode; `seed` gives it the stream of lane 0 of a vector environment seeded so."""
        super().reset(seed=seed)
        observations, info = self.vector.reset(seed=seed)
        return observations[0], _scalars(info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """As `VectorEnv.step`, for one lane."""
        observations, reward, terminated, truncated, info = self.vector.step(np.asarray(action)[None])
        return observations[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _scalars(info)

    def render(self) -> Any:
        """A frame, or None without a `render_mode`."""
        frames = self.vector.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Close the vector environment."""
        self.vector.close()

    def get_state(self) -> dict[str, np.ndarray]:
        """As `VectorEnv.get_state`: arrays with one lane."""
        return self.vector.get_state()

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """As `VectorEnv.set_state`."""
        self.vector.set_state(state)


def _scalars(info: dict[str, np.ndarray]) -> dict[str, Any]:
    return {key: value[0].item() if value[0].ndim == 0 else value[0] for key, value in info.items()}
