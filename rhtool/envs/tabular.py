"""A control problem small enough for tables: exact occupancy measures, returns, optimal policies, correlations and
divergences.

These are what the sampled estimators and ORPO itself are held to. Definitions: Laidlaw, Singhal and Dragan, "Correlated
Proxies: A New Definition and Improved Mitigation for Reward Hacking" (arXiv 2403.03185), sections 3 to 5.

Policies are float arrays of probabilities, (S, A) if stationary or (H, S, A) with the step first, or the actions of a
deterministic one as an integer array (H, S). H is the horizon: an episode ends when it terminates or after H steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.sparse import csr_array

from rhtool.errors import RhtoolError
from rhtool.hacking import Correlation, correlation

if TYPE_CHECKING:
    from rhtool.divergences import Divergence

Over = Literal["state_action", "state"]


@dataclass(frozen=True)
class TabularMDP:
    """S states and A actions as tables.

    A state is what decides the future, and may hold more than the observation shows; policies that act on observations
    alone are made with `policy_table`. The step within the episode is no part of it.
    """

    observations: np.ndarray
    """float32 (S, D): what the agent sees in each state"""
    transitions: csr_array
    """(S*A, S): row s*A + a holds the probabilities of the next state; what is missing to one is the probability of
    termination"""
    proxy: np.ndarray
    """float64 (S, A): expected proxy reward of the step"""
    true: np.ndarray
    """float64 (S, A): expected true reward of the step"""
    start: np.ndarray
    """float64 (S,): distribution of the first state"""
    horizon: int
    """steps after which an episode is truncated"""
    arrival: dict[str, np.ndarray] = field(default_factory=dict)
    """{"proxy", "true": float64 (S,)}: the part of a reward that depends on the state reached alone, so that it is known of steps
    that cannot happen too: r(s, a, s') = u(s, a) + arrival[s']. `proxy` and `true` include it. One that is left out is 0"""

    @cached_property
    def terminated(self) -> np.ndarray:
        """float64 (S, A): probability that the step ends the episode."""
        return np.clip(1.0 - self.transitions.sum(axis=1), 0.0, 1.0).reshape(self.proxy.shape)

    def occupancy(
        self, policy: np.ndarray, gamma: float = 1.0, over: Over = "state_action", *, observed: bool = False
    ) -> np.ndarray:
        """The occupancy measure mu(s, a) = E[sum_t gamma^t 1{s_t = s, a_t = a}] / E[sum_t gamma^t], float64, which sums
        to one.

        The sums go over the steps of an episode. At gamma = 1 it is the frequency with which a sampler of whole
        episodes sees s and a; below one and with H to infinity it is the paper's (1 - gamma) E[sum_t gamma^t ...].

        Shape (S, A), or (S,) `over="state"`. With `observed` states that look alike are one: (O, A) or (O,), in the
        order of `seen`.
        """
        visits = self._visits(policy, gamma)
        mu = visits / visits.sum()
        if over not in ("state_action", "state"):
            raise RhtoolError(f"there is no occupancy measure over '{over}'", "over", "choose state_action or state")
        if observed:
            merged = np.zeros((len(self.seen), mu.shape[1]))
            np.add.at(merged, self.seen_as, mu)
            mu = merged
        return mu if over == "state_action" else mu.sum(axis=1)

    def returns(self, policy: np.ndarray, gamma: float = 1.0) -> dict[str, float]:
        """The expected returns of an episode, `{"true": E[sum_t gamma^t R_t], "proxy": ...}`."""
        visits = self._visits(policy, gamma)
        return {"true": float((visits * self.true).sum()), "proxy": float((visits * self.proxy).sum())}

    def optimal_policy(self, reward: Literal["proxy", "true"]) -> tuple[np.ndarray, float]:
        """A policy of highest undiscounted expected return, integer actions (H, S), and that return, by backward
        induction.

        It sees the states, so where these hold more than the observation its value is an upper bound for policies of
        observations. Ties go to the lowest action.
        """
        table = {"proxy": self.proxy, "true": self.true}[reward]
        policy, value = np.empty((self.horizon, len(self.start)), np.int16), np.zeros(len(self.start))
        for t in reversed(range(self.horizon)):
            q = table + (self.transitions @ value).reshape(table.shape)
            policy[t] = q.argmax(axis=1)
            value = q.max(axis=1)
        return policy, float(self.start @ value)

    def correlation(self, policy: np.ndarray, gamma: float = 1.0) -> Correlation:
        """Correlation, means and standard deviations of the rewards R(s, a) under the policy's occupancy measure."""
        return correlation(self.proxy, self.true, weights=self.occupancy(policy, gamma))

    def divergence(
        self,
        divergence: Divergence,
        policy: np.ndarray,
        base: np.ndarray,
        gamma: float = 1.0,
        over: Over | None = None,
        *,
        observed: bool = True,
    ) -> float:
        """`divergence.exact(mu_policy, mu_base)` of the occupancy measures, over what the divergence says or `over`.

        `observed` (the default) compares what a discriminator sees; without it the hidden part of the state counts too,
        and the value is as large or larger.
        """
        over = over or divergence.over
        mu, nu = (self.occupancy(p, gamma, over, observed=observed).ravel() for p in (policy, base))
        return divergence.exact(mu, nu)

    def policy_table(self, fn: Callable[[np.ndarray], np.ndarray], batch: int = 65_536) -> np.ndarray:
        """The stationary policy, float64 (S, A), of a function from observations float32 (N, D) to probabilities (N,
        A).

        `fn` is called on each distinct observation once, at most `batch` at a time. Raises `RhtoolError` if what it
        returns is no distribution.
        """
        parts = [np.asarray(fn(self.seen[i : i + batch]), np.float64) for i in range(0, len(self.seen), batch)]
        table = np.concatenate(parts)
        self._check(table, (len(self.seen), self.proxy.shape[1]))
        return table[self.seen_as]

    @property
    def seen(self) -> np.ndarray:
        """float32 (O, D): the distinct observations."""
        return self._distinct[0]

    @property
    def seen_as(self) -> np.ndarray:
        return self._distinct[1]

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray]:
        seen, index = np.unique(self.observations, axis=0, return_inverse=True)
        return seen, index.ravel()

    @cached_property
    def _backwards(self) -> csr_array:
        return csr_array(self.transitions.T)

    def _visits(self, policy: np.ndarray, gamma: float) -> np.ndarray:
        """E[sum_t gamma^t 1{s_t = s, a_t = a}], float64 (S, A)."""
        visits, now, weight = np.zeros(self.proxy.shape), self.start, 1.0
        for probabilities in self._steps(policy):
            joint = now[:, None] * probabilities
            visits += weight * joint
            now = self._backwards @ joint.ravel()
            weight *= gamma
        return visits

    def _steps(self, policy: np.ndarray) -> Iterator[np.ndarray]:
        """The policy's probabilities (S, A) at each step of the horizon."""
        (states, actions), policy = self.proxy.shape, np.asarray(policy)
        if policy.shape == (self.horizon, states) and policy.dtype.kind in "iu":
            every = np.eye(actions)
            return (every[choice] for choice in policy)
        if policy.shape == (states, actions):
            self._check(policy, (states, actions))
            return (policy for _ in range(self.horizon))
        self._check(policy, (self.horizon, states, actions))
        return iter(policy)

    def _check(self, policy: np.ndarray, shape: tuple[int, ...]) -> None:
        if policy.shape != shape:
            raise RhtoolError(
                f"the policy is {policy.dtype}{policy.shape}", "TabularMDP", f"pass probabilities {shape}"
            )
        if not (policy.min() >= 0 and np.allclose(policy.sum(axis=-1), 1.0, atol=1e-4)):
            raise RhtoolError(
                "the policy's probabilities are negative, NaN or do not sum to one",
                "TabularMDP",
                "normalise them over the last axis",
            )
