"""Feature visualisation: images that maximise something of a reward network, by gradient ascent.

Olah, Mordvintsev and Schubert 2017, "Feature Visualization", Distill: images in the Fourier basis, moved about a little at every step.
An image here is everything that the network sees of s and s', in the channels: `CnnReward.visible`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from rhtool.interpret.layers import captured
from rhtool.interpret.nets import RewardNet


@dataclass
class Seen:
    """One step of the ascent, of F images."""

    images: Tensor
    """(F, C, H, W) in [0, 1], before they are moved about"""
    moved: Tensor
    """(F, C, H, W): what the network was given"""
    rewards: Tensor
    """(F,)"""
    layers: dict[str, Tensor]
    """outputs by layer, (F, …)"""


class Objective:
    """What each image is to have much of: values (F,), which add, subtract and scale.

    Args:
        value: of a `Seen`, (F,).
        layers: whose outputs it needs.
    """

    def __init__(self, value: Callable[[Seen], Tensor], layers: Sequence[str] = ()):
        self.value, self.layers = value, tuple(layers)

    def __add__(self, other: Objective) -> Objective:
        return Objective(lambda seen: self.value(seen) + other.value(seen), self.layers + other.layers)

    def __mul__(self, factor: float) -> Objective:
        return Objective(lambda seen: factor * self.value(seen), self.layers)

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return -1.0 * self

    def __sub__(self, other: Objective) -> Objective:
        return self + (-other)

    def at(self, image: int) -> Objective:
        """The objective of one image of the batch alone."""
        return Objective(lambda seen: self.value(seen) * (torch.arange(len(seen.images)) == image), self.layers)


def _space(x: Tensor) -> Tensor:
    """(F, C, …) -> (F, C, P): activations by position; a layer without positions has one."""
    return x.flatten(2) if x.dim() > 2 else x.unsqueeze(-1)


def units(layer: str, index: Sequence[int]) -> Objective:
    """Image i: unit or channel `index[i]` of a layer, its mean over positions."""
    return Objective(lambda s: _space(s.layers[layer])[torch.arange(len(index)), list(index)].mean(-1), [layer])


def neuron(layer: str, channel: int, y: int, x: int) -> Objective:
    """One channel at one position."""
    return Objective(lambda s: s.layers[layer][:, channel, y, x], [layer])


def directions(layer: str, vectors: Tensor, cosine: float | None = None) -> Objective:
    """Image i: direction `vectors[i]` (C,) in a layer's channels, the dot product's mean over positions.

    With `cosine` p it is the cosine for p = inf, else dot * max(cos, 0.1)^p, which punishes what is large but points elsewhere.
    """

    def value(seen: Seen) -> Tensor:
        acts = _space(seen.layers[layer])
        dot = (acts * vectors[:, :, None]).sum(1)
        if cosine is None:
            return dot.mean(-1)
        cos = dot / (acts.norm(dim=1) * vectors.norm(dim=1)[:, None] + 1e-8)
        return (cos if cosine == float("inf") else dot * cos.clamp(min=0.1) ** cosine).mean(-1)

    return Objective(value, [layer])


def reward() -> Objective:
    """The reward itself, under the action that `maximise` is given."""
    return Objective(lambda seen: seen.rewards)


def reward_difference(other: RewardNet, action: Tensor | None = None) -> Objective:
    """By how much more the network pays than another one of the same images: what is to be seen only here."""
    return Objective(
        lambda seen: seen.rewards - other.of_visible(seen.moved, action, seen.moved.new_zeros(len(seen.moved)))
    )


def norm(layer: str) -> Objective:
    """L2 norm of a layer's outputs."""
    return Objective(lambda seen: seen.layers[layer].flatten(1).norm(dim=1), [layer])


def distance(reference: Tensor) -> Objective:
    """L2 distance of the images to others (F, C, H, W), before they are moved about."""
    return Objective(lambda seen: (seen.images - reference).flatten(1).norm(dim=1))


def total_variation() -> Objective:
    """Sum over channels and positions of the differences to the right and lower neighbours."""

    def value(seen: Seen) -> Tensor:
        x = seen.images
        return x.diff(dim=2).abs().flatten(1).sum(1) + x.diff(dim=3).abs().flatten(1).sum(1)

    return Objective(value)


