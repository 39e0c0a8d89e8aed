"""Distances between rewards, held to the formulas written out over all (s, a, s') and to what they must not see."""

import json

import numpy as np
import pytest
from scipy.sparse import csr_array

from rhtool.config import compose
from rhtool.envs.maze import Maze
from rhtool.envs.tabular import TabularMDP
from rhtool.interpret import canonical
from rhtool.interpret.canonical import KINDS, Additive, Exact, additive, epic_of_sample, imagined, matrix
from rhtool.interpret.functions import Scaled, Shaped, Table
from rhtool.interpret.potentials import TablePotential
from rhtool.interpret.rewards import Recorded

GAMMA, S, A = 0.9, 12, 3


def random_mdp(seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(S, 0.4), size=S * A)
    table = rng.normal(size=(S, A))
    return TabularMDP(np.eye(S, dtype=np.float32), csr_array(p), table, table, np.full(S, 1 / S), 10)


def random_reward(rng):
    return Additive(rng.normal(size=(S, A)), rng.normal(size=S))


def shaped(reward, rng):
    phi = rng.normal(size=S)
    return Additive(reward.u - phi[:, None], reward.w + GAMMA * phi)


def written_out(kind, mdp, coverage, reward):
    """C(R) as (S, A, S'), every expectation a sum over all that it ranges over."""
    p = mdp.transitions.toarray().reshape(S, A, S)
    r = reward.u[:, :, None] + reward.w[None, None, :]
    ds, da = coverage.sum(1), coverage.sum(0)
    if kind == "epic":
        mean = np.einsum("a,t,sat->s", da, ds, r)
        return r + GAMMA * mean[None, None, :] - mean[:, None, None] - GAMMA * (ds @ mean)
    if kind == "dard":
        out = r.copy()
        first = np.einsum("a,xay,xay->x", da, p, r)  # R(s', A, S'')
        second = first  # R(s, A, S')
        for s in range(S):
            after = np.einsum("a,at->t", da, p[s])  # S' after (s, A)
            for t in range(S):
                then = np.einsum("a,ay->y", da, p[t])  # S'' after (s', A)
                third = np.einsum("x,a,y,xay->", after, da, then, r)
                out[s, :, t] += GAMMA * first[t] - second[s] - GAMMA * third
        return out
    if kind == "starc":
        pay = np.einsum("sat,sat->sa", p, r)
        v = np.zeros(S)
        for _ in range(600):
            v = (pay + GAMMA * p @ v).mean(axis=1)
        return pay - v[:, None] + GAMMA * p @ v
    return r


def expected(kind, mdp, coverage, rewards):
    p = mdp.transitions.toarray().reshape(S, A, S)
    canon = np.stack([written_out(kind, mdp, coverage, r).ravel() for r in rewards])
    if kind == "starc":
        x = canon * np.sqrt(coverage.ravel())
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return np.linalg.norm(x[0] - x[1]) / 2
    weights = (coverage[:, :, None] * p).ravel()
    cov = np.cov(canon, aweights=weights, ddof=0)
    return np.sqrt((1 - cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])) / 2)


@pytest.fixture(scope="module")
def work():
    coverage = np.random.default_rng(9).dirichlet(np.ones(S * A)).reshape(S, A)
    return Exact(random_mdp(), coverage, GAMMA)


@pytest.mark.parametrize("kind", KINDS)
def test_a_distance_is_its_formula_written_out(kind, work):
    rng = np.random.default_rng(1)
    rewards = [random_reward(rng), random_reward(rng)]
    found = work.distances(kind, rewards)
    assert found[0, 1] == pytest.approx(expected(kind, work.mdp, work.coverage, rewards), abs=1e-8)
    assert found[0, 1] > 0.3


@pytest.mark.parametrize("kind", ["epic", "dard", "starc"])
def test_what_changes_no_policy_is_not_seen_and_the_opposite_is_farthest(kind, work):
    rng = np.random.default_rng(2)
    reward = random_reward(rng)
    same = shaped(reward, rng)
    same = Additive(3 * same.u + 2, 3 * same.w)
    opposite = Additive(-reward.u, -reward.w)
    found = work.distances(kind, [reward, same, opposite])
    assert found[0, 1] < 1e-6 and found[0, 2] == pytest.approx(1) and found[1, 2] == pytest.approx(1)
    assert work.distances("pearson", [reward, same])[0, 1] > 0.2


def test_only_starc_does_not_see_what_is_moved_between_next_states(work):
    rng = np.random.default_rng(3)
    reward, w = random_reward(rng), rng.normal(size=S)
    moved = Additive(reward.u - (work.mdp.transitions @ w).reshape(S, A), reward.w + w)
    assert work.distances("starc", [reward, moved])[0, 1] < 1e-6
    assert min(work.distances(kind, [reward, moved])[0, 1] for kind in ("pearson", "epic", "dard")) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_triangle_inequality_holds_and_pure_shaping_is_nothing(kind, work):
    rng = np.random.default_rng(4)
    for _ in range(20):
        d = work.distances(kind, [random_reward(rng) for _ in range(3)])
        assert d[0, 2] <= d[0, 1] + d[1, 2] + 1e-9
    if kind != "pearson":
        nothing = Additive(np.zeros((S, A)), np.zeros(S))
        d = work.distances(kind, [shaped(nothing, rng), shaped(nothing, rng), random_reward(rng)])
        assert d[0, 1] == 0 and d[0, 2] == 0.5


