"""`method=generator`: a generator of the observations that policies see, for `method=feature_visualisation method.init=gan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.errors import ConfigError
from rhtool.interpret.networks import NetworkMethod

if TYPE_CHECKING:
    from rhtool.interpret.report import Report
    from rhtool.run import Run


@dataclass
class Generator(NetworkMethod):
    """A generative model (WGAN-GP) of what a reward network sees, saved for feature visualisation."""

    images: ClassVar[bool] = True

    latents: int = 32
    """numbers that an image is made of"""
    width: int = 32
    """channels of generator and critic at full size"""
    steps: int = 1000
    """of the generator"""
    batch: int = 64
    """images of a step"""
    critic_steps: int = 5
    """of the critic, before each of the generator"""
    gradient_penalty: float = 10.0
    """weight of (|gradient| - 1)^2 in the critic's loss"""
    lr: float = 1e-4
    """learning rate of Adam, of both"""

    def check(self, run: Run) -> None:
        """Are there images to be generated?"""
        super().check(run)
        for name in ("latents", "width", "steps", "batch", "critic_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is too small", f"method.{name}", "choose 1 or more")

    def explain(self, run: Run, report: Report) -> dict[str, float]:
        import numpy as np
        import pandas as pd
        import torch

        from rhtool.interpret import gan, pictures
        from rhtool.interpret import visualise as v

        (name, net), *_ = self.networks(run).items()
        data = self.sample(run)
        x = torch.cat([net.visible(*net.parts(data[i : i + 256])) for i in range(0, len(data), 256)])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(run.seed)
            made = gan.Generator(net.image, self.latents, self.width)
        gaps = list(
            gan.train(x, made, self.steps, self.batch, self.critic_steps, self.gradient_penalty, self.lr, run.seed)
        )
        made.eval().requires_grad_(False).save(run.path / "generator")
        rng = torch.Generator().manual_seed(run.seed)
        samples = made.sample(256, rng)
        rows = {}
        for label, images in (("data", x[torch.randperm(len(x), generator=rng)[:6]]), ("generated", samples[:6])):
            for image in images:
                for frame, pixels in pictures.frames(image.numpy(), net.sees).items():
                    rows.setdefault(f"{frame}, {label}", []).append(pictures.rgb(pixels))
        report.figure("samples", pictures.grid(rows, [""] * 6), "Observations of the policies, and generated ones.")
        own, others = v.rewards_by_action(net, x), v.rewards_by_action(net, samples)
        quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
        table = pd.DataFrame(
            {"quantile": quantiles, "data": np.quantile(own, quantiles), "generated": np.quantile(others, quantiles)}
        )
        report.table("rewards", table, f"What {name} pays for them, over all actions.")
        report.text(
            f"The generator is in `{run.path / 'generator'}`; `method=feature_visualisation method.init=gan"
            f" method.generator={run.path}` climbs its latents."
        )
        apart = float(np.mean(gaps[-max(1, len(gaps) // 20) :]))
        return {
            "generator/wasserstein": apart,
            "generator/start_wasserstein": max(gaps),
            "generator/mean_error": float((samples.mean(0) - x.mean(0)).abs().mean()),
        }