def roughness() -> Objective:
    """L2 distance of the images to themselves, blurred by a binomial kernel of 3 pixels."""

    def value(seen: Seen) -> Tensor:
        row = torch.tensor([0.25, 0.5, 0.25])
        kernel = (row[:, None] * row).expand(seen.images.shape[1], 1, 3, 3)
        padded = nn.functional.pad(seen.images, (1, 1, 1, 1), mode="replicate")
        blurred = nn.functional.conv2d(padded, kernel, groups=seen.images.shape[1])
        return (seen.images - blurred).flatten(1).norm(dim=1)

    return Objective(value)


def diversity(layer: str) -> Objective:
    """Minus the mean cosine of an image's Gram matrix of channels to those of the others: for several images of one thing."""

    def value(seen: Seen) -> Tensor:
        acts = _space(seen.layers[layer])
        gram = nn.functional.normalize((acts @ acts.transpose(1, 2)).flatten(1), dim=1)
        others = gram @ gram.T - torch.eye(len(gram))
        return -others.sum(1) / max(len(gram) - 1, 1)

    return Objective(value, [layer])


class Pixels(nn.Module):
    """Images as their pixels' logits, from Gaussian noise of standard deviation 0.01."""

    def __init__(self, shape: tuple[int, int, int, int], generator: torch.Generator, sd: float = 0.01):
        super().__init__()
        self.logits = nn.Parameter(sd * torch.randn(shape, generator=generator))

    def forward(self) -> Tensor:
        """(F, C, H, W)."""
        return torch.sigmoid(self.logits)


class Fourier(nn.Module):
    """Images by their spectra: sigmoid(irfft2(z / max(f, 1 / max(H, W))^decay) / 4), z Gaussian.

    Low frequencies, whose amplitudes are large in images, get large steps. `sd` is z's standard deviation at the start: from 1, as
    reward-function-interpretability has it, the start's noise is still there after 256 steps (benchmarks/interpret_vision.py).
    """

    def __init__(
        self, shape: tuple[int, int, int, int], generator: torch.Generator, sd: float = 0.01, decay: float = 1.0
    ):
        super().__init__()
        *_, h, w = self.shape = shape
        f = np.sqrt(np.fft.fftfreq(h)[:, None] ** 2 + np.fft.rfftfreq(w)[None] ** 2)
        self.register_buffer("scale", torch.from_numpy(np.maximum(f, 1 / max(h, w)) ** -decay).float())
        self.z = nn.Parameter(sd * torch.randn((*shape[:2], *f.shape, 2), generator=generator))

    def forward(self) -> Tensor:
        """(F, C, H, W)."""
        spectrum = torch.view_as_complex(self.z) * self.scale
        return torch.sigmoid(torch.fft.irfft2(spectrum, s=self.shape[2:], norm="ortho") / 4)


class _Clamp(torch.autograd.Function):
    """To [0, 1]; the gradient passes as if nothing were clamped."""

    @staticmethod
    def forward(ctx, x):
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class From(nn.Module):
    """Given images (F, C, H, W), their pixels changed freely within [0, 1]."""

    def __init__(self, images: Tensor):
        super().__init__()
        self.pixels = nn.Parameter(images.clone())

    def forward(self) -> Tensor:
        """(F, C, H, W)."""
        return _Clamp.apply(self.pixels)


class Latent(nn.Module):
    """Images that a generator makes of latents (F, Z); the generator is left as it is."""

    def __init__(self, generate: Callable[[Tensor], Tensor], latents: Tensor):
        super().__init__()
        self.generate, self.z = generate, nn.Parameter(latents.clone())

    def forward(self) -> Tensor:
        """(F, C, H, W)."""
        return self.generate(self.z)


Transform = Callable[[Tensor, torch.Generator], Tensor]
"""moves images (F, C, H, W) about, the same way all of them; drawn anew at every step"""


