"""What a policy is worth: returns, correlation, divergences from the base policy, estimated and, where the env is tabular, exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhtool.divergences import KL, TV, Chi2, Divergence, SqrtChi2
from rhtool.envs.base import Env
from rhtool.hacking import Correlation, bound_gap, correlation, diagnostics, max_min_bound
from rhtool.results.statistics import standard_error
from rhtool.rl.discriminator import Features, Scores, pairs
from rhtool.rl.policy import Interface, Policy, interface_of
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
    lanes: int = 0,
    shown: str = "all",
    parquet: Path | None = None,
) -> dict[str, float]:
    """All that this module measures, for one policy and, if there is one, its base policy (whose metrics are `base/…`).

    `over` is of what the divergences are, `shown` what discriminators see of a state, `lanes` over how many copies of the env
    the episodes are spread (0: one for each). Exact values are those of the policies as they explore, and only given with
    `explore`.
    """
    current = rollout(env, policy, episodes, stream(seed, 0), explore, lanes)
    metrics = returns(*current)
    if parquet is not None:
        write_parquet(parquet, *current)
    if base is not None:
        reference = rollout(env, base, episodes, stream(seed, 1), explore, lanes)
        metrics |= {f"base/{key}": value for key, value in returns(*reference).items()}
        metrics |= estimated_divergences(
            policy, base, current, reference, interface_of(env), over, shown, seed, explore
        )
    metrics |= exact(env, policy, base, over) if exactly and explore else {}
    return metrics if base is None else metrics | diagnostics(metrics, env.proxy_scale / env.reward_std)


def stream(seed: int, which: int) -> int:
    """Seed of an evaluation's rollouts of the policy (0) or of its base policy (1), of which neither training nor another
    seed's evaluation draws."""
    return int(np.random.SeedSequence([seed, 20]).generate_state(2)[which])


