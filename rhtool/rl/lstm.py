"""An LSTM of which only the last output is wanted, at the speed of the processor's matrix products.

torch's own LSTM spends most of a training step elsewhere: gates go through memory several times, and a product of 64 units by 256 gates
is too small for a library call. Here a chunk of rows goes through all layers and steps while it is in the cache, and a cell is updated as
soon as its gates' sums leave the registers. Results are those of `torch.nn.LSTM` but for rounding (float32 throughout).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rhtool.rl import lstm_kernels as kernels
from rhtool.rl.vectors import ROWS, SUPPORTED, WIDTH

CHUNK = 96
"""rows that go through the window together, at most"""


class LastOutput(nn.LSTM):
    """`torch.nn.LSTM` over sequences (B, features, time), from zeros, returning the top layer's output at the last time.

    Parameters, their names and their initialisation are torch's. It computes with own kernels, on as many threads as torch has, unless
    something asks for torch's: another device (cuDNN) or dtype, derivatives with respect to the input, a processor without FMA.

    Args:
        features: inputs of the first layer.
        units: of each layer.
        layers: number of layers.
    """

    def __init__(self, features: int, units: int, layers: int):
        super().__init__(features, units, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, time) -> (B, units)."""
        weights = [getattr(self, name) for names in self.all_weights_names for name in names]
        own = SUPPORTED and len(x) and not x.requires_grad
        if not own or any(w.dtype != torch.float32 or w.device.type != "cpu" for w in (x, *weights)):
            return super().forward(x.transpose(1, 2))[0][:, -1]
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
            return _LastOutput.apply(x, *weights)
        return _Window(x, weights).forward(keep=False)

    @property
    def all_weights_names(self) -> list[list[str]]:
        """Per layer: weight_ih, weight_hh, bias_ih, bias_hh."""
        return [[f"{kind}_l{layer}" for kind in KINDS] for layer in range(self.num_layers)]


KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _LastOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.window = _Window(x, weights)
        ctx.save_for_backward(*weights)  # torch's check that nobody changes them in between
        return ctx.window.forward(keep=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        window, ctx.window = ctx.window, None
        if window is None:
            raise RuntimeError("an LSTM's backward pass uses up what the forward pass kept: it runs once")
        _ = ctx.saved_tensors
        return None, *window.backward(gradient)


class _Window:
    """A batch on its way through the layers. `weights`: per layer those of `KINDS`."""

    def __init__(self, x: Tensor, weights: Iterable[Tensor]):
        self.x, self.weights = x.detach(), [w.detach() for w in weights]
        self.layers = len(self.weights) // len(KINDS)
        self.units, self.padded = self.weights[1].shape[1], _up(self.weights[1].shape[1], WIDTH)
        self.features = _up(x.shape[1], kernels.INPUTS)
        threads = torch.get_num_threads()
        tiles = -(-len(x) // ROWS)
        count = min(tiles, threads * -(-tiles // (threads * (CHUNK // ROWS))))
        bounds = [ROWS * (tiles * i // count) for i in range(count + 1)]
        self.chunks = [_Chunk(self.x[a:b].shape[0], b - a, a) for a, b in zip(bounds, bounds[1:], strict=False)]
        self.threads = min(threads, count)

    def forward(self, keep: bool) -> Tensor:
        x, units = self.x, self.padded
        weights, biases = self._packed()
        weights, biases, out = weights.numpy(), biases.numpy(), x.new_empty(len(x), self.units)
        steps = x.shape[2]

        def run(chunk: _Chunk) -> None:
            here = slice(chunk.first, chunk.first + chunk.rows)
            inputs = x.new_zeros(steps, chunk.padded, self.features)
            inputs[:, : chunk.rows, : x.shape[1]] = x[here].permute(2, 0, 1)
            slots = steps + 1 if keep else 2
            gates = x.new_empty(slots - 1, self.layers, chunk.padded, 4 * units)
            cells, hiddens = (x.new_empty(slots, self.layers, chunk.padded, units) for _ in range(2))
            cells[0] = 0
            hiddens[0] = 0
            arrays = [tensor.numpy() for tensor in (inputs, gates, cells, hiddens)]
            kernels.forward(arrays[0], weights, biases, *arrays[1:], keep)
            out[here] = hiddens[steps if keep else steps % 2, -1, : chunk.rows, : self.units]
            if keep:
                chunk.kept = arrays

        self._all(lambda part: [run(chunk) for chunk in part])
        return out

    def backward(self, gradient: Tensor) -> list[Tensor]:
        transposed = self._transposed().numpy()
        sizes = [(self.features if layer == 0 else self.padded) + self.padded for layer in range(self.layers)]

        def run(part: list[_Chunk]) -> tuple[Tensor, Tensor]:
            d_weights, d_biases = torch.zeros(4 * self.padded * sum(sizes)), torch.zeros(self.layers, 4 * self.padded)
            for chunk in part:
                d_hidden, d_cell = torch.zeros(2, self.layers, chunk.padded, self.padded)
                d_hidden[-1, : chunk.rows, : self.units] = gradient[chunk.first : chunk.first + chunk.rows]
                inputs, *kept = chunk.kept
                derivatives = [tensor.numpy() for tensor in (d_hidden, d_cell, d_weights, d_biases)]
                kernels.backward(inputs, transposed, *kept, *derivatives)
            return d_weights, d_biases

        d_weights, d_biases = (sum(parts) for parts in zip(*self._all(run), strict=True))
        result = []
        for layer, d in enumerate(d_weights.split([4 * self.padded * size for size in sizes])):
            inputs = self.weights[len(KINDS) * layer].shape[1]
            rows = _natural(d.view(-1, sizes[layer], 4, WIDTH).permute(2, 0, 3, 1), self.units)
            bias = _natural(d_biases[layer].view(-1, 4, WIDTH, 1).permute(1, 0, 2, 3), self.units)[:, 0]
            first = self.features if layer == 0 else self.padded
            result += [rows[:, :inputs], rows[:, first : first + self.units], bias, bias]
        return result
        
    def _packed(self) -> tuple[Tensor, Tensor]:
        """Weights and biases for `kernels.forward`."""
        weights, biases = [], []
        for layer in range(self.layers):
            w, u, b, b_hidden = self.weights[len(KINDS) * layer :][: len(KINDS)]
            first = self.features if layer == 0 else self.padded
            both = torch.cat([self._blocks(w, first), self._blocks(u, self.padded)], 3)
            weights.append(both.permute(1, 3, 0, 2).flatten())
            biases.append(self._blocks((b + b_hidden)[:, None], 1).permute(1, 3, 0, 2).flatten())
        return torch.cat(weights), torch.stack(biases)

    def _transposed(self) -> Tensor:
        """Weights for `kernels.backward`."""
        result = torch.zeros(2, self.layers, 4 * self.padded, self.padded)
        for layer in range(self.layers):
            for which in (0, 1) if layer else (1,):
                blocks = self._blocks(self.weights[len(KINDS) * layer + which], self.padded)
                result[which, layer] = blocks.permute(1, 0, 2, 3).flatten(0, 2)
        return result

    def _blocks(self, weight: Tensor, columns: int) -> Tensor:
        """(4 * units, n) -> (4, blocks, WIDTH, columns), padded."""
        result = weight.new_zeros(4, self.padded, columns)
        result[:, : self.units, : weight.shape[1]] = weight.unflatten(0, (4, -1))
        return result.unflatten(1, (-1, WIDTH))

    def _all(self, run: Callable[[list[_Chunk]], Any]) -> list[Any]:
        """`run` over as many parts of the chunks as there are threads."""
        parts = [self.chunks[i :: self.threads] for i in range(self.threads)]
        if len(parts) == 1:
            return [run(parts[0])]
        return list(_pool(self.threads, os.getpid()).map(run, parts))


class _Chunk:
    def __init__(self, rows: int, padded: int, first: int):
        self.rows, self.padded, self.first, self.kept = rows, padded, first, None


def _natural(blocks: Tensor, units: int) -> Tensor:
    """(4, blocks, WIDTH, n) -> (4 * units, n), without the padding."""
    return blocks.flatten(1, 2)[:, :units].flatten(0, 1)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "lstm")
