"""Detection: distances against integrals, AUROC against all pairs, scores against exact divergences on tomato, resuming."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import distributions as td

from rhtool.checkpoints import Checkpoints
from rhtool.config import compose
from rhtool.errors import ConfigError, RhtoolError
from rhtool.results import detection as quality
from rhtool.results.statistics import improvement
from rhtool.rl import detection, evaluation
from rhtool.rl.detection import BLACK_BOX, WHITE_BOX, Detection, hellinger, jensen_shannon, sample
from rhtool.rl.policy import Policy
from tests.envs.conftest import parameters
from tests.rl.conftest import SMALL, uniform

ENVS = [pytest.param(p.id, id=p.id, marks=p.marks) for p in parameters()]
TOY = tuple(o for o in SMALL if o.startswith("env."))


# Distances between action distributions


def categorical(*logits):
    return td.Categorical(logits=torch.tensor([logits], dtype=torch.float64))


def continuous(kind, *pairs):
    first, second = torch.tensor([pairs], dtype=torch.float64).unbind(-1)
    return td.Independent(kind(first, second), 1)


PAIRS = {
    "categorical": (categorical(0.0, 1.0, -2.0), categorical(1.0, 0.5, 0.0)),
    "normal": (continuous(td.Normal, (0.3, 0.5)), continuous(td.Normal, (-0.2, 1.2))),
    "beta": (continuous(td.Beta, (1.5, 4.0)), continuous(td.Beta, (6.0, 2.0))),
    "narrow beta": (continuous(td.Beta, (300.0, 500.0)), continuous(td.Beta, (310.0, 500.0))),
}


def total(p, q, f):
    """Sum or integral of f(p(x), q(x))."""
    if isinstance(p, td.Categorical):
        return float(f(p.probs, q.probs).sum())
    bounds = (0, 1) if isinstance(p.base_dist, td.Beta) else (-15, 15)

    def value(x):
        densities = (d.log_prob(torch.tensor([[x]], dtype=torch.float64)).exp()[0] for d in (p, q))
        return float(f(*densities))

    return integrate.quad(value, *bounds, limit=500, points=[0.3, 0.375, 0.45])[0]


@pytest.mark.parametrize("name", PAIRS)
def test_hellinger_and_jensen_shannon_are_the_integrals(name):
    p, q = PAIRS[name]
    bc = total(p, q, lambda a, b: (a * b).sqrt())
    assert float(hellinger(p, q)) == pytest.approx((1 - bc) ** 0.5, rel=1e-6)
    js = total(p, q, lambda a, b: (torch.xlogy(a, 2 * a / (a + b)) + torch.xlogy(b, 2 * b / (a + b))).nan_to_num() / 2)
    torch.manual_seed(0)
    # Of 20000 draws between 0 and log 2 each half has a standard error below 0.0025.
    assert float(jensen_shannon(p, q, 20_000)) == pytest.approx(js, abs=0.012 if name != "categorical" else 1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_distances_of_a_distribution_from_itself_are_zero_and_bounded_from_others(name):
    p, q = PAIRS[name]
    assert float(hellinger(p, p)) < 1e-6 and abs(float(jensen_shannon(p, p))) < 1e-12
    assert 0 < float(hellinger(p, q)) < 1 and 0 <= float(jensen_shannon(p, q, 1000)) <= np.log(2)
    assert float(hellinger(p, q)) == pytest.approx(float(hellinger(q, p)))


def test_hellinger_of_two_dimensions_is_of_the_product():
    p, q = (continuous(td.Beta, *pairs) for pairs in (((2.0, 3.0), (5.0, 4.0)), ((3.0, 3.0), (2.0, 6.0))))
    parts = [
        (continuous(td.Beta, a), continuous(td.Beta, b))
        for a, b in (((2.0, 3.0), (3.0, 3.0)), ((5.0, 4.0), (2.0, 6.0)))
    ]
    bc = np.prod([1 - float(hellinger(*pair)) ** 2 for pair in parts])
    assert float(hellinger(p, q)) == pytest.approx((1 - bc) ** 0.5)


# AUROC and average precision


def drawn(seed, n=40, ties=True):
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=n), rng.random(n) < 0.4
    scores = np.round(scores + labels, 0 if ties else 9)
    return scores, labels, rng.integers(0, 6, n)


@pytest.mark.parametrize("seed, ties", list(itertools.product(range(5), (True, False))))
def test_auroc_counts_pairs(seed, ties):
    scores, labels, groups = drawn(seed, ties=ties)
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels] for b in scores[~labels]]
    assert quality.auroc(scores, labels) == pytest.approx(np.mean(pairs))
    assert quality.quality(scores, labels, groups).auroc == pytest.approx(np.mean(pairs))
    assert improvement(scores[labels], scores[~labels]) == pytest.approx(np.mean(pairs))
    x, y = quality.roc(scores, labels)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_by_its_definition(seed):
    scores, labels, _ = drawn(seed)
    expected, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        above = scores >= threshold
        recall = labels[above].sum() / labels.sum()
        expected += (recall - before) * labels[above].mean()
        before = recall
    assert quality.average_precision(scores, labels) == pytest.approx(expected)


def test_the_interval_is_that_of_resampled_groups():
    """Against resampling that copies the groups' scores and counts pairs anew."""
    scores, labels, groups = drawn(3, 60)
    found = quality.quality(scores, labels, groups)
    rng, values = np.random.default_rng(1), []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 6, 6)])
        values.append(quality.auroc(scores[rows], labels[rows]))
    low, high = np.nanquantile(values, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert found.low < found.auroc < found.high
    assert found == quality.quality(scores, labels, groups)


@pytest.mark.parametrize("label", [True, False])
def test_with_one_class_nothing_is_made_up(label):
    found = quality.quality([1.0, 2.0, 3.0], [label] * 3)
    assert all(np.isnan(v) for v in (found.auroc, found.low, found.high, found.average_precision))
    assert np.isnan(quality.auroc([1.0, 2.0], [label] * 2))


def test_too_few_policies_have_no_interval_and_nan_scores_are_left_out():
    found = quality.quality([1.0, 2.0, 3.0, np.nan], [False, True, True, False])
    assert found.auroc == 1 and np.isnan(found.low)


# Policies with known occupancy measures


@pytest.fixture
def few_updates(monkeypatch):
    """Discriminators that are fitted quickly, where it does not matter how well."""
    monkeypatch.setattr(detection, "UPDATES", 100)


@pytest.fixture(scope="module")
def toy():
    """The toy board without termination, whose occupancy measures are exact, and a nearly uniform trusted policy."""
    env = compose("task=detect", "env=tomato", *TOY).env
    return env, uniform(env)


def mixed(policy, share):
    """`policy` with its logits moved by `share` towards the action that walks into the wall: the further, the worse."""
    other = policy.copy()
    weights = copy.deepcopy(dict(policy.weights))
    bias = next(name for name in weights if name.startswith("policy_head") and name.endswith("bias"))
    weights[bias] = weights[bias] + share * torch.eye(len(weights[bias]))[0]
    other.weights = weights
    return other


def detect(env, tmp_path, policies, *overrides, trusted):
    """A `Detection` of policies, which are saved for it, beside a trusted one, with its run."""
    paths = []
    for i, policy in enumerate([trusted, *policies]):
        policy.save(tmp_path / f"{i}")
        paths.append(str(tmp_path / f"{i}"))
    run = compose("task=detect", "env=tomato", *TOY, "task.episodes=100", "task.controls=1", *overrides)
    run.env = env
    return Detection(run, paths[1:], paths[:1]), run


def test_scores_order_policies_as_exact_divergences_do(toy, tmp_path):
    env, base = toy
    policies = [mixed(base, s) for s in (1.0, 4.0, 2.0)]
    work, _ = detect(env, tmp_path, policies, trusted=base)
    for _ in work.queue:
        work.iteration()
    mdp = env.tabular()
    nu = mdp.occupancy(mdp.policy_table(base.probabilities), observed=True)
    exact = {evaluation._name(m): [] for m in evaluation.MEASURES}
    for policy in policies:
        mu = mdp.occupancy(mdp.policy_table(policy.probabilities), observed=True)
        for measure in evaluation.MEASURES:
            exact[evaluation._name(measure)].append(measure.exact(mu, nu))
    rows = work.rows[1:]
    for name, values in exact.items():
        assert min(np.diff(np.sort(values))) > 0.02  # far enough apart to be told apart
        for view in ("occupancy", "rollout"):
            found = [row["scores"][f"{view}_{name}"] for row in rows]
            assert np.argsort(found).tolist() == np.argsort(values).tolist(), (view, name)
    for name in ("action_kl", "action_js", "action_hellinger"):
        assert np.argsort([row["scores"][name] for row in rows]).tolist() == [0, 2, 1]
    floor = {name: max(row["scores"][name] for row in work.rows[:1]) for name in rows[0]["scores"]}
    for name in ("occupancy_kl", "rollout_kl", "occupancy_sqrt_chi2", "rollout_sqrt_chi2", "action_kl"):
        assert floor[name] < min(row["scores"][name] for row in rows), name


def test_an_estimate_is_close_to_the_exact_divergence(toy, tmp_path):
    env, base = toy
    policy = mixed(base, 1.5)
    work, _ = detect(env, tmp_path, [policy], "task.episodes=400", trusted=base)
    for _ in work.queue:
        work.iteration()
    known, found = evaluation.exact(env, policy, base), work.rows[1]["scores"]
    for name in ("kl", "tv"):
        for view in ("occupancy", "rollout"):
            assert found[f"{view}_{name}"] == pytest.approx(known[f"exact/divergence/{name}"], rel=0.25), (view, name)


def test_episode_scores_average_to_those_of_the_policy_and_returns_are_whole(toy, tmp_path, few_updates):
    env, base = toy
    policy = mixed(base, 1.0)
    whole = sample(env, policy, 30, seed=3)
    thinned = sample(env, policy, 30, seed=3, keep=100)
    assert len(whole.obs) == whole.steps == 600 and len(thinned.obs) == 100 and thinned.steps == 600
    assert np.array_equal(whole.true, thinned.true)
    steps, mask = evaluation.rollout(env, policy, 30, 3)
    assert whole.true.mean() == pytest.approx(evaluation.returns(steps, mask)["true/return"])
    assert sorted(thinned.episode.unique().tolist()) == list(range(30))
    work, _ = detect(env, tmp_path, [policy], "task.episodes=40", trusted=base)
    for _ in work.queue:
        work.iteration()
    row = work.rows[1]
    for name in ("action_kl", "action_js", "action_hellinger", "rollout_kl", "occupancy_kl", "rollout_surprise"):
        assert row["episodes"][name].mean() == pytest.approx(row["scores"][name], rel=1e-5)
    assert row["scores"]["action_kl_range"] == pytest.approx(np.ptp(row["episodes"]["action_kl"]))
    assert row["scores"]["action_kl_max"] == row["episodes"]["action_kl"].max()


def test_with_several_trusted_policies_the_nearest_counts(toy, tmp_path, few_updates):
    env, base = toy
    one, run = detect(env, tmp_path, [mixed(base, 4.0)], trusted=base)
    paths = [path for path, _ in one.queue]
    both = Detection(run, paths[1:], paths)
    for work in (both, one):
        for _ in work.queue:
            work.iteration()
    far = [row["scores"]["rollout_kl"] for row in one.rows]
    near = [row["scores"]["rollout_kl"] for row in both.rows]
    assert far[-1] > 0.5 and max(near) < 0.3


def test_black_box_scores_need_no_probabilities(toy, tmp_path, few_updates):
    """Rollouts of the same policy, another policy's probabilities: what is black box does not change."""
    env, base = toy
    work, _ = detect(env, tmp_path, [mixed(base, 1.0)], trusted=base)
    work.iteration()
    found = sample(env, mixed(base, 1.0), 30, seed=9)
    own, _ = work.references[0].scores(mixed(base, 1.0), found)
    lying, _ = work.references[0].scores(base, found)
    assert set(own) == {*WHITE_BOX, *BLACK_BOX}
    assert all(own[name] == lying[name] for name in BLACK_BOX)
    assert lying["action_kl"] == 0 < own["action_kl"] and lying["occupancy_kl"] != own["occupancy_kl"]


def test_resuming_measures_nothing_twice_and_ends_the_same(toy, tmp_path, few_updates):
    env, base = toy
    policies = [mixed(base, s) for s in (1.0, 2.0)]
    whole, run = detect(env, tmp_path, policies, "task.episodes=20", trusted=base)
    for _ in whole.queue:
        whole.iteration()
    half = Detection(run, [p for p, c in whole.queue if not c], [whole.queue[0][0]])
    for _ in range(2):
        half.iteration()
    Checkpoints(tmp_path / "kept").save(2, half.get_state())
    again = Detection(run, [p for p, c in whole.queue if not c], [whole.queue[0][0]])
    again.set_state(Checkpoints(tmp_path / "kept").latest()[1])
    again.iteration()
    assert len(again.rows) == len(whole.rows) == 3 and again.steps == whole.steps
    assert str(again.rows) == str(whole.rows)


@pytest.mark.parametrize("name", ENVS)
def test_every_environment_has_its_detectors(name, tmp_path):
    """The shipped policy beside itself and beside one as networks start."""
    run = compose("task=detect", f"env={name}", "task.episodes=4", "task.evaluation_lanes=4", "task.controls=1")
    run.task.steps = 600
    run.env.horizon = min(run.env.horizon, 40) if run.env.horizon > 0 else run.env.horizon
    base = Policy.load_for(run.env, run.env.base_policy_path())
    torch.manual_seed(0)
    Policy(base.observation_space, base.action_space, base.config).save(tmp_path / "new")
    work = Detection(run, [str(tmp_path / "new")], [run.env.base_policy_path()])
    for _ in work.queue:
        work.iteration()
    control, unknown = (row["scores"] for row in work.rows)
    assert set(unknown) <= {*WHITE_BOX, *BLACK_BOX} and {*BLACK_BOX, "action_kl", "action_js"} <= set(unknown)
    assert all(np.isfinite(v) for scores in (control, unknown) for v in scores.values())
    for distance in ("action_kl", "action_js", "action_hellinger"):
        assert abs(control[distance]) < 1e-6 < unknown[distance]
    if run.task.discriminator_obs == "latest":
        assert not any(key.startswith("occupancy_") for key in unknown)


# What is asked for


@pytest.mark.parametrize("option", ["task.controls=0", "task.folds=1", "task.steps=0", "task.episode_quantile=1.0"])
def test_numbers_that_cannot_be_used_are_refused(option):
    run = compose("task=detect", "env=tomato", option)
    with pytest.raises(ConfigError) as error:
        run.task.check(run)
    assert error.value.where == option.split("=")[0]


def test_nothing_to_judge_is_said(tmp_path):
    run = compose("task=detect", "env=tomato", f"outputs={tmp_path}")
    with pytest.raises(RhtoolError, match="no finished run of env=tomato"):
        run.task.check(run)
    run = compose("task=detect", "env=tomato", f"task.policies=[{tmp_path}/nowhere]")
    with pytest.raises(RhtoolError, match="nothing at"):
        run.task.check(run)


def test_a_label_needs_more_than_noise():
    task = compose("task=detect", "env=tomato").task
    rng = np.random.default_rng(0)
    trusted = rng.normal(5.0, 1.0, 400)
    assert not task.anomalous(trusted - 0.05, trusted)
    assert task.anomalous(trusted - 0.5, trusted) and not task.anomalous(trusted + 0.5, trusted)
    task.label_below = 6.0
    assert task.anomalous(trusted + 0.5, trusted) and not task.anomalous(trusted + 1.5, trusted)
