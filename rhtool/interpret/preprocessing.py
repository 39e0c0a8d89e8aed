"""Rewards made simple by shaping, which changes no optimal policy (Jenner and Gleave, arXiv 2203.13553).

    r'(s, a, s') = r(s, a, s') - c + gamma (1 - d) P(s') - P(s)

with P and c chosen so that r' is simple:

    sparse_l1   mean |r'|                    sparse_log  mean log(1 + |r'|)
    smooth_l1   mean |r'_i - r'_j|           smooth_log  mean log(1 + |r'_i - r'_j|)

where i and j are neighbours: consecutive steps of one episode, or, where all transitions of a table are known, those that
begin in the same state, or j where i ends. With a P that is linear in its parameters the l1 objectives are linear
programs, whose optimum is found and not searched for, and the log objectives sequences of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, hstack, vstack

from rhtool.errors import RhtoolError
from rhtool.interpret.potentials import LayeredPotential, Potential, TablePotential
from rhtool.interpret.transitions import Transitions

OBJECTIVES = ("sparse_l1", "smooth_l1", "sparse_log", "smooth_log")
MOST_PAIRS = 20_000
"""neighbours, at most; of more a random part"""


@dataclass
class Problem:
    """N transitions with their rewards, and which are neighbours."""

    transitions: Transitions
    rewards: np.ndarray
    """float64 (N,)"""
    pairs: np.ndarray
    """int64 (P, 2): rows that are neighbours"""
    gamma: float


@dataclass
class Solution:
    """What was found."""

    potential: Potential
    shift: float
    """c"""
    before: float
    """the objective of the reward as it was; for sparse objectives less the best c alone, its median"""
    after: float
    solver: str
    """lp or adam"""
    converged: bool
    seconds: float


def consecutive(transitions: Transitions) -> np.ndarray:
    """Neighbours in sequences, (P, 2): consecutive steps of one episode."""
    first = np.arange(len(transitions) - 1)
    same = transitions.episode[1:] == transitions.episode[:-1]
    follows = transitions.step[1:] == transitions.step[:-1] + 1
    return np.stack([first, first + 1], axis=1)[same & follows]


def adjoining(now: np.ndarray, then: np.ndarray, seed: int = 0) -> np.ndarray:
    """Neighbours in a table, (P, 2), for states by number (N,) before and after, -1 for none: rows that begin in the same state, or
    one where the other ends; a row is no neighbour of itself."""
    order = np.argsort(now, kind="stable")
    bounds = np.searchsorted(now[order], np.arange(max(now.max(), then.max()) + 2))

    def joined(states: np.ndarray) -> np.ndarray:
        count = np.where(states >= 0, bounds[states + 1] - bounds[states], 0)
        left = np.repeat(np.arange(len(states)), count)
        within = np.arange(len(left)) - np.repeat(count.cumsum() - count, count)
        return np.stack([left, order[bounds[states][left] + within]], axis=1)

    same, after = joined(now), joined(then)
    pairs = np.concatenate([same[same[:, 0] < same[:, 1]], after[after[:, 0] != after[:, 1]]])
    if len(pairs) > MOST_PAIRS:
        pairs = pairs[np.sort(np.random.default_rng(seed).choice(len(pairs), MOST_PAIRS, replace=False))]
    return pairs


def objective(name: str, rewards: np.ndarray, pairs: np.ndarray) -> float:
    """Its value for rewards (N,)."""
    x = np.abs(rewards[pairs[:, 0]] - rewards[pairs[:, 1]] if name.startswith("smooth") else rewards)
    return float((np.log1p(x) if name.endswith("log") else x).mean())


class Basis:
    """A potential that is linear in parameters (K,): a table's entries, or the weights of a linear function."""

    def __init__(self, transitions: Transitions, kind: str):
        self.kind, n = kind, len(transitions)
        both = np.concatenate([transitions.obs, transitions.next_obs]).reshape(2 * n, -1)
        if kind == "table":
            self.distinct, places = np.unique(np.asarray(both, np.float32), axis=0, return_inverse=True)
            whole = csr_array((np.ones(2 * n), (np.arange(2 * n), places.ravel())), shape=(2 * n, len(self.distinct)))
            self.size = len(self.distinct)
        else:
            both = both.astype(np.float64)
            self.offset, spread = both.mean(axis=0), both.std(axis=0)
            self.scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0.0)
            whole = csr_array((both - self.offset) * self.scale)
            self.size = both.shape[1]
        self.now, self.then = whole[:n], whole[n:]

    def change(self, transitions: Transitions, gamma: float) -> csr_array:
        """(N, K): gamma (1 - d) P(s') - P(s) of the parameters."""
        going = csr_array((np.where(transitions.terminated, 0.0, gamma), (np.arange(len(transitions)),) * 2))
        return csr_array(going @ self.then - self.now)

    def potential(self, parameters: np.ndarray) -> Potential:
        """The function that these parameters are."""
        if self.kind == "table":
            return TablePotential(self.distinct, parameters)
        return LayeredPotential(self.offset, self.scale, [(parameters[None], np.zeros(1))])


