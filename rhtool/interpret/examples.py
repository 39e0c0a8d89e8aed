"""`method=examples`: factors of a reward network's layer, the pieces of the data in which they are strongest, and what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError
from rhtool.interpret.networks import NetworkMethod
from rhtool.schema import choice

if TYPE_CHECKING:
    from rhtool.interpret.report import Report
    from rhtool.run import Run


@dataclass
class Examples(NetworkMethod):
    """Factors of a layer by non-negative matrix factorisation, with the strongest pieces of the data, and the reward without them."""

    extra: ClassVar[str] = "interpret"
    images: ClassVar[bool] = True

    layer: str = ""
    """whose channels are factorised, by the end of its path; empty: the last but one that has positions"""
    of: str = choice("activations", "attributions")
    """what is factorised: the layer's outputs, or outputs times the reward's gradient, which have a sign"""
    factors: int = 6
    """at most as many as the layer has channels"""
    side: int = 4
    """pieces of data shown for a factor, on each side of a square; as often may one position be shown"""
    expand: float = 1.0
    """size of a piece, in strides of the layer"""

    def check(self, run: Run) -> None:
        """Do the networks have the layer?"""
        super().check(run)
        from rhtool.interpret.layers import resolve

        for name in ("factors", "side"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 1 or more")
        if not self.expand > 0:
            raise ConfigError(f"{self.expand} is no size", "method.expand", "choose a number above 0")
        for net in self.networks(run).values():
            resolve(net, self.layer or "avg_pool")

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        from rhtool.interpret import example_report

        return example_report.write(self, run, report)
