"""`method=probe`: what a reward network's layers know of the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rhtool.errors import ConfigError
from rhtool.interpret.networks import NetworkMethod
from rhtool.schema import choice

if TYPE_CHECKING:
    from rhtool.interpret.report import Report
    from rhtool.run import Run


@dataclass
class Probe(NetworkMethod):
    """What can be read of the environment's own metrics from a reward network's layers, against networks that learned nothing."""

    targets: list[str] = field(default_factory=list)
    """metrics of the environment, proxy or true; empty: all of them that vary"""
    layers: list[str] = field(default_factory=list)
    """by the ends of their paths; empty: all after an activation, and the last"""
    probe: str = choice("ridge", "linear", "mlp")
    """linear with a penalty, linear without, or one hidden layer of 64 units"""
    penalty: float | None = None
    """of ridge; null: what is best on a quarter of the training episodes"""
    held_out: float = 0.25
    """share of the episodes"""
    positions: str = choice("all", "mean")
    """of layers with positions every one is a feature; or the channels' means"""

    def check(self, run: Run) -> None:
        """Do networks and layers exist?"""
        super().check(run)
        if not 0 < self.held_out < 1:
            raise ConfigError(f"{self.held_out} is not a share", "method.held_out", "choose a number between 0 and 1")
        if self.penalty is not None and not self.penalty > 0:
            raise ConfigError(f"{self.penalty} is no penalty", "method.penalty", "choose a number above 0, or null")
        from rhtool.interpret.layers import resolve

        for net in self.networks(run).values():
            for layer in self.layers:
                resolve(net, layer, "method.layers")

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        from rhtool.interpret import probe_report

        return probe_report.write(self, run, report)
