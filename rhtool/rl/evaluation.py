"""What a policy is worth: returns, correlation, divergences from the base policy, estimated and, where the env is tabular, exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhtool.divergences import KL, TV, Chi2, Divergence, SqrtChi2
from rhtool.envs.base import Env
from rhtool.hacking import bound_gap, correlation
from rhtool.rl.discriminator import Features, Scores, pairs
from rhtool.rl.policy import Policy
from rhtool.rl.runner import Rollout
from rhtool.rl.sampler import Sampler
from rhtool.schema import option_name

MEASURES: tuple[Divergence, ...] = (KL(), Chi2(), SqrtChi2(), TV())
"""the divergences that an evaluation reports"""


def evaluate(
    env: Env,
    policy: Policy,
    base: Policy | None,
    episodes: int,
    seed: int,
    exactly: bool = True,
    explore: bool = True,
    over: str = "state_action",
    parquet: Path | None = None,
) -> dict[str, float]:
    """All that this module measures, for one policy and, if there is one, its base policy (whose metrics are `base/…`)."""
    current = rollout(env, policy, episodes, seed, explore)
    metrics = returns(*current)
    if parquet is not None:
        write_parquet(parquet, *current)
    if base is not None:
        reference = rollout(env, base, episodes, seed + 1, explore)
        metrics |= {f"base/{key}": value for key, value in returns(*reference).items()}
        metrics |= estimated_divergences(policy, base, current, reference, over, seed)
    return metrics | (exact(env, policy, base) if exactly else {})


def rollout(
    env: Env, policy: Policy, episodes: int, seed: int, explore: bool = True, workers: int = 0, **changes: Any
) -> tuple[Rollout, Tensor]:
    """`episodes` whole episodes side by side, and a mask (T, B) of the steps that belong to each lane's first episode.

    Only first episodes count: short ones would be over-represented among all that end within the horizon.
    """
    sampler = Sampler(env, policy, episodes, seed=seed, workers=workers, changes=changes or None)
    steps = sampler.sample(env.horizon, explore=explore)
    sampler.close()
    done = steps.terminated | steps.truncated
    earlier_ends = done.int().cumsum(0) - done.int()
    return steps, earlier_ends == 0


def returns(steps: Rollout, mask: Tensor) -> dict[str, float]:
    """Mean undiscounted returns with their standard errors, r and sigma of the rewards per step, and mean episode length."""
    metrics = {}
    for reward in ("true", "proxy"):
        per_episode = (getattr(steps, reward) * mask).sum(0)
        metrics[f"{reward}/return"] = float(per_episode.mean())
        metrics[f"{reward}/return_se"] = float(per_episode.std() / len(per_episode) ** 0.5)
    relation = correlation(steps.proxy[mask].numpy(), steps.true[mask].numpy())
    return {
        **metrics,
        "correlation": relation.r,
        "sigma/proxy": relation.proxy_std,
        "sigma/true": relation.true_std,
        "episode/length": float(mask.sum(0).double().mean()),
    }


def estimated_divergences(
    policy: Policy,
    base: Policy,
    current: tuple[Rollout, Tensor],
    reference: tuple[Rollout, Tensor],
    over: str = "state_action",
    seed: int = 0,
    hidden: tuple[int, ...] = (256, 256),
) -> dict[str, float]:
    """Divergences of occupancy measures from a discriminator trained on half of the episodes and read on the other half.

    The discriminator minimises the logistic loss, whose optimum is log(mu_pi / mu_base), with early stopping on the episodes that it is
    read on. Keys: `divergence/<name>`, and `action_divergence/<name>`: the closed form between action distributions, averaged
    over the visited states.
    """
    features = Features(over, policy.distribution, current[0].obs.shape[-1])
    halves = [_halves(features(steps), mask) for steps, mask in (current, reference)]
    spaces = (policy.observation_space, policy.action_space)
    scores = fit_discriminator(halves[0][0], halves[1][0], halves[0][1], halves[1][1], spaces, list(hidden), seed)
    held_out, base_held_out = scores(halves[0][1]), scores(halves[1][1])
    metrics = {f"divergence/{_name(d)}": d.estimate(held_out, d_base=base_held_out) for d in MEASURES}
    obs = current[0].obs[current[1]]
    p, q = policy.distribution(policy.dist_inputs(obs)), base.distribution(base.dist_inputs(obs))
    return metrics | {f"action_divergence/{_name(d)}": float(d.between(p, q).mean()) for d in (KL(), Chi2())}


def fit_discriminator(
    current: Tensor,
    base: Tensor,
    current_held_out: Tensor,
    base_held_out: Tensor,
    spaces: tuple[Any, Any],
    hidden: list[int],
    seed: int = 0,
    epochs: int = 60,
    minibatch: int = 1024,
    lr: float = 1e-3,
    patience: int = 8,
) -> Scores:
    """A discriminator between two sets of features (N, F), its weights those of the epoch with the least held-out loss."""
    torch.manual_seed(seed)
    scores, loss_of = Scores(spaces, current.shape[1], hidden), KL().discriminator_loss
    optimizer = torch.optim.Adam(scores.module.parameters(), lr=lr, fused=True)
    columns = pairs(current, base)
    chunks = max(1, len(columns["inputs"]) // minibatch)
    best, best_weights, waited = float("inf"), None, 0
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - epoch / epochs)
        for index in torch.randperm(len(columns["inputs"])).tensor_split(chunks):
            d, is_current = scores.module.score(columns["inputs"][index]), columns["current"][index]
            optimizer.zero_grad(set_to_none=True)
            loss_of(d[is_current], d[~is_current]).backward()
            optimizer.step()
        held_out = float(loss_of(scores(current_held_out), scores(base_held_out)))
        waited += 1
        if held_out < best:
            best, waited = held_out, 0
            best_weights = {k: v.clone() for k, v in scores.module.state_dict().items()}
        if waited > patience:
            break
    scores.module.load_state_dict(best_weights)
    return scores


def exact(env: Env, policy: Policy, base: Policy | None) -> dict[str, float]:
    """Exact values by dynamic programming; empty for an env that is not tabular.

    `exact/true/return`, `exact/proxy/return`; with a base policy also `exact/base/…`, `exact/divergence/<name>` of the occupancy
    measures averaged over the steps of an episode, `exact/correlation` and `exact/sigma/…` under the base policy, `exact/gain`, the
    gain in true reward per step, `exact/bound`, Theorem 5.1's lower bound on it (absent if r <= 0), and `exact/bound_holds`, 1 or 0.
    """
    mdp = env.tabular()
    if mdp is None:
        return {}
    table = mdp.policy_table(policy.probabilities)
    metrics = {f"exact/{reward}/return": float(v) for reward, v in mdp.returns(table).items()}
    if base is None:
        return metrics
    base_table = mdp.policy_table(base.probabilities)
    metrics |= {f"exact/base/{reward}/return": float(v) for reward, v in mdp.returns(base_table).items()}
    mu, nu = mdp.occupancy(table), mdp.occupancy(base_table)
    gap = bound_gap(mu, nu, mdp.proxy, mdp.true)
    metrics |= {f"exact/divergence/{_name(d)}": d.exact(mu, nu) for d in MEASURES}
    metrics |= {
        "exact/correlation": gap.correlation.r,
        "exact/sigma/proxy": gap.correlation.proxy_std,
        "exact/sigma/true": gap.correlation.true_std,
        "exact/gain": gap.true_gain,
        "exact/bound_holds": float(gap.holds),
    }
    return metrics if gap.return_bound is None else metrics | {"exact/bound": gap.return_bound}


def write_parquet(path: Path, steps: Rollout, mask: Tensor) -> None:
    """Rollouts as a table, a row per env step: `episode`, `t`, `obs` (list of float32), `action`, `proxy`, `true`, `terminated`, `truncated`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    t, lane = mask.T.nonzero().T.flip(0)
    actions = steps.actions[t, lane]
    table = pa.table(
        {
            "episode": lane.numpy().astype(np.int32),
            "t": t.numpy().astype(np.int32),
            "obs": list(steps.obs[t, lane].numpy()),
            "action": actions.numpy() if actions.ndim == 1 else list(actions.numpy()),
            "proxy": steps.proxy[t, lane].numpy(),
            "true": steps.true[t, lane].numpy(),
            "terminated": steps.terminated[t, lane].numpy(),
            "truncated": steps.truncated[t, lane].numpy(),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _halves(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    lanes = torch.arange(mask.shape[1]).expand_as(mask).flatten()
    keep = mask.flatten()
    return features[keep & (lanes % 2 == 0)], features[keep & (lanes % 2 == 1)]


def _name(divergence: Divergence) -> str:
    return option_name(type(divergence))
