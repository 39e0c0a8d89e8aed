"""Seconds of an ORPO iteration at the paper's scale, and where they go.

    python benchmarks/orpo.py [env=tomato ...overrides]

Prints the median of ten iterations after two that are not counted, the split, the projected hours of a full run, and the share of this
machine's matrix-product rate (a 1024 x 1024 float32 product, measured in the same process) that the learner reaches.
"""

import statistics
import sys
import time
from itertools import pairwise

import torch

from rhtool.config import compose
from rhtool.rl.orpo import Orpo
from rhtool.rl.policy import Policy
from rhtool.rl.process import set_up


def matmul_rate() -> float:
    """Floating point operations per second of a square product, best of five."""
    a, seconds = torch.randn(1024, 1024), []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(10):
            a @ a
        seconds.append((time.perf_counter() - start) / 10)
    return 2 * 1024**3 / min(seconds)


def weights(sizes):
    """Entries of the weight matrices of a network."""
    return sum(a * b for a, b in pairwise(sizes))


def main():
    overrides = sys.argv[1:] or ["env=tomato"]
    run = compose("task=orpo", "divergence=sqrt_chi2", "coeff=0.1", *overrides)
    task = run.task
    set_up(task.threads)
    bases = [Policy.load(path) for path in task.base_paths(run)]
    work = Orpo(run, bases)
    rows, walls = [], []
    for i in range(12):
        start = time.perf_counter()
        row = work.iteration()
        if i >= 2:
            rows.append(row)
            walls.append(time.perf_counter() - start)
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key.startswith("time/")}
    total = statistics.median(walls)

    steps, features = work.lanes * work.steps_per_lane, work.features.size
    inputs = work.policy.observation_space.shape[0]
    policy = 2 * weights([inputs, *task.hidden, 1]) * task.epochs * steps
    discriminator = weights([features, *task.discriminator_hidden, 1]) * task.discriminator_epochs * 2 * steps
    flops = 6 * (policy + discriminator)  # two per weight forward, four backward
    rate, busy = matmul_rate(), median["time/learner_s"] + median["time/discriminator_s"]
    print(f"{' '.join(overrides)}  {task.threads} threads  {steps} current-policy steps an iteration")
    print(f"  iteration       {total:7.3f} s   x {task.iterations} = {total * task.iterations / 3600:.2f} h")
    for key, seconds in median.items():
        print(f"  {key[5:-2]:14s}  {seconds:7.3f} s   {100 * seconds / total:5.1f} %")
    print(f"  learning does {flops / 1e9:.1f} GFLOP at {flops / busy / 1e9:.1f} GFLOP/s,", end=" ")
    print(f"{100 * flops / busy / rate:.0f} % of the {rate / 1e9:.0f} GFLOP/s of a square product")


if __name__ == "__main__":
    main()
