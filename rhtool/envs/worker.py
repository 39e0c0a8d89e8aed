"""Programs in processes of their own: what runs there, and the pool that talks to them.

One process, the nursery (`python -m rhtool.envs.worker`), imports the programs' modules once and forks a worker for each
lane: 64 lanes cost one import, and share its memory. A lane's worker and its environment are the two ends of a socket.
They speak in fixed-size binary messages; nothing is pickled.

    request   op (1 byte), length (uint64), payload      reset: seed; step: action; replay: seed and actions; render: mode;
                                                         go ahead: a `Plan` as JSON
    reply     status (1 byte), length (uint64), payload  0: the lane's row as bytes, a frame, or a `Trip`; 1: a failure as JSON

The end of a process is always the same event, the end of its socket: after `close()`, an exception, Ctrl-C, SIGTERM or
kill -9 of the parent the kernel closes the parent's ends, each worker closes its program and exits, and the nursery kills
whoever has not done so in `GRACE` seconds. On Linux a nursery and its workers also die with their parent. Signals that
mean the parent (Ctrl-C and SLURM's go to a whole group) are not obeyed here.

Only numpy is imported here, so that workers start quickly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import math
import os
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

GRACE = 3.0
"""seconds in which a program may close itself before its process is killed"""

_HEAD = struct.Struct("<cQ")
SEED = struct.Struct("<q")
FDS = 32
"""sockets handed over in one message"""

Failure = dict[str, str]
"""what, where, mend and traceback of an exception"""


# --- a lane, in whatever process it is


def row_type(observation: np.dtype, shape: tuple, action: np.dtype, action_shape: tuple, metrics: int) -> np.dtype:
    """One lane's answer to a request, as a record: what is exchanged, and kept in an array of one row per lane."""
    return np.dtype(
        [
            ("observation", observation, shape),
            ("base_action", action, action_shape),
            ("has_base", "?"),
            ("proxy", "f8"),
            ("true", "f8"),
            ("terminated", "?"),
            ("truncated", "?"),
            ("metrics", "f8", (metrics,)),
        ]
    )


@dataclasses.dataclass
class Plan:
    """What a lane is to do by itself: JSON values."""

    policy: str
    """`module:attribute`; called with `options`, it gives what is called with an observation and a `numpy.random.Generator` and
    returns an action"""
    options: dict[str, Any]
    draws: int
    """seed of that generator"""
    steps: int
    elapsed: int
    """steps that its episode has had"""
    horizon: int
    """steps of an episode, at most"""
    seeds: list[int]
    """of the episodes that follow"""


@dataclasses.dataclass
class Trip:
    """What a lane did by itself, and what it met."""

    actions: np.ndarray
    """(S, *action shape), of S steps: those planned, or those until something failed"""
    rows: np.ndarray
    """(S,) records of `row_type`: the answers; that to a step that failed is nothing"""
    ends: np.ndarray
    """int64 (E,): the steps after which an episode began"""
    resets: np.ndarray
    """(E,) records: the answers to those resets; one is missing if the last failed"""
    failure: Any = None
    """what ended the trip: an exception, or a `Failure` from another process"""

    @classmethod
    def none(cls, row: np.dtype, failure: Any) -> Trip:
        """One that failed before it began."""
        return cls(np.zeros(0, row["base_action"]), np.zeros(0, row), np.zeros(0, np.int64), np.zeros(0, row), failure)

    def encode(self) -> bytes:
        """As one message: the numbers of things and the failure as JSON, then the arrays as they lie in memory."""
        head = [len(self.actions), len(self.ends), self.failure and failure(self.failure)]
        arrays = (self.actions, self.rows, self.ends, self.resets)
        return json.dumps(head).encode() + b"\n" + b"".join(array.tobytes() for array in arrays)

    @classmethod
    def decode(cls, data: bytearray, row: np.dtype) -> Trip:
        """The inverse of `encode`."""
        head, _, body = data.partition(b"\n")
        steps, ends, failed = json.loads(head)
        action, at, arrays = row["base_action"], 0, []
        for dtype, count in ((action, steps), (row, steps), (np.dtype(np.int64), ends)):
            arrays.append(np.frombuffer(body, dtype, count, at))
            at += count * dtype.itemsize
        return cls(*arrays, np.frombuffer(body, row, offset=at), failed)


