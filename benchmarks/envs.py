"""Speed of the environments on one core: `python benchmarks/envs.py [names]`.

Prints, for each environment in conf/env: seconds to the first step (the first run ever compiles the kernels and caches
them on disk, a later one loads them), env steps/s with random actions at several numbers of lanes with autoreset, and,
where a plain Python reading of the same dynamics stands below, the ratio to it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import numpy as np

SECONDS = 0.5
"""time given to each measurement; the best of three is reported"""


def main(names: list[str]) -> None:
    """Measure the environments named, or all."""
    from rhtool.config import CONF, compose

    for name in names or sorted(file.stem for file in (CONF / "env").glob("*.yaml")):
        config = compose(f"env={name}").env
        started = time.perf_counter()
        env = config.make_vec(1, seed=0)
        env.reset()
        env.step(env.action_space.sample())
        print(
            f"{name}: first step after {time.perf_counter() - started:.2f} s (imports, and kernels from disk or compiled)"
        )
        plain = None
        if name in PLAIN:
            plain = rate(PLAIN[name](config), 1)
            print(f"  plain Python, one at a time  {plain:>14,.0f} steps/s")
        for lanes in (1, 2, 8) if config.vector_class().lane_is_a_process else (1, 8, 30, 64, 512, 4096):
            speed = rate(stepper(config, lanes), lanes)
            ratio = "" if plain is None else f"{speed / plain:>9.1f} x"
            print(f"  {lanes:>5} lanes                  {speed:>14,.0f} steps/s{ratio}")


def stepper(config, lanes: int) -> Callable[[], None]:
    """One step of all lanes with random actions."""
    env = config.make_vec(lanes, seed=0, autoreset_mode="SameStep")
    env.reset()
    env.action_space.seed(0)
    actions, turn = [env.action_space.sample() for _ in range(64)], [0]

    def step() -> None:
        turn[0] += 1
        env.step(actions[turn[0] % 64])

    return step


def rate(step: Callable[[], None], lanes: int) -> float:
    """Env steps/s: the best of three."""
    step()
    best = 0.0
    for _ in range(3):
        calls, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SECONDS:
            for _ in range(10):
                step()
            calls += 10
        best = max(best, calls * lanes / elapsed)
    return best


def plain_tomato(config) -> Callable[[], None]:
    """The tomato environment in plain Python: lists, dicts and math.dist, an observation array per step."""
    from rhtool.envs.tomato.board import MOVES, load

    board = load(config.level, config.board)
    cells = [tuple(cell) for cell in board.cells.tolist()]
    number = {cell: i for i, cell in enumerate(cells)}
    actions = np.random.default_rng(0).integers(0, 4, 10_000).tolist()
    state = {"cell": board.start, "watered": [], "visited": False, "t": 0}
    turn = [0]

    def step() -> None:
        turn[0] += 1
        (row, column), (dr, dc) = cells[state["cell"]], MOVES[actions[turn[0] % 10_000]]
        target = number.get((row + dr, column + dc))
        if target is not None:
            state["cell"] = target
            if target < board.tomatoes and target not in state["watered"]:
                state["watered"].append(target)
            state["visited"] |= target == board.bucket
        watered, here = state["watered"], cells[state["cell"]]
        for tomato in watered:
            if math.dist(here, cells[tomato]) > config.dry_distance:
                watered.remove(tomato)
        state["t"] += 1
        true = config.reward_factor * len(watered)
        proxy = config.reward_factor * len(cells) if state["cell"] == board.bucket else true
        observation = np.zeros(len(cells) + board.tomatoes + 1, np.float32)
        observation[state["cell"]] = 1.0
        for tomato in watered:
            observation[len(cells) + tomato] = 1.0
        observation[-1] = state["visited"]
        state["last"] = observation, proxy, true
        if len(watered) == board.tomatoes or state["t"] == config.horizon:
            state.update(cell=board.start, watered=[], visited=False, t=0)

    return step


PLAIN = {"tomato": plain_tomato}

if __name__ == "__main__":
    main(sys.argv[1:])
