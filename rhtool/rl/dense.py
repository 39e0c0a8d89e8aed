"""Fully connected layers whose products go through oneDNN.

torch's own float32 products go through MKL, which leaves processors that are not Intel's at half their rate: 93 of 190
GFLOP/s on a core of an AMD Zen 5 (`benchmarks/orpo.py`). oneDNN, which torch brings along, does not, and applies the
activation while the result is still in the cache.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Layers(nn.Sequential):
    """`nn.Sequential` of `nn.Linear` layers, each possibly followed by `nn.Tanh` or `nn.LeakyReLU`; the same function to rounding.

    On a CPU a layer and its activation are one call, backward too. Where gradients with respect to the input are wanted (a
    gradient penalty differentiates those once more), on a GPU, where torch has no oneDNN, and for a training step whose products
    are all smaller than `SMALL`, this is `nn.Sequential`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) float32 -> (B, outputs)."""
        if not AVAILABLE or x.requires_grad or x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 2:
            return super().forward(x)
        if torch.is_grad_enabled() and len(x) * max(m.weight.numel() for m in self if isinstance(m, nn.Linear)) < SMALL:
            return super().forward(x)
        modules = [*self, None]
        for layer, following in pairwise(modules):
            if isinstance(layer, nn.Linear):
                name, numbers = _activation(following)
                # Without gradients the Function around the call would cost more than a small product.
                dense = _Dense.apply if torch.is_grad_enabled() else _dense
                x = dense(x, layer.weight, layer.bias, name, numbers)
        return x


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, name: str, numbers: list[float]) -> Tensor:
        y = _dense(x, weight, bias, name, numbers)
        ctx.save_for_backward(x, weight, y)
        ctx.activation = name, numbers
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        name, numbers = ctx.activation
        if name == "tanh":
            grad = torch.ops.aten.tanh_backward(grad, y)
        elif name == "leaky_relu":
            grad = torch.ops.aten.leaky_relu_backward(grad, y, numbers[0], True)
        grad = grad.contiguous()
        of_x = product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        # oneDNN is several times slower where the second factor is much the narrower.
        of_weight = product(x.t(), grad.t()).t() if x.shape[1] < grad.shape[1] else product(grad.t(), x.t())
        return of_x, of_weight, grad.sum(0), None, None


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None, name: str, numbers: list[float]) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, numbers, "")


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T, for (N, K) and (M, K) float32."""
    return _dense(a, b, None, "none", [])


def _activation(module: nn.Module | None) -> tuple[str, list[float]]:
    if isinstance(module, nn.Tanh):
        return "tanh", []
    return ("leaky_relu", [module.negative_slope]) if isinstance(module, nn.LeakyReLU) else ("none", [])


def _available() -> bool:
    """Whether this torch has the call, which is one of its private ones, and it works here."""
    try:
        return bool(product(torch.eye(2), torch.eye(2)).equal(torch.eye(2)))
    except (AttributeError, RuntimeError):
        return False


SMALL = 2**23
"""multiplications of a product, below which autograd's way around the call costs more than the call saves: a training step of 64 rows
through 2 x 128 took 0.47 ms with it and 0.29 ms without (`python benchmarks/dense.py`)"""

AVAILABLE = _available()
"""whether `Layers` is faster than `nn.Sequential` here"""
