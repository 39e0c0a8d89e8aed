"""One run: its directory, its identity, its resume, its provenance, its end.

    outputs/<experiment or task>/<env>/<divergence>-coeff=<c>[-tuned keys]/seed=<n>/
        config.yaml       everything that was composed, resolved
        provenance.json   identity and fingerprint; of every attempt: versions, command, host, threads, git
        metrics.csv       a row per iteration          events.jsonl   start, loop, resume, checkpoint, lost, signal, done, failed
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
import json
import logging
import math
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from rhtool.accelerate import Accelerate, Ray, Single
from rhtool.checkpoints import Checkpoints, write_atomic
from rhtool.data.base import Data
from rhtool.divergences import Divergence, NoDivergence
from rhtool.envs.base import Env, Scale
from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.base import Feedback
from rhtool.identity import changes, digest, groups, identity, inputs
from rhtool.interpret.base import Method
from rhtool.locks import LOCK, lock, under_way
from rhtool.loggers import Csv, Logger, NoLogger, logging_to
from rhtool.models import Model
from rhtool.progress import Progress, diagnosis, headline
from rhtool.records import PROVENANCE, RESULT, SCHEMA, provenance_of, result_of, set_aside
from rhtool.rewards.base import Reward
from rhtool.schema import check_choices, check_numbers, incidental, incidental_choice, option_name
from rhtool.signals import Signals, Stopped
from rhtool.tasks.base import Task

log = logging.getLogger(__name__)

AUTO = "auto"
"""the value of `coeff` that stands for the theory's"""
SEEDS = 2**32
"""seeds are from 0 to one less than this: what the generators of all libraries take"""


class Resumable(Protocol):
    """What `Run.loop` can stop and take up again."""

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what comes next, RNGs included: nested dicts of arrays, tensors and JSON values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""


