"""`method=attribution`: which parts of an observation and of an action a reward network pays for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rhtool.errors import ConfigError, nearest
from rhtool.interpret.networks import NetworkMethod
from rhtool.schema import choice

if TYPE_CHECKING:
    from rhtool.interpret.report import Report
    from rhtool.run import Run

METHODS = (
    "saliency",
    "gradient_input",
    "integrated_gradients",
    "expected_gradients",
    "occlusion",
    "shapley",
)
"""functions of `rhtool.interpret.attribute`"""


@dataclass
class Attribution(NetworkMethod):
    """Gradients, integrated gradients, occlusion and Shapley values of learned rewards, and how far to trust them."""

    methods: list[str] = field(default_factory=lambda: list(METHODS))
    """how: saliency, gradient_input, integrated_gradients, expected_gradients, occlusion, shapley; the features are ranked by
    integrated gradients, or by the first"""
    baseline: str = choice("mean", "zero", "blurred", "data")
    """what an absent feature is: its mean over the data, zero as the network sees it, the blurred image, or another transition's"""
    explained: int = 128
    """transitions that are explained, drawn among `transitions`"""
    shown: int = 6
    """images at most"""
    steps: int = 32
    """points on the path of integrated and of expected gradients"""
    permutations: int = 16
    """orders that Shapley values are averaged over"""
    patch: int = 4
    """pixels of the side of the squares of an image that are taken away together"""
    features: int = 20
    """features of a vector at most in the picture"""

    def check(self, run: Run) -> None:
        """Do networks and methods exist, and go together?"""
        super().check(run)
        for name in self.methods:
            if name not in METHODS:
                raise ConfigError(f"'{name}' is no way to attribute", "method.methods", nearest(name, METHODS))
        if not self.methods:
            raise ConfigError("no way to attribute is chosen", "method.methods", f"choose some of {list(METHODS)}")
        for name in ("explained", "shown", "steps", "permutations", "patch", "features"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 1 or more")
        if self.baseline == "blurred":
            from rhtool.interpret.nets import CnnReward

            for name, net in self.networks(run).items():
                if not isinstance(net, CnnReward):
                    raise ConfigError(
                        f"'{name}' does not look at images", "method.baseline", "choose mean, zero or data"
                    )

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        from rhtool.interpret import attribution_report

        return attribution_report.write(self, run, report)