def by_program(problem: Problem, name: str, kind: str, rounds: int = 6) -> Solution:
    """The optimum of an l1 objective for a potential of `Basis`, as a linear program: min sum w t, -t <= B [p; c] + b <= t, w = 1.

    A log objective is lowered by a few such programs, each with the weights w = 1 / (1 + |r'|) of the one before (Candès, Wakin
    and Boyd 2008): never up, but perhaps to a local optimum.
    """
    start, basis = time.perf_counter(), Basis(problem.transitions, kind)
    n, rewards = len(problem.rewards), problem.rewards
    rows = hstack([basis.change(problem.transitions, problem.gamma), csr_array(np.full((n, 1), -1.0))]).tocsr()
    target = rewards
    if name.startswith("smooth"):
        i, j = problem.pairs.T
        rows, target = rows[i] - rows[j], rewards[i] - rewards[j]
    rows, target, count = _merged(rows, target)
    m, k = rows.shape
    eye = eye_array(m)
    bounds = [(None, None)] * k + [(0, None)] * m
    constraints = vstack([hstack([rows, -eye]), hstack([-rows, -eye])]).tocsc()
    limits = np.concatenate([-target, target])
    weights, best, least = np.ones(m), np.zeros(k), np.inf
    for _ in range(rounds if name.endswith("log") else 1):
        cost = np.concatenate([np.zeros(k), weights * count / count.sum()])
        found = linprog(cost, A_ub=constraints, b_ub=limits, bounds=bounds, method="highs")
        if not found.success:
            raise RhtoolError(
                f"the linear program has no solution ({found.message})", name, "choose method.solver=adam"
            )
        left = np.abs(rows @ found.x[:k] + target)
        value = float(count @ np.log1p(left)) if name.endswith("log") else -1.0
        if value > least * (1 - 1e-4):
            break
        best, least, weights = found.x[:k], value, 1 / (1 + left)
    shift = float(best[-1]) if name.startswith("sparse") else 0.0
    return _solution(problem, name, basis.potential(best[:-1]), shift, "lp", True, start)


def _merged(rows: csr_array, target: np.ndarray) -> tuple[csr_array, np.ndarray, np.ndarray]:
    """Equal rows as one, with how many there were."""
    rows.sum_duplicates()
    rows.eliminate_zeros()
    keys: dict[bytes, int] = {}
    first, group = [], np.empty(len(target), np.int64)
    for i in range(len(target)):
        part = slice(rows.indptr[i], rows.indptr[i + 1])
        key = rows.indices[part].tobytes() + rows.data[part].tobytes() + target[i].tobytes()
        if (place := keys.setdefault(key, len(first))) == len(first):
            first.append(i)
        group[i] = place
    return rows[first], target[first], np.bincount(group).astype(float)


