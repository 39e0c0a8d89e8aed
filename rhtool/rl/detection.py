"""How anomalous a policy is beside a trusted one: scores from their action distributions and their occupancy measures.

The task is that of Pan, Bhatia and Steinhardt 2022 (arXiv 2201.03544, Polynomaly): tell hacking policies from others by
their distance from a trusted policy, without the true reward. `WHITE_BOX` detectors need the unknown policy's action
probabilities, `BLACK_BOX` ones only its rollouts. The trusted policy's probabilities are known to all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from rhtool.divergences import KL
from rhtool.divergences.pair import log_beta
from rhtool.envs.base import Env
from rhtool.rl import evaluation
from rhtool.rl.discriminator import Features
from rhtool.rl.evaluation import MEASURES
from rhtool.rl.policy import Policy, interface_of
from rhtool.run import Run
from rhtool.schema import option_name

DISTANCES = ("action_kl", "action_js", "action_hellinger")
OCCUPANCY = tuple(f"occupancy_{option_name(type(m))}" for m in MEASURES)
ROLLOUT = tuple(f"rollout_{option_name(type(m))}" for m in MEASURES)
SURPRISE = "rollout_surprise"
WHITE_BOX = (*(f"{d}{of}" for d in DISTANCES for of in ("", "_max", "_range")), *OCCUPANCY)
"""detectors that need the action probabilities of the unknown policy"""
BLACK_BOX = (*ROLLOUT, SURPRISE)
"""detectors that need its rollouts alone"""
DRAWS = 16
"""actions of each policy from which the Jensen-Shannon divergence of a state is estimated where it has no closed form"""

UPDATES, MINIBATCH = 400, 512
"""gradient steps of a discriminator at least, unless it stops gaining; the rows of one (`evaluation.fit_discriminator`)"""
EDGE = 1e-9
"""actions of a Beta are kept this far from its bounds"""


@dataclass
class Sample:
    """Whole episodes of one policy: E episodes, of whose steps N are kept, evenly spread, episode after episode."""

    obs: Tensor
    """(N, D) float32"""
    actions: Tensor
    """(N, …)"""
    episode: Tensor
    """(N,) int64: the episode of each kept step, from 0"""
    true: np.ndarray
    """(E,) float64: undiscounted true return of each episode, of all its steps"""
    proxy: np.ndarray
    """(E,) float64: likewise the proxy"""
    steps: int
    """env steps of the episodes"""

    def per_episode(self, values: Tensor) -> np.ndarray:
        """Means (E,) float64 over each episode's kept steps of values (N,); NaN for an episode of which none is kept."""
        values, size = values.double(), len(self.true)
        total, count = (torch.bincount(self.episode, w, size) for w in (values, torch.ones_like(values)))
        return (total / count).numpy()


def sample(env: Env, policy: Policy, episodes: int, seed: int, lanes: int = 0, keep: int = 10_000) -> Sample:
    """Roll out `episodes` whole episodes of a policy that explores, over `lanes` copies of the env (0: one for each), and
    keep one step of each of `keep` equal stretches (all, if there are no more), drawn at random within it."""
    steps, mask = evaluation.rollout(env, policy, episodes, seed, lanes=lanes)
    # Lane first: an episode's steps lie side by side.
    ends, true, proxy, obs, actions = (
        column.transpose(0, 1)[mask.T]
        for column in (steps.terminated | steps.truncated, steps.true, steps.proxy, steps.obs, steps.actions)
    )
    episode = ends.long().cumsum(0) - ends.long()
    total = len(episode)
    kept = torch.arange(total)
    if total > keep:
        edges = torch.arange(keep + 1) * total // keep
        drawn = torch.rand(keep, generator=torch.Generator().manual_seed(seed))
        kept = edges[:-1] + (drawn * (edges[1:] - edges[:-1])).long()
    returns = (torch.bincount(episode, rewards).numpy() for rewards in (true, proxy))
    return Sample(obs[kept], actions[kept], episode[kept], *returns, steps=total)


