"""Where a run's metrics go, besides its `metrics.csv`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass
class Logger:
    """A tracker of metrics, besides the CSV that is always written."""


@dataclass
class NoLogger(Logger):
    """No tracker: the CSV alone."""

    name: ClassVar[str] = "none"