@pytest.mark.parametrize("shaping", ["dense", "antidense", "random"])
@pytest.mark.parametrize("reward", ["goal", "path"])
def test_the_shaped_rewards_of_mazes_are_the_true_ones(shaping, reward):
    mdp = Maze(size=6, key=reward == "path", reward=reward, shaping=shaping).tabular()
    found = Exact(mdp, np.full(mdp.proxy.shape, 1 / mdp.proxy.size), 0.99)
    rewards = [additive(Recorded(name), mdp) for name in ("proxy", "true")]
    assert all(found.distances(kind, rewards)[0, 1] < 1e-6 for kind in ("epic", "dard", "starc"))
    assert found.distances("pearson", rewards)[0, 1] > 0.3


def test_epic_of_a_sample_is_near_the_exact_one(work):
    mdp, rng = work.mdp, np.random.default_rng(5)
    eye = np.eye(S, dtype=np.float32)
    functions = [Table(eye, rng.normal(size=(S, A))), Table(eye, rng.normal(size=(S, A)))]
    functions[1] = Shaped(Scaled(functions[1], 2.0, 1.0), TablePotential(eye, rng.normal(size=S)), GAMMA)
    functions.append(Scaled(Shaped(functions[0], TablePotential(eye, 5 * rng.normal(size=S)), GAMMA), 4.0, -1.0))
    exact = work.distances("epic", [additive(f, mdp) for f in functions])
    found = []
    for _ in range(6):
        row = rng.choice(len(work.weights), 512, p=work.weights / work.weights.sum())
        data = imagined(mdp, work.state[row], work.action[row], work.after[row])
        at = rng.choice(S, 512, p=work.coverage.sum(1))
        actions = rng.choice(A, 512, p=work.coverage.sum(0))
        canon = np.stack([epic_of_sample(f, data, actions, eye[at], GAMMA, rows=5000) for f in functions])
        found.append(matrix(canon, np.ones(3), np.ones(512), centred=True))
    assert exact[0, 2] < 1e-6 and exact[0, 1] > 0.3
    assert max(f[0, 2] for f in found) < 1e-6  # the same draws shape both: the shaping is gone to the last digit
    assert abs(np.mean(found, axis=0)[0, 1] - exact[0, 1]) < 0.05


def test_a_reward_that_is_no_sum_is_not_taken_for_tables():
    mdp = random_mdp()
    assert additive(lambda t: (t.obs * t.next_obs).sum(axis=1).astype(float), mdp) is None
    found = additive(lambda t: t.obs[:, 0] * t.actions + 2.0 * t.next_obs[:, 3], mdp)
    assert found.u[0, 2] - found.u[1, 2] == pytest.approx(2) and np.ptp(found.w) == pytest.approx(2)


def result(*words):
    return compose("task=interpret", "method=distance", "task.episodes=40", "seed=1", *words).execute()["metrics"]


def test_the_command_is_exact_on_tables_and_starc_is_sampled_elsewhere(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    metrics = result("env=maze", "dir=exact")
    assert metrics["distance/starc"] < 1e-6 < 0.5 < metrics["distance/pearson"] and "distance/starc_low" not in metrics
    metrics = result("env=maze", "dir=sampled", "method.exact=false")
    assert metrics["distance/starc"] < 1e-4 and "distance/epic" not in metrics
    assert metrics["distance/pearson_low"] <= metrics["distance/pearson"] <= metrics["distance/pearson_high"]
    assert "EPIC is not known here" in (tmp_path / "sampled" / "report.html").read_text()
    metrics = result("env=mountain_car", "dir=car", "env.shaping=antidense", "task.episodes=10")
    assert metrics["distance/starc"] < 0.01 < 0.2 < metrics["distance/pearson"]
    assert json.loads((tmp_path / "car" / "result.json").read_text())["status"] == "done"


def test_values_fitted_on_few_states_take_out_shaping():
    rng, n = np.random.default_rng(0), 4000
    states = rng.integers(8, size=n + 1)
    eye = np.eye(8, dtype=np.float32)
    data = imagined(random_mdp(), states[:-1], np.zeros(n, int), states[1:])
    data.obs, data.next_obs = eye[states[:-1]], eye[states[1:]]
    values = canonical.Values(data, GAMMA, 0)
    phi = rng.normal(size=8)
    assert values.tabular and values.kept.all()
    np.testing.assert_allclose(values.canonical(GAMMA * phi[states[1:]] - phi[states[:-1]]), 0, atol=1e-9)