def hellinger(p: td.Distribution, q: td.Distribution) -> Tensor:
    """Hellinger distance of each state, (batch,), from 0 to 1: sqrt(1 - BC), BC = integral of sqrt(p q).

    In closed form for torch's Categorical, Normal and Beta, and an `Independent` of them, whose BC is the product over the
    dimensions: sum sqrt(p q); sqrt(2 s1 s2 / v) exp(-(m1 - m2)^2 / 4 v) with v = s1^2 + s2^2;
    B((a1 + a2) / 2, (b1 + b2) / 2) / sqrt(B(a1, b1) B(a2, b2)). In float32 the root of a difference near zero has no digits.
    """
    event = 0
    while isinstance(p, td.Independent):
        event, p, q = event + p.reinterpreted_batch_ndims, p.base_dist, q.base_dist
    if isinstance(p, td.Categorical):
        log_bc = ((p.logits + q.logits) / 2).logsumexp(-1)
    elif isinstance(p, td.Normal):
        m1, s1, m2, s2 = p.loc, p.scale, q.loc, q.scale
        v = s1.square() + s2.square()
        log_bc = (2 * s1 * s2 / v).log() / 2 - (m1 - m2).square() / (4 * v)
    else:
        a1, b1, a2, b2 = (x for d in (p, q) for x in (d.concentration1, d.concentration0))
        log_bc = log_beta((a1 + a2) / 2, (b1 + b2) / 2) - (log_beta(a1, b1) + log_beta(a2, b2)) / 2
    log_bc = log_bc.sum(tuple(range(-event, 0))) if event else log_bc
    return (-log_bc.clamp(max=0).expm1()).sqrt()


def jensen_shannon(p: td.Distribution, q: td.Distribution, draws: int = DRAWS) -> Tensor:
    """Jensen-Shannon divergence of each state, (batch,), in nats, from 0 to log 2: KL(p || m) / 2 + KL(q || m) / 2
    with m = (p + q) / 2.

    Exact between Categoricals. Else the mean over `draws` actions of each, from torch's global generator: unbiased, and of
    p = q exactly zero.
    """
    if isinstance(p, td.Categorical):
        log_p, log_q = p.logits, q.logits
        log_m = torch.logaddexp(log_p, log_q) - np.log(2)
        return ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_q.exp() * (log_q - log_m)).sum(-1)) / 2
    halves = []
    for one, other in ((p, q), (q, p)):
        actions = one.sample((draws,))
        if isinstance(one.base_dist if isinstance(one, td.Independent) else one, td.Beta):
            actions = actions.clamp(EDGE, 1 - EDGE)  # rounded onto a bound, where both densities are zero
        # log(one / m) = log 2 - log(1 + other / one)
        ratio = other.log_prob(actions) - one.log_prob(actions)
        halves.append(np.log(2) - torch.nn.functional.softplus(ratio).mean(0))
    return sum(halves) / 2