class Lane:
    """A program, made when first needed, whose answers are written into rows."""

    def __init__(self, target: str, options: dict[str, Any], metrics: tuple[str, ...]):
        self.target, self.options, self.metrics = target, options, metrics
        self.program = self.observation = None

    def answer(self, op: bytes, seed: int, actions: Any, row: np.void) -> None:
        """`reset` (b"r") with `seed`, `step` (b"s") with one action, or `replay` (b"p") an episode: reset, then each of
        `actions`. The last of what the program returned is in `row`."""
        self.start()
        if op != b"s":
            observation = self.program.reset(seed)
            row["proxy"] = row["true"] = row["terminated"] = row["truncated"] = 0
            row["metrics"] = 0
            self._observed(observation, row, f"reset({seed})")
        for action in (actions,) if op == b"s" else actions if op == b"p" else ():
            self._step(action, row)
        base = self.program.base_action()
        row["has_base"] = base is not None
        row["base_action"] = 0 if base is None else base

    def go_ahead(self, plan: Plan, row: np.dtype, ask: Callable[[], None] = lambda: None) -> Trip:
        """Step by itself from where it is, and begin a new episode where one ends. `ask` is called before each step, and
        raises if nobody waits any more."""
        action, elapsed, made = row["base_action"], plan.elapsed, 0
        actions, rows = np.zeros(plan.steps, action), np.zeros(plan.steps, row)
        ends, resets, failed = [], [np.zeros(0, row)], None
        try:
            policy, generator = load(plan.policy)(**plan.options), np.random.default_rng(plan.draws)
            for answer in rows:
                ask()
                made += 1
                actions[made - 1] = policy(self.observation, generator)
                self.answer(b"s", 0, actions[made - 1].copy(), answer)
                elapsed += 1
                if answer["terminated"] or answer["truncated"] or elapsed >= plan.horizon:
                    ends.append(made - 1)
                    first = np.zeros(1, row)
                    self.answer(b"r", plan.seeds[len(ends) - 1], None, first[0])
                    resets.append(first)
                    elapsed = 0
        except (Exception, SystemExit) as error:
            failed = error
        return Trip(actions[:made], rows[:made], np.array(ends, np.int64), np.concatenate(resets), failed)

    def start(self) -> None:
        """Make the program, unless it is there."""
        if self.program is None:
            self.program = load(self.target)(**self.options)

    def render(self, mode: str) -> Any:
        """A frame of the present state."""
        return self.program.render(mode)

    def close(self) -> None:
        """Close the program, once."""
        program, self.program = self.program, None
        if program is not None:
            program.close()

    def _step(self, action: Any, row: np.void) -> None:
        result = self.program.step(action)
        if len(result) != 6:
            raise TypeError(
                f"step returned {len(result)} values, not 6: observation, proxy, true, terminated, truncated, metrics"
            )
        observation, proxy, true, terminated, truncated, metrics = result
        self._observed(observation, row, "step")
        if not math.isfinite(proxy + true):
            raise ValueError(f"step returned the rewards {proxy} (proxy) and {true} (true); they must be finite")
        row["proxy"], row["true"], row["terminated"], row["truncated"] = proxy, true, terminated, truncated
        if len(metrics) != len(self.metrics) or any(name not in metrics for name in self.metrics):
            raise ValueError(f"step returned the metrics {sorted(metrics)}, not {sorted(self.metrics)}")
        if self.metrics:
            row["metrics"] = [metrics[name] for name in self.metrics]

    def _observed(self, observation: Any, row: np.void, where: str) -> None:
        shape = row["observation"].shape
        if np.shape(observation) != shape:
            raise ValueError(f"{where} returned an observation of shape {np.shape(observation)}, not {shape}")
        row["observation"] = observation
        self.observation = row["observation"].copy()


def load(target: str) -> Any:
    """The attribute of `module:attribute`."""
    module, _, name = target.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def failure(error: BaseException) -> Failure:
    """An exception as text. `where` is the line that raised it."""
    text = "".join(traceback.format_exception(error))
    if hasattr(error, "mend"):  # an RhtoolError says it all
        return {"what": error.what, "where": error.where, "mend": error.mend, "traceback": text}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return {"what": f"{type(error).__name__}: {error}", "where": where, "mend": "", "traceback": text}


# --- messages


def send(sock: socket.socket, head: bytes, payload: bytes = b"") -> None:
    sock.sendall(_HEAD.pack(head, len(payload)) + payload)


def _fill(sock: socket.socket, view: memoryview) -> None:
    """Read until `view` is full; `EOFError` if the other end is gone before."""
    while len(view):
        if not (count := sock.recv_into(view)):
            raise EOFError
        view = view[count:]


def receive(sock: socket.socket) -> tuple[bytes, bytearray]:
    head = bytearray(_HEAD.size)
    _fill(sock, memoryview(head))
    kind, length = _HEAD.unpack(head)
    payload = bytearray(length)
    _fill(sock, memoryview(payload))
    return kind, payload


def encode(value: Any) -> Any:
    """Options as JSON values; a dataclass becomes its class and its fields. `TypeError` for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", "fields": own}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"the keys of {value} are not all strings")
        return {"dict": {key: encode(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} {value!r} cannot be sent to another process")


def decode(value: Any) -> Any:
    """The inverse of `encode`; tuples come back as lists."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        if "dict" in value:
            return {key: decode(item) for key, item in value["dict"].items()}
        return load(value["class"])(**{key: decode(item) for key, item in value["fields"].items()})
    return value


