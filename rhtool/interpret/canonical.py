"""Distances between rewards, up to what changes no policy. Each first maps a reward R to a canonical one, C(R):

    pearson  C = R
    epic     C = R(s, a, s') + E[g R(s', A, S') - R(s, A, S') - g R(S, A, S')], S and S' of the coverage's states, A of its actions
    dard     C = R(s, a, s') + E[g R(s', A, S'') - R(s, A, S') - g R(S', A, S'')], S' after (s, A), S'' after (s', A), where A is drawn
             independently in each term
    starc    C = E[R(s, a, S') - V(s) + g V(S')], S' after (s, a), V the value of a fixed policy

(g is the discount, which must be that of the shaping.) The first three are then compared by the Pearson distance,
sqrt((1 - correlation) / 2), over the transitions (s, a, s') of the coverage; starc by half the distance of C / |C|, the
norm weighted by the coverage of (s, a). All lie in [0, 1]. epic, dard and starc do not see shaping by a potential, a
positive scale and a shift; starc does not see what is moved between the next states of (s, a) either. A reward whose
canonical one is zero is 0 from another such and 1/2 from the rest.

Gleave et al., "Quantifying Differences in Reward Functions", arXiv 2006.13900; Wulfe et al., "Dynamics-Aware Comparison
of Learned Reward Functions", arXiv 2201.10081; Skalse et al., "STARC", arXiv 2309.15257 (VAL).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import spsolve

from rhtool.interpret.functions import Scaled, Shaped
from rhtool.interpret.rewards import Recorded, RewardFunction
from rhtool.interpret.transitions import Transitions

if TYPE_CHECKING:
    from rhtool.envs.tabular import TabularMDP

KINDS = ("pearson", "epic", "dard", "starc")
CENTRED = ("pearson", "epic", "dard")
"""distances that do not see a constant, by their last step"""
NOTHING = 1e-9
"""a canonical reward is zero if its norm is smaller than this share of the reward's"""


def matrix(canonical: np.ndarray, sizes: np.ndarray, weights: np.ndarray, *, centred: bool) -> np.ndarray:
    """Distances (k, k) of canonical rewards (k, N) with weights (N,), `sizes` (k,) the norms of the rewards themselves."""
    weights = weights / weights.sum()
    x = canonical - (canonical @ weights)[:, None] if centred else canonical
    inner = (x * weights) @ x.T
    norms = np.sqrt(np.diag(inner).clip(0))
    there = norms > NOTHING * np.maximum(sizes, 1e-300)
    cosine = inner / np.where(there, norms, 1.0)[:, None] / np.where(there, norms, 1.0)[None]
    found = np.sqrt((1.0 - cosine.clip(-1, 1)) / 2)
    neither, either = ~there[:, None] & ~there[None], there[:, None] ^ there[None]
    found = np.where(neither, 0.0, np.where(either, 0.5, found))
    np.fill_diagonal(found, 0.0)
    return found


def functional(function: RewardFunction) -> bool:
    """Whether a reward is known of any transition, not only of those that the environment made."""
    if isinstance(function, Shaped | Scaled):
        return functional(function.base)
    return not isinstance(function, Recorded)


# Exactly


@dataclass
class Additive:
    """R(s, a, s') = u[s, a] + w[s'] on the states of a `TabularMDP`."""

    u: np.ndarray
    """float64 (S, A)"""
    w: np.ndarray
    """float64 (S,)"""


def additive(function: RewardFunction, mdp: TabularMDP, seed: int = 0) -> Additive | None:
    """A reward as tables, or None if it is no sum of a function of (s, a) and one of s', as far as 2000 random transitions tell."""
    if isinstance(function, Recorded):
        table = {"proxy": mdp.proxy, "true": mdp.true}[function.which]
        w = mdp.arrival.get(function.which, np.zeros(len(mdp.start)))
        return Additive(table - (mdp.transitions @ w).reshape(table.shape), w)
    if isinstance(function, Shaped):
        if (base := additive(function.base, mdp, seed)) is None:
            return None
        potential = function.potential(mdp.observations)
        return Additive(base.u - potential[:, None], base.w + function.gamma * potential)
    if isinstance(function, Scaled):
        if (base := additive(function.base, mdp, seed)) is None:
            return None
        return Additive(function.scale * (base.u - function.shift), function.scale * base.w)
    (states, actions), nowhere = mdp.proxy.shape, np.zeros(1, np.int64)
    every = np.repeat(np.arange(states), actions), np.tile(np.arange(actions), states)
    u = function(imagined(mdp, *every, np.zeros(states * actions, np.int64))).reshape(states, actions)
    w = function(imagined(mdp, np.zeros(states, np.int64), np.zeros(states, np.int64), np.arange(states)))
    w = w - function(imagined(mdp, nowhere, nowhere, nowhere))
    rng = np.random.default_rng(seed)
    s, a, s2 = rng.integers(states, size=2000), rng.integers(actions, size=2000), rng.integers(states, size=2000)
    given = function(imagined(mdp, s, a, s2))
    if np.abs(given - u[s, a] - w[s2]).max() > 1e-5 * max(np.abs(given).max(), 1e-12):
        return None
    return Additive(u, w)


