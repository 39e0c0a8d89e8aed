"""ORPO: PPO on a reward from which the divergence of occupancy measures from a base policy is charged, step by step.

Laidlaw, Singhal, Dragan, "Correlated Proxies: A New Definition and Improved Mitigation for Reward Hacking", ICLR 2025, Algorithm 1.
Plain PPO is the case `divergence=none`, and coefficient 0 gives the same policy.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhtool.divergences import KL, Chi2, NoDivergence
from rhtool.errors import ConfigError, RhtoolError
from rhtool.hacking import correlation
from rhtool.rl.discriminator import Features, Scores, pairs
from rhtool.rl.evaluation import describe, estimates, exact, rollout, stream, worst_case
from rhtool.rl.learner import OrpoConfig, Updater
from rhtool.rl.moments import Moments
from rhtool.rl.policy import Policy, interface_of
from rhtool.rl.ppo import Loss, advantages
from rhtool.rl.process import accelerator, gpus_per_learner, together
from rhtool.rl.runner import Rollout
from rhtool.rl.sampler import Sampler
from rhtool.run import AUTO, Run

log = logging.getLogger(__name__)


class Orpo:
    """The state of one run of ORPO; `iteration` is the algorithm.

    Args:
        run: env, divergence, coeff, seed and the task's hyperparameters (`rhtool.tasks.orpo.Orpo`).
        bases: the base policies; may be empty if the divergence is none.
    """

    def __init__(self, run: Run, bases: list[Policy]):
        self.run, self.task, self.divergence, self.bases = run, run.task, run.divergence, bases
        task, env = run.task, run.env
        # A sampler and a discriminator per base policy, unless nothing is to be told apart.
        sampled = bases if self.divergence.needs_base_samples else []
        adversaries = sampled if self.divergence.needs_discriminator else []
        base_lanes = round(task.lanes * task.base_share)
        self.lanes, self.steps_per_lane = task.lanes - base_lanes, task.batch // task.lanes
        share = base_lanes // max(len(sampled), 1)
        if self.lanes < 1 or (sampled and share < 1):
            raise ConfigError(
                f"{task.lanes} lanes, of which {base_lanes} for {len(sampled)} base policies",
                "task.lanes",
                "raise task.lanes, or change task.base_share: each policy needs a lane",
            )

        gpus = gpus_per_learner(task.gpus, task.learners)
        self.device = accelerator() if gpus and not task.learners else torch.device("cpu")

        torch.manual_seed(run.seed)
        interface = interface_of(env)
        spaces, network = interface.spaces, interface.network(task)
        if task.init_from_base:
            network = bases[0].config
        self.policy = Policy(*spaces, network).to(self.device)
        for base in bases:
            base.to(self.device)
        self.lost, ray = 0, {"address": run.ray.address, "lost": self._lost}
        self.sampler = Sampler(env, self.policy, self.lanes, seed=2 * run.seed, workers=task.workers, **ray)

        over = "state" if task.split else self.divergence.over
        self.features = Features(over, self.policy.distribution, interface, task.discriminator_obs)
        hidden = list(task.discriminator_hidden)
        self.scores = [Scores(spaces, self.features.size, hidden).to(self.device) for _ in adversaries]
        self.base_samplers = [
            Sampler(env, base, share, seed=2 * run.seed + 1 + 1_000_003 * i, workers=min(task.workers, share), **ray)
            for i, base in enumerate(sampled)
        ]
        self.pools: list[Tensor] = []
        self.side_by_side = task.threads > 1 or task.workers > 0 or env.vector_class().lane_is_a_process
        self.moments = [Moments() for _ in sampled]

        config = OrpoConfig()
        config.seed_, config.grad_clip, config.divergence = run.seed, task.grad_clip, self.divergence
        config.device, config.tf32 = self.device, task.tf32
        config.loss = Loss(self.policy.distribution, task.clip, task.vf_coeff, task.vf_clip, self.divergence)
        config.initial = {"policy": bases[0].weights} if task.init_from_base else {}
        self.updater = Updater(
            spaces, network, config, len(adversaries), self.features.size, hidden, task.learners, gpus, run.ray.address
        )
        if task.base_update_every and any(base.config != network for base in bases):
            raise ConfigError(
                "base policies that follow the current policy have its network",
                "task.base_update_every",
                f"set task.hidden={bases[0].config['hidden']} task.share_value={bases[0].config['share_value']}".lower(),
            )
        self.coeff, self.kl_coeff = None if run.coeff == AUTO else run.coeff, task.kl_coeff
        self.steps = self.total_steps = self.iterations = 0
        self._sync()

    def iteration(self) -> dict[str, float]:
        """One iteration of Algorithm 1; returns its metrics (docs/metrics.md)."""
        task, clock = self.task, _Clock()
        if self.coeff is None:
            self.coeff = self._theoretical_coeff()

        # 1. Sample both policies.
        current, base_features = self._sample()
        self.steps += current.rewards.numel()
        self.total_steps += current.rewards.numel()
        metrics = {"steps": self.steps, "steps/total": self.total_steps, **describe(current)}
        if task.workers:
            metrics["workers/lost"] = self.lost
        clock.lap(metrics, "time/sample_s")

        # 2. Fit each discriminator, so that its score tends to log(mu_pi / mu_base).
        features = self.features(current) if self.base_samplers else None
        if task.discriminator == "first":
            metrics |= self._fit_discriminators(features, base_features)
        clock.lap(metrics, "time/discriminator_s")

        # 3. Charge each step for the divergence it adds.
        rewards, spent = self._charge(current, features, base_features)
        metrics |= spent

        # 4. Advantages on what is left, 5. update of the policy.
        metrics |= self._improve(current, rewards)
        clock.lap(metrics, "time/learner_s")
        if task.discriminator == "last":
            metrics |= self._fit_discriminators(features, base_features)
            clock.lap(metrics, "time/discriminator_s")

        # 6. Synchronise, adapt.
        self._sync()
        self._adapt(metrics)
        self.iterations += 1
        if task.base_update_every and self.iterations % task.base_update_every == 0:
            self._shift_bases()
        return metrics

    def _sample(self) -> tuple[Rollout, list[Tensor]]:
        """A rollout of the current policy and the base policies' features; at the same time where there is more than one core to
        use: torch threads, Ray actors, or an environment whose lanes are processes."""
        if self.base_samplers and self.side_by_side:
            return together(lambda: self.sampler.sample(self.steps_per_lane), self._base_features)
        return self.sampler.sample(self.steps_per_lane), self._base_features()

    def _base_features(self) -> list[Tensor]:
        """Features of each base policy's transitions: newly sampled, or drawn from the pool sampled once."""
        if not self.task.base_pool:
            return [self._base_sample(i, self.steps_per_lane) for i in range(len(self.base_samplers))]
        if not self.pools:
            self.pools = [
                self._base_sample(i, -(-self.task.base_pool // s.lanes)) for i, s in enumerate(self.base_samplers)
            ]
        size = self.lanes * self.steps_per_lane
        # A function of the iteration, so that a resumed run draws what an uninterrupted one draws.
        generator = torch.Generator().manual_seed(self.run.seed * 1_000_003 + self.iterations)
        return [pool[torch.randint(len(pool), (size,), generator=generator)] for pool in self.pools]

    def _base_sample(self, i: int, steps: int) -> Tensor:
        """Features of newly sampled transitions of a base policy; their rewards enter its moments."""
        rollout = self.base_samplers[i].sample(steps)
        features = self.features(rollout)
        self.moments[i].add(self._rewards(rollout, features))
        self.total_steps += len(features)
        return features

    def _rewards(self, rollout: Rollout, features: Tensor) -> Tensor:
        """The columns of `Moments`, (N, C): proxy, true reward, and the terms of rewards if the divergence wants them."""
        columns = [rollout.flat(rollout.proxy)[:, None], rollout.flat(rollout.true)[:, None]]
        if self.divergence.needs_terms:
            terms = rollout.flat(rollout.terms)
            columns.append(terms if terms.shape[1] else features.double())
        return torch.cat(columns, 1)

    def _fit_discriminators(self, features: Tensor | None, base_features: list[Tensor]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for i in range(len(self.scores)):
            name = f"discriminator_{i}"
            fitted = self.updater.update(
                name,
                pairs(features, base_features[i]),
                num_epochs=self.task.discriminator_epochs,
                minibatch_size=self.task.minibatch,
                lr=self._lr(),
            )
            metrics = fitted | metrics  # of several base policies, the first's
            self.scores[i].module.load_state_dict(self.updater.weights(name))
        return {key.replace("gradient_norm", "discriminator/gradient_norm"): v for key, v in metrics.items()}

    def _charge(
        self, current: Rollout, features: Tensor | None, base_features: list[Tensor]
    ) -> tuple[Tensor, dict[str, float]]:
        """Rewards (T, B), weighted, minus coeff x scale x what each step pays, summed over the base policies."""
        task, divergence, metrics = self.task, self.divergence, {}
        paid = torch.zeros(current.rewards.numel())
        if divergence.over != "action" and not isinstance(divergence, NoDivergence):
            for i, base in enumerate(self.bases):
                at_states = scores = base_scores = standardised = None
                if not self.base_samplers:
                    at_states = base.distribution(base.dist_inputs(current.flat(current.obs)))
                else:
                    moments = self.moments[i]
                    standardised = moments.standardised(self._rewards(current, features))
                    if self.scores:
                        scores, base_scores = self.scores[i](features), self.scores[i](base_features[i])
                    if i == 0:  # of several base policies, the first's
                        metrics = estimates(divergence, scores, base_scores, standardised)
                        metrics |= worst_case(current, moments.relation(), metrics.get("divergence/chi2"))
                paid += self._weight(i) * divergence.penalty(
                    scores, base=at_states, d_base=base_scores, rewards=standardised
                )
        strength = self._coeff()
        paid = (strength * paid).clamp(-task.reward_clip, task.reward_clip)
        rewards = task.reward_weight * current.rewards - paid.view_as(current.rewards)
        metrics |= {"penalty/mean": float(paid.mean()), "penalty/coeff": strength / divergence.scale(self.run.env)}
        return rewards, metrics

    def _improve(self, current: Rollout, rewards: Tensor) -> dict[str, float]:
        """PPO on the given rewards."""
        task, policy = self.task, self.policy
        values = policy.values(current.flat(current.obs)).view_as(rewards)
        gae, targets = advantages(
            rewards,
            values,
            policy.values(current.last_obs),
            policy.values(current.final_obs),
            current,
            task.gamma,
            task.gae_lambda,
        )
        columns = {
            "obs": current.flat(current.obs),
            "actions": current.flat(current.actions),
            "dist_inputs": current.flat(current.dist_inputs),
            "advantages": ((gae - gae.mean()) / gae.std().clamp(min=1e-4)).flatten(),
            "targets": targets.flatten(),
        }
        columns["log_prob"] = policy.distribution.log_prob(columns["dist_inputs"], columns["actions"])
        metrics = {"ppo/explained_variance": float(1 - (targets - values).var() / targets.var().clamp(min=1e-12))}
        action_coeff = 0.0
        if self.bases:
            base_inputs = self.bases[0].dist_inputs(columns["obs"])
            metrics |= self._action_divergences(columns["dist_inputs"], base_inputs)
            if self.divergence.over == "action" or task.split:
                action_coeff = self._weight(0) * self._coeff() / (1 - task.gamma)
                columns["base_inputs"] = base_inputs
        metrics |= self.updater.update(
            "policy",
            columns,
            num_epochs=task.epochs,
            minibatch_size=task.minibatch,
            lr=self._lr(),
            coefficients={
                "entropy": scheduled(task.entropy_schedule, task.entropy, self.clock),
                "kl_coeff": self._kl_coeff(),
                "action_coeff": action_coeff,
            },
        )
        if "gradient_norm" in metrics:
            metrics["ppo/gradient_norm"] = metrics.pop("gradient_norm")
        return metrics

    def _action_divergences(self, inputs: Tensor, base_inputs: Tensor) -> dict[str, float]:
        """Mean divergences of the action distributions, current from base, at the visited states."""
        p, q = self.policy.distribution(inputs), self.policy.distribution(base_inputs)
        return {f"action_divergence/{n}": float(d.between(p, q).mean()) for n, d in (("kl", KL()), ("chi2", Chi2()))}

    def _adapt(self, metrics: dict[str, float]) -> None:
        """PPO's adaptive KL coefficient, and ORPO's adaptive coeff by a target for the divergence."""
        task = self.task
        metrics["ppo/kl_coeff"] = self._kl_coeff()
        if metrics["ppo/kl"] > 2.0 * task.kl_target:
            self.kl_coeff *= 1.5
        elif metrics["ppo/kl"] < 0.5 * task.kl_target:
            self.kl_coeff *= 0.5
        if task.divergence_target is not None:
            key = f"{'action_' if self.divergence.over == 'action' else ''}divergence/{task.divergence_measure}"
            if metrics[key] > 2.0 * task.divergence_target:
                self.coeff *= 1.5
            elif metrics[key] < 0.5 * task.divergence_target:
                self.coeff *= 0.5

    @property
    def clock(self) -> int:
        """Env steps by which schedules go: whole batches, whether or not a method samples the base policies' share."""
        return (self.iterations + 1) * self.task.lanes * self.steps_per_lane

    def _theoretical_coeff(self) -> float:
        """What the theory says of the base policy's rewards: those that the evaluation at the end measures."""
        env, task, base = self.run.env, self.task, self.bases[0]
        if known := exact(env, base, base) if task.exact else {}:
            r, sigma = known["exact/correlation"], known["exact/sigma/proxy"]
        else:
            steps, mask = rollout(env, base, task.episodes, stream(self.run.seed, 1), lanes=task.evaluation_lanes)
            seen = correlation(steps.proxy[mask].numpy(), steps.true[mask].numpy())
            r, sigma = seen.r, seen.proxy_std
        if task.correlation is None and r > 1 - 1e-9:
            raise RhtoolError(
                f"nowhere that the base policy went ({task.episodes} episodes) did the proxy differ from the true reward: coeff would be 0",
                "coeff=auto",
                "raise task.episodes, or say by task.correlation what you assume",
            )
        r = r if task.correlation is None else task.correlation
        coeff = self.divergence.theoretical_coeff(r, task.reward_weight * env.proxy_scale * sigma, env)
        log.info("coeff=auto: %.4g, for r = %.4g and sigma = %.4g", coeff, r, sigma)
        return coeff

    def _weight(self, base: int) -> float:
        return self.task.base_weights[base] if self.task.base_weights else 1.0

    def _coeff(self) -> float:
        return scheduled(self.task.coeff_schedule, self.coeff, self.clock) * self.divergence.scale(self.run.env)

    def _kl_coeff(self) -> float:
        return scheduled(self.task.kl_coeff_schedule, self.kl_coeff, self.clock)

    def _lr(self) -> float:
        return scheduled(self.task.lr_schedule, self.task.lr, self.clock)

    def _sync(self) -> None:
        """The newest policy to whoever samples."""
        self.policy.weights = self.updater.weights("policy")
        if self.task.workers:
            self.sampler.sync(self.policy.weights)

    def _shift_bases(self) -> None:
        """base_0 <- base_1 <- … <- current: the reference follows the policy at a distance."""
        for base, newer in zip(self.bases, [*self.bases[1:], self.policy], strict=True):
            base.weights = {name: value.clone() for name, value in newer.weights.items()}
        for sampler, base in zip(self.base_samplers, self.bases, strict=False):
            sampler.sync(base.weights)
        self.pools, self.moments = [], [Moments() for _ in self.base_samplers]

    def get_state(self) -> dict[str, Any]:
        """Everything the next iteration depends on."""
        return {
            "policy": {"spec": self.policy.spec(), "weights": self.updater.weights("policy")},
            "learner": self.updater.get_state(),
            "samplers": {"current": self.sampler.get_state()}
            | {f"base_{i}": s.get_state() for i, s in enumerate(self.base_samplers)},
            "bases": {str(i): base.copy().weights for i, base in enumerate(self.bases)}
            if self.task.base_update_every
            else {},
            "pools": {str(i): pool for i, pool in enumerate(self.pools)},
            "moments": {str(i): moments.get_state() for i, moments in enumerate(self.moments)},
            "counts": [self.steps, self.total_steps, self.iterations],
            "lost": self.lost,
            "coefficients": [self.coeff, self.kl_coeff],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.updater.set_state(state["learner"])
        self.sampler.set_state(state["samplers"]["current"])
        for i, sampler in enumerate(self.base_samplers):
            sampler.set_state(state["samplers"][f"base_{i}"])
        for i, weights in state["bases"].items():
            self.bases[int(i)].weights = weights
            if self.base_samplers:
                self.base_samplers[int(i)].sync(self.bases[int(i)].weights)
        self.pools = [state["pools"][str(i)] for i in range(len(state["pools"]))]
        for i, moments in enumerate(self.moments):
            moments.set_state(state["moments"][str(i)])
        self.steps, self.total_steps, self.iterations = state["counts"]
        self.lost = state.get("lost", 0)
        self.coeff, self.kl_coeff = state["coefficients"]
        for i, scores in enumerate(self.scores):
            scores.module.load_state_dict(self.updater.weights(f"discriminator_{i}"))
        self._sync()

    def _lost(self, what: str) -> None:
        self.lost += 1
        self.run.lost(what)

    def close(self) -> None:
        """End the actors and learners, if there are any."""
        for sampler in (self.sampler, *self.base_samplers):
            sampler.close()
        self.updater.close()


def scheduled(schedule: list[list[float]] | None, value: float, steps: int) -> float:
    """`[[steps, value], …]` interpolated linearly, its ends held; `value` if there is no schedule."""
    if not schedule:
        return value
    at, values = zip(*schedule, strict=True)
    return float(np.interp(steps, at, values))


class _Clock:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self, metrics: dict[str, float], key: str) -> None:
        now = time.perf_counter()
        metrics[key] = metrics.get(key, 0.0) + now - self.last
        self.last = now
