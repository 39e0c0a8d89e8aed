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

from rhtool.rl.vectors import ROWS, WIDTH, cells_backward, cells_forward, product, sigmoid, tanh

INPUTS = 4
BLOCK = 4 * WIDTH
DEPTH = 128
"""rows of a weight matrix that are multiplied at a time: 32 KB, which the first-level cache holds"""
update, update_and_keep = cells_forward(keep=False), cells_forward(keep=True)
rows_by_block, rows_by_vector, inputs_by_block = product(ROWS, 4), product(ROWS, 1), product(INPUTS, 4)


@njit(cache=True, nogil=True)
def pack(matrix, packed, first):
    """packed (H / WIDTH, K, 4, WIDTH)[:, first : first + n] = matrix (4 units, n), rows in torch's order (gate, unit)."""
    units = len(matrix) // 4
    for row in range(len(matrix)):
        gate, unit = divmod(row, units)
        for k in range(matrix.shape[1]):
            packed[unit // WIDTH, first + k, gate, unit % WIDTH] = matrix[row, k]


@njit(cache=True, nogil=True)
def forward(inputs, weights, biases, gates, cells, hiddens, keep):
    """Fill `hiddens`; the last step's lie in slot T, or T % 2 if not `keep`.

    Args:
        inputs: (T, C, F).
        weights: flat, per layer (H / WIDTH, K, BLOCK): K rows, one for each input and then one for each unit.
        biases: (layers, 4 H).
        gates: (T, layers, H / WIDTH, C, BLOCK), filled, or of size 0 if not `keep`.
        cells: (T + 1, layers, H / WIDTH, C, WIDTH) with zeros in slot 0, or (2, …), two steps by turns, if not `keep`.
        hiddens: as `cells`, but (…, C, H).
        keep: whether all steps are wanted, for `backward`.
    """
    (steps, rows, features), (layers, columns) = inputs.shape, biases.shape
    units = columns // 4
    for t in range(steps):
        before, now = (t, t + 1) if keep else (t % 2, (t + 1) % 2)
        weight = weights.ctypes.data
        for layer in range(layers):
            width = units if layer else features
            below = hiddens[now, layer - 1].ctypes.data if layer else inputs[t].ctypes.data
            h, h_before = hiddens[now, layer].ctypes.data, hiddens[before, layer].ctypes.data
            c, c_before = cells[now, layer].ctypes.data, cells[before, layer].ctypes.data
            g, bias, depth = gates.ctypes.data, biases[layer].ctypes.data, units if t else 0
            if keep:
                g = gates[t, layer].ctypes.data
            for unit in range(0, units, WIDTH):
                for row in range(0, rows, ROWS):
                    x, left = below + 4 * row * width, h_before + 4 * row * units
                    cell, b, out = 4 * (unit * rows + row * WIDTH), bias + 16 * unit, h + 4 * (row * units + unit)
                    if keep:
                        update_and_keep(
                            b, weight, x, width, left, depth, c_before + cell, c + cell, out, units, g + 4 * cell
                        )
                    else:
                        update(b, weight, x, width, left, depth, c_before + cell, c + cell, out, units, g)
                weight += 4 * (width + units) * BLOCK


@njit(cache=True, nogil=True)
def backward(inputs, weights, gates, cells, hiddens, d_hidden, d_cell, d_sums, d_weights, d_biases):
    """Add to the derivatives with respect to weights and biases; `d_hidden`, `d_cell` and `d_sums` are used up.

    Args:
        inputs, gates, cells, hiddens: of `forward` with `keep`.
        weights: (2, layers, 4 H, H), rows in the order of the gates: the matrices W (of the first layer anything) and U.
        d_hidden: (layers, C, H): derivatives with respect to the last step's outputs.
        d_cell: (layers, H / WIDTH, C, WIDTH) zeros.
        d_sums: (C, at least 4 H), room for derivatives with respect to the gates' sums.
        d_weights, d_biases: as `forward`'s weights and biases.
    """
    (steps, rows, features), (_, layers, _, units) = inputs.shape, hiddens.shape
    columns, stride = 4 * units, d_sums.shape[1]
    for t in range(steps - 1, -1, -1):
        weight = d_weights.ctypes.data + 4 * d_weights.size
        for layer in range(layers - 1, -1, -1):
            width = units if layer else features
            g, d = gates[t, layer].ctypes.data, d_sums.ctypes.data
            before, now = cells[t, layer].ctypes.data, cells[t + 1, layer].ctypes.data
            dh, dc, bias = d_hidden[layer].ctypes.data, d_cell[layer].ctypes.data, d_biases[layer].ctypes.data
            for unit in range(0, units, WIDTH):
                for row in range(0, rows, ROWS):
                    cell, out = 4 * (unit * rows + row * WIDTH), dh + 4 * (row * units + unit)
                    sums, b = d + 4 * (row * stride + 4 * unit), bias + 16 * unit
                    kept, cell_before, d_c = g + 4 * cell, before + cell, dc + cell
                    cells_backward(kept, cell_before, now + cell, out, units, d_c, sums, stride, b)
            if t:
                d_hidden[layer] = 0
                add_rows(d, weights[1, layer].ctypes.data, dh, rows, units, stride)
            if layer:
                add_rows(d, weights[0, layer].ctypes.data, d_hidden[layer - 1].ctypes.data, rows, units, stride)
            below = hiddens[t + 1, layer - 1].ctypes.data if layer else inputs[t].ctypes.data
            weight -= 4 * (width + units) * columns
            for unit in range(0, units, WIDTH):
                block = weight + 4 * unit * 4 * (width + units)
                sums = d + 16 * unit
                for k in range(0, width, INPUTS):
                    inputs_by_block(below + 4 * k, 1, width, sums, stride, rows, block + 4 * k * BLOCK, BLOCK)
                if t:
                    h, block = hiddens[t, layer].ctypes.data, block + 4 * width * BLOCK
                    for k in range(0, units, INPUTS):
                        inputs_by_block(h + 4 * k, 1, units, sums, stride, rows, block + 4 * k * BLOCK, BLOCK)


@njit(nogil=True)
def add_rows(sums, weights, out, rows, units, stride):
    """out (rows, H) += sums (rows, 4 H) @ weights (4 H, H); the sums' rows lie `stride` apart."""
    columns = 4 * units
    for first in range(0, columns, DEPTH):
        depth = min(DEPTH, columns - first)
        for unit in range(0, units, BLOCK if units % BLOCK == 0 else WIDTH):
            b = weights + 4 * (first * units + unit)
            for row in range(0, rows, ROWS):
                a, c = sums + 4 * (row * stride + first), out + 4 * (row * units + unit)
                if units % BLOCK == 0:
                    rows_by_block(a, stride, 1, b, units, depth, c, units)
                else:
                    rows_by_vector(a, stride, 1, b, units, depth, c, units)


@njit(cache=True, nogil=True)
def activations(x):
    """sigmoid and tanh of x (N,) float32, N a multiple of `WIDTH`, as the cells compute them: (2, N)."""
    y = np.empty((2, len(x)), np.float32)
    for i in range(0, len(x), WIDTH):
        sigmoid(x[i:].ctypes.data, y[0, i:].ctypes.data)
        tanh(x[i:].ctypes.data, y[1, i:].ctypes.data)
    return y