def imagined(mdp: TabularMDP, s: np.ndarray, a: np.ndarray, s2: np.ndarray) -> Transitions:
    """Transitions of states and actions by number, whether or not they can happen."""
    none = np.zeros(len(s), np.int64)
    return Transitions(mdp.observations[s], a, mdp.observations[s2], np.zeros(len(s), bool), none, none)


class Exact:
    """Distances on a `TabularMDP`.

    Args:
        mdp: the tables.
        coverage: (S, A), sums to one. Steps that end an episode reach no state: the first three distances leave them out.
        gamma: discount, below one.
    """

    def __init__(self, mdp: TabularMDP, coverage: np.ndarray, gamma: float):
        self.mdp, self.coverage, self.gamma = mdp, coverage, gamma
        self.actions = coverage.sum(axis=0)
        """D_A, which epic and dard draw A from"""
        states, actions = coverage.shape
        steps = mdp.transitions.tocoo()
        row, self.after = steps.coords
        self.state, self.action = np.divmod(row, actions)
        self.weights = coverage[self.state, self.action] * steps.data
        """of the transitions (s, a, s')"""
        mixing = csr_array(
            (np.tile(self.actions, states), (np.repeat(np.arange(states), actions), np.arange(states * actions)))
        )
        self.following = csr_array(mixing @ mdp.transitions)
        """(S, S): of the state after (s, A)"""
        even = csr_array((np.full(states * actions, 1 / actions), mixing.tocoo().coords))
        self.system = (eye_array(states) - gamma * csr_array(even @ mdp.transitions)).tocsc()

    def canonical(self, kind: str, reward: Additive) -> np.ndarray:
        """C(R) of the transitions (N,); of (s, a) for starc, (S A,). epic and dard up to a constant."""
        u, w, g = reward.u, reward.w, self.gamma
        s, a, s2 = self.state, self.action, self.after
        if kind == "starc":
            pay = u + (self.mdp.transitions @ w).reshape(u.shape)
            value = spsolve(self.system, pay.mean(axis=1))
            return (pay - value[:, None] + g * (self.mdp.transitions @ value).reshape(u.shape)).ravel()
        here = u[s, a] + w[s2]
        mean = u @ self.actions
        if kind == "epic":
            return here + g * mean[s2] - mean[s]
        if kind == "dard":
            # E[w(S'')] after (s', A) comes in the first and in the third term, and cancels.
            return here + g * mean[s2] - (mean + self.following @ w + g * (self.following @ mean))[s]
        return here

    def distances(self, kind: str, rewards: list[Additive]) -> np.ndarray:
        """(k, k)."""
        plain = np.stack([self.canonical("pearson", reward) for reward in rewards])
        weights = self.weights / self.weights.sum()
        sizes = np.sqrt(plain**2 @ weights)
        canonical = np.stack([self.canonical(kind, reward) for reward in rewards])
        on = self.coverage.ravel() if kind == "starc" else weights
        return matrix(canonical, sizes, on, centred=kind in CENTRED)


# From a sample


