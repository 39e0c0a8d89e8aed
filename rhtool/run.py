"""One run: its directory, its identity, its resume, its provenance, its end.

    outputs/<experiment or task>/<env>/<divergence>-coeff=<c>[-tuned keys]/seed=<n>/
        config.yaml       everything that was composed, resolved
        provenance.json   identity and fingerprint; of every attempt: versions, command, host, threads, git
        metrics.csv       a row per iteration          events.jsonl   start, resume, checkpoint, signal, done, failed
        run.log           what was logged              checkpoints/   safetensors + JSON, the last two
        result.json       status, metrics, steps, seconds; written last, atomically
        figures/          .old/<n>/ what `fresh=true` moved aside

The directory carries no clock: the same command finds the same directory, skips it if it is done and finishes it if it
is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np

from rhtool.checkpoints import Checkpoints, content_hash, write_atomic
from rhtool.divergences import Divergence, NoDivergence
from rhtool.envs.base import Env, Scale
from rhtool.errors import ConfigError, RhtoolError
from rhtool.loggers import Csv, Logger, NoLogger
from rhtool.progress import Progress, headline
from rhtool.schema import check_choices, incidental, option_name
from rhtool.tasks.base import Task

log = logging.getLogger(__name__)

RESULT_SCHEMA = 1


class Resumable(Protocol):
    """What `Run.loop` can stop and take up again."""

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what comes next, RNGs included: nested dicts of arrays, tensors and JSON values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""


class UnderWay(RhtoolError):
    """Another process is at work on the run."""


class Stopped(SystemExit):
    """A run was told to stop by a signal and has written its checkpoint. Ends the process with 128 + the signal."""

    def __init__(self, signum: int):
        self.signal = signal.Signals(signum)
        super().__init__(128 + signum)


@dataclass
class Run:
    """What one command composes.

    From Python: `Run(task=..., env=..., dir="outputs/x").execute()`, or `rhtool.config.compose(...)`.
    """

    task: Task = field(default_factory=Task)
    env: Env = field(default_factory=Env)
    divergence: Divergence = field(default_factory=NoDivergence)
    scale: Scale = field(default_factory=Scale)
    logger: Logger = field(default_factory=NoLogger)
    coeff: float = 0.0
    """strength of the regularisation, in the papers' scale-free unit: it is multiplied by the environment's reward_std
    or reward_mean"""
    seed: int = 0
    """seed of everything random in the run"""
    fresh: bool = incidental(False)
    """start anew: what the run's directory holds is moved to `.old/<n>/` in it"""
    outputs: str = incidental("outputs")
    """directory under which runs make their directories"""
    checkpoint_every: float = incidental(60.0)
    """seconds between checkpoints; one is also written at the end and at SIGTERM, SIGINT and SIGUSR2"""
    dir: str = incidental("")
    """the run's directory; empty: named after the task, the groups it uses and what was tuned"""

    def __post_init__(self) -> None:
        self.options: dict[str, str] = {}
        """{group: chosen option}, where it is not the name of the class"""
        self.tuned: dict[str, Any] = {}
        """{key: value} of what the command line changed besides the groups, coeff and seed"""

    @property
    def path(self) -> Path:
        """The run's directory."""
        if not self.dir:
            raise ConfigError("this run has no directory", "dir", "give one: Run(..., dir='outputs/mine')")
        return Path(self.dir)

    @property
    def name(self) -> str:
        """What the run is called in lines on the screen: its directory without `outputs/`."""
        return os.path.relpath(self.path, self.outputs) if self.path.is_relative_to(self.outputs) else str(self.path)

    def option(self, group: str) -> str:
        """The option chosen in a group, as on the command line: `run.option("env") == "tomato"`."""
        return self.options.get(group) or option_name(type(getattr(self, group)))

    def execute(self) -> dict[str, Any]:
        """Skip, resume or start the run; returns the content of `result.json` (of a tool: what it returns).

        Raises `RhtoolError` for what a user can mend, `Stopped` after a signal, and what the task raises; of the last,
        `result.json` and `run.log` say why.
        """
        check_choices(self)
        if not self.task.uses:
            self.task.check(self)
            return self.task.run(self)
        if result := self._finished():
            return result
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"the run's directory cannot be made: {error.strerror}"
            raise RhtoolError(what, str(self.path), "give another: outputs=... or dir=...") from error
        with lock(self.path / ".lock"):
            if result := self._finished():  # by the process that had the lock until now
                return result
            return self._attempt()

    def loop(self, work: Resumable, iterations: int) -> Iterator[int]:
        """Iterate `0 … iterations-1`, starting from the last checkpoint of `work` if there is one, saving when due.

        The body does an iteration and calls `run.log(...)`. A signal (SIGTERM, SIGINT, SIGUSR2) ends the loop after the
        iteration under way, with a checkpoint. One loop a run: it is what the run's checkpoints count.
        """
        done, total = 0, iterations
        if found := self.checkpoints.latest():
            done, state = found
            work.set_state(state)
            # What was logged before the checkpoint is in the CSV, however the process ended.
            self._spent = float(self._csv.last("time/seconds", done) or 0) - (time.monotonic() - self._started)
            self._steps = float(self._csv.last("steps", done) or "nan")
            self._event("resume", iteration=done)
            log.info("resumed after iteration %d of %d", done, total)
        self._total, saved_at = total, time.monotonic()
        with self._signals as signals:
            for iteration in range(done, total):
                self._iteration = iteration
                yield iteration
                done = iteration + 1
                due = time.monotonic() - saved_at >= self.checkpoint_every
                if due or signals.received or done == total:
                    self._save(done, work)
                    saved_at = time.monotonic()
                if signals.received:
                    self._event("signal", signal=signals.received.name, iteration=done)
                    signals.obey()
            self._iteration = total

    def log(self, metrics: dict[str, float], iteration: int | None = None) -> None:
        """One row of `metrics.csv` (and of the tracker), and the progress line. Keys are those of docs/metrics.md.

        `iteration` is the loop's unless given; without a loop rows count up. The first row of an attempt replaces the
        rows that an earlier attempt wrote for this iteration and later ones.
        """
        if iteration is None:
            iteration = self._iteration
            self._iteration += not self._total
        row = {"iteration": iteration, **{key: _number(value) for key, value in metrics.items()}}
        row["time/seconds"] = self._seconds()
        self._csv.write(row)
        self.logger.log(iteration, {key: value for key, value in row.items() if key != "iteration"})
        self._steps = metrics.get("steps", self._steps)
        self._progress.update(iteration + 1, self._total, row)

    # Inside

    def _finished(self) -> dict[str, Any] | None:
        """The result of a finished run of this very configuration; an error if the directory holds another one."""
        if self.fresh and not _requeued():
            return None
        record, result = _json(self.path / "provenance.json"), _json(self.path / "result.json")
        if not record:
            if (self.path / "checkpoints").is_dir():
                raise RhtoolError(
                    "the directory holds checkpoints, and nothing says of which run",
                    str(self.path),
                    "give another dir=..., or fresh=true to move them aside",
                )
            return None
        here = identity(self)
        if differing := differences(record.get("identity", {}), here):
            lines = [f"    {key}: {old} there, {new} here" for key, old, new in differing]
            raise RhtoolError(
                "\n".join(["the directory holds a run of another configuration", *lines]),
                str(self.path),
                "fresh=true moves the old run aside; dir=... puts this one elsewhere",
            )
        if result and result.get("status") == "done":
            Progress.line(f"done, skipped  {self.name}")
            return result
        return None

    def _attempt(self) -> dict[str, Any]:
        """Run the task under the lock, and write how it ended."""
        if self.fresh and not _requeued():
            set_aside(self.path)
        record = _json(self.path / "provenance.json") or {"attempts": []}
        verb = "again" if record["attempts"] else "start"
        (self.path / "result.json").unlink(missing_ok=True)  # of a failed attempt
        self._started, self._spent, self._iteration, self._total = time.monotonic(), 0.0, 0, 0
        self._steps = math.nan
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self._csv = Csv(self.path / "metrics.csv")
        self._signals = Signals()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_logging_to(self.path / "run.log"))
            stack.callback(self._csv.close)
            stack.callback(self._signals.__exit__)  # a loop whose body raised is still suspended
            self._progress = stack.enter_context(Progress(self.name))
            try:
                self.task.check(self)
                self._save_config()
                self._save_provenance(record)
                self._event("start", attempt=len(record["attempts"]))
                self._progress.line(f"{verb}  {self.name}  {self._summary()}")
                random.seed(self.seed)  # for libraries that use the global generators; ours have their own
                np.random.seed(self.seed % 2**32)
                self.logger.open(self)
                stack.callback(self.logger.close)
                metrics = self.task.run(self)
            except Stopped as stop:
                self._progress.close()
                log.info("stopped by %s", stop.signal.name)
                self._progress.line(f"stopped by {stop.signal.name}  {self.path}  (repeat the command to go on)")
                raise
            except Exception as error:
                self._progress.close()
                log.debug("failed", exc_info=True)  # in run.log alone
                self._progress.line(f"failed  {self.name}")
                with contextlib.suppress(OSError):  # on a full disk; what went wrong first is what to say
                    self._result("failed", {}, f"{type(error).__name__}: {_first_line(error)}")
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    mend = "free disk space, then repeat the command: it resumes"
                    raise RhtoolError(f"the disk is full: {error}", str(self.path), mend) from error
                raise
            result = self._result("done", metrics)
            self._progress.close()
            self._progress.line(f"done  {self.name}  {headline(metrics)}{result['seconds']:.0f} s  {self.path}")
            return result

    def _result(self, status: str, metrics: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        """Write and return `result.json`. A metric that is nan or inf is null there: JSON has neither."""
        uses_divergence = "divergence" in self.task.uses
        metrics = {key: _number(value) for key, value in metrics.items()}
        steps = metrics.get("steps", self._steps)
        result = {
            "schema": RESULT_SCHEMA,
            "status": status,
            "reason": reason,
            "task": self.option("task"),
            "experiment": self.options.get("experiment"),
            "env": self.option("env") if "env" in self.task.uses else None,
            "divergence": self.option("divergence") if uses_divergence else None,
            "over": self.divergence.over if uses_divergence else None,
            "coeff": self.coeff if uses_divergence else None,
            "seed": self.seed,
            "scale": self.option("scale"),
            "tuned": self.tuned,
            "fingerprint": (_json(self.path / "provenance.json") or {}).get("fingerprint"),
            "metrics": {key: value if _finite(value) else None for key, value in metrics.items()},
            "steps": int(steps) if math.isfinite(steps) else None,
            "seconds": self._seconds(),
        }
        write_atomic(self.path / "result.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
        self._event(status, **({"reason": reason} if reason else {}))
        return result

    def _save(self, done: int, work: Resumable) -> None:
        self.checkpoints.save(done, work.get_state())
        self._event("checkpoint", iteration=done)

    def _seconds(self) -> float:
        """Seconds of work in this run, those of earlier attempts up to their last checkpoint included."""
        return self._spent + time.monotonic() - self._started

    def _event(self, event: str, **details: Any) -> None:
        line = json.dumps({"time": _now(), "event": event, **details})
        path = self.path / "events.jsonl"
        with open(path, "a+b") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")
            file.write(line.encode() + b"\n")

    def _save_config(self) -> None:
        from omegaconf import OmegaConf

        chosen = " ".join(f"{f.name}={self.option(f.name)}" for f in dataclasses.fields(self) if f.name in groups(self))
        text = f"# {chosen}\n" + OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(self)))
        write_atomic(self.path / "config.yaml", text.encode())

    def _save_provenance(self, record: dict[str, Any]) -> None:
        from rhtool.provenance import provenance

        here = identity(self)
        record = {
            "schema": 1,
            "fingerprint": _digest(here),
            "identity": here,
            "attempts": [*record["attempts"], {"start": _now(), **provenance()}],
        }
        write_atomic(self.path / "provenance.json", (json.dumps(record, indent=1) + "\n").encode())

    def _summary(self) -> str:
        """The keys that were tuned, on one line."""
        return "  ".join(f"{key}={value}" for key, value in self.tuned.items())


