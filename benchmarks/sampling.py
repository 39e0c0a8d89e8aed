"""What the RL layer costs on top of the environment: our runner and RLlib's stock runner against a hand-written loop.

    python benchmarks/sampling.py [lanes ...]

Prints env steps per second on one core, and each runner's cost relative to the hand-written loop, best of five. The policy is
2 x 64 tanh, sampled; nobody computes values.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time

import torch
from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

import rhtool.envs.gymnasium  # noqa: F401  (registers rhtool/Tomato-v0)
from rhtool.config import compose
from rhtool.rl.modules import PolicyModule
from rhtool.rl.policy import Policy
from rhtool.rl.sampler import Sampler

STEPS, REPEATS = 128, 5
NETWORK = {"hidden": [64, 64], "share_value": False}


def best(function, steps):
    """Steps per second of the fastest of `REPEATS` calls, after one that is not counted."""
    function()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return steps / min(seconds)


def by_hand(env, policy, lanes):
    """The loop one would write in a script: arrays, one forward pass and one multinomial draw per step."""
    vec = env.make_vec(lanes, seed=0, autoreset_mode=AutoresetMode.SAME_STEP)
    state = [vec.reset(seed=0)[0]]

    @torch.no_grad()
    def loop():
        obs, columns = state[0], []
        for _ in range(STEPS):
            tensor = torch.from_numpy(obs)
            logits = policy.module.policy_head(policy.module.policy_trunk(tensor))
            actions = torch.multinomial(torch.softmax(logits, -1), 1).squeeze(-1)
            obs, reward, terminated, truncated, _ = vec.step(actions.numpy())
            columns.append((tensor.clone(), actions, logits, reward, terminated, truncated))
        state[0] = obs
        return columns

    return loop


def stock(lanes):
    """RLlib's own `SingleAgentEnvRunner` on the same native vector env and the same network."""
    config = (
        PPOConfig()
        .environment("rhtool/Tomato-v0")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=lanes, gym_env_vectorize_mode="vector_entry_point")
        .rl_module(rl_module_spec=RLModuleSpec(PolicyModule, model_config=NETWORK))
    )
    runner = SingleAgentEnvRunner(config=config, worker_index=0)
    return lambda: runner.sample(num_timesteps=STEPS * lanes)


def main():
    torch.set_num_threads(1)
    env = compose("env=tomato").env
    for lanes in [int(a) for a in sys.argv[1:]] or [16, 64, 256]:
        probe = env.make_vec(1)
        policy = Policy(probe.single_observation_space, probe.single_action_space, NETWORK)
        total = STEPS * lanes
        hand = best(by_hand(env, policy, lanes), total)
        sampler = Sampler(env, policy, lanes, seed=0)
        ours = best(lambda sampler=sampler: sampler.sample(STEPS), total)
        rllib = best(stock(lanes), total)
        print(f"{lanes:4d} lanes  hand-written {hand:10,.0f} steps/s", end="  ")
        print(f"rhtool {ours:10,.0f} ({hand / ours:.2f}x)  RLlib stock {rllib:8,.0f} ({hand / rllib:.1f}x)", flush=True)


if __name__ == "__main__":
    main()
