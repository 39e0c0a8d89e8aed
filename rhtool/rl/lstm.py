"""An LSTM of which only the last output is wanted, at the speed of the processor's matrix products.

torch's own LSTM computes all rows of a batch step by step, and its gates go through memory several times. Here a chunk of rows goes through
all layers and steps while it is in the cache, and cells are updated while their gates' sums are in registers. Results are those of
`torch.nn.LSTM` but for rounding, float32 throughout.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rhtool.rl import lstm_kernels as kernels
from rhtool.rl.vectors import ROWS, SUPPORTED, WIDTH

CHUNK = 96
"""rows that go through the window together, at most"""
KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""a layer's parameters, torch's names and order"""


class LastOutput(nn.LSTM):
    """`torch.nn.LSTM` over sequences (B, features, time), from zeros, that returns the top layer's output at the last time.

    Parameters, their names and their initialisation are torch's. It computes with own kernels, on as many threads as torch has, and with
    torch's where those do not serve: another device (cuDNN) or dtype, derivatives with respect to the input, a processor without FMA.

    Args:
        features: inputs of the first layer.
        units: of each layer.
        layers: their number.
    """

    def __init__(self, features: int, units: int, layers: int):
        super().__init__(features, units, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, time) -> (B, units)."""
        weights = [getattr(self, f"{kind}_l{layer}") for layer in range(self.num_layers) for kind in KINDS]
        own = SUPPORTED and len(x) and x.shape[2] and not x.requires_grad
        if not own or any(w.dtype != torch.float32 or w.device.type != "cpu" for w in (x, *weights)):
            return super().forward(x.transpose(1, 2))[0][:, -1]
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
            return _LastOutput.apply(x, *weights)
        return _Plan(x, weights).forward(x, weights, keep=False)[0]


class _LastOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.plan = _Plan(x, weights)
        out, kept = ctx.plan.forward(x, weights, keep=True)
        ctx.save_for_backward(*weights, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.plan.backward(gradient, ctx.saved_tensors)


class _Chunk(NamedTuple):
    rows: slice
    """of the batch"""
    padded: int
    """their number, up to a multiple of `ROWS`"""


class _Plan:
    """How a batch is split, and how its arrays are laid out for the kernels. `weights`: per layer those of `KINDS`."""

    def __init__(self, x: Tensor, weights: Sequence[Tensor]):
        rows, self.features, self.steps = x.shape
        self.count, self.layers, self.units = len(weights), len(weights) // len(KINDS), weights[1].shape[1]
        self.padded = _up(self.units, WIDTH)
        self.widths = [_up(self.features, kernels.INPUTS)] + [self.padded] * (self.layers - 1)
        self.threads = torch.get_num_threads()
        tiles = -(-rows // ROWS)
        chunks = min(tiles, self.threads * -(-tiles // (self.threads * (CHUNK // ROWS))))
        bounds = [ROWS * (tiles * i // chunks) for i in range(chunks + 1)]
        self.chunks = [_Chunk(slice(a, min(b, rows)), b - a) for a, b in pairwise(bounds)]

    def forward(self, x: Tensor, weights: Sequence[Tensor], keep: bool) -> tuple[Tensor, list[Tensor]]:
        """The outputs (B, units), and, if `keep`, four tensors of each chunk for `backward`."""
        packed, biases = (tensor.numpy() for tensor in self._packed([w.detach() for w in weights]))
        out = torch.empty(len(x), self.units)
        slots = self.steps + 1 if keep else 2

        def run(chunk: _Chunk) -> list[Tensor]:
            inputs = torch.zeros(self.steps, chunk.padded, self.widths[0])
            inputs[:, : chunk.rows.stop - chunk.rows.start, : self.features] = x[chunk.rows].permute(2, 0, 1)
            blocks = (self.layers, self.padded // WIDTH, chunk.padded)
            gates = torch.empty(self.steps if keep else 0, *blocks, kernels.BLOCK)
            cells = torch.empty(slots, *blocks, WIDTH)
            hiddens = torch.empty(slots, self.layers, chunk.padded, self.padded)
            cells[0], hiddens[0] = 0, 0
            kernels.forward(inputs.numpy(), packed, biases, gates.numpy(), cells.numpy(), hiddens.numpy(), keep)
            last = hiddens[self.steps if keep else self.steps % 2, -1]
            out[chunk.rows] = last[: chunk.rows.stop - chunk.rows.start, : self.units]
            return [inputs, gates, cells, hiddens] if keep else []

        return out, [tensor for kept in self._in_threads(run) for tensor in kept]

    def backward(self, gradient: Tensor, saved: Sequence[Tensor]) -> list[Tensor]:
        """Derivatives with respect to the weights; `saved`: the weights, then what `forward` kept."""
        weights, kept = saved[: self.count], saved[self.count :]
        transposed, columns = self._transposed(weights).numpy(), 4 * self.padded
        sizes = [columns * (width + self.padded) for width in self.widths]

        def run(chunk: _Chunk) -> tuple[Tensor, Tensor]:
            mine = len(KEPT) * self.chunks.index(chunk)
            d_hidden = torch.zeros(self.layers, chunk.padded, self.padded)
            d_hidden[-1, : chunk.rows.stop - chunk.rows.start, : self.units] = gradient[chunk.rows]
            d_cell = torch.zeros(self.layers, self.padded // WIDTH, chunk.padded, WIDTH)
            # a vector more than needed: rows that were 1 KB apart would share few of the cache's sets
            d_sums = torch.empty(chunk.padded, columns + WIDTH)
            d_weights, d_biases = torch.zeros(sum(sizes)), torch.zeros(self.layers, columns)
            inputs, *arrays = (tensor.numpy() for tensor in kept[mine : mine + len(KEPT)])
            derivatives = (tensor.numpy() for tensor in (d_hidden, d_cell, d_sums, d_weights, d_biases))
            kernels.backward(inputs, transposed, *arrays, *derivatives)
            return d_weights, d_biases

        d_weights, d_biases = (sum(parts) for parts in zip(*self._in_threads(run), strict=True))
        result = []
        for layer, part in enumerate(d_weights.split(sizes)):
            width, inputs = self.widths[layer], weights[len(KINDS) * layer].shape[1]
            matrices = self._natural(part.view(-1, width + self.padded, 4, WIDTH).permute(2, 0, 3, 1))
            bias = self._natural(d_biases[layer].view(-1, 4, WIDTH, 1).permute(1, 0, 2, 3))[:, 0]
            result += [matrices[:, :inputs].contiguous(), matrices[:, width : width + self.units].contiguous()]
            result += [bias, bias.clone()]  # whoever scales the one in place must not scale the other
        return result

    def _in_threads(self, run: Callable[[_Chunk], Any]) -> list[Any]:
        """What `run` returns for each chunk."""
        if self.threads == 1 or len(self.chunks) == 1:
            return [run(chunk) for chunk in self.chunks]
        return list(_pool(self.threads, os.getpid()).map(run, self.chunks))

    def _packed(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Weights and biases for `kernels.forward`."""
        sizes = [4 * self.padded * (width + self.padded) for width in self.widths]
        packed, biases = torch.zeros(sum(sizes)), torch.zeros(self.layers, 4 * self.padded)
        for layer, part in enumerate(packed.split(sizes)):
            w, u, b, b_hidden = (tensor.contiguous() for tensor in weights[len(KINDS) * layer :][: len(KINDS)])
            blocks = part.view(-1, self.widths[layer] + self.padded, 4, WIDTH).numpy()
            kernels.pack(w.numpy(), blocks, 0)
            kernels.pack(u.numpy(), blocks, self.widths[layer])
            kernels.pack((b + b_hidden)[:, None].numpy(), biases[layer].view(-1, 1, 4, WIDTH).numpy(), 0)
        return packed, biases

    def _transposed(self, weights: Sequence[Tensor]) -> Tensor:
        """Weights for `kernels.backward`."""
        result = torch.zeros(2, self.layers, 4 * self.padded, self.padded)
        for layer in range(self.layers):
            for which in (0, 1) if layer else (1,):
                blocks = self._blocks(weights[len(KINDS) * layer + which], self.padded)
                result[which, layer] = blocks.permute(1, 0, 2, 3).flatten(0, 2)
        return result

    def _blocks(self, weight: Tensor, columns: int) -> Tensor:
        """(4 * units, n) -> (4, blocks, WIDTH, columns), padded with zeros."""
        result = torch.zeros(4, self.padded, columns)
        result[:, : self.units, : weight.shape[1]] = weight.unflatten(0, (4, -1))
        return result.unflatten(1, (-1, WIDTH))

    def _natural(self, blocks: Tensor) -> Tensor:
        """(4, blocks, WIDTH, n) -> (4 * units, n), without the padding."""
        return blocks.flatten(1, 2)[:, : self.units].flatten(0, 1)


KEPT = ("inputs", "gates", "cells", "hiddens")
"""what `_Plan.forward` keeps of each chunk"""


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "lstm")
