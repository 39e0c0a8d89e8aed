"""Errors of the estimated divergences on tomato, where the exact ones are known, and the seconds that estimating takes.

    python benchmarks/estimator.py [episodes ...] [policy=RUN_DIRECTORY ...]

Prints, for a dozen policies from near to far and each number of episodes (100, 400 and 2000 unless given), the exact and the estimated
KL, chi2 and TV over states and actions, and the medians of the relative errors. The policies are the base policy with a sharper
action distribution or with noise on its last layer, and those of the runs that are given.
"""

import logging
import sys
import time

import numpy as np
import torch

from rhtool.config import compose
from rhtool.rl import evaluation
from rhtool.rl.policy import Policy, interface_of

MEASURES = ("kl", "chi2", "tv")


def changed(base: Policy, sharpness: float = 1.0, noise: float = 0.0, seed: int = 0) -> Policy:
    """A copy of `base` whose logits are multiplied by `sharpness` after Gaussian noise was added to its last layer."""
    policy, generator = base.copy(), torch.Generator().manual_seed(seed)
    head = {name: w for name, w in policy.weights.items() if name.startswith("policy_head")}
    moved = {name: sharpness * (w + noise * torch.randn(w.shape, generator=generator)) for name, w in head.items()}
    policy.weights = policy.weights | moved
    return policy


def policies(base: Policy) -> dict[str, Policy]:
    """From near to far, by name."""
    made = {f"sharpness {s:g}": changed(base, sharpness=s) for s in (0, 3, 6, 12)}
    for i, noise in enumerate((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)):
        made[f"noise {noise}"] = changed(base, noise=noise, seed=i)
    return made


def main():
    words = sys.argv[1:]
    sizes = [int(w) for w in words if w.isdigit()] or [100, 400, 2000]
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    env = compose("task=orpo", "env=tomato", "divergence=kl").env
    base = Policy.load(env.base_policy_path())
    interface = interface_of(env)
    made = policies(base) | {w[7:]: Policy.load(w[7:]) for w in words if w.startswith("policy=")}
    exact = {name: evaluation.exact(env, policy, base) for name, policy in made.items()}
    made = dict(sorted(made.items(), key=lambda item: exact[item[0]]["exact/divergence/kl"]))
    for episodes in sizes:
        print(f"\n{episodes} episodes of {env.horizon} steps of each policy")
        print(f"{'policy':<24}" + "".join(f"{m:>8} exact  found  error" for m in MEASURES) + "  seconds")
        errors, seconds = [], []
        for i, (name, policy) in enumerate(made.items()):
            rollouts = [evaluation.rollout(env, p, episodes, 2 * i + k) for k, p in enumerate((policy, base))]
            start = time.perf_counter()
            found = evaluation.estimated_divergences(policy, base, *rollouts, interface)
            seconds.append(time.perf_counter() - start)
            true, estimated = (
                np.array([metrics[f"{prefix}divergence/{m}"] for m in MEASURES])
                for prefix, metrics in (("exact/", exact[name]), ("", found))
            )
            errors.append(estimated / true - 1)
            cells = zip(true, estimated, errors[-1], strict=True)
            print(f"{name[-24:]:<24}" + "".join(f"{t:14.4g} {e:6.4g} {x:+6.0%}" for t, e, x in cells), end="")
            print(f"  {seconds[-1]:7.2f}", flush=True)
        medians = np.median(np.abs(errors), axis=0)
        print("median |error|: " + ", ".join(f"{m} {x:.1%}" for m, x in zip(MEASURES, medians, strict=True)), end="")
        print(f"; median {np.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
