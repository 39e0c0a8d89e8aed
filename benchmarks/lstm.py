"""Speed of the recurrent policy's LSTM, in training and in inference, against its floor: its matrix products.

    python benchmarks/lstm.py

The paper's glucose network: three layers of 64 units over windows of 48 steps of 2 features. Prints rows per CPU second on one thread, the
arithmetic of the products alone, and what that is of the rate at which oneDNN multiplies a 1024 x 128 by a 128 x 256 matrix.
"""

import time

import torch

from rhtool.rl.dense import product
from rhtool.rl.modules import Recurrent
from rhtool.rl.process import set_up

FEATURES, UNITS, LAYERS, STEPS = 2, 64, 3, 48


def best(function):
    """CPU seconds of a call, in the best of five blocks of at least one second."""
    function()
    blocks = []
    for _ in range(5):
        calls, start, elapsed = 0, time.process_time(), 0.0
        while elapsed < 1.0:
            function()
            calls, elapsed = calls + 1, time.process_time() - start
        blocks.append(elapsed / calls)
    return min(blocks)


def flops(train):
    """Floating point operations of a row's products. The first step has no recurrent ones; nobody asks for derivatives with respect
    to the observation."""
    total = 0
    for layer in range(LAYERS):
        inputs, recurrent = STEPS * (UNITS if layer else FEATURES), (STEPS - 1) * UNITS
        total += 2 * 4 * UNITS * (inputs + recurrent)  # sums
        if train:
            total += 2 * 4 * UNITS * (inputs + recurrent)  # derivatives with respect to weights
            total += 2 * 4 * UNITS * ((inputs if layer else 0) + recurrent)  # and to inputs
    return total


def main():
    set_up(1)
    x, w = torch.randn(1024, 2 * UNITS), torch.randn(4 * UNITS, 2 * UNITS)
    rate = 10 * 2 * x.numel() * len(w) / best(lambda: [product(x, w) for _ in range(10)])
    lstm = Recurrent((FEATURES, STEPS), [UNITS] * LAYERS)
    print(f"1 thread; a matrix product {rate / 1e9:.0f} GFLOP/s")
    for work, rows in (("train", 1024), ("act", 50), ("act", 1024), ("act", 8192)):
        x = torch.randn(rows, FEATURES * STEPS)
        with torch.set_grad_enabled(work == "train"):
            seconds = best(lambda x=x: lstm(x).sum().backward() if torch.is_grad_enabled() else lstm(x))
        done = rows / seconds * flops(work == "train")
        print(
            f"  {work:5s} {rows:5d} rows  {rows / seconds:8,.0f} rows/s  {done / 1e9:4.0f} GFLOP/s  {100 * done / rate:3.0f} %"
        )


if __name__ == "__main__":
    main()
