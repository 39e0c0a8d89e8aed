"""Seconds of an ORPO iteration at the paper's scale, and where they go.

    python benchmarks/orpo.py [env=tomato ...overrides] [iterations=10]

Prints the median of the iterations after two that are not counted, the split, the projected hours of a full run, and the share of this
machine's matrix-product rate (float32 products of 1024 x 1024 through oneDNN, measured in the same process) that learning reaches.
"""

import statistics
import sys
import time

import torch

from rhtool.config import compose
from rhtool.rl.dense import AVAILABLE, product
from rhtool.rl.orpo import Orpo
from rhtool.rl.policy import Policy
from rhtool.rl.process import set_up


def matmul_rate() -> float:
    """Floating point operations per second of a square product, best of five."""
    a, seconds = torch.randn(1024, 1024), []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(10):
            product(a, a) if AVAILABLE else a @ a
        seconds.append((time.perf_counter() - start) / 10)
    return 2 * 1024**3 / min(seconds)


def flops(module: torch.nn.Module, steps: int = 1) -> float:
    """Floating point operations of the products of one row, forward and backward: two per weight and use, and twice that for the
    gradients; an LSTM uses its weights once for each of `steps` times."""
    return 6 * sum(p.numel() * (steps if ".lstm." in n else 1) for n, p in module.named_parameters() if p.ndim == 2)


def main():
    words = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith("iterations="))
    overrides = [word for word in sys.argv[1:] if not word.startswith("iterations=")] or ["env=tomato"]
    run = compose("task=orpo", "divergence=sqrt_chi2", "coeff=0.1", *overrides)
    task = run.task
    set_up(task.threads)
    bases = [Policy.load(path) for path in task.base_paths(run)]
    work = Orpo(run, bases)
    rows, walls = [], []
    for i in range(2 + int(words.get("iterations", 10))):
        start = time.perf_counter()
        row = work.iteration()
        if i >= 2:
            rows.append(row)
            walls.append(time.perf_counter() - start)
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key.startswith("time/")}
    total = statistics.median(walls)

    steps, shape = work.lanes * work.steps_per_lane, work.policy.observation_space.shape
    learning = steps * task.epochs * flops(work.policy.module, shape[-1])
    learning += 2 * steps * task.discriminator_epochs * flops(work.scores[0].module)
    rate, busy = matmul_rate(), median["time/learner_s"] + median["time/discriminator_s"]
    print(f"{' '.join(overrides)}  {task.threads} threads  {steps} current-policy steps an iteration")
    print(f"  iteration       {total:7.3f} s   x {task.iterations} = {total * task.iterations / 3600:.2f} h")
    for key, seconds in median.items():
        print(f"  {key[5:-2]:14s}  {seconds:7.3f} s   {100 * seconds / total:5.1f} %")
    print(f"  learning does {learning / 1e9:.1f} GFLOP at {learning / busy / 1e9:.1f} GFLOP/s,", end=" ")
    print(f"{100 * learning / busy / rate:.0f} % of the {rate / 1e9:.0f} GFLOP/s of a square product")
    work.close()


if __name__ == "__main__":
    main()
