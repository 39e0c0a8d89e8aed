"""Programs side by side, in this process (`LocalLanes`) or each in one of its own (`Pool`): the environment's side.

What runs in the other processes, and how the two speak, is in `worker.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rhtool.envs.worker import DEAF, FDS, GRACE, SEED, Lane, Plan, Trip, encode, frame, receive, send


@functools.cache
def _waiters(process: int) -> ThreadPoolExecutor:
    """A thread for each core this process may use, which waits for a lane that goes ahead, whatever its pool.

    A lane that has a core to itself finds its data in the core's caches. `process` is our number, since a fork inherits no
    threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, "lanes")


class LocalLanes:
    """Lanes in this process."""

    def __init__(self, lanes: int, target: str, options: dict[str, Any], metrics: tuple[str, ...]):
        self._lanes = [Lane(target, options, metrics) for _ in range(lanes)]

    def exchange(self, op: bytes, lanes: np.ndarray, seeds: Any, actions: Any, rows: np.ndarray) -> dict[int, Any]:
        """Ask `lanes` (indices) `op` with `seeds[i]` and `actions[i]`; writes their rows. `{lane: exception}` of those
        that failed."""
        failed: dict[int, Any] = {}
        for i in lanes.tolist():
            try:
                # A copy, as in another process: what a program does to its action is its own affair.
                self._lanes[i].answer(op, int(seeds[i]), actions[i].copy() if op != b"r" else None, rows[i])
            except (Exception, SystemExit) as error:
                failed[i] = error
        return failed

    def go_ahead(self, plans: list[Plan], row: np.dtype) -> list[Trip]:
        """What each lane, of which `plans` has one, does and meets by itself; `row` is `row_type`'s."""
        return [lane.go_ahead(plan, row) for lane, plan in zip(self._lanes, plans, strict=True)]

    def render(self, lane: int, mode: str) -> Any:
        """A frame."""
        return self._lanes[lane].render(mode)

    def close(self) -> None:
        """Close all programs, also if one cannot be closed; then its exception is raised."""
        with contextlib.ExitStack() as stack:
            for lane in self._lanes:
                stack.callback(lane.close)


class Died(Exception):
    """A worker's process has ended: `lane`, and `how` as words."""

    def __init__(self, lane: int, how: str):
        self.lane, self.how = lane, how
        super().__init__(f"lane {lane}: {how}")


