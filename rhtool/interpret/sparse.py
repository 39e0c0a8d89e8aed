"""Sparse autoencoders: activations as sums of few directions out of many. Torch alone.

BatchTopK (Bussmann et al. 2024, arXiv 2412.06410), with an auxiliary loss for dead features (Gao et al. 2024, arXiv 2406.04093):

    z = the k N largest of relu(W_e (x - b) + c) over a batch of N, the others 0        x' = W_d z + b
    loss = |x - x'|^2 + |(x - x') - W_d z_dead|^2 / 32

z_dead being the largest of what features that have been silent for long would say. Directions have length 1. Afterwards a feature is on
where it is above the threshold that let k of them through in the mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rhtool.checkpoints import write_atomic

SILENT = 200
"""steps after which a feature that has not been on counts as dead in training"""
AUXILIARY = 1 / 32
"""weight of the dead features' loss"""


class SparseAutoencoder(nn.Module):
    """Of activations (…, d), in their own units.

    Args:
        d: of the activations.
        width: features.
        k: features that are on at once, in the mean.
        mean: (d,) of the activations.
        scale: their distance from it, root mean square, over sqrt(d).
    """

    def __init__(self, d: int, width: int, k: int, mean: Tensor | None = None, scale: float = 1.0, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        directions = nn.functional.normalize(torch.randn(width, d, generator=generator), dim=1)
        self.k = k
        self.decoder, self.encoder = nn.Parameter(directions), nn.Parameter(directions.clone())
        self.bias, self.centre = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(d))
        self.register_buffer("mean", torch.zeros(d) if mean is None else mean.float())
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("threshold", torch.tensor(0.0))

    def before(self, x: Tensor) -> Tensor:
        """(…, width): what each feature would say, 0 or more."""
        return torch.relu(((x - self.mean) / self.scale - self.centre) @ self.encoder.T + self.bias)

    def encode(self, x: Tensor) -> Tensor:
        """(…, width): the features that are on."""
        z = self.before(x)
        return torch.where(z > self.threshold, z, 0.0)

    def decode(self, z: Tensor) -> Tensor:
        """(…, d)."""
        return (z @ self.decoder + self.centre) * self.scale + self.mean

    def direction(self, j: int) -> Tensor:
        """(d,): what one more of feature j adds to the activations."""
        return (self.decoder[j] * self.scale).detach()

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        return self.decode(self.encode(x))

    def save(self, directory: Path) -> None:
        """`sae.safetensors`, `sae.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, directory / "sae.safetensors")
        about = {"d": self.decoder.shape[1], "width": self.decoder.shape[0], "k": self.k}
        write_atomic(directory / "sae.json", json.dumps(about).encode())

    @classmethod
    def load(cls, directory: Path) -> SparseAutoencoder:
        """The inverse of `save`."""
        made = cls(**json.loads((directory / "sae.json").read_text()))
        made.load_state_dict(load_file(directory / "sae.safetensors"))
        return made


@dataclass
class Fitted:
    """What training ended with, on the activations trained on."""

    sae: SparseAutoencoder
    explained: float
    """1 - |x - x'|^2 / |x - mean|^2"""
    dead: float
    """share of the features that are never on"""
    on: float
    """features that are on, mean"""


def fit(x: Tensor, width: int, k: int, steps: int, batch: int, lr: float, seed: int) -> Fitted:
    """An autoencoder of activations x (N, d), by Adam, whose learning rate falls to zero over the last fifth of the steps."""
    x = x.float()
    mean = x.mean(0)
    scale = float((x - mean).square().mean().sqrt()) or 1.0
    sae = SparseAutoencoder(x.shape[1], width, min(k, width), mean, scale, seed)
    optimiser = torch.optim.Adam(sae.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed + 1)
    since = torch.zeros(width, dtype=torch.long)
    thresholds = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (steps - step) / max(1, steps / 5))
        rows = x[torch.randint(len(x), (min(batch, len(x)),), generator=generator)]
        z = sae.before(rows)
        number = min(sae.k * len(rows), z.numel())
        least = z.flatten().topk(number).values[-1]
        kept = torch.where(z >= least, z, 0.0)
        left = (rows - sae.decode(kept)) / sae.scale
        loss = left.square().sum(1).mean()
        dead = since > SILENT
        if dead.any():
            silent = torch.where(dead, z, 0.0)
            top = silent.topk(min(int(dead.sum()), max(1, x.shape[1] // 2)), dim=1)
            said = torch.zeros_like(z).scatter(1, top.indices, top.values) @ sae.decoder
            loss = loss + AUXILIARY * (left.detach() - said).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            sae.decoder.copy_(nn.functional.normalize(sae.decoder, dim=1))
            since = torch.where((kept > 0).any(0), 0, since + 1)
        if step >= steps * 4 // 5:
            thresholds.append(float(least.detach()))
    sae.threshold.fill_(sum(thresholds) / max(1, len(thresholds)))
    sae.requires_grad_(False)
    left, fired, on = 0.0, torch.zeros(width, dtype=torch.bool), 0
    for rows in x.split(4096):
        z = sae.encode(rows)
        left += float((rows - sae.decode(z)).square().sum())
        fired |= (z > 0).any(0)
        on += int((z > 0).sum())
    total = float((x - mean).square().sum())
    return Fitted(sae, 1 - left / total if total else 1.0, float((~fired).float().mean()), on / len(x))