def jitter(pixels: int, mode: str = "reflect") -> Transform:
    """Shift by up to `pixels` in both directions. mode: reflect, replicate, constant, or circular."""

    def move(x: Tensor, generator: torch.Generator) -> Tensor:
        reach = [min(pixels, n - 1) for n in x.shape[2:]]
        padded = nn.functional.pad(x, (reach[1], reach[1], reach[0], reach[0]), mode=mode)
        top, left = (int(torch.randint(2 * r + 1, (), generator=generator)) for r in reach)
        return padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]

    return move


def affine(scale: float = 0.0, degrees: float = 0.0) -> Transform:
    """Enlarge or shrink by a factor within 1 ± `scale`, and turn by up to `degrees` either way; what comes in is reflected."""

    def move(x: Tensor, generator: torch.Generator) -> Tensor:
        by, turn = (2 * torch.rand(2, generator=generator) - 1) * torch.tensor([scale, np.deg2rad(degrees)])
        cos, sin = torch.cos(turn) / (1 + by), torch.sin(turn) / (1 + by)
        zero = torch.zeros(())
        theta = torch.stack([torch.stack([cos, -sin, zero]), torch.stack([sin, cos, zero])]).float()
        grid = nn.functional.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
        return nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    return move


@dataclass
class Visualised:
    """What `maximise` found."""

    images: Tensor
    """(F, C, H, W) in [0, 1]"""
    objective: np.ndarray
    """(steps + 1, F): the objective before every step, on moved images, and at the end, on the images as they are"""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """parameters of the images by name, such as the latents `z`"""


def maximise(
    net: RewardNet,
    objective: Objective,
    images: nn.Module,
    transforms: Sequence[Transform] = (),
    steps: int = 256,
    lr: float = 0.05,
    seed: int = 0,
    action: Tensor | None = None,
) -> Visualised:
    """Adam on the sum over images of the objective.

    The network is put in evaluation mode and its parameters get no gradients; both is as before afterwards, and no hook is left.
    The same arguments give the same images, to the last bit on a CPU with a fixed number of threads.

    Args:
        images: makes (F, C, H, W) in [0, 1] from its parameters.
        action: (F, A), of the transitions of which the rewards are; None: the first one.
    """
    generator = torch.Generator().manual_seed(seed)
    mode, wanted = net.training, [p.requires_grad for p in net.parameters()]
    net.eval().requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in images.parameters() if p.requires_grad], lr=lr)
    values: list[np.ndarray] = []
    try:
        with captured(net, objective.layers) as outputs:

            def look(moving: Sequence[Transform]) -> tuple[Tensor, Tensor]:
                made = moved = images()
                for transform in moving:
                    moved = transform(moved, generator)
                chosen = first_action(net, len(made)) if action is None else action
                rewards = net.of_visible(moved, chosen, moved.new_zeros(len(moved)))
                return objective.value(Seen(made, moved, rewards, outputs)), made

            for _ in range(steps):
                value, _ = look(transforms)
                optimizer.zero_grad(set_to_none=True)
                (-value.sum()).backward()
                optimizer.step()
                values.append(value.detach().numpy())
            with torch.no_grad():
                value, made = look(())
                values.append(value.numpy())
    finally:
        net.train(mode)
        for parameter, was in zip(net.parameters(), wanted, strict=True):
            parameter.requires_grad_(was)
    extra = {name: p.detach().clone() for name, p in images.named_parameters() if p.requires_grad}
    return Visualised(made.detach(), np.stack(values), extra)


def first_action(net: RewardNet, count: int) -> Tensor:
    """The first action as a one-hot, (count, A)."""
    return torch.eye(net.actions)[:1].expand(count, -1)


@torch.no_grad()
def rewards_by_action(net: RewardNet, images: Tensor) -> np.ndarray:
    """Rewards (F, A) float64 of images (F, C, H, W) under every discrete action, in transitions that end no episode; (F, 1) of a
    network that does not look at the action."""
    if "action" not in net.sees:
        return net.of_visible(images, None, images.new_zeros(len(images))).double().numpy()[:, None]
    columns = [
        net.of_visible(images, one.expand(len(images), -1), images.new_zeros(len(images)))
        for one in torch.eye(net.actions)
    ]
    return torch.stack(columns, 1).double().numpy()
