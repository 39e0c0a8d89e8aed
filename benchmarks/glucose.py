"""Where the time of a glucose step goes, on one core: `python benchmarks/glucose.py [lanes]`.

Prints microseconds per env step and lane: the whole step, its parts (each with what it costs alone), a reset; and the rate
of a plain Python reading of the same patient, with the original's integrator (scipy's LSODA) and with Runge-Kutta. All in
this process's processor time, which other work on the machine disturbs less than the clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit

from rhtool.envs.glucose import Glucose, kernel

ROOT = Path(__file__).resolve().parents[1]


def main(lanes: int = 512) -> None:
    """Measure and print."""
    config = Glucose()
    env = config.make_vec(lanes, seed=0, autoreset_mode="SameStep")
    env.reset()
    rng, turn = np.random.default_rng(0), [0]
    actions = [rng.uniform(0.0, 0.1, (lanes, 1)).astype(np.float32) for _ in range(64)]

    def step() -> None:
        turn[0] += 1
        env.step(actions[turn[0] % 64])

    for _ in range(400):
        step()
    whole = seconds(step)
    print(f"{lanes} lanes: {lanes / whole:,.0f} env steps/s with random actions and autoreset")
    states, constants, sizes = env.state.copy(), env._constants, env.stomach[:, 0] + env.stomach[:, 1]
    out, everyone = np.empty_like(states), np.ones(lanes, bool)
    parts = {
        "whole step": whole,
        "kernel: patient, sensor, rewards, controller": seconds(lambda: env._step(actions[0], everyone)),
        "  of which five minutes of Runge-Kutta": seconds(lambda: five(constants, sizes, states, out)),
        "  the same with an empty stomach (no exponentials)": seconds(lambda: five(constants, 0 * sizes, states, out)),
        "observation: copy of 2 x 48 float32": seconds(env.observe),
        "metrics": seconds(env._metrics),
        "check of the actions": seconds(lambda: env._checked(actions[0])),
        "reset (of an episode, not of a step)": seconds(env.reset),
    }
    for name, duration in parts.items():
        print(f"  {name:<52}{duration / lanes * 1e6:>8.3f} us")
    sys.path.insert(0, str(ROOT))
    from tests.envs.glucose_reference import Reference, lsoda, meals, rk4

    eaten = meals(1, env._meal_means[0], 20)
    for name, integrate in (("scipy LSODA, rtol 10, as the original", lsoda), ("Runge-Kutta", rk4)):
        plain = Reference("adult#001", env._starts["state"][0], eaten, integrate=integrate, held=138.56)
        rate = 1.0 / seconds(lambda plain=plain: plain.step(0.02))
        print(f"plain Python, {name}: {rate:,.0f} env steps/s; {lanes / whole / rate:,.0f} x")


@njit
def five(constants, sizes, states, out):
    """Five minutes of the patients alone."""
    for i in range(len(states)):
        s = states[i]
        x = (s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12])
        for _ in range(5):
            x = kernel.minute(constants[i], sizes[i], 0.0, 1.5, x)
        for j in range(13):
            out[i, j] = x[j]


def seconds(call: Callable[[], object], budget: float = 1.0) -> float:
    """Processor seconds of one call: the best of twenty rounds."""
    call()
    best = float("inf")
    for _ in range(20):
        calls, started = 0, time.process_time()
        while time.process_time() - started < budget / 20:
            call()
            calls += 1
        best = min(best, (time.process_time() - started) / calls)
    return best


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