def by_adam(
    problem: Problem, name: str, kind: str, hidden: list[int], steps: int, lr: float, batch: int, seed: int
) -> Solution:
    """An objective lowered by Adam, for any potential; c is a parameter too. The learning rate falls linearly to zero."""
    import torch
    from torch import nn

    start, data = time.perf_counter(), problem.transitions
    generator = torch.Generator().manual_seed(seed)
    basis = Basis(data, "table" if kind == "table" else "linear")
    shift = torch.zeros((), requires_grad=True)
    rewards, going = torch.as_tensor(problem.rewards).float(), torch.as_tensor(~data.terminated).float() * problem.gamma
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if kind == "table":
            table = torch.zeros(basis.size, requires_grad=True)
            now, then = (torch.as_tensor(x.indices.astype(np.int64)) for x in (basis.now, basis.then))
            parameters = [table]

            def change(rows: torch.Tensor) -> torch.Tensor:
                return going[rows] * table[then[rows]] - table[now[rows]]
        else:
            sizes = [basis.size, *(hidden if kind == "mlp" else []), 1]
            layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
            net = nn.Sequential(*layers[:-1])
            nn.init.zeros_(net[-1].weight)  # starts as no potential at all
            nn.init.zeros_(net[-1].bias)
            now, then = (torch.as_tensor(x.toarray()).float() for x in (basis.now, basis.then))
            parameters = list(net.parameters())

            def change(rows: torch.Tensor) -> torch.Tensor:
                return going[rows] * net(then[rows]).squeeze(-1) - net(now[rows]).squeeze(-1)

    optimizer = torch.optim.Adam([*parameters, shift], lr=lr)
    smooth, pairs, many = name.startswith("smooth"), torch.as_tensor(problem.pairs), len(rewards)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        count = len(pairs) if smooth else many
        chosen = torch.randint(count, (batch,), generator=generator) if batch < count else torch.arange(count)
        if smooth:
            i, j = pairs[chosen].T
            left = rewards[i] + change(i) - rewards[j] - change(j)
        else:
            left = rewards[chosen] - shift + change(chosen)
        loss = (torch.log1p(left.abs()) if name.endswith("log") else left.abs()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    curve = torch.stack(losses).numpy()
    if not np.isfinite(curve).all():
        raise RhtoolError("the objective is not finite", name, "lower method.lr")
    tenth = max(steps // 10, 1)
    gained = curve[:tenth].mean() - curve[-tenth:].mean()
    settled = abs(curve[-2 * tenth : -tenth].mean() - curve[-tenth:].mean()) <= 0.02 * max(gained, 1e-12) + 1e-9
    if kind == "table":
        potential: Potential = TablePotential(basis.distinct, table.detach().double().numpy())
    else:
        numbers = [
            tuple(p.detach().double().numpy() for p in (x.weight, x.bias)) for x in net if isinstance(x, nn.Linear)
        ]
        potential = LayeredPotential(basis.offset, basis.scale, numbers)
    c = 0.0 if smooth else float(shift.detach())
    return _solution(problem, name, potential, c, "adam", bool(settled), start)


def apply(problem: Problem, potential: Potential, shift: float) -> np.ndarray:
    """r' (N,)."""
    data = problem.transitions
    after = np.where(data.terminated, 0.0, potential(data.next_obs))
    return problem.rewards - shift + problem.gamma * after - potential(data.obs)


def _solution(
    problem: Problem, name: str, potential: Potential, shift: float, solver: str, converged: bool, start: float
) -> Solution:
    plain = problem.rewards - (np.median(problem.rewards) if name.startswith("sparse") else 0.0)
    before = objective(name, plain, problem.pairs)
    after = objective(name, apply(problem, potential, shift), problem.pairs)
    return Solution(potential, shift, before, after, solver, converged, time.perf_counter() - start)
