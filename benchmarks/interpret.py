"""Interpretation of rewards: what distances and preprocessing take, against the formula of their cost.

    python benchmarks/interpret.py

The sampled EPIC distance of Gleave et al. evaluates the reward N_V N_M times for N_V evaluated transitions and N_M sampled
pairs, twice, since both ends of a transition are canonicalised. Here a distinct state is evaluated once: at most 2 N_V,
fewer where states come again. The first table prints evaluations and time beside what the formula says: the time of one
evaluation of that many transitions in one batch. The second compares the exact distances with the sampled one on the same
tables; the third linear programs with Adam on the same objective.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rhtool.envs.maze import Maze
from rhtool.envs.tomato import Tomato
from rhtool.interpret.canonical import KINDS, Exact, additive, epic_of_sample, imagined, matrix
from rhtool.interpret.potentials import LayeredPotential
from rhtool.interpret.preprocess import enumerated
from rhtool.interpret.preprocessing import Problem, by_adam, by_program
from rhtool.interpret.rewards import OWN, Recorded
from rhtool.interpret.transitions import Transitions


class Counted:
    """A network r(s, a, s') that counts what it is asked."""

    def __init__(self, width: int, actions: int, seed: int):
        rng, inputs = np.random.default_rng(seed), 2 * width + actions
        layers = [(rng.normal(size=(b, a)) / a**0.5, rng.normal(size=b)) for a, b in ((inputs, 64), (64, 64), (64, 1))]
        self.network, self.actions, self.asked = (
            LayeredPotential(np.zeros(inputs), np.ones(inputs), layers),
            np.eye(actions),
            0,
        )

    def __call__(self, data: Transitions) -> np.ndarray:
        self.asked += len(data)
        return self.network(np.concatenate([data.obs, self.actions[data.actions], data.next_obs], axis=1))


def timed(function: Callable[[], Any], least: float = 0.3) -> tuple[float, Any]:
    """Seconds of a call, the least of a few, and what it returned."""
    best, start, found = float("inf"), time.perf_counter(), None
    while time.perf_counter() - start < least:
        before = time.perf_counter()
        found = function()
        best = min(best, time.perf_counter() - before)
    return best, found


def distances() -> None:
    """EPIC by evaluations, for states that are all different and for few of them."""
    print(
        "EPIC from a sample, MLP 64x64 on (s, a, s')\n  states     N_V  N_M   2 N_V N_M   evaluated      s   formula s   ratio"
    )
    rng = np.random.default_rng(0)
    for many, name in ((10**9, "distinct"), (100, "100")):
        for n in (128, 512, 1024):
            pool = rng.normal(size=(min(many, 2 * n), 20)).astype(np.float32)
            s, s2 = pool[rng.integers(len(pool), size=n)], pool[rng.integers(len(pool), size=n)]
            if many > n:
                s, s2 = pool[:n], pool[n:]
            none, actions = np.zeros(n, np.int64), rng.integers(4, size=n)
            data, reward = Transitions(s, actions, s2, none.astype(bool), none, none), Counted(20, 4, 0)
            pairs = rng.integers(4, size=n), pool[rng.integers(len(pool), size=n)]
            seconds, _ = timed(lambda data=data, pairs=pairs, reward=reward: epic_of_sample(reward, data, *pairs, 0.99))
            reward.asked = 0
            epic_of_sample(reward, data, *pairs, 0.99)
            asked = reward.asked
            rows = data[np.resize(np.arange(n), 65_536)]
            one, _ = timed(lambda rows=rows, reward=reward: reward(rows))
            formula = one / len(rows) * 2 * n * n
            print(
                f"  {name:9s}{n:5d}{n:5d}{2 * n * n:12,d}{asked:12,d}{seconds:7.3f}{formula:12.3f}{seconds / formula:8.2f}"
            )


def exact() -> None:
    """Exact distances of the tables we have, and how near a sample comes."""
    print("\nproxy against true, exactly\n  env                  states  tables s  distances s   " + "  ".join(KINDS))
    envs = {
        "maze": Maze(),
        "maze 10, key, path": Maze(key=True, reward="path"),
        "tomato corrected": Tomato(variant="corrected"),
        "tomato": Tomato(),
    }
    for name, env in envs.items():
        making, mdp = timed(env.tabular, 0.0001)
        coverage = np.full(mdp.proxy.shape, 1 / mdp.proxy.size)

        def all_four(mdp=mdp, coverage=coverage) -> list[float]:
            work, rewards = Exact(mdp, coverage, 0.99), [additive(Recorded(which), mdp) for which in OWN]
            return [work.distances(kind, rewards)[0, 1] for kind in KINDS]

        seconds, values = timed(all_four)
        print(
            f"  {name:20s}{len(mdp.start):7,d}{making:10.2f}{seconds:13.3f}   " + "  ".join(f"{v:.4f}" for v in values)
        )
    mdp = Tomato(variant="corrected").tabular()
    rewards = [Counted(mdp.observations.shape[1], 4, seed) for seed in (1, 2)]
    rng, (states, actions) = np.random.default_rng(0), mdp.proxy.shape
    row = rng.integers(states * actions, size=512)
    going = row[mdp.terminated.ravel()[row] == 0]
    after = np.asarray(mdp.transitions[going].argmax(axis=1)).ravel()
    data = imagined(mdp, going // actions, going % actions, after)
    draws = rng.integers(actions, size=512), mdp.observations[rng.integers(states, size=512)]
    seconds, canon = timed(lambda: np.stack([epic_of_sample(r, data, *draws, 0.99) for r in rewards]))
    value = matrix(canon, np.ones(2), np.ones(len(data)), centred=True)[0, 1]
    print(f"  EPIC of two networks on tomato, sampled 512 x 512: {value:.4f} in {seconds:.2f} s")


def preprocessing() -> None:
    """Linear programs against Adam."""
    data, rewards, pairs = enumerated(Maze().tabular(), {"proxy": Recorded("proxy")})
    problem = Problem(data, rewards["proxy"], pairs, 0.99)
    print(
        "\nmaze 10 x 10, dense shaping: the objective, and what it took\n  objective     before   program       s      Adam 3000       s"
    )
    for name in ("sparse_l1", "smooth_l1", "sparse_log", "smooth_log"):
        program = by_program(problem, name, "table")
        adam = by_adam(problem, name, "table", [], 3000, 1e-2, 10**6, seed=0)
        print(
            f"  {name:12s}{program.before:8.4f}{program.after:10.5f}{program.seconds:8.2f}{adam.after:15.5f}{adam.seconds:8.2f}"
        )


if __name__ == "__main__":
    distances()
    exact()
    preprocessing()