def _frame_bytes(frame: Any) -> bytes:
    if isinstance(frame, str):
        return b"s" + frame.encode()
    array = np.ascontiguousarray(frame)
    return b"a" + json.dumps([array.dtype.str, array.shape]).encode() + b"\n" + array.tobytes()


def frame(data: bytearray) -> Any:
    if data[:1] == b"s":
        return data[1:].decode()
    head, _, body = data[1:].partition(b"\n")
    dtype, shape = json.loads(head)
    return np.frombuffer(body, dtype).reshape(shape)


# --- the nursery's and the workers' side

DEAF = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def _deafen() -> None:
    """Leave the parent's signals to the parent. SIGTERM is caught, not ignored: a program that a worker starts inherits
    what is ignored, and must be able to be terminated."""
    for signum in DEAF:
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DEAF)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux); exit if it is dead already."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def nursery(control: socket.socket) -> None:
    """Fork a worker for each socket that comes, answer what became of one, and end them all at the end."""
    _deafen()
    _, head = receive(control)
    spec = json.loads(head)
    if spec["parent"] is not None:
        _die_with(spec["parent"])
    for module in spec["modules"]:
        with contextlib.suppress(Exception):  # each worker tries again, and tells its environment what is wrong
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else the first collection of each worker would copy all that they share
    here, children = os.getpid(), set()
    try:
        while kind := control.recv(1, socket.MSG_PEEK):
            if kind == b"?":
                pid = int(receive(control)[1])
                send(control, b"!", _how_it_ended(pid).encode())
                children.discard(pid)
                continue
            _, fds, _, _ = socket.recv_fds(control, 1, FDS)
            pids = []
            for i, fd in enumerate(fds):
                if (pid := os.fork()) == 0:
                    control.close()
                    for other in fds[i + 1 :]:
                        os.close(other)
                    _worker(socket.socket(fileno=fd), spec, here)
                os.close(fd)
                pids.append(pid)
            children.update(pids)
            send(control, b"!", json.dumps(pids).encode())
    except (OSError, EOFError):
        pass
    _reap(children)


def _how_it_ended(pid: int) -> str:
    for _ in range(200):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            if code >= 0:
                return f"its process exited with code {code}"
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"its process was killed by {name}"
        time.sleep(0.01)
    return "its process does not answer"


def _reap(children: set[int]) -> None:
    """Wait for the workers, which have seen the end of their sockets; kill the rest after `GRACE` seconds."""
    deadline, wait = time.monotonic() + GRACE, 0.0005
    while children:
        late = time.monotonic() > deadline
        for pid in list(children):
            with contextlib.suppress(ProcessLookupError):
                if late:
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                if not os.waitpid(pid, 0 if late else os.WNOHANG)[0]:
                    continue
            children.discard(pid)
        time.sleep(wait)
        wait = min(2 * wait, 0.05)


def _worker(sock: socket.socket, spec: dict[str, Any], parent: int) -> None:
    """Serve one lane until its socket ends; never returns."""
    code = 0
    try:
        _die_with(parent)
        _serve(sock, spec)
    except (OSError, EOFError):
        pass
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        # Not what the nursery's modules registered for the end of the nursery.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ask(sock: socket.socket) -> None:
    """`EOFError` if the other end is gone."""
    with contextlib.suppress(BlockingIOError):
        if not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            raise EOFError


def _serve(sock: socket.socket, spec: dict[str, Any]) -> None:
    (observation, shape), (action, action_shape) = spec["observation"], spec["action"]
    action_shape = tuple(action_shape)
    rows = np.zeros(
        1, row_type(np.dtype(observation), tuple(shape), np.dtype(action), action_shape, len(spec["metrics"]))
    )
    broken: BaseException | None = None
    lane = None
    try:
        lane = Lane(spec["target"], decode(spec["options"]), tuple(spec["metrics"]))
        lane.start()  # now, while the other lanes start
    except (Exception, SystemExit) as error:
        broken = error
    try:
        while True:
            op, payload = receive(sock)
            try:
                if broken is not None:
                    raise broken
                if op == b"d":
                    answer = _frame_bytes(lane.render(payload.decode()))
                elif op == b"a":
                    plan = Plan(**json.loads(payload))
                    answer = lane.go_ahead(plan, rows.dtype, lambda: _ask(sock)).encode()
                else:
                    skip = 0 if op == b"s" else SEED.size
                    seed = SEED.unpack_from(payload)[0] if skip else 0
                    actions = np.frombuffer(payload, action, offset=skip)
                    # [()]: a number where an action is one
                    actions = actions.reshape(action_shape)[()] if op == b"s" else actions.reshape(-1, *action_shape)
                    lane.answer(op, seed, actions, rows[0])
                    answer = rows.tobytes()
            except (Exception, SystemExit) as error:
                send(sock, b"\1", json.dumps(failure(error)).encode())
            else:
                send(sock, b"\0", answer)
    finally:
        if lane is not None:
            lane.close()


if __name__ == "__main__":
    nursery(socket.socket(fileno=int(sys.argv[1])))