# Identity


def groups(run: Run) -> list[str]:
    """The groups of a run that decide its result: its task, those the task uses, and the scale."""
    return ["task", *(g for g in run.task.uses if g != "task"), "scale"]


def identity(run: Run) -> dict[str, Any]:
    """`{key: value}` of all that decides the run's result: its configuration, resolved, and the hashes of its inputs.

    Left out: incidental fields, the logger, the directories, and the groups that the task does not use (without the
    group `divergence` there is no coeff either).
    """
    flat: dict[str, Any] = {"seed": run.seed}
    if "divergence" in run.task.uses:
        flat["coeff"] = run.coeff
    for group in groups(run):
        flat[group] = option_name(type(getattr(run, group)))
        _flatten(getattr(run, group), group, flat)
    files = run.env.inputs() if "env" in run.task.uses else {}
    for name, path in (files | run.task.inputs(run)).items():
        flat[f"input {name}"] = content_hash(path)
    return json.loads(json.dumps(flat, default=str))


def fingerprint(run: Run) -> str:
    """SHA-256 of `identity(run)`."""
    return _digest(identity(run))


def outcome(run: Run) -> str:
    """Why the directory of a run holds no result of it; empty if it does."""
    record, result = _json(run.path / "provenance.json"), _json(run.path / "result.json")
    if result is None:
        return "has no result" + ("" if record else " and never began")
    if result["status"] == "done" and result["fingerprint"] != fingerprint(run):
        return "the directory holds a run of another configuration"
    return result["reason"] or ""


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """`(key, old, new)` of the keys in which two identities differ; "-" where one has no such key."""
    keys = dict.fromkeys([*old, *new])
    return [(k, old.get(k, "-"), new.get(k, "-")) for k in keys if old.get(k, "-") != new.get(k, "-")]


