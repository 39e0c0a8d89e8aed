"""Speed of the environments on SUMO, and what their rewards say of policies: `python benchmarks/traffic.py [traffic] [signal]`.

For each: seconds to the first episode, to a reset, steps/s of one lane under the controller and of ten lanes on all cores,
memory of a lane's process before and after 200 resets; for traffic libsumo against TraCI, and sampling under a policy, in each
lane's process or in one for all, beside SUMO alone, asked nothing and told nothing. Then a table of policies with the mean proxy
and true reward of a step, and for the controller its standard deviation and the correlation of the two.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rhtool.envs.program import ProgramSpec
from rhtool.envs.traffic.env import METRICS
from rhtool.envs.traffic.program import TrafficProgram

EPISODES = 20


class Alone(TrafficProgram):
    """SUMO's own steps, the vehicles that come, and the messages about them, and nothing else."""

    def step(self, action):
        for _ in range(self._config.sims_per_step):
            self._merge.simulate()
        metrics = dict.fromkeys(METRICS, 0.0) | {"vehicles": float(self._merge.api.vehicle.getIDCount())}
        return np.zeros(5 * self._config.slots, np.float32), 0.0, 0.0, False, False, metrics


def main(names: list[str]) -> None:
    """Measure the environments named, or both."""
    from rhtool.config import compose

    for name in names or ["traffic", "signal"]:
        config = compose(f"env={name}").env
        print(name)
        speeds(config)
        for backend in ("libsumo", "traci") if name == "traffic" else ():
            env = config.make_vec(1, seed=0, autoreset_mode="SameStep", backend=backend)
            print(f"  {backend:8} {rate(env, 300 if backend == 'traci' else 1500):>8,.0f} steps/s")
            env.close()
        if name == "traffic":
            sampling(config)
        rewards(config, POLICIES[name])


def speeds(config) -> None:
    """Start, reset, step, memory."""
    started = time.perf_counter()
    env = config.make_vec(1, seed=0, autoreset_mode="SameStep")
    env.reset()
    print(f"  first episode after {time.perf_counter() - started:.2f} s")
    before, resets = memory(env), []
    for _ in range(200):
        started = time.perf_counter()
        env.reset()
        resets.append(time.perf_counter() - started)
        for _ in range(10):
            env.step(env.base_action(env.observe()))
    print(
        f"  reset {1e3 * np.median(resets):.1f} ms; a lane's own memory {before:.1f} MB, after 200 resets {memory(env):.1f} MB"
    )
    print(f"  1 lane, controller  {rate(env, 1500):>8,.0f} steps/s")
    env.close()
    env = config.make_vec(10, seed=0, autoreset_mode="SameStep")
    env.reset()
    print(f"  10 lanes            {rate(env, 300):>8,.0f} steps/s")
    env.close()


def rate(env, steps: int) -> float:
    """Steps/s of all lanes under the controller, the best of three."""
    observations, best = env.reset()[0], 0.0
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(steps):
            observations = env.step(env.base_action(observations))[0]
        best = max(best, steps * env.num_envs / (time.perf_counter() - started))
    return best


def sampling(config) -> None:
    """Whole episodes of ten lanes by turns: the base policy in each lane's process, one for all in this process, and SUMO alone;
    the median of five."""
    from rhtool.rl import runner
    from rhtool.rl.policy import Policy
    from rhtool.rl.sampler import Sampler

    policy = Policy.load(config.base_policy_path())
    env = config.make_vec(10, seed=0, autoreset_mode="SameStep")
    env.program = lambda: ProgramSpec("traffic:Alone", {"config": config}, ("rhtool.envs.traffic.preloaded",))
    env.reset()
    samplers = {name: Sampler(config, policy, 10, seed=0) for name in ("a policy each", "one policy for all")}
    can_act, found = runner.can_act, {name: [] for name in (*samplers, "SUMO alone")}
    for _ in range(5):
        for name, rows in found.items():
            runner.can_act = can_act if name == "a policy each" else lambda config: False
            started = time.perf_counter()
            if name in samplers:
                vehicles = samplers[name].sample(config.horizon).episodes["env/vehicles"].mean()
            else:
                actions = env.go_ahead("traffic:Still", {}, config.horizon, [0] * 10)
                vehicles = np.mean([env.step(each)[-1]["vehicles"] for each in actions])
            rows.append((10 * config.horizon / (time.perf_counter() - started), vehicles))
    runner.can_act = can_act
    for each in (env, *samplers.values()):
        each.close()
    speeds = {name: np.median(rows, 0) for name, rows in found.items()}
    for name, (speed, vehicles) in speeds.items():
        ratio = f"{speed / speeds['one policy for all'][0]:.2f}x"
        print(f"  10 lanes, {name:18} {speed:>7,.0f} steps/s  {ratio}   {vehicles:.0f} vehicles in the mean")


class Still:
    """A policy that accelerates nobody."""

    def __call__(self, observation, generator):
        return 0.0


def memory(env) -> float:
    """MB that the first lane's process shares with no other."""
    lines = Path(f"/proc/{env._programs.pids[0]}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return (sizes["Private_Dirty"] + sizes["Private_Clean"]) / 1024


def rewards(config, policies: dict[str, Callable]) -> None:
    """The table of policies."""
    print(f"  {'policy':14} {'proxy':>9} {'true':>11}   means of a step over {EPISODES} episodes")
    for name, policy in policies.items():
        changes = {"controller": name} if name == "longest_line" else {}
        env = config.make_vec(EPISODES // 4, seed=0, autoreset_mode="SameStep", **changes)
        env.reset()
        rng, log = np.random.default_rng(0), []
        for _ in range(4 * config.horizon):
            *_, info = env.step(policy(env, rng))
            log.append((info["proxy_reward"], info["true_reward"]))
        env.close()
        proxy, true = np.moveaxis(np.array(log), 1, 0)
        more = ""
        if name in ("controller", "longest_line"):
            more = f"   sd of the proxy {proxy.std():.4g}, r {np.corrcoef(proxy.ravel(), true.ravel())[0, 1]:.2f}"
        print(f"  {name:14} {proxy.mean():>9.4g} {true.mean():>11.4g}{more}")


def _constant(value: float) -> Callable:
    return lambda env, rng: np.full(env.action_space.shape, value, env.action_space.dtype)


def _controller(env, rng):
    return env.base_action(env.observe())


def _random(env, rng):
    space = env.single_action_space
    if hasattr(space, "n"):
        return rng.integers(space.n, size=env.num_envs)
    return rng.uniform(space.low, space.high, env.action_space.shape).astype(np.float32)


POLICIES = {
    "traffic": {
        "controller": _controller,
        "zero": _constant(0),
        "random": _random,
        "max": _constant(1.5),
        "min": _constant(-1.5),
    },
    "signal": {
        "controller": _controller,
        "longest_line": _controller,
        "random": _random,
        "main road": _constant(0),
        "side road": _constant(2),
    },
}

if __name__ == "__main__":
    main(sys.argv[1:])
