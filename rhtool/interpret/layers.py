"""Layers of a network by name, and what they put out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from rhtool.errors import ConfigError, nearest
from rhtool.interpret.nets import RewardNet
from rhtool.interpret.transitions import Transitions

BATCH = 128
"""transitions of one forward pass"""
SEED_PREFIX = "rew_net_"
"""with which the names of layers begin in reward-function-interpretability"""


def names(net: nn.Module) -> list[str]:
    """The layers that have no layers inside, in the order of `named_modules`."""
    return [name for name, module in net.named_modules() if name and not any(module.children())]


def resolve(net: nn.Module, name: str, where: str = "method.layer") -> str:
    """The dotted path of a layer, of which the end is enough; dots may be written as underscores, as in `cnn_dense_final`.

    Raises:
        ConfigError: naming the layers there are.
    """
    known, plain = names(net), name.removeprefix(SEED_PREFIX).replace("_", ".")
    for found in (
        [n for n in known if n == name],
        [n for n in known if n.endswith(f".{name}")],
        [n for n in known if n.replace("_", ".") == plain],
        [n for n in known if f".{n}".replace("_", ".").endswith(f".{plain}")],
    ):
        if len(found) == 1:
            return found[0]
    mend = f"{nearest(name, known)} There are: {', '.join(known)}"
    raise ConfigError(f"there is no layer '{name}'", where, mend)


@contextlib.contextmanager
def captured(net: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Within it, every forward pass puts the outputs of these layers into the dictionary, under the names given (see `resolve`).
    No hook is left on the network."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    modules = {name: net.get_submodule(resolve(net, name)) for name in layers}
    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def activations(net: RewardNet, layers: Iterable[str], transitions: Transitions) -> dict[str, np.ndarray]:
    """`{layer: its outputs (N, …) float32}` for N transitions."""
    layers = list(layers)
    found: dict[str, list[np.ndarray]] = {name: [] for name in layers}
    with captured(net, layers) as outputs:
        for start in range(0, len(transitions), BATCH):
            net(*net.parts(transitions[start : start + BATCH]))
            for name in layers:
                found[name].append(outputs[name].cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


@contextlib.contextmanager
def without(net: nn.Module, layer: str, direction: np.ndarray) -> Iterator[None]:
    """Within it, the layer's outputs have no part in the direction (C,) of their channels: a - d (d . a) / |d|^2. What reads them
    computes what it would if the direction were projected out of its weights."""
    d = torch.as_tensor(np.asarray(direction) / np.linalg.norm(direction), dtype=torch.float32)

    def project(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        part = torch.tensordot(output.movedim(1, -1), d, 1).unsqueeze(1)
        return output - part * d.reshape(1, -1, *[1] * (output.dim() - 2))

    hook = net.get_submodule(resolve(net, layer)).register_forward_hook(project)
    try:
        yield
    finally:
        hook.remove()


def contributions(net: RewardNet, layer: str, transitions: Transitions) -> np.ndarray:
    """Output times the reward's gradient, of a layer: (N, …) float32, what each unit adds to the reward to first order."""
    found = []
    with captured(net, [layer]) as outputs:
        for start in range(0, len(transitions), BATCH):
            reward = net(*net.parts(transitions[start : start + BATCH]))
            (gradient,) = torch.autograd.grad(reward.sum(), outputs[layer])
            found.append((gradient * outputs[layer]).detach().numpy())
    return np.concatenate(found)
