"""Returns and speed of fixed policies in env=pandemic: `python benchmarks/pandemic.py`.

For each policy "raise the stage every day to k, then keep it", and for the one that chooses "lower" every day, means over
400 episodes of the true and proxy return and of the dead, next to those of the original's episodes in tests/data, and
microseconds a day (one core).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from rhtool.config import compose

LANES = 400


def main() -> None:
    """Print the table."""
    file = Path(__file__).parents[1] / "tests" / "data" / "pandemic" / "episodes.jsonl"
    golden = [json.loads(line) for line in file.read_text().splitlines()]
    env = compose("env=pandemic").env.make_vec(LANES, seed=1, autoreset_mode="Disabled")
    env.reset()
    env.step(np.ones(LANES, int))
    print(
        f"{'policy':>6}{'true':>9}{'original':>10}{'proxy':>9}{'original':>10}{'dead':>8}{'original':>10}{'us/day':>9}"
    )
    for policy in ("lower", 0, 2, 4):
        env.reset(seed=1)
        true, proxy, started = 0.0, 0.0, time.process_time()
        for day in range(env.config.horizon):
            action = 0 if policy == "lower" else 2 if day < policy else 1
            *_, info = env.step(np.full(LANES, action))
            true, proxy = true + info["true_reward"].mean(), proxy + info["proxy_reward"].mean()
        spent = 1e6 * (time.process_time() - started) / LANES / env.config.horizon
        theirs = [episode for episode in golden if episode["policy"] == f"S{policy}"]
        old = [""] * 3
        if theirs:
            means = ([e[key] for e in theirs] for key in ("true", "proxy"))
            old = [*(f"{np.mean(each):.2f}" for each in means), f"{np.mean([e['final']['DEAD'] for e in theirs]):.1f}"]
        print(f"{policy:>6}{true:>9.2f}{old[0]:>10}{proxy:>9.2f}{old[1]:>10}", end="")
        print(f"{info['dead'].mean():>8.1f}{old[2]:>10}{spent:>9.0f}")


if __name__ == "__main__":
    main()
