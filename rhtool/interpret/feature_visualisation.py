"""`method=feature_visualisation`: images that a reward network pays most for, or that excite a layer of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError
from rhtool.interpret.networks import NetworkMethod
from rhtool.schema import choice

if TYPE_CHECKING:
    from rhtool.interpret.report import Report
    from rhtool.run import Run


@dataclass
class FeatureVisualisation(NetworkMethod):
    """Images that maximise what a reward network pays, or a layer's units or factors."""

    name: ClassVar[str] = "feature_visualisation"
    extra: ClassVar[str] = "interpret"
    images: ClassVar[bool] = True

    init: str = choice("fourier", "pixel", "dataset", "images", "gan")
    """what is changed: spectra; pixels; the pixels of the strongest transitions of the data; or of images of yours; or the latents
    of a generator (method=generator)"""
    layer: str = ""
    """whose units are maximised, by the end of its path; empty: the last, whose units are the rewards of the actions"""
    factors: int = 0
    """directions in the layer's channels from a non-negative factorisation of its activations; 0: each unit for itself"""
    shown: int = 12
    """features at most"""
    minus: str = ""
    """one of task.rewards: what is maximised is by how much more than this one the others pay, each in its standard deviations"""
    cosine: float = 0.0
    """factors: dot product times the cosine to this power, so that little else is excited; 0: the dot product alone"""
    steps: int = 256
    """of Adam"""
    lr: float = 0.05
    """its learning rate"""
    jitter: int = 8
    """pixels by which the images are shifted at random, at every step, at most a quarter of their side"""
    scale: float = 0.0
    """share by which they are enlarged or shrunk"""
    degrees: float = 0.0
    """by which they are turned"""
    total_variation: float = 0.0
    """weight of the penalty on differences of neighbouring pixels"""
    roughness: float = 0.0
    """weight of the penalty on what blurring takes away"""
    diversity: float = 0.0
    """weight of the reward for exciting other channels than the other images do"""
    penalty: float = 0.3
    """init=dataset: weight of the squared distance to the transition one began with"""
    folder: str = ""
    """init=images: a directory with one directory per case, each with obs.png or next_obs.png or both"""
    generator: str = ""
    """init=gan: a run of method=generator"""
    latent_penalty: float = 1e-4
    """init=gan: weight of the latents' squared norm"""
    noise: int = 3
    """images of Gaussian noise whose rewards are shown for comparison"""

    def check(self, run: Run) -> None:
        """Do networks, layer, images, and generator exist?"""
        super().check(run)
        from rhtool.interpret.layers import resolve

        for name, low in (("steps", 1), ("shown", 1), ("jitter", 0), ("factors", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", f"choose {low} or more")
        if self.minus and (self.minus not in run.task.rewards or len(self.networks(run)) < 2):
            mend = f"choose one of {list(run.task.rewards)}, both learned"
            raise ConfigError(f"'{self.minus}' is not a learned reward", "method.minus", mend)
        if self.layer:
            for net in self.networks(run).values():
                resolve(net, self.layer)
        for init, field in (("images", "folder"), ("gan", "generator")):
            path = getattr(self, field)
            if (self.init == init) != bool(path) or (path and not Path(path).is_dir()):
                what = f"there is no directory '{path}'" if self.init == init else f"{field} without init={init}"
                raise ConfigError(what, f"method.{field}", f"method.init={init} method.{field}=DIRECTORY")

    def inputs(self, run: Run) -> dict[str, str]:
        """Images and generator."""
        return {n: p for n, p in (("folder", self.folder), ("generator", self.generator)) if p}

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        from rhtool.interpret import feature_report

        return feature_report.write(self, run, report)