@dataclass
class Run:
    """What one command composes.

    From Python: `Run(task=..., env=..., dir="outputs/x").execute()`, or `rhtool.config.compose(...)`.
    """

    task: Task = field(default_factory=Task)
    env: Env = field(default_factory=Env)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    reward: Reward = field(default_factory=Reward)
    feedback: Feedback = field(default_factory=Feedback)
    method: Method = field(default_factory=Method)
    divergence: Divergence = field(default_factory=NoDivergence)
    scale: Scale = field(default_factory=Scale)
    logger: Logger = field(default_factory=NoLogger)
    accelerate: Accelerate = field(default_factory=Single)
    ray: Ray = field(default_factory=Ray)
    coeff: float | int | str = 0.0
    """strength of the regularisation, in the papers' scale-free unit: it is multiplied by the environment's reward_std
    or reward_mean; auto: what the divergence's theory says, for the correlation and sigma measured under the base policy"""
    seed: int = 0
    """seed of everything random in the run"""
    fresh: bool = incidental(False)
    """start anew: what the run's directory holds is moved to `.old/<n>/` in it"""
    outputs: str = incidental("outputs")
    """directory under which runs make their directories"""
    checkpoint_every: float = incidental(60.0)
    """seconds between checkpoints; one is also written at the end and at SIGTERM, SIGINT and SIGUSR2"""
    submit: str = incidental_choice("wait", "detach")
    """with a launcher that submits, like hydra/launcher=slurm: wait for the jobs, or return when they are submitted"""
    dir: str = incidental("")
    """the run's directory; empty: named after the task, the groups it uses and what was tuned"""

    def __post_init__(self) -> None:
        with contextlib.suppress(ValueError):
            self.coeff = float(self.coeff)
        self.options: dict[str, str] = {}
        """{group: chosen option}, where it is not the name of the class"""
        self.tuned: dict[str, Any] = {}
        """{key: value} of what the command line changed besides the groups, coeff and seed; sorted"""
        self.overrides: list[str] | None = None
        """the overrides that compose this very run, in Hydra's grammar; None for a run that no command line made"""
        self._progress: Progress | None = None
        self.config_dirs: list[str] = []
        """directories of YAML files besides the shipped ones: `--config-dir`"""

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
        self.check_values()
        if not self.task.uses:
            self._check()
            return self.task.run(self)
        if not (result := self.finished()):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                what = f"the run's directory cannot be made: {error.strerror}"
                raise RhtoolError(what, str(self.path), "give another: outputs=... or dir=...") from error
            with lock(self.path / LOCK):
                if not (result := self.finished()):  # by the process that had the lock until now
                    return self._attempt()
        Progress.line(f"done, skipped  {self.name}")
        return result

    def check(self) -> None:
        """Raise `RhtoolError` for what would keep the run from starting. Nothing is written.

        A run that is done or under way in another process needs no check: it will not start.
        """
        self.check_values()
        if not self.task.uses or not (under_way(self.path) or self.finished()):
            self._check()

    def check_values(self) -> None:
        """Raise `ConfigError` for a value that its field cannot have."""
        check_choices(self)
        check_numbers(self)
        if isinstance(self.coeff, str) and self.coeff != AUTO:
            raise ConfigError(f"'{self.coeff}' is not a coefficient", "coeff", "give a number, like 0.1, or auto")
        if not 0 <= self.seed < SEEDS:
            raise ConfigError(f"{self.seed} is not a seed", "seed", f"choose 0 to {SEEDS - 1}")
        for name in ("reward_std", "reward_mean", "proxy_scale", "true_scale"):
            if (unit := getattr(self.env, name)) <= 0:
                raise ConfigError(f"{unit} is no unit of a reward", f"env.{name}", "give a number above 0, like 0.1")

    def loop(self, work: Resumable, iterations: int) -> Iterator[int]:
        """Iterate `0 … iterations-1`, starting from the last checkpoint of `work` if there is one, saving when due.

        The body does an iteration and calls `run.log(...)`. A signal (SIGTERM, SIGINT, SIGUSR2) ends the loop after the
        iteration under way, with a checkpoint. One loop a run: it is what the run's checkpoints count.
        """
        done, total = 0, iterations
        if found := self.checkpoints.latest():
            done, state = found
            work.set_state(state)
            self.resumed(done, total)
        self.expect(total)
        saved_at = time.monotonic()
        signals = self.signals
        with signals.kept():
            for iteration in range(done, total):
                self._iteration = iteration
                yield iteration
                done = iteration + 1
                due = time.monotonic() - saved_at >= self.checkpoint_every
                if due or signals.received or done == total:
                    self._save(done, work)
                    saved_at = time.monotonic()
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

    def resumed(self, done: int, total: int) -> None:
        """Note that the work goes on from the checkpoint after `done` iterations of `total`."""
        self._kept = done
        # What was logged before the checkpoint is in the CSV, however the process ended.
        self._spent = float(self._csv.last("time/seconds", done) or 0) - (time.monotonic() - self._started)
        self._steps = float(self._csv.last("steps", done) or "nan")
        self._event("resume", iteration=done)
        log.info("resumed after iteration %d of %d", done, total)

    def expect(self, total: int) -> None:
        """Note how many iterations there will be."""
        self._total = total
        self._event("loop", iterations=total)

    def lost(self, what: str) -> None:
        """Note that a part of the run was lost and made anew."""
        log.warning("lost, and made anew: %s", what)
        if self._progress:
            self._event("lost", what=what)
            self._progress.line(f"lost, and made anew  {self.name}  {what}")

    def saved(self, done: int) -> None:
        """Note that there is a checkpoint after `done` iterations."""
        self._kept = done
        self._event("checkpoint", iteration=done)

    # Inside

    def _check(self) -> None:
        """The task's check, and that its inputs are at rest: what a run under way gives depends on the moment, and may
        not be what was hashed a moment before."""
        self.accelerate.check(self)
        self.task.check(self)
        for name, path in inputs(self).items():
            if under_way(Path(path)):
                raise RhtoolError(
                    f"the run at {path}, of which this one would take the {name}, is under way and still changes",
                    path,
                    "wait until it is done, or copy one of its checkpoints and give that",
                )

    def finished(self) -> dict[str, Any] | None:
        """The result of a finished run of this very configuration; an error if the directory holds another one.

        A run that never got past its check made nothing, so its directory is free for any other.
        """
        if self.fresh and not _requeued():
            return None
        record, result = provenance_of(self.path), result_of(self.path)
        if not record:
            if (self.path / "checkpoints").is_dir():
                raise RhtoolError(
                    "the directory holds checkpoints, and nothing says of which run",
                    str(self.path),
                    "give another dir=..., or fresh=true to move them aside",
                )
            return None
        if record["identity"] and (differing := changes(record["identity"], self)):
            lines = [f"    {key}: {old} there, {new} here" for key, old, new in differing]
            raise RhtoolError(
                "\n".join(["the directory holds a run of another configuration", *lines]),
                str(self.path),
                "fresh=true moves the old run aside; dir=... puts this one elsewhere",
            )
        return result if result and result["status"] == "done" else None

    def _attempt(self) -> dict[str, Any]:
        """Run the task under the lock, and write how it ended."""
        import numpy as np

        if self.fresh and not _requeued():
            set_aside(self.path)
        record = provenance_of(self.path) or {"identity": None, "attempts": []}
        verb = "again" if record["attempts"] else "start"
        (self.path / RESULT).unlink(missing_ok=True)  # of a failed attempt
        self._started, self._spent, self._iteration, self._total = time.monotonic(), 0.0, 0, 0
        self._steps, self._kept, self._fingerprint = math.nan, None, None
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self._csv = Csv(self.path / "metrics.csv")
        self.signals = Signals(self._note)
        with contextlib.ExitStack() as stack:
            stack.enter_context(logging_to(self.path / "run.log"))
            stack.callback(self._csv.close)
            self._progress = stack.enter_context(Progress(self.name))
            stack.enter_context(self.signals)
            try:
                self._save_config()
                self._save_provenance(record, new=True)  # so that a failing check leaves what task=report can name
                self._check()
                record["identity"] = identity(self)
                self._save_provenance(record)
                self._event("start", attempt=len(record["attempts"]) - 1)
                self._progress.line(f"{verb}  {self.name}  {self._summary()}")
                random.seed(self.seed)  # for libraries that use the global generators; ours have their own
                np.random.seed(self.seed)
                self.logger.open(self)
                stack.callback(self.logger.close)
                metrics = self.accelerate.execute(self)
                with self.signals.kept():
                    result = self._result("done", metrics)
            except Stopped as stop:
                self._stopped(stop)
                raise
            except Exception as error:
                log.debug("failed", exc_info=True)  # in run.log alone
                try:
                    self.signals.obey()  # who stops a run often stops its workers too, which then fails it
                except Stopped as stop:
                    self._stopped(stop)
                    raise
                with self.signals.kept():
                    self._failed(error)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    mend = "free disk space, then repeat the command: it resumes"
                    raise RhtoolError(f"the disk is full: {error}", str(self.path), mend) from error
                raise
            self._progress.close()
            self._progress.line(f"done  {self.name}  {headline(metrics)}{result['seconds']:.0f} s  {self.path}")
            if said := diagnosis(metrics):
                self._progress.line(f"      {said}")
        self.signals.obey()  # one that came while the result was written
        return result

    def _stopped(self, stop: Stopped) -> None:
        """Say by which signal the run was stopped, what it keeps, and how it goes on."""
        self._progress.close()
        log.info("stopped by %s", stop.signal.name)
        if self._kept is None:
            kept = "nothing to keep yet; repeat the command to start again"
        else:
            of = f" of {self._total}" if self._total else ""
            kept = f"kept: the checkpoint after iteration {self._kept}{of}; repeat the command to go on"
        self._progress.line(f"stopped by {stop.signal.name}  {self.path}  ({kept})")

    def _failed(self, error: Exception) -> None:
        self._progress.close()
        self._progress.line(f"failed  {self.name}")
        with contextlib.suppress(OSError):  # on a full disk; what went wrong first is what to say
            self._result("failed", {}, f"{type(error).__name__}: {_first_line(error)}")

    def _facts(self) -> dict[str, Any]:
        """What `result.json` and `provenance.json` call the run; None for what its task does not use."""
        uses_divergence = "divergence" in self.task.uses
        return {
            "task": self.option("task"),
            "experiment": self.options.get("experiment"),
            **{
                group: self.option(group) if group in self.task.uses else None
                for group in ("env", "data", "model", "reward")
            },
            "divergence": self.option("divergence") if uses_divergence else None,
            "over": self.divergence.over if uses_divergence else None,
            "coeff": self.coeff if uses_divergence else None,
            "seed": self.seed,
            "scale": self.option("scale"),
            "tuned": _json(self.tuned),
        }

    def _result(self, status: str, metrics: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        """Write and return `result.json`. A metric that is nan or inf is null there: JSON has neither."""
        metrics = {key: _number(value) for key, value in metrics.items()}
        steps = metrics.get("steps", self._steps)
        result = {
            "schema": SCHEMA,
            "status": status,
            "reason": reason,
            **self._facts(),
            "fingerprint": self._fingerprint,
            "metrics": {key: value if _finite(value) else None for key, value in metrics.items()},
            "steps": int(steps) if math.isfinite(steps) else None,
            "seconds": self._seconds(),
        }
        write_atomic(self.path / RESULT, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
        self._event(status, **({"reason": reason} if reason else {}))
        return result

    def _save(self, done: int, work: Resumable) -> None:
        self.logger.flush()
        self.checkpoints.save(done, work.get_state())
        self.saved(done)

    def _note(self, signum: signal.Signals) -> None:
        self._event("signal", signal=signum.name, iteration=self._kept)

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

    def _save_provenance(self, record: dict[str, Any], new: bool = False) -> None:
        """Write `provenance.json`, with a `new` attempt. Without an identity nothing has been made yet."""
        from rhtool.provenance import provenance

        if new:
            attempt = {"start": _now(), "dir": self.dir, "overrides": self.overrides, "config_dirs": self.config_dirs}
            record["attempts"].append(attempt | provenance())
        self._fingerprint = digest(record["identity"]) if record["identity"] else None
        record = {
            "schema": SCHEMA,
            "fingerprint": self._fingerprint,
            "run": self._facts(),
            "identity": record["identity"],
            "attempts": record["attempts"],
        }
        write_atomic(self.path / PROVENANCE, (json.dumps(record, indent=1) + "\n").encode())

    def _summary(self) -> str:
        """The keys that were tuned, on one line."""
        return "  ".join(f"{key}={value}" for key, value in self.tuned.items())


def _requeued() -> bool:
    """SLURM has restarted this job: its command is the first one's, and `fresh=true` was done then."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def _number(value: Any) -> Any:
    """Arrays and tensors of one element as Python numbers."""
    return value.item() if hasattr(value, "item") else value


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _json(value: Any) -> Any:
    """The value as JSON has it: null for what is nan or inf, text for what it has no word for, at any depth."""
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if not _finite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