def epic_of_sample(
    function: RewardFunction,
    transitions: Transitions,
    actions: np.ndarray,
    states: np.ndarray,
    gamma: float,
    rows: int = 65_536,
) -> np.ndarray:
    """C(R) (N,) of epic, up to a constant: expectations are means over M pairs of `actions` (M, …) and `states` (M, …), the same for
    all. A distinct state is evaluated once; at most `rows` transitions at a time."""
    both = np.concatenate([transitions.obs, transitions.next_obs])
    distinct, places = np.unique(both.reshape(len(both), -1), axis=0, return_inverse=True)
    distinct, places = distinct.reshape(-1, *both.shape[1:]), places.ravel()
    many, means = len(actions), np.empty(len(distinct))
    for start in range(0, len(distinct), per := max(rows // many, 1)):
        some = distinct[start : start + per]
        none = np.zeros(len(some) * many, np.int64)
        batch = Transitions(
            np.repeat(some, many, axis=0),
            np.tile(actions, (len(some), *[1] * (actions.ndim - 1)))
            if actions.ndim > 1
            else np.tile(actions, len(some)),
            np.tile(states, (len(some), *[1] * (states.ndim - 1))),
            none.astype(bool),
            none,
            none,
        )
        means[start : start + per] = function(batch).reshape(len(some), many).mean(axis=1)
    n = len(transitions)
    return function(transitions) + gamma * means[places[n:]] - means[places[:n]]


class Values:
    """V of the policy that made the transitions, by least-squares temporal differences (Bradtke and Barto 1996) on features.

    A reward that is shaped by a potential that is linear in the features changes V by just that potential. Features are one-hots
    where there are few distinct observations, else 1, the observation, its squares, and random Fourier features of it.
    """

    def __init__(self, transitions: Transitions, gamma: float, seed: int, few: int = 1500, fourier: int = 200):
        n = len(transitions)
        both = np.concatenate([transitions.obs, transitions.next_obs]).reshape(2 * n, -1)
        distinct, places = np.unique(both[: 2 * n], axis=0, return_inverse=True)
        places = places.ravel()
        self.tabular = len(distinct) <= min(few, n // 4)
        self.kept = np.ones(n, bool)
        """the transitions whose s' is left in some transition: of others nothing is known but that they were reached"""
        if self.tabular:
            while True:
                left = np.zeros(len(distinct), bool)
                left[places[:n][self.kept]] = True
                kept = self.kept & (left[places[n:]] | transitions.terminated)
                if (kept == self.kept).all():
                    break
                self.kept = kept
            number = np.cumsum(left) - 1
            now, then = (np.flatnonzero(self.kept), number[places[:n][self.kept]]), number[places[n:][self.kept]]
            count, going = int(left.sum()), ~transitions.terminated[self.kept]
            rows = np.arange(len(now[0]))
            self.now = csr_array((np.ones(len(rows)), (rows, now[1])), shape=(len(rows), count))
            self.then = csr_array((np.ones(going.sum()), (rows[going], then[going])), shape=(len(rows), count))
        else:
            rng = np.random.default_rng(seed)
            x = both.astype(np.float64)
            spread = x.std(axis=0)
            x = (x[:, spread > 0] - x.mean(axis=0)[spread > 0]) / spread[spread > 0]
            angles = x @ rng.normal(size=(x.shape[1], fourier)) / np.sqrt(x.shape[1]) + rng.uniform(
                0, 2 * np.pi, fourier
            )
            features = np.concatenate([np.ones((2 * n, 1)), x, x**2, np.cos(angles)], axis=1)
            self.now, self.then = features[:n], np.where(transitions.terminated[:, None], 0.0, features[n:])
        self.change = self.now - gamma * self.then
        system = self.now.T @ self.change
        system = system.toarray() if self.tabular else system
        self.inverse = np.linalg.pinv(system, rcond=1e-12)

    def canonical(self, rewards: np.ndarray) -> np.ndarray:
        """C(R) of starc for the rewards (N,) of the kept transitions: R - V(s) + g V(s'), with the s' that came."""
        return rewards - self.change @ (self.inverse @ (self.now.T @ rewards))


def bootstrap(
    canonical: np.ndarray, sizes: np.ndarray, episode: np.ndarray, resamples: int, seed: int, *, centred: bool
) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals (k, k) of `matrix`, of resampled episodes; of transitions if there are fewer than ten episodes."""
    rng = np.random.default_rng(seed)
    _, groups = np.unique(episode, return_inverse=True)
    if groups.max() < 9:
        groups = np.arange(len(episode))
    count = int(groups.max()) + 1
    found = np.stack(
        [
            matrix(
                canonical,
                sizes,
                rng.multinomial(count, np.full(count, 1 / count))[groups].astype(float),
                centred=centred,
            )
            for _ in range(resamples)
        ]
    )
    return np.quantile(found, 0.025, axis=0), np.quantile(found, 0.975, axis=0)
