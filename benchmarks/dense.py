"""A training step through fully connected layers, oneDNN's way and torch's own: `python benchmarks/dense.py`.

Prints microseconds, forwards and backwards, and the ratio; `SMALL` in rhtool/rl/dense.py is where the first begins to pay.
"""

import statistics
import time
from itertools import pairwise

import torch
from torch import nn

from rhtool.rl import dense

SIZES = [
    (64, [91, 128, 128]),
    (64, [96, 256, 256]),
    (128, [520, 256, 256]),
    (128, [520, 512, 512, 512, 512]),
    (2048, [50, 512, 512]),
]


def microseconds(net: nn.Module, x: torch.Tensor, repeats: int) -> float:
    """Of a step, the median of seven."""
    found = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(repeats):
            net(x).sum().backward()
        found.append(1e6 * (time.perf_counter() - start) / repeats)
    return statistics.median(found)


def main() -> None:
    """The table, for this process's threads."""
    print(f"{torch.get_num_threads()} threads")
    for rows, sizes in SIZES:
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.Tanh())]
        x, repeats = torch.randn(rows, sizes[0]), 20 if rows > 1000 else 200
        largest = rows * max(a * b for a, b in pairwise(sizes))
        dense.SMALL = 0
        fast = microseconds(dense.Layers(*layers), x, repeats)
        plain = microseconds(nn.Sequential(*layers), x, repeats)
        print(f"  {rows:5} x {'-'.join(map(str, sizes)):22} largest product {largest / 2**20:6.1f} Mi", end="  ")
        print(f"oneDNN {fast:7.0f} us  torch {plain:7.0f} us  {plain / fast:.2f}x")


if __name__ == "__main__":
    main()
