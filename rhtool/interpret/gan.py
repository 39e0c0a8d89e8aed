"""A generator of observations, so that what is visualised stays near what policies see.

Wasserstein GAN with gradient penalty: Gulrajani et al. 2017, "Improved Training of Wasserstein GANs" (arXiv 1704.00028), algorithm 1.
Images end in a sigmoid, so that every pixel has a gradient; actions are no part of what is generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

SCHEMA = 1


class Generator(nn.Module):
    """Observations of latents (N, Z): images (N, C, H, W) in [0, 1] for a shape of three numbers, else vectors (N, D).

    Args:
        image: shape of one observation, as a network sees it (`RewardNet.visible`).
        latents: Z.
        width: channels at full size (images), units (vectors).
    """

    def __init__(self, image: tuple[int, ...], latents: int = 32, width: int = 32):
        super().__init__()
        self.image, self.latents, self.width = tuple(image), latents, width
        if len(self.image) == 1:
            self.net = nn.Sequential(
                nn.Linear(latents, width),
                nn.LeakyReLU(0.1),
                nn.Linear(width, width),
                nn.LeakyReLU(0.1),
                nn.Linear(width, *image),
            )
            return
        ups = _halvings(self.image)
        sides = [-(-side // 2**ups) for side in self.image[1:]]
        channels = [width * 2 ** (ups - 1 - i) for i in range(ups)]
        layers: list[nn.Module] = [
            nn.Linear(latents, channels[0] * sides[0] * sides[1]),
            nn.Unflatten(1, (channels[0], *sides)),
        ]
        for inputs, outputs in zip(channels, [*channels[1:], self.image[0]], strict=True):
            # Nearest-neighbour enlargement and a convolution: no checkerboards (Odena et al. 2016, Distill).
            layers += [nn.LeakyReLU(0.1), nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1)]
        self.net = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """(N, Z) -> (N, …)."""
        made = self.net(z)
        return made if len(self.image) == 1 else torch.sigmoid(made[:, :, : self.image[1], : self.image[2]])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, …) from standard normal latents."""
        return self(torch.randn(count, self.latents, generator=generator))

    def save(self, directory: Path) -> None:
        """Write `generator.json` and `generator.safetensors`."""
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().contiguous() for name, value in self.state_dict().items()}
        safetensors.torch.save_file(weights, directory / "generator.safetensors")
        spec = {"schema": SCHEMA, "image": list(self.image), "latents": self.latents, "width": self.width}
        (directory / "generator.json").write_text(json.dumps(spec, indent=1) + "\n")


def load(path: Path) -> Generator:
    """The generator of a run of method=generator, or of a directory that `save` wrote. Raises `OSError` if there is none."""
    directory = path / "generator" if (path / "generator").is_dir() else path
    spec = json.loads((directory / "generator.json").read_text())
    made = Generator(tuple(spec["image"]), spec["latents"], spec["width"])
    made.load_state_dict(safetensors.torch.load_file(directory / "generator.safetensors"))
    return made.eval().requires_grad_(False)


def critic_for(image: tuple[int, ...], width: int = 32) -> nn.Module:
    """Scores (N, 1); no batch normalisation, as the penalty is each sample's own."""
    if len(image) == 1:
        return nn.Sequential(
            nn.Linear(*image, width), nn.LeakyReLU(0.1), nn.Linear(width, width), nn.LeakyReLU(0.1), nn.Linear(width, 1)
        )
    layers: list[nn.Module] = []
    channels = [image[0], *(width * 2**i for i in range(_halvings(image)))]
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(1))


def _halvings(image: tuple[int, ...]) -> int:
    """How often the image can be halved until its smaller side has less than 8 pixels; at least once."""
    return max(1, min(image[1:]).bit_length() - 3)


def train(
    data: Tensor,
    generator: Generator,
    steps: int,
    batch: int = 64,
    critic_steps: int = 5,
    penalty: float = 10.0,
    lr: float = 1e-4,
    seed: int = 0,
) -> Iterator[float]:
    """`steps` steps of the generator, each after `critic_steps` of a critic, both by Adam(lr, (0, 0.9)), lr falling linearly to zero;
    yields after each of them the critic's estimate of the Wasserstein distance. `data` (N, …) is what is to be made."""
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        critic = critic_for(generator.image, generator.width)
        critic(data[:1])  # the last layer learns its size
    of_critic, of_generator = (torch.optim.Adam(n.parameters(), lr=lr, betas=(0.0, 0.9)) for n in (critic, generator))
    for step in range(steps):
        for optimizer in (of_critic, of_generator):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        for _ in range(critic_steps):
            real = data[torch.randint(len(data), (batch,), generator=rng)]
            with torch.no_grad():
                made = generator.sample(batch, rng)
            gap = critic(real).mean() - critic(made).mean()
            share = torch.rand(batch, *[1] * (data.dim() - 1), generator=rng)
            between = (share * real + (1 - share) * made).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            loss = penalty * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean() - gap
            of_critic.zero_grad(set_to_none=True)
            loss.backward()
            of_critic.step()
        of_generator.zero_grad(set_to_none=True)
        (-critic(generator.sample(batch, rng)).mean()).backward()
        of_generator.step()
        yield float(gap.detach())