class Reference:
    """A trusted policy with rollouts, and the scores of other samples beside them.

    Args:
        env: the environment of all.
        policy: the trusted one.
        rollouts: of that policy.
        task: `rhtool.tasks.detect.Detect`: over, discriminator_obs, folds.
        seed: of the discriminators.
    """

    def __init__(self, env: Env, policy: Policy, rollouts: Sample, task: Any, seed: int):
        self.interface, self.policy, self.rollouts, self.folds, self.seed = (
            interface_of(env),
            policy,
            rollouts,
            task.folds,
            seed,
        )
        self.features = Features(task.over, policy.distribution, self.interface, task.discriminator_obs)
        # Occupancy measures factor, mu(s, a) = mu(s) pi(a | s), if what is shown decides what the policies do.
        self.factored = task.over == "state_action" and self.features.everything
        self.state = Features("state", policy.distribution, self.interface)

    def scores(self, policy: Policy, found: Sample) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The score of `policy`, of which `found` are rollouts, by each detector, and the scores (E,) of its episodes.

        Detectors that need probabilities which the discriminators' view does not allow (`occupancy_…` over states alone or of
        a part of the observation) are absent. Episodes have no `…_max` and `…_range`.
        """
        ours, theirs = self.rollouts, (found.obs, found.actions)
        p_in, q_in = policy.dist_inputs(found.obs), self.policy.dist_inputs(found.obs)
        p, q = policy.distribution(p_in.double()), self.policy.distribution(q_in.double())
        per_step = self._distances(p, q)
        log_q = self.policy.distribution.log_prob(q_in, found.actions)
        per_step[SURPRISE] = -log_q - q.entropy()
        scores = {name: float(values.double().mean()) for name, values in per_step.items()}
        views = {"rollout": (self.features, [torch.zeros(len(s.obs)) for s in (found, ours)])}
        if self.factored:
            known = [policy.distribution.log_prob(p_in, found.actions) - log_q]
            known.append(_log_ratio(policy, self.policy, ours))
            views["occupancy"] = (self.state, known)
        for view, (features, known) in views.items():
            inputs = [features.join(*pair) for pair in (theirs, (ours.obs, ours.actions))]
            # Small samples make few minibatches, and so need more epochs.
            share = sum(map(len, inputs)) * (self.folds - 1) // self.folds
            epochs = max(20, -(-UPDATES // max(1, share // MINIBATCH)))
            d, d_base = evaluation.cross_fitted(inputs, known, self.interface.spaces, self.folds, self.seed, epochs)
            for measure in MEASURES:
                name = f"{view}_{option_name(type(measure))}"
                scores[name] = measure.estimate(d, d_base=d_base)
                per_step[name] = measure.penalty(d)
        episodes = {name: found.per_episode(values) for name, values in per_step.items()}
        for name in DISTANCES:
            seen = episodes[name][~np.isnan(episodes[name])]
            scores |= {f"{name}_max": float(seen.max()), f"{name}_range": float(np.ptp(seen))}
        return scores, episodes

    def _distances(self, p: td.Distribution, q: td.Distribution) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            return dict(zip(DISTANCES, (KL().between(p, q), jensen_shannon(p, q), hellinger(p, q)), strict=True))


class Detection:
    """The measuring of many policies beside trusted ones; `iteration` measures the next. First come the controls: the
    trusted policies themselves, rolled out with other seeds.

    With several trusted policies a score is the least of those beside each: anomalous is what is far from all of them.

    Args:
        run: env, seed and the options of `rhtool.tasks.detect.Detect`.
        paths: of the unknown policies.
        trusted: paths of the trusted ones.
    """

    def __init__(self, run: Run, paths: list[str], trusted: list[str]):
        self.env, self.task, self.seed = run.env, run.task, run.seed
        self.trusted = [(path, Policy.load_for(run.env, path)) for path in trusted]
        self.queue = [(path, True) for path in trusted for _ in range(run.task.controls)]
        self.queue += [(path, False) for path in paths]
        self.references: list[Reference] = []
        self.rows: list[dict[str, Any]] = []
        self.steps = 0

    def iteration(self) -> dict[str, float]:
        """Measure the next policy; returns its returns and `detect/<detector>/score`."""
        if not self.references:  # not before the first one: a finished run needs none
            # Streams of their own, before those of the queue.
            found = [self._sample(policy, -1 - i) for i, (_, policy) in enumerate(self.trusted)]
            self.references = [
                Reference(self.env, policy, rollouts, self.task, self.seed)
                for (_, policy), rollouts in zip(self.trusted, found, strict=True)
            ]
        path, control = self.queue[len(self.rows)]
        policy = Policy.load_for(self.env, path)
        found = self._sample(policy, len(self.rows))
        self.steps += found.steps
        every = [reference.scores(policy, found) for reference in self.references]
        scores = {name: min(scores[name] for scores, _ in every) for name in every[0][0]}
        episodes = {name: np.minimum.reduce([e[name] for _, e in every]) for name in every[0][1]}
        row = {"path": path, "control": control, "scores": scores, "episodes": episodes}
        self.rows.append(row | {"true": found.true, "proxy": found.proxy})
        returns = {f"{name}/return": float(row.mean()) for name, row in (("true", found.true), ("proxy", found.proxy))}
        return {"steps": self.steps, **returns, **{f"detect/{name}/score": value for name, value in scores.items()}}

    def trusted_returns(self) -> list[np.ndarray]:
        """True returns (E,) of the episodes of each trusted policy's controls: not those that the scores are read beside."""
        of = {
            path: [row["true"] for row in self.rows if row["control"] and row["path"] == path]
            for path, _ in self.trusted
        }
        return [np.concatenate(parts) for parts in of.values()]

    def get_state(self) -> dict[str, Any]:
        """What was measured: each policy has its own random streams, so that is all."""
        return {"rows": self.rows, "steps": self.steps}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.rows, self.steps = list(state["rows"]), state["steps"]

    def _sample(self, policy: Policy, place: int) -> Sample:
        task = self.task
        # A stream that no other task draws from, the trusted policies' own apart from the queue's.
        seed = int(np.random.SeedSequence([self.seed, 40, int(place < 0), abs(place)]).generate_state(1)[0])
        return sample(self.env, policy, task.episodes, seed, task.evaluation_lanes, task.steps)


def _log_ratio(policy: Policy, trusted: Policy, found: Sample) -> Tensor:
    """log(policy / trusted) (N,) of the actions of a sample."""
    log_p, log_q = (x.distribution.log_prob(x.dist_inputs(found.obs), found.actions) for x in (policy, trusted))
    return log_p - log_q
