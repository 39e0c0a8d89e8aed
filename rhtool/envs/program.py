"""Environments that are programs of their own: one simulation at a time, stepped by somebody else's code.

SUMO, sumo-rl and any registered gymnasium environment come as a `Program`; `ProgramVectorEnv` makes B of them a
`VectorEnv`, in this process or each in a process of its own.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numba import njit

from rhtool.envs.base import Env
from rhtool.envs.pool import Died, LocalLanes, Pool, Trips
from rhtool.envs.rng import bits
from rhtool.envs.vector import VectorEnv
from rhtool.envs.worker import Plan, failure, row_type
from rhtool.errors import RhtoolError


class Program(Protocol):
    """One simulation. Everything it does after `reset(seed)` is decided by `seed` and the actions that follow: a
    snapshot is the two, and restoring one replays them.

    Nothing here is a base class: any object with these methods will do. After an exception in `reset` or `step` the next
    call is `reset` or `close`.
    """

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode; `seed` is 0 to 2^31 - 1. Returns the first observation."""
        ...

    def step(self, action: Any) -> tuple[np.ndarray, float, float, bool, bool, dict[str, float]]:
        """One step with a checked action: observation, proxy reward, true reward, terminated, truncated, metrics.

        `truncated` is the program's own cut; that at the environment's horizon is the caller's. The metrics are numbers,
        and their names those of `metric_names`.
        """
        ...

    def base_action(self) -> np.ndarray | None:
        """The hand-written controller's action in the present state; None where there is none. A pure question, asked
        after each reset and step."""
        ...

    def render(self, mode: str) -> Any:
        """A frame of the present state: text, or an array."""
        ...

    def close(self) -> None:
        """Free what it holds; called once, also after an error."""
        ...


@dataclass(frozen=True)
class ProgramSpec:
    """How a program is made, in this process or another: `target(**options)`."""

    target: str
    """`module:attribute`, a class or a function that returns a `Program`. Imported by name, once per environment"""
    options: dict[str, Any] = field(default_factory=dict)
    """its keyword arguments: JSON values, or dataclasses of such (tuples arrive as lists in another process)"""
    modules: tuple[str, ...] = ()
    """what else to import before the processes of the lanes are forked, once for all of them; like the target's module
    it must start no threads when it is imported"""


