"""What it costs to have each lane in a process of its own: `python benchmarks/programs.py`.

Prints the time of one message to a worker and back, of starting and closing lanes, the memory of each, and env steps/s of
CartPole in this process and in processes.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from rhtool.envs.gym import Gym
from rhtool.envs.program import ProgramSpec, ProgramVectorEnv

LANES = (1, 2, 8, 16, 64)


class Nothing:
    """A program that does nothing, with the observation of CartPole."""

    def reset(self, seed):
        self.obs = np.zeros(4, np.float32)
        return self.obs

    def step(self, action):
        return self.obs, 0.0, 0.0, False, False, {}

    def base_action(self):
        return None

    def close(self):
        pass


class NothingVectorEnv(ProgramVectorEnv):
    """Lanes of `Nothing`."""

    def __init__(self, config: Gym, lanes: int, processes: bool):
        probe = config.make_vec(1)
        spaces = probe.single_observation_space, probe.single_action_space
        probe.close()
        super().__init__(config, lanes, *spaces, processes=processes, autoreset_mode="SameStep")

    def program(self) -> ProgramSpec:
        return ProgramSpec("programs:Nothing")


def main() -> None:
    """Measure all of it."""
    config = Gym(id="CartPole-v1", true_reward="programs:angle")
    here, there = (per_step(NothingVectorEnv(config, 1, processes)) for processes in (False, True))
    print(f"a step of one lane that does nothing: {here * 1e6:.0f} us here, {there * 1e6:.0f} us in a process")
    print(f"  round trip {(there - here) * 1e6:.0f} us")
    for lanes in LANES:
        env = config.make_vec(lanes, 0, autoreset_mode="SameStep", processes=True)
        began = time.perf_counter()
        env.reset()
        started = time.perf_counter() - began
        memory = private(env._programs.pids)
        speed = lanes / per_step(env)
        began = time.perf_counter()
        env.close()
        closed = time.perf_counter() - began
        alone = lanes / per_step(config.make_vec(lanes, 0, autoreset_mode="SameStep"))
        print(
            f"CartPole, {lanes:>3} lanes  {alone:>8,.0f} steps/s here  {speed:>8,.0f} steps/s in processes"
            f"  started in {started:.2f} s, closed in {closed:.2f} s, {memory:.1f} MB a lane"
        )


def angle(obs, action, next_obs, info):
    """A true reward of CartPole."""
    return 1 - abs(next_obs[2])


def per_step(env: ProgramVectorEnv) -> float:
    """Seconds of a step of all lanes, in the fastest of many batches of 32: what others do on the machine slows some."""
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(2, size=(32, env.num_envs))
    best, end = np.inf, time.perf_counter() + 2
    while (began := time.perf_counter()) < end:
        for a in actions:
            env.step(a)
        best = min(best, (time.perf_counter() - began) / len(actions))
    if isinstance(env, NothingVectorEnv):
        env.close()
    return best


def private(pids: list[int]) -> float:
    """Megabytes of memory that each process shares with no other, on average."""
    kilobytes = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return kilobytes / len(pids) / 1000


if __name__ == "__main__":
    main()
