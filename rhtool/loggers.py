"""Where a run's metrics go: always into its `metrics.csv`, and into a tracker if one is chosen, under the same keys."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rhtool.checkpoints import write_atomic
from rhtool.errors import MissingExtra
from rhtool.schema import choice

if TYPE_CHECKING:
    from rhtool.run import Run


@dataclass
class Logger:
    """A tracker of metrics, besides the CSV that is always written. The run opens it, logs rows and closes it."""

    def open(self, run: Run) -> None:
        """Start the tracker's record of this run, or go on with it. `MissingExtra` if its package is not installed."""

    def log(self, iteration: int, metrics: dict[str, Any]) -> None:
        """The metrics of one iteration."""

    def flush(self) -> None:
        """Have on the disk what was logged. The run asks for it before a checkpoint: what is before one is not logged again."""

    def close(self) -> None:
        """Write what is still in memory."""


@dataclass
class NoLogger(Logger):
    """No tracker: the CSV alone."""

    name: ClassVar[str] = "none"


class Csv:
    """`metrics.csv`: a row per logged iteration, floats written exactly, a column more when a new key appears.

    The first row of an attempt drops the rows of its iteration and later ones, and a last line that was cut short, so
    that a resumed run leaves the file that an uninterrupted one would have left.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: Any = None
        self._columns: list[str] = []

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; `row["iteration"]` comes first."""
        if self._file is None:
            self._rewrite([old for old in self._read() if int(old["iteration"]) < row["iteration"]])
        if new := [key for key in row if key not in self._columns]:
            old = self._read()
            self._columns += new
            self._rewrite(old)
        csv.writer(self._file, lineterminator="\n").writerow([_cell(row.get(key)) for key in self._columns])
        self._file.flush()

    def last(self, key: str, before: int) -> str:
        """What the last row that has a `key`, of those of iterations below `before`, says; empty if none does."""
        values = [row.get(key, "") for row in self._read() if int(row["iteration"]) < before]
        return next(filter(None, reversed(values)), "")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> list[dict[str, str]]:
        """The whole rows of the file as they are written, and its header into `_columns`."""
        if not self.path.is_file():
            return []
        text = self.path.read_text()
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        self._columns = list(reader.fieldnames or [])
        return [row for row in reader if None not in row and None not in row.values()]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        self.close()
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        if self._columns:
            writer.writeheader()
            writer.writerows(rows)
        write_atomic(self.path, text.getvalue().encode())
        self._file = open(self.path, "a", newline="")  # noqa: SIM115 (closed by close)


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


@dataclass
class Tensorboard(Logger):
    """TensorBoard event files in the run's directory: `tensorboard --logdir outputs`."""

    extra: ClassVar[str] = "track"

    def open(self, run: Run) -> None:
        """Start an event file in `<run>/tensorboard`. Points that a resumed run logs again replace the first ones."""
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise MissingExtra("track", "tensorboard") from error
        (run.path / "tensorboard").mkdir(exist_ok=True)
        self._writer, self._opened = EventFileWriter(str(run.path / "tensorboard")), False

    def log(self, iteration: int, metrics: dict[str, Any]) -> None:
        """One scalar for each number among the metrics."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not self._opened:  # a session that starts at this step makes TensorBoard discard later ones
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=iteration, session_log=start))
            self._opened = True
        values = [Summary.Value(tag=k, simple_value=v) for k, v in metrics.items() if isinstance(v, int | float)]
        self._writer.add_event(Event(wall_time=time.time(), step=iteration, summary=Summary(value=values)))

    def flush(self) -> None:
        """Write what was logged."""
        self._writer.flush()

    def close(self) -> None:
        """Write the rest of the event file."""
        self._writer.close()


@dataclass
class Wandb(Logger):
    """Weights & Biases; offline unless told otherwise: no network, no key (`wandb sync` uploads later)."""

    mode: str = choice("offline", "online", "disabled")
    """offline: files in the run's directory alone; online: sent as it runs"""
    project: str = "rhtool"
    """the project at Weights & Biases"""
    entity: str | None = None
    """the user or team that owns the project; null: yours"""

    extra: ClassVar[str] = "track"
    INTERVAL: ClassVar[float] = 0.1
    """seconds after which the tracker's process writes to the disk"""

    def open(self, run: Run) -> None:
        """Start the tracker's run, or go on with the one that an earlier attempt of this run started."""
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra("track", "wandb") from error
        started = json.loads((run.path / "provenance.json").read_bytes())["attempts"][0]["start"]
        self._run = wandb.init(
            mode=self.mode,
            project=self.project,
            entity=self.entity,
            dir=str(run.path),
            name=run.name,
            id=hashlib.sha256(f"{run.path.resolve()} {started}".encode()).hexdigest()[:16],
            resume="allow",
            config=json.loads((run.path / "provenance.json").read_bytes())["identity"],
            settings=wandb.Settings(console="off", silent=True, x_transaction_log_flush_interval=self.INTERVAL),
        )

    def log(self, iteration: int, metrics: dict[str, Any]) -> None:
        """One step of the tracker's history."""
        self._run.log(metrics, step=iteration, commit=True)  # not with the next step: there may be none

    def flush(self) -> None:
        """Wait until the tracker's process has written: it has no other word for it, and dies with this one."""
        time.sleep(2 * self.INTERVAL)

    def close(self) -> None:
        """Finish the tracker's run."""
        self._run.finish()


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
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