def rollout(
    env: Env, policy: Policy, episodes: int, seed: int, explore: bool = True, lanes: int = 0
) -> tuple[Rollout, Tensor]:
    """Whole episodes, as many in each lane, and a mask (T, B) of the steps that belong to them.

    Each lane counts its first `episodes / lanes` ones (rounded up): short episodes would be over-represented among all that
    end within a given time.
    """
    lanes = min(lanes or episodes, episodes)
    quota = -(-episodes // lanes)
    sampler = Sampler(env, policy, lanes, seed=seed)
    try:
        steps = sampler.sample(quota * env.horizon, explore=explore)
    finally:
        sampler.close()
    done = steps.terminated | steps.truncated
    earlier_ends = done.int().cumsum(0) - done.int()
    return steps, earlier_ends < quota


def returns(steps: Rollout, mask: Tensor) -> dict[str, float]:
    """Mean undiscounted returns with their standard errors, r and sigma of the rewards per step, mean episode length, and the
    means over episodes of the env's own metrics, themselves means over an episode's steps."""
    # Of the episodes that ended, in the order in which they did, those that ended within the mask.
    done = steps.terminated | steps.truncated
    counts = mask[done].numpy()
    counted = {key: values[counts] for key, values in steps.episodes.items()}
    metrics = {}
    for reward in ("true", "proxy"):
        metrics[f"{reward}/return"] = float(counted[reward].mean())
        metrics[f"{reward}/return_se"] = standard_error(counted[reward])
    relation = correlation(steps.proxy[mask].numpy(), steps.true[mask].numpy())
    return {
        **metrics,
        "correlation": relation.r,
        "sigma/proxy": relation.proxy_std,
        "sigma/true": relation.true_std,
        "mean/proxy": float(steps.proxy[mask].mean()),
        "mean/true": float(steps.true[mask].mean()),
        "episode/length": float(counted["length"].mean()),
        "episodes": len(counted["length"]),
        **{key: float(values.mean()) for key, values in counted.items() if key.startswith("env/")},
    }


def estimated_divergences(
    policy: Policy,
    base: Policy,
    current: tuple[Rollout, Tensor],
    reference: tuple[Rollout, Tensor],
    interface: Interface,
    over: str = "state_action",
    shown: str = "all",
    seed: int = 0,
    explore: bool = True,
    folds: int = 5,
) -> dict[str, float]:
    """Divergences of occupancy measures from the scores d ~ log(mu_pi / mu_base) of discriminators.

    Occupancy measures factor as mu(s, a) = mu(s) pi(a | s), and the policies are known: with sampled actions (`explore`) a
    discriminator learns log(mu_pi(s) / mu_base(s)) alone, to which log(pi(a | s) / base(a | s)) is added. Density ratios by
    classification: Sugiyama, Suzuki and Kanamori 2012, "Density Ratio Estimation in Machine Learning", ch. 4. Every transition is
    scored by the discriminator of the `folds` that was fitted without its fold (cross-fitting: Chernozhukov et al. 2018, section 3),
    a fold being consecutive episodes, or part of one where there are too few. Values near zero can come out negative, and what
    the base policy hardly visits cannot be known: `benchmarks/estimator.py` prints the errors.

    Args:
        current, reference: what `rollout` returned for `policy` and for `base`.
        interface: of the env.
        over: "state_action" or "state".
        shown: "all", or only the columns that describe the "latest" state. Then nothing is known of the ratio, for the policies
            may look at more than is shown.
        seed: decides the result, with the rollouts; torch's global generator is left as it was.
        explore: the actions were sampled. If not, the discriminators see them.
        folds: parts of the data; as many discriminators are fitted.

    Returns:
        `divergence/<name>` of `MEASURES`, and `action_divergence/<name>`: the closed form between action distributions,
        averaged over the states that the policy visited.
    """
    features = Features(over, policy.distribution, interface, shown)
    factored = over == "state_action" and explore and features.everything
    features = Features("state", policy.distribution, interface) if factored else features
    inputs, known = [], []
    for steps, mask in (current, reference):
        # Lane first: an episode's steps lie side by side.
        obs, actions = (column.transpose(0, 1)[mask.T] for column in (steps.obs, steps.actions))
        inputs.append(features.join(obs, actions))
        if factored:
            log_p, log_q = (p.distribution.log_prob(p.dist_inputs(obs), actions) for p in (policy, base))
        known.append(log_p - log_q if factored else torch.zeros(len(obs)))
    spaces = (policy.observation_space, policy.action_space)
    d, d_base = cross_fitted(inputs, known, spaces, folds, seed)
    metrics = {f"divergence/{_name(m)}": m.estimate(d, d_base=d_base) for m in MEASURES}
    obs = current[0].obs[current[1]]
    p, q = policy.distribution(policy.dist_inputs(obs)), base.distribution(base.dist_inputs(obs))
    return metrics | {f"action_divergence/{_name(m)}": float(m.between(p, q).mean()) for m in (KL(), Chi2())}


def cross_fitted(
    inputs: list[Tensor],
    known: list[Tensor],
    spaces: tuple[Any, Any],
    folds: int = 5,
    seed: int = 0,
    epochs: int = 20,
) -> list[Tensor]:
    """Scores (N,) of the current and (M,) of the base policy's transitions, each by a discriminator that did not train on it.

    `inputs` are the features (N, F) and (M, F), `known` the parts of the scores, (N,) and (M,), that need not be learnt.
    Each discriminator is fitted for at most `epochs`, of which a seventh may pass without gain, but never less than three.
    """
    inputs = in_common_units(inputs)
    fold = [torch.arange(len(x)) * folds // max(len(x), 1) for x in inputs]
    d = [torch.empty(len(x)) for x in inputs]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for k in range(folds):
            train, test = (
                [(x[(f == k) == held], o[(f == k) == held]) for x, o, f in zip(inputs, known, fold, strict=True)]
                for held in (False, True)
            )
            scores = fit_discriminator(train, test, spaces, epochs=epochs, patience=max(3, epochs // 7))
            for part, f, (x, o) in zip(d, fold, test, strict=True):
                part[f == k] = scores(x) + o
    return d


def in_common_units(inputs: list[Tensor]) -> list[Tensor]:
    """Features (N, F), (M, F) scaled so that the middle 98 % of either's values lie from 0 to 1, and clipped at one such
    range beyond: the ratio of densities does not depend on units, learning it does. A feature that is the same in more than
    98 % of the rows is scaled by its extremes."""
    rows = torch.cat([x[:: len(x) // 50_000 + 1] for x in inputs]).numpy()
    low, high = (torch.from_numpy(q).to(inputs[0].dtype) for q in np.quantile(rows, (0.01, 0.99), axis=0))
    everything = torch.cat(inputs).aminmax(dim=0)
    rare = low == high
    low, high = torch.where(rare, everything.min, low), torch.where(rare, everything.max, high)
    return [((x - low) / (high - low).clamp(min=1e-12)).clamp(-1, 2) for x in inputs]


def fit_discriminator(
    train: list[tuple[Tensor, Tensor]],
    held_out: list[tuple[Tensor, Tensor]],
    spaces: tuple[Any, Any],
    hidden: tuple[int, ...] = (64, 64),
    epochs: int = 20,
    minibatch: int = 512,
    lr: float = 1e-3,
    patience: int = 3,
) -> Scores:
    """A discriminator fitted by the logistic loss, its weights those of the epoch with the least loss on `held_out`.

    `train` and `held_out` hold features (N, F) and known parts of the scores (N,), of the current and then of the base policy.
    Scores start at zero; the learning rate falls to zero over `epochs`, of which `patience` may pass without gain.
    """
    (x, known), (x_base, known_base) = train
    scores, loss_of = Scores(spaces, x.shape[1], list(hidden)), KL().discriminator_loss
    for parameter in scores.module.net[-1].parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.Adam(scores.module.parameters(), lr=lr, fused=True)
    columns, offset = pairs(x, x_base), torch.cat([known, known_base])
    chunks = max(1, len(offset) // minibatch)
    best, best_weights, waited = float("inf"), scores.module.state_dict(), 0
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = lr * (1 - epoch / epochs)
        for index in torch.randperm(len(offset)).tensor_split(chunks):
            d, is_current = scores.module.score(columns["inputs"][index]) + offset[index], columns["current"][index]
            optimizer.zero_grad(set_to_none=True)
            loss_of(d[is_current], d[~is_current]).backward()
            optimizer.step()
        loss = float(loss_of(*(scores(x) + o for x, o in held_out)))
        waited += 1
        if loss < best:
            best, waited = loss, 0
            best_weights = {k: v.clone() for k, v in scores.module.state_dict().items()}
        if waited > patience:
            break
    scores.module.load_state_dict(best_weights)
    return scores


def exact(env: Env, policy: Policy, base: Policy | None, over: str = "state_action") -> dict[str, float]:
    """Exact values by dynamic programming; empty for an env that is not tabular.

    `exact/true/return`, `exact/proxy/return`; with a base policy also `base/exact/…`, `exact/divergence/<name>` of the occupancy
    measures (`over` "state_action" or "state") averaged over the steps of an episode, `exact/correlation` and `exact/sigma/…` under
    the base policy, `exact/gain`, the gain in true reward per step, `exact/bound`, Theorem 5.1's lower bound on it,
    `exact/worst_case`, the least gain of any true reward of that correlation and sigma (both absent if r <= 0), and
    `exact/bound_holds`, 1 or 0.
    """
    mdp = env.tabular()
    if mdp is None:
        return {}
    table = mdp.policy_table(policy.probabilities)
    metrics = {f"exact/{reward}/return": float(v) for reward, v in mdp.returns(table).items()}
    if base is None:
        return metrics
    base_table = mdp.policy_table(base.probabilities)
    metrics |= {f"base/exact/{reward}/return": float(v) for reward, v in mdp.returns(base_table).items()}
    mu, nu = mdp.occupancy(table), mdp.occupancy(base_table)
    seen = [
        mdp.occupancy(t, over=over, observed=True) for t in (table, base_table)
    ]  # what a discriminator can tell apart
    gap = bound_gap(mu, nu, mdp.proxy, mdp.true)
    metrics |= {f"exact/divergence/{_name(d)}": d.exact(*seen) for d in MEASURES}
    metrics |= {
        "exact/correlation": gap.correlation.r,
        "exact/sigma/proxy": gap.correlation.proxy_std,
        "exact/sigma/true": gap.correlation.true_std,
        "exact/gain": gap.true_gain,
        "exact/bound_holds": float(gap.holds),
    }
    if gap.return_bound is None:
        return metrics
    return metrics | {"exact/bound": gap.return_bound, "exact/worst_case": gap.max_min_bound}


def describe(rollout: Rollout) -> dict[str, float]:
    """Returns of the episodes that ended in a rollout, and the correlation of the two rewards over its steps."""
    metrics = {"correlation": correlation(rollout.proxy.numpy(), rollout.true.numpy()).r}
    if len(rollout.episodes["length"]):
        means = {key: float(values.mean()) for key, values in rollout.episodes.items()}
        metrics |= {f"{reward}/return": means[reward] for reward in ("true", "proxy")}
        metrics |= {"episode/length": means["length"]} | {k: v for k, v in means.items() if k.startswith("env/")}
    return metrics


def estimates(
    divergence: Divergence, scores: Tensor | None, base_scores: Tensor | None, rewards: Tensor | None = None
) -> dict[str, float]:
    """`divergence/<name>` of what the scores of `divergence`'s discriminator, (N,) and (M,), and the standardised rewards
    (N, K) can say."""
    measures = (KL(), Chi2(), SqrtChi2()) if scores is not None and divergence.scores_are_log_ratios else ()
    named = {_name(d): d for d in (divergence, *measures)}
    return {f"divergence/{name}": d.estimate(scores, d_base=base_scores, rewards=rewards) for name, d in named.items()}


def worst_case(current: Rollout, base: Correlation, chi2: float | None) -> dict[str, float]:
    """`hacking/worst_case` of a rollout from chi2 and the moments under the base policy; empty where the theory has none."""
    if chi2 is None or not base.r > 0:
        return {}
    gain = float(current.proxy.mean()) - base.proxy_mean
    return {"hacking/worst_case": max_min_bound(gain, chi2, base.r, base.proxy_std, base.true_std)}


def write_parquet(path: Path, steps: Rollout, mask: Tensor) -> None:
    """Rollouts as a table, a row per env step of the episodes that count, in the order of episodes and then of time.

    Columns: `episode`, `t` (int32), `obs` (list of float32), `action`, `proxy`, `true` (float64), `terminated`, `truncated` (bool).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    t, lane = mask.T.nonzero().T.flip(0)
    # Of each lane the episodes follow each other; `episode` numbers them lane by lane.
    done = (steps.terminated | steps.truncated) & mask
    place = done.int().cumsum(0) - done.int()
    first = torch.cat([torch.ones_like(done[:1]), done[:-1]]) & mask
    start = torch.where(first, torch.arange(len(done))[:, None], 0).cummax(0).values
    actions = steps.actions[t, lane]
    table = pa.table(
        {
            "episode": (lane * int(done.sum(0).max()) + place[t, lane]).numpy().astype(np.int32),
            "t": (t - start[t, lane]).numpy().astype(np.int32),
            "obs": _lists(steps.obs[t, lane]),
            "action": actions.numpy() if actions.ndim == 1 else _lists(actions.flatten(1)),
            "proxy": steps.proxy[t, lane].numpy(),
            "true": steps.true[t, lane].numpy(),
            "terminated": steps.terminated[t, lane].numpy(),
            "truncated": steps.truncated[t, lane].numpy(),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _lists(rows: Tensor) -> Any:
    """(N, D) as an arrow column of N lists, without a copy."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(rows.contiguous().numpy().ravel()), rows.shape[1])


def _name(divergence: Divergence) -> str:
    return option_name(type(divergence))
