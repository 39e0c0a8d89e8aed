"""What a run shows on the screen: one live line on a terminal, a plain line every so often elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from rhtool.hacking import DIAGNOSTICS

PLAIN_EVERY = 30.0
"""seconds between plain lines"""
REWARD_MODEL = ("rm/validation_agreement", "rm/correlation", "rm/proxy_correlation")


class Progress:
    """The progress of one run, on stderr."""

    def __init__(self, name: str):
        self.name = name
        self._live: Any = None
        self._bar: Any = None
        self._started, self._printed, self._first = time.monotonic(), time.monotonic(), None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @staticmethod
    def line(text: str) -> None:
        """One line of its own."""
        print(text.rstrip(), file=sys.stderr, flush=True)

    def update(self, done: int, total: int, metrics: dict[str, Any]) -> None:
        """Show that `done` of `total` iterations are done (`total` 0: unknown), with the metrics of the last one."""
        now = time.monotonic()
        if self._first is None:
            self._first = (done - 1, self._started)
        speed = (done - self._first[0]) / max(now - self._first[1], 1e-9)
        if sys.stderr.isatty():
            self._show(done, total, metrics, speed)
        elif now - self._printed >= PLAIN_EVERY or done == total:
            self._printed = now
            left = f"  {duration((total - done) / speed)} left" if total > done else ""
            of = f"/{total}" if total else ""
            self.line(f"{self.name}  {done}{of}  {headline(metrics)}{speed:.3g} it/s{left}")

    def _show(self, done: int, total: int, metrics: dict[str, Any], speed: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if self._live is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[now]}"),
            )
            self._live = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._bar = self._live.add_task(self.name, total=total or None, completed=done - 1, now="")
            self._live.start()
        self._live.update(self._bar, completed=done, now=f"{headline(metrics)}{speed:.3g} it/s")

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def headline(metrics: dict[str, Any]) -> str:
    """The true return, the proxy return and the divergence of metrics: `"true 1.2  proxy 3.4  sqrt_chi2 0.5  "`."""
    chosen = {}
    for word in ("true", "proxy"):
        key = next((k for k in (f"{word}/return", word) if k in metrics), None)
        chosen |= {word: metrics[key]} if key else {}
    chosen |= {k.removeprefix("divergence/"): v for k, v in metrics.items() if k.startswith("divergence/")}
    chosen = chosen or {k.removeprefix("rm/"): metrics[k] for k in REWARD_MODEL if k in metrics}
    return "".join(
        f"{word} {value:.4g}  " for word, value in list(chosen.items())[:3] if isinstance(value, int | float)
    )


def diagnosis(metrics: dict[str, Any]) -> str:
    """The diagnostics of hacking of an evaluation, as `task=report` calls them; empty where there are none:
    `"hacking: r 0.56  sigma 0.04  theory 0.83  sqrt_chi2 2  gain 0.03  bound -0.01 (held)  drop 0.1  onset -"`. "missed, within the
    error" is a bound above the gain by less than the two standard errors that `hacking/bound_holds` allows."""
    if "hacking/gain" not in metrics:
        return ""

    def write(name: str, key: str) -> str:
        value = metrics.get(key)
        said = f"{value:.4g}" if isinstance(value, int | float) and math.isfinite(value) else "-"
        if name == "bound" and said != "-":
            held = "held" if metrics["hacking/gain"] >= value else "missed, within the error"
            said += f" ({held if metrics['hacking/bound_holds'] else 'not held'})"
        return f"{name} {said}"

    return "hacking: " + "  ".join(
        write(name, key) for name, key in DIAGNOSTICS.items() if key in metrics and name != "held?"
    )


def duration(seconds: float) -> str:
    """`3725.0` -> `"1:02:05"`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
