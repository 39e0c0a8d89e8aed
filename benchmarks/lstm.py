"""Speed of the recurrent policy's LSTM, in training and in inference, against torch's and against a matrix product.

    python benchmarks/lstm.py [threads]

The paper's glucose network: three layers of 64 units over windows of 48 steps of 2 features. Prints rows per second of CPU time (of
all threads, so per core), the arithmetic of the matrix products alone, what that is of the rate at which oneDNN multiplies a 1024 x 128 by
a 128 x 256 matrix, and the ratio to `torch.nn.LSTM`. Best of all calls within some seconds; CPU time rather than wall time, since it hardly
changes with what else runs.
"""

import sys
import time

import torch
from torch import nn

from rhtool.rl.lstm import LastOutput
from rhtool.rl.process import set_up

FEATURES, UNITS, LAYERS, STEPS = 2, 64, 3, 48
SECONDS = 5


def best(function):
    """CPU seconds of the fastest call."""
    function()
    fastest, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.process_time()
        function()
        fastest = min(fastest, time.process_time() - start)
    return fastest


def flops(train):
    """Floating point operations of a row's matrix products. The first step has no recurrent ones; nobody asks for derivatives with
    respect to the observation."""
    total = 0
    for layer in range(LAYERS):
        inputs, recurrent = STEPS * (UNITS if layer else FEATURES), (STEPS - 1) * UNITS
        total += 2 * 4 * UNITS * (inputs + recurrent)  # sums
        if train:
            total += 2 * 4 * UNITS * (inputs + recurrent)  # derivatives with respect to weights
            total += 2 * 4 * UNITS * ((inputs if layer else 0) + recurrent)  # and to inputs
    return total


def product_rate():
    """Floating point operations per second of oneDNN, ten products at a time."""
    x, w, b = torch.randn(1024, 2 * UNITS), torch.randn(4 * UNITS, 2 * UNITS), torch.zeros(4 * UNITS)
    multiply = torch.ops.mkldnn._linear_pointwise
    seconds = best(lambda: [multiply(x, w, b, "none", [], "") for _ in range(10)])
    return 10 * 2 * x.numel() * len(w) / seconds


def main():
    set_up(int(sys.argv[1]) if sys.argv[1:] else 1)
    torch.manual_seed(0)
    own = LastOutput(FEATURES, UNITS, LAYERS)
    other = nn.LSTM(FEATURES, UNITS, LAYERS, batch_first=True)
    rate = product_rate()
    print(f"{torch.get_num_threads()} threads; a matrix product {rate / 1e9:.0f} GFLOP/s of CPU time")
    for work, rows in (("train", 1024), ("act", 50), ("act", 1024), ("act", 8192)):
        x = torch.randn(rows, FEATURES, STEPS)
        seconds = {}
        for name, run in (("own", own), ("torch", lambda x: other(x.transpose(1, 2))[0][:, -1])):
            if work == "train":
                seconds[name] = best(lambda run=run, x=x: run(x).sum().backward())
            else:
                with torch.no_grad():
                    seconds[name] = best(lambda run=run, x=x: run(x))
        speed = rows / seconds["own"]
        done = speed * flops(work == "train")
        print(
            f"  {work:5s} {rows:5d} rows  {speed:8,.0f} rows/s  {done / 1e9:4.0f} GFLOP/s  {100 * done / rate:3.0f} %"
            f"  torch {rows / seconds['torch']:8,.0f} ({seconds['torch'] / seconds['own']:.2f}x)",
            flush=True,
        )


if __name__ == "__main__":
    main()
