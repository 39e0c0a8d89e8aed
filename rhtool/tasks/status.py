"""`task=status`: how far the runs below `outputs` are, and what waits in SLURM's queue."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.run import Run
from rhtool.tasks.base import Task


@dataclass
class Status(Task):
    """How far sweeps are, on disk and in SLURM's queue: done, running, pending, failed, missing; and how to go on."""

    uses: ClassVar[tuple[str, ...]] = ()

    runs: str = ""
    """directory whose runs are looked at; empty: the run's `outputs`"""
    shown: int = 20
    """runs of each state that are listed"""
    watch: float = 0.0
    """seconds after which to look again, until nothing runs or waits; 0: look once. --watch is task.watch=5"""

    def run(self, run: Run) -> dict[str, float]:
        """Print it. Raises `RhtoolError` if there is nothing."""
        from rhtool import slurm
        from rhtool.results import status

        if self.shown < 0 or self.watch < 0:
            raise ConfigError("a number below 0", "task.shown, task.watch", "choose 0 or more")
        outputs = Path(self.runs or run.outputs)
        while True:
            try:
                queued, silent = slurm.by_directory(outputs), ""
            except RhtoolError as error:
                queued, silent = {}, f"\n\nthe queue is not known: {error.what.splitlines()[0]}"
            rows = status.read(outputs, queued)
            if rows.empty:
                what = "there is no run" if outputs.is_dir() else "there is no such directory"
                raise RhtoolError(what, str(outputs), "make one: rhtool task=orpo env=tomato scale=smoke")
            text = "\n".join(status.lines(outputs, rows, self.shown))
            clear = "\033[H\033[2J" if self.watch and sys.stdout.isatty() else ""
            print(clear + text + silent, flush=True)
            if not self.watch or not set(rows.status) & {"running", "pending"}:
                return {}
            time.sleep(self.watch)
            if not clear:
                print()