class Pool:
    """Lanes in processes of their own. Not for several threads at once.

    An exception in a program leaves the pool as it is; the death of a process, or an interrupt in the middle of an
    exchange, closes it.
    """

    def __init__(
        self,
        lanes: int,
        target: str,
        options: dict[str, Any],
        metrics: tuple[str, ...],
        row: np.dtype,
        modules: tuple[str, ...] = (),
    ):
        action = row["base_action"]
        self._head = json.dumps(
            {
                "target": target,
                "options": encode(options),
                "metrics": metrics,
                "modules": [target.partition(":")[0], *modules],
                "observation": [row["observation"].base.str, row["observation"].shape],
                "action": [action.base.str, action.shape],
                # The thread that starts a process is its parent in the eyes of the kernel, and may end before us.
                "parent": os.getpid() if threading.current_thread() is threading.main_thread() else None,
            }
        ).encode()
        self._owner, self._size = os.getpid(), lanes
        self._nursery: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._sockets: list[socket.socket] = []
        self.pids: list[int] = []
        """process of each lane"""
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]
        environ = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | os.environ
        command = [sys.executable, "-P", "-m", "rhtool.envs.worker", str(theirs.fileno())]
        # Until it has said what it does with signals, the nursery must not get any: it inherits the mask.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF)
        try:
            self._nursery = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environ | {"PYTHONPATH": os.pathsep.join(path)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        try:
            send(self._control, b"h", self._head)
            for start in range(0, self._size, FDS):
                count = min(FDS, self._size - start)
                pairs = [socket.socketpair() for _ in range(count)]
                self._sockets += [ours for ours, _ in pairs]
                try:
                    socket.send_fds(self._control, [b"f"], [theirs.fileno() for _, theirs in pairs])
                finally:
                    for _, theirs in pairs:
                        theirs.close()
                self.pids += json.loads(receive(self._control)[1])
        except (OSError, EOFError) as error:
            raise Died(-1, "the processes could not be started") from error

    def exchange(self, op: bytes, lanes: np.ndarray, seeds: Any, actions: Any, rows: np.ndarray) -> dict[int, Any]:
        """As `LocalLanes.exchange`, but `{lane: Failure}`. Raises `Died`, the pool then being closed."""
        failed: dict[int, Any] = {}
        indices, i = lanes.tolist(), -1
        try:
            for i in indices:
                payload = b"" if op == b"s" else SEED.pack(seeds[i])
                send(self._sockets[i], op, payload if op == b"r" else payload + actions[i].tobytes())
            for i in indices:
                status, payload = receive(self._sockets[i])
                if status == b"\0":
                    rows[i] = np.frombuffer(payload, rows.dtype)[0]
                else:
                    failed[i] = json.loads(payload)
        except (OSError, EOFError) as error:
            raise self._death(i) from error
        except BaseException:
            self.close()
            raise
        return failed

    def go_ahead(self, plans: list[Plan], row: np.dtype) -> list[Trip]:
        """As `LocalLanes.go_ahead`, as many lanes at a time as there are cores. Raises `Died`, the pool then being closed."""

        def one(i: int) -> Trip:
            try:
                send(self._sockets[i], b"a", json.dumps(dataclasses.asdict(plans[i])).encode())
                status, payload = receive(self._sockets[i])
            except (OSError, EOFError) as error:
                raise Died(i, "") from error
            return Trip.decode(payload, row) if status == b"\0" else Trip.none(row, json.loads(payload))

        trips = [_waiters(os.getpid()).submit(one, i) for i in range(len(plans))]
        try:
            return [trip.result() for trip in trips]
        except Died as one_of_them:
            died = self._death(one_of_them.lane)
            died.how += f", in one of the {plans[died.lane].steps} steps that it made by itself"
            raise died from one_of_them
        except BaseException:
            self.close()
            raise
        finally:
            for trip in trips:
                trip.cancel()

    def render(self, lane: int, mode: str) -> Any:
        """A frame, or the `Failure` of the program."""
        try:
            send(self._sockets[lane], b"d", mode.encode())
            status, payload = receive(self._sockets[lane])
        except (OSError, EOFError) as error:
            raise self._death(lane) from error
        except BaseException:
            self.close()
            raise
        return frame(payload) if status == b"\0" else json.loads(payload)

    def _death(self, lane: int) -> Died:
        """What became of a lane's process; closes the pool."""
        how = "its process is gone"
        with contextlib.suppress(OSError, EOFError):
            send(self._control, b"?", str(self.pids[lane]).encode())
            how = receive(self._control)[1].decode()
        self.close()
        return Died(lane, how)

    def close(self) -> None:
        """End all processes; returns when they are gone. Again: nothing."""
        sockets, self._sockets = self._sockets, []
        control, self._control = self._control, None
        nursery, self._nursery = self._nursery, None
        ours = os.getpid() == self._owner  # in a fork of us, the sockets are also the parent's
        for sock in (*sockets, *([control] if control else [])):
            if ours:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        if nursery is not None and ours:
            try:
                nursery.wait(GRACE + 2)
            except subprocess.TimeoutExpired:
                nursery.kill()
                nursery.wait()
        elif nursery is not None:
            nursery.returncode = 0  # not ours to wait for


class Trips:
    """What `steps` steps of all lanes by themselves were, given out one by one as programs would answer."""

    def __init__(self, trips: list[Trip], steps: int):
        lanes, one = len(trips), trips[0]
        self.actions = np.zeros((steps, lanes, *one.actions.shape[1:]), one.actions.dtype)
        """(S, B, *action shape); zero after a failure"""
        self._rows, self._ends = np.zeros((steps, lanes), one.rows.dtype), np.zeros((steps, lanes), bool)
        self._failures: dict[tuple[bytes, int, int], Any] = {}
        for i, trip in enumerate(trips):
            made = len(trip.rows)
            self.actions[:made, i], self._rows[:made, i], self._ends[trip.ends, i] = trip.actions, trip.rows, True
            if trip.failure is not None:
                op = b"s" if len(trip.ends) == len(trip.resets) else b"r"
                self._failures[op, max(made - 1, 0), i] = trip.failure
        self._resets = [iter(trip.resets) for trip in trips]
        self._step, self._due = 0, np.zeros(lanes, bool)

    @property
    def over(self) -> bool:
        """Whether all was given out, so that the programs are where the environment is."""
        return self._step == len(self._rows) and not self._due.any()

    def is_next(self, op: bytes, lanes: np.ndarray, actions: np.ndarray | None = None) -> bool:
        """Whether it was this that these lanes did next."""
        if op == b"r":
            return np.array_equal(lanes, np.flatnonzero(self._due))
        if self._step == len(self._rows) or len(lanes) < len(self._due) or self._due.any():
            return False
        return np.array_equal(actions, self.actions[self._step])

    def exchange(self, op: bytes, lanes: np.ndarray, seeds: Any, actions: Any, rows: np.ndarray) -> dict[int, Any]:
        """As `LocalLanes.exchange`, for what `is_next`."""
        if op == b"s":
            rows[:], self._due = self._rows[self._step], self._ends[self._step].copy()
            self._step += 1
        failed = {i: self._failures[key] for i in lanes.tolist() if (key := (op, self._step - 1, i)) in self._failures}
        if op == b"r":
            for i in lanes.tolist():
                if i not in failed:
                    rows[i] = next(self._resets[i])
            self._due[lanes] = False
        return failed