class ProgramVectorEnv(VectorEnv):
    """B programs as one environment. A subclass implements `program` and hands on spaces and names of metrics.

    Programs are made at the first `reset` (all at once), so that an environment of which only the spaces are wanted
    costs nothing. A lane's episode seed is drawn from its stream. A snapshot holds that seed, the actions of the episode
    so far and its last observation; a lane is replayed when it is next stepped or rendered, and an observation that
    then differs from the one saved is an error.

    After an exception in a program's `step`, or in its `reset` when the caller asked for it, every lane is where it was
    before the call (a new seed is kept). A `reset` that fails at the end of an episode, within a step, comes after all
    other lanes have made theirs: the lanes that ended are due, and the next step resets them. After the death of a
    process, or an interrupt in the middle of a step, the environment is closed.
    """

    state_names = ("episode_seed", "history", "observation", "controller", "has_controller")

    def __init__(
        self,
        config: Env,
        lanes: int,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.Space,
        *,
        metric_names: tuple[str, ...] = (),
        processes: bool = True,
        **options: Any,
    ):
        """`metric_names` are the keys of the metrics of each step; with `processes` each lane is a process."""
        super().__init__(config, lanes, observation_space, action_space, **options)
        self.processes, self.metric_names = processes, tuple(metric_names)
        shape, dtype = action_space.shape, action_space.dtype
        self.episode_seed = np.zeros(lanes, np.int64)
        """int64 (B,): seed of the lane's episode"""
        self.history = np.zeros((lanes, config.horizon, *shape), dtype)
        """(B, horizon, *action shape): the episode's actions, zero from its present step on"""
        self.observation = np.zeros(self.observation_space.shape, observation_space.dtype)
        """(B, *shape): the last observation"""
        self.controller = np.zeros((lanes, *shape), dtype)
        """(B, *action shape): the controller's next action"""
        self.has_controller = np.zeros(lanes, bool)
        """bool (B,): `controller` is one"""
        row = row_type(observation_space.dtype, observation_space.shape, dtype, shape, len(self.metric_names))
        self._rows = np.zeros(lanes, row)
        self._stale = np.ones(lanes, bool)  # the program is not where the arrays say
        self._trips: Trips | None = None
        self._programs: LocalLanes | Pool | None = None
        self._finalizer: weakref.finalize | None = None

    def program(self) -> ProgramSpec:
        """How a lane's program is made."""
        raise TypeError(f"{type(self).__name__} does not implement program")

    def base_action(self, observations: np.ndarray) -> np.ndarray | None:
        """What the programs' controllers said they would do next; None where they have none."""
        return self.controller.copy() if self.has_controller.all() else None

    def go_ahead(self, policy: str, options: dict[str, Any], steps: int, draws: list[int]) -> np.ndarray:
        """Have every lane make its next `steps` steps by itself, under a policy that its process makes: the actions,
        `(steps, B, *action shape)`, to be given to `step` one by one, which then finds the steps done.

        A round trip and a change of process for each step of each lane are saved; what `step` returns is the same. Whoever
        gives it another action, or does something else first, has the lanes replayed. A failure is raised by the step that
        meets it.

        Args:
            policy: `module:attribute`. `policy(**options)` returns what is called with an observation and a
                `numpy.random.Generator` and returns an action of the action space.
            options: JSON values.
            steps: of each lane.
            draws: seeds of the lanes' generators, one each.

        Raises:
            RhtoolError: with another autoreset mode than SAME_STEP, before the first `reset`, after a reset that failed, or
                if a process dies, the environment then being closed.
        """
        if self.autoreset_mode is not AutoresetMode.SAME_STEP or not self._ready or self._pending.any():
            raise RhtoolError(
                "lanes go ahead only from episodes that are under way",
                f"{type(self).__name__}.go_ahead",
                "make the environment with autoreset_mode=SameStep, and reset it first",
            )
        self._turn_back()
        self._restore(np.arange(self.num_envs))
        rng, seeds = self._rng.copy(), np.zeros((steps, self.num_envs), np.int64)
        for row in seeds:
            _draw(rng, self._everyone, row)
        plans = [
            Plan(policy, options, draws[i], steps, int(self._elapsed[i]), self.config.horizon, seeds[:, i].tolist())
            for i in range(self.num_envs)
        ]
        with self._asking():
            self._start()
            self._trips = Trips(self._programs.go_ahead(plans, self._rows.dtype), steps)
        return self._trips.actions.copy()

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """As `VectorEnv.set_state`. The programs follow when they are next needed."""
        super().set_state(state)
        self._stale[:], self._trips = True, None

    def close_extras(self, **kwargs: Any) -> None:
        """Close the programs and end their processes; see `close`."""
        if getattr(self, "_finalizer", None) is not None:
            self._finalizer()

    def _reset(self, mask: np.ndarray) -> None:
        lanes = np.flatnonzero(mask)
        if self._trips is not None and not self._trips.is_next(b"r", lanes):
            self._turn_back()
        rng, seeds = self._rng.copy(), self.episode_seed.copy()
        _draw(rng, mask, seeds)
        self._exchange(b"r", lanes, seeds, None)
        self._rng, self.episode_seed = rng, seeds
        self.history[lanes] = 0
        self._keep(lanes)
        self._stale[lanes] = False

    def _step(self, actions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lanes = np.flatnonzero(mask)
        if self._trips is not None and not self._trips.is_next(b"s", lanes, actions):
            self._turn_back()
        self._restore(lanes)
        self._exchange(b"s", lanes, self.episode_seed, actions)
        self.history[lanes, self._elapsed[lanes]] = actions[lanes]
        self._keep(lanes)
        found = [self._rows[name].copy() for name in ("proxy", "true", "terminated")]
        if len(lanes) < self.num_envs:
            for values in found:
                values[~mask] = 0
        return tuple(found)

    def _truncated(self) -> np.ndarray:
        return self._rows["truncated"].copy()

    def _observe(self, out: np.ndarray, mask: np.ndarray) -> None:
        out[mask] = self.observation[mask]

    def _metrics(self) -> dict[str, np.ndarray]:
        return dict(zip(self.metric_names, self._rows["metrics"].T.copy(), strict=True))

    def _render(self, lane: int) -> Any:
        self._start()
        self._turn_back()
        self._restore(np.array([lane]))
        try:
            frame = self._programs.render(lane, self.render_mode)
        except Died as died:
            raise self._died(died) from died
        except Exception as error:
            frame, cause = failure(error), error
        else:
            cause = None
        if isinstance(frame, dict):
            raise self._failed(lane, "render", frame) from cause
        return frame

    def _keep(self, lanes: np.ndarray) -> None:
        """Take over what the lanes answered."""
        if len(lanes) == self.num_envs:
            lanes = slice(None)  # the same without copies
        rows = self._rows[lanes]
        self.observation[lanes], self.controller[lanes] = rows["observation"], rows["base_action"]
        self.has_controller[lanes] = rows["has_base"]

    def _restore(self, lanes: np.ndarray) -> None:
        """Replay the lanes whose program is not where the arrays say."""
        stale = lanes[self._stale[lanes]]
        if not len(stale):
            return
        rows = self._rows.copy()
        past = {i: self.history[i, : self._elapsed[i]] for i in stale.tolist()}
        self._exchange(b"p", stale, self.episode_seed, past, rows)
        for i in stale.tolist():
            if not np.array_equal(rows["observation"][i], self.observation[i], equal_nan=True):
                raise RhtoolError(
                    f"the same seed and actions led to another observation in step {self._elapsed[i]}, so the program is"
                    " not deterministic and a snapshot of it cannot be restored",
                    self._place(i),
                    "let the program draw all its random numbers from a generator that reset(seed) seeds, and let reset"
                    " forget the episodes before",
                )
        self._stale[stale] = False

    def _exchange(
        self, op: bytes, lanes: np.ndarray, seeds: np.ndarray, actions: Any, rows: np.ndarray | None = None
    ) -> None:
        """Ask the lanes; what they answer is in `rows`. If any fails, all are to be replayed."""
        if not len(lanes):
            return
        with self._asking():
            self._start()
            asked = self._programs if self._trips is None or op == b"p" else self._trips
            failed = asked.exchange(op, lanes, seeds, actions, self._rows if rows is None else rows)
        if not failed:
            return
        self._stale[:], self._trips = True, None
        lane, error = next(iter(failed.items()))
        cause = error if isinstance(error, BaseException) else None
        doing = {b"r": f"reset({seeds[lane]})", b"s": "step", b"p": "the replay of its episode"}[op]
        raise self._failed(lane, doing, failure(cause) if cause else error) from cause

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """While the programs are asked: what becomes of the environment if that is not to end well."""
        try:
            yield
        except Died as died:
            raise self._died(died) from died
        except BaseException:
            self._stale[:] = True
            if self.processes:  # answers that were not read would be taken for the next ones
                self.close()
            raise

    def _turn_back(self) -> None:
        """Forget what lanes that went ahead have found and nobody has asked for; they are replayed when next needed."""
        if self._trips is not None and not self._trips.over:
            self._stale[:] = True
        self._trips = None

    def _start(self) -> None:
        """Make the programs, unless they are there."""
        name = type(self).__name__
        if self.closed:
            raise RhtoolError("the environment is closed", name, "make a new one")
        if self._programs is not None:
            return
        spec = self.program()
        arguments = (self.num_envs, spec.target, spec.options, self.metric_names)
        try:
            if self.processes:
                self._programs = Pool(*arguments, self._rows.dtype, spec.modules)
            else:
                self._programs = LocalLanes(*arguments)
        except TypeError as error:
            raise RhtoolError(
                str(error), f"{name}.program", "give numbers, strings, lists, dicts, dataclasses"
            ) from error
        # The environment may be forgotten, or the program end, without a close.
        self._finalizer = weakref.finalize(self, self._programs.close)

    def _place(self, lane: int) -> str:
        return f"lane {lane} of {type(self).__name__}, step {self._elapsed[lane]} of the episode of seed {self.episode_seed[lane]}"

    def _failed(self, lane: int, doing: str, failure: dict[str, str]) -> RhtoolError:
        error = RhtoolError(
            f"{doing} of the program failed: {failure['what']}" if not failure["mend"] else failure["what"],
            f"{self._place(lane)}{failure['where'] and '; ' + failure['where']}",
            failure["mend"] or "mend the program; RHTOOL_FULL_ERROR=1 shows its traceback",
        )
        error.add_note(failure["traceback"])
        return error

    def _died(self, died: Died) -> RhtoolError:
        self._stale[:] = True
        self.close()
        if died.lane < 0:
            return RhtoolError(
                died.how[0].upper() + died.how[1:], type(self).__name__, "what they wrote to the screen says why"
            )
        return RhtoolError(
            f"a program has died: {died.how}",
            self._place(died.lane),
            "what it wrote to the screen may say why; if memory ran out, use fewer lanes",
        )


@njit(cache=True)
def _draw(rng, mask, seeds):
    """A new episode seed, 31 bits, in the lanes of `mask`."""
    for i in range(len(mask)):
        if mask[i]:
            seeds[i] = np.int64(bits(rng[i]) >> np.uint64(33))