def _flatten(obj: Any, path: str, flat: dict[str, Any]) -> None:
    for f in dataclasses.fields(obj):
        value = getattr(obj, f.name)
        if f.metadata.get("incidental"):
            continue
        if dataclasses.is_dataclass(value):
            _flatten(value, f"{path}.{f.name}", flat)
        else:
            flat[f"{path}.{f.name}"] = value


# Signals, lock, old content


class Signals:
    """While entered, SIGTERM, SIGINT and SIGUSR2 are remembered in `received`; a second SIGINT stops at once.

    Only in the main thread, where alone Python can handle signals; elsewhere nothing changes. Ignored signals stay
    ignored.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
                if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received == signal.SIGINT:
            self.__exit__()
            raise KeyboardInterrupt
        self.received = signal.Signals(signum)

    def obey(self) -> None:
        """Do what the signal would have done: call the handler before ours (submitit's requeue), or raise `Stopped`."""
        signum, self.received = self.received, None
        handler = self._before[signum]
        if not callable(handler) or handler is signal.default_int_handler:
            raise Stopped(signum)
        handler(signum, None)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file while entered; `RhtoolError` if another process has it. It is free when that process dies."""
    file = open(path, "a+")  # noqa: SIM115 (closed below, which frees the lock)
    try:
        for last in (*[False] * 9, True):  # task=report looks at a lock for an instant
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if last:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise UnderWay(
                        f"the run is under way already ({holder})",
                        str(path.parent),
                        "wait for it or stop it, or give another dir=...",
                    ) from None
                time.sleep(0.02)
        file.truncate(0)
        file.write(f"{socket.gethostname()} pid {os.getpid()}\n")
        file.flush()
        yield
    finally:
        file.close()


def set_aside(directory: Path) -> None:
    """Move what a run's directory holds to `.old/<n>` in it, so that nothing is lost."""
    content = [p for p in directory.iterdir() if p.name not in (".lock", ".old")]
    if content and not any((directory / name).exists() for name in ("events.jsonl", "result.json", "checkpoints")):
        raise RhtoolError(
            "the directory holds other things than a run, which fresh=true would move aside",
            str(directory),
            "give another dir=...",
        )
    if content:
        old = directory / ".old"
        target = old / str(1 + max((int(p.name) for p in old.glob("[0-9]*")), default=0))
        target.mkdir(parents=True)
        for path in content:
            path.rename(target / path.name)


def _requeued() -> bool:
    """SLURM has restarted this job: its command is the first one's, and `fresh=true` was done then."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


# Small things


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Python's logging and warnings in the run's file; warnings on the screen too."""
    root, handler, console = logging.getLogger(), logging.FileHandler(path), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    console.setLevel(logging.WARNING)
    rhtool, before = logging.getLogger("rhtool"), root.level
    root.setLevel(min(before, logging.INFO) or logging.INFO)
    rhtool.setLevel(logging.DEBUG)
    root.addHandler(handler)
    root.addHandler(console)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.removeHandler(console)
        root.setLevel(before)
        rhtool.setLevel(logging.NOTSET)
        handler.close()


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, None if there is none. All such files are written atomically, so they are whole."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _number(value: Any) -> Any:
    """Arrays and tensors of one element as Python numbers."""
    return value.item() if hasattr(value, "item") else value


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
