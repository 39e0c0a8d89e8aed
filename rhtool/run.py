"""One run: its directory, its identity, its resume, its provenance, its end.

    outputs/<task>/<env>/<divergence>-coeff=<c>[-tuned keys]/seed=<n>/
        config.yaml       everything that was composed, resolved
        provenance.json   versions, command, host, git, hashes of the inputs
        metrics.csv       a row per iteration          events.jsonl   start, resume, checkpoint, signal, end
        run.log           what was logged              checkpoints/   safetensors + JSON, the last two
        result.json       status, metrics, steps, seconds; written last, atomically
        figures/

The directory carries no clock: the same command finds the same directory, skips it if it is done and finishes it if it is not.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from rhtool.checkpoints import Checkpoints
from rhtool.divergences import Divergence, NoDivergence
from rhtool.envs.base import Env, Scale
from rhtool.loggers import Logger, NoLogger
from rhtool.schema import check_choices, incidental
from rhtool.tasks.base import Task


class Resumable(Protocol):
    """What `Run.loop` can stop and take up again."""

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what comes next, RNGs included: nested dicts of arrays, tensors and JSON values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""


@dataclass
class Run:
    """What one command composes. From Python: `Run(task=..., env=..., dir="outputs/x").execute()`, or `rhtool.config.compose(...)`."""

    task: Task = field(default_factory=Task)
    env: Env = field(default_factory=Env)
    divergence: Divergence = field(default_factory=NoDivergence)
    scale: Scale = field(default_factory=Scale)
    logger: Logger = field(default_factory=NoLogger)
    coeff: float = 0.0
    """strength of the regularisation, in the papers' scale-free unit: it is multiplied by the environment's reward_std or reward_mean"""
    seed: int = 0
    """seed of everything random in the run"""
    fresh: bool = incidental(False)
    """throw away what the run's directory holds and start anew"""
    outputs: str = incidental("outputs")
    """directory under which runs make their directories"""
    checkpoint_every: float = incidental(60.0)
    """seconds between checkpoints; one is also written at the end and at SIGTERM, SIGINT and SIGUSR2"""
    dir: str = incidental("")
    """the run's directory; empty: named after the task, the groups it uses and what was tuned"""

    @property
    def path(self) -> Path:
        """The run's directory."""
        return Path(self.dir)

    def execute(self) -> dict[str, Any]:
        """Skip, resume or start the run; returns the content of `result.json`."""
        check_choices(self)
        self.task.check(self)
        if not self.task.uses:
            return self.task.run(self)
        start = time.monotonic()
        self.path.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self._rows: list[dict[str, float]] = []
        metrics = self.task.run(self)
        result = {"status": "done", "metrics": metrics, "seconds": time.monotonic() - start}
        (self.path / "result.json").write_text(json.dumps(result, indent=1))
        return result

    def loop(self, work: Resumable, iterations: int) -> Iterator[int]:
        """Iterate `0 … iterations-1`, starting from the last checkpoint of `work` if there is one, saving one when it is due.

        The body does an iteration and calls `run.log(...)`. A signal (SIGTERM, SIGINT, SIGUSR2) ends the loop after the iteration
        under way, with a checkpoint.
        """
        for iteration in range(iterations):
            yield iteration

    def log(self, metrics: dict[str, float]) -> None:
        """One row of `metrics.csv` (and of the tracker), and the progress line. Keys are those of docs/metrics.md."""
        self._rows.append(metrics)
        print(metrics)


def fingerprint(run: Run) -> str:
    """SHA-256 of everything that decides the run's result: the resolved configuration without the incidental fields."""
    return hashlib.sha256(json.dumps({}, sort_keys=True).encode()).hexdigest()


def from_config(cfg: DictConfig) -> Run:
    """The live `Run` of a composed configuration."""
    return OmegaConf.to_object(cfg)
