"""A window through the layers of an LSTM, forwards and backwards, for one chunk of rows: the loops of `lstm.py`.

    i, f, g, o = sigmoid(a_i), sigmoid(a_f), tanh(a_g), sigmoid(a_o),    a = W x_t + U h_{t-1} + b
    c_t = f c_{t-1} + i g,    h_t = o tanh(c_t),    c_0 = h_0 = 0        (Hochreiter and Schmidhuber 1997; Gers et al. 2000)

Arrays are float32, contiguous and start at multiples of 64 bytes. Rows C are a multiple of `ROWS`, units H of `WIDTH`, the first
layer's inputs F of `INPUTS` (what is too many holds zeros). The 4 H gates of a layer are in the order (unit block, gate, unit of the
block), so that one tile of a product is all that the update of `WIDTH` cells needs. Time is the outer loop and layers the inner one:
a step's rows are read by the next layer and the next step while they are in the cache.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from rhtool.rl.vectors import ROWS, WIDTH, cell_backward, cell_forward, product, sigmoid, tanh

INPUTS = 4
BLOCK = 4 * WIDTH
DEPTH = 128
"""rows of a weight matrix that are multiplied at a time: 32 KB, which the first-level cache holds"""
rows_by_block, rows_by_vector, inputs_by_block = product(ROWS, 4), product(ROWS, 1), product(INPUTS, 4)


@njit(cache=True, nogil=True)
def forward(inputs, weights, biases, gates, cells, hiddens, keep):
    """Fill `hiddens`; the last step's lie in slot T, or T % 2 if not `keep`.

    Args:
        inputs: (T, C, F).
        weights: flat, per layer (H / WIDTH, K, BLOCK): K rows, one for each input and then one for each unit.
        biases: (layers, 4 H).
        gates: (T, layers, C, 4 H), or (1, …) if not `keep`.
        cells, hiddens: (T + 1, layers, C, H) with zeros in slot 0, or (2, …), two steps by turns, if not `keep`.
        keep: whether all steps are wanted, for `backward`.
    """
    (steps, rows, features), (layers, columns) = inputs.shape, biases.shape
    units = columns // 4
    for t in range(steps):
        slot, before, now = (t, t, t + 1) if keep else (0, t % 2, (t + 1) % 2)
        weight = weights.ctypes.data
        for layer in range(layers):
            width = units if layer else features
            below = hiddens[now, layer - 1].ctypes.data if layer else inputs[t].ctypes.data
            g, h = gates[slot, layer].ctypes.data, hiddens[now, layer].ctypes.data
            c, c_before = cells[now, layer].ctypes.data, cells[before, layer].ctypes.data
            h_before = hiddens[before, layer].ctypes.data
            for unit in range(0, units, WIDTH):
                for row in range(0, rows, ROWS):
                    sums = g + 4 * (row * columns + 4 * unit)
                    gates[slot, layer, row : row + ROWS, 4 * unit : 4 * unit + BLOCK] = biases[
                        layer, 4 * unit : 4 * unit + BLOCK
                    ]
                    rows_by_block(below + 4 * row * width, width, 1, weight, BLOCK, width, sums, columns)
                    if t:
                        recurrent = weight + 4 * width * BLOCK
                        rows_by_block(
                            h_before + 4 * row * units, units, 1, recurrent, BLOCK, units, sums, columns
                        )
                    for r in range(ROWS):
                        at = 4 * ((row + r) * units + unit)
                        cell_forward(sums + 4 * r * columns, c_before + at, c + at, h + at)
                weight += 4 * (width + units) * BLOCK


@njit(cache=True, nogil=True)
def backward(inputs, weights, gates, cells, hiddens, d_hidden, d_cell, d_weights, d_biases):
    """Add to the derivatives with respect to weights and biases; `gates`, `d_hidden` and `d_cell` are used up.

    Args:
        inputs, gates, cells, hiddens: of `forward` with `keep`.
        weights: (2, layers, 4 H, H), rows in the order of the gates: the matrices W (of the first layer anything) and U.
        d_hidden: (layers, C, H): derivatives with respect to the last step's outputs.
        d_cell: (layers, C, H) zeros.
        d_weights, d_biases: as `forward`'s weights and biases.
    """
    (steps, rows, features), (layers, units) = inputs.shape, hiddens.shape[1::2]
    columns = 4 * units
    for t in range(steps - 1, -1, -1):
        weight = d_weights.ctypes.data + 4 * d_weights.size
        for layer in range(layers - 1, -1, -1):
            width = units if layer else features
            g = gates[t, layer].ctypes.data
            before, now = cells[t, layer].ctypes.data, cells[t + 1, layer].ctypes.data
            dh, dc, bias = d_hidden[layer].ctypes.data, d_cell[layer].ctypes.data, d_biases[layer].ctypes.data
            for row in range(rows):
                for unit in range(0, units, WIDTH):
                    at, sums = 4 * (row * units + unit), g + 4 * (row * columns + 4 * unit)
                    cell_backward(sums, before + at, now + at, dh + at, dc + at, bias + 16 * unit)
            if t:
                d_hidden[layer] = 0
                add_rows(g, weights[1, layer].ctypes.data, dh, rows, units)
            if layer:
                add_rows(g, weights[0, layer].ctypes.data, d_hidden[layer - 1].ctypes.data, rows, units)
            below = hiddens[t + 1, layer - 1].ctypes.data if layer else inputs[t].ctypes.data
            weight -= 4 * (width + units) * columns
            for unit in range(0, units, WIDTH):
                block = weight + 4 * unit * 4 * (width + units)
                sums = g + 16 * unit
                for k in range(0, width, INPUTS):
                    inputs_by_block(below + 4 * k, 1, width, sums, columns, rows, block + 4 * k * BLOCK, BLOCK)
                if t:
                    h, block = hiddens[t, layer].ctypes.data, block + 4 * width * BLOCK
                    for k in range(0, units, INPUTS):
                        inputs_by_block(h + 4 * k, 1, units, sums, columns, rows, block + 4 * k * BLOCK, BLOCK)


@njit(nogil=True)
def add_rows(sums, weights, out, rows, units):
    """out (rows, H) += sums (rows, 4 H) @ weights (4 H, H)."""
    columns = 4 * units
    for first in range(0, columns, DEPTH):
        depth = min(DEPTH, columns - first)
        for unit in range(0, units, BLOCK if units % BLOCK == 0 else WIDTH):
            b = weights + 4 * (first * units + unit)
            for row in range(0, rows, ROWS):
                a, c = sums + 4 * (row * columns + first), out + 4 * (row * units + unit)
                if units % BLOCK == 0:
                    rows_by_block(a, columns, 1, b, units, depth, c, units)
                else:
                    rows_by_vector(a, columns, 1, b, units, depth, c, units)


@njit(cache=True, nogil=True)
def activations(x):
    """sigmoid and tanh of x (N,) float32, N a multiple of `WIDTH`, as the cells compute them: (2, N)."""
    y = np.empty((2, len(x)), np.float32)
    for i in range(0, len(x), WIDTH):
        sigmoid(x[i:].ctypes.data, y[0, i:].ctypes.data)
        tanh(x[i:].ctypes.data, y[1, i:].ctypes.data)
    return y
