"""ORPO on the toy board: what it reduces to, what it resumes to, and that more regularisation stays closer to the base policy."""

from itertools import pairwise

import numpy as np
import pytest

from rhtool.checkpoints import Checkpoints
from rhtool.config import compose
from rhtool.errors import ConfigError, RhtoolError
from rhtool.hacking import theoretical_coeff
from rhtool.rl import evaluation
from rhtool.rl.orpo import Orpo, scheduled
from rhtool.rl.policy import Policy
from tests.rl.conftest import all_divergences, equal, state_of, train, uniform

QUICK = ("task.epochs=2", "task.discriminator_epochs=2")


def exact(work):
    return evaluation.exact(work.run.env, work.policy, work.bases[0] if work.bases else uniform(work.run.env))


@pytest.mark.parametrize("over", ["state_action", "state", "action"])
def test_coefficient_zero_is_ppo(make, over):
    options = (*QUICK, "task.entropy_schedule=[[0,0.1],[2000,0.0]]")
    plain = make("divergence=none", *options, bases=[])
    zero = make("divergence=sqrt_chi2", f"divergence.over={over}", "coeff=0", *options)
    train(plain, 3)
    train(zero, 3)
    assert equal(plain.policy, zero.policy)


@pytest.mark.parametrize("divergence", all_divergences())
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("divergence.over=state", "task.base_pool=500", "task.discriminator=last"),
        ("divergence.over=action", "task.lr_schedule=[[0,1e-3],[5000,1e-4]]"),
        ("task.base_update_every=2", "task.divergence_target=0.01", "task.kl_coeff_schedule=[[0,0.5],[10000,0.1]]"),
    ],
    ids=["plain", "state pool last", "action schedule", "shifting adaptive"],
)
def test_a_run_taken_up_from_its_checkpoint_is_the_run_that_was_never_stopped(make, tmp_path, divergence, options):
    if divergence in ("base_confidence", "max_min", "linear_max_min") and "divergence.over=action" in options:
        pytest.skip("no divergence of action distributions")
    if (
        divergence in ("none", "base_confidence", "wasserstein", "tv", "linear_max_min")
        and "task.base_update_every=2" in options
    ):
        options = tuple(o for o in options if "target" not in o)  # it speaks of an estimate that these do not make
    over = [o for o in options if o.startswith("divergence.over")]
    if divergence == "base_confidence":
        options = tuple(o for o in options if o not in over)
    overrides = (f"divergence={divergence}", "coeff=0.3", *QUICK, *options)
    work = make(*overrides)
    train(work, 3)
    Checkpoints(tmp_path).save(3, work.get_state())
    expected = train(work, 2)

    again = make(*overrides)
    again.set_state(Checkpoints(tmp_path).latest()[1])
    found = train(again, 2)
    assert equal(work.policy, again.policy)
    for a, b in zip(expected, found, strict=True):
        for key in a.keys() - {k for k in a if k.startswith("time/")}:
            assert a[key] == b[key] or np.isnan([a[key], b[key]]).all(), key


@pytest.mark.parametrize("divergence", ["kl", "chi2", "sqrt_chi2"])
@pytest.mark.parametrize("over", ["state_action", "state", "action"])
def test_a_large_coefficient_stays_at_the_base_policy(make, divergence, over):
    """From the base policy's own weights, and over state-action pairs or actions: nothing to gain by leaving it."""
    work = make(f"divergence={divergence}", f"divergence.over={over}", "coeff=100", "task.init_from_base=true", *QUICK)
    free = make("divergence=none", "task.init_from_base=true", *QUICK)
    train(work, 12)
    train(free, 12)
    assert exact(work)["exact/divergence/kl"] < 0.2 * exact(free)["exact/divergence/kl"]


LEARNING = (
    "task.batch=1920",
    "task.lanes=96",
    "task.minibatch=240",
    "task.clip=0.2",
    "task.kl_target=0.02",
    "task.lr=2e-3",
)


@pytest.mark.slow
def test_more_regularisation_stays_closer(make):
    """Exact divergences fall along the frontier, and so do exact proxy returns."""
    found = []
    for coeff in (0, 1, 10):
        work = make("divergence=sqrt_chi2", f"coeff={coeff}", "task.init_from_base=true", *LEARNING)
        train(work, 30)
        found.append(exact(work))
    for key in ("exact/divergence/chi2", "exact/divergence/kl", "exact/divergence/tv", "exact/proxy/return"):
        values = [m[key] for m in found]
        assert all(a > b for a, b in pairwise(values)), (key, values)
    # What it is for: unregularised, the proxy rises and the true return falls.
    free = found[0]
    assert free["exact/proxy/return"] > free["base/exact/proxy/return"]
    assert free["exact/true/return"] < free["base/exact/true/return"]


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["none", "kl", "chi2", "sqrt_chi2", "tv"])
def test_the_bound_of_theorem_5_1_holds_for_every_policy_on_the_way(make, divergence):
    work = make(f"divergence={divergence}", "coeff=0.5", "env.dry_distance=3", *LEARNING)
    for _ in range(4):
        train(work, 5)
        metrics = exact(work)
        assert metrics["exact/correlation"] > 0
        assert metrics["exact/bound"] <= metrics["exact/gain"] + 1e-9


@pytest.mark.slow
def test_ppo_on_the_true_reward_improves_it(make):
    work = make("divergence=none", "env.reward_fun=true", *LEARNING)
    before = exact(work)["exact/true/return"]
    train(work, 40)
    best = work.run.env.tabular().optimal_policy("true")[1]
    assert before + 0.8 * (best - before) < exact(work)["exact/true/return"] <= best + 1e-9


@pytest.mark.slow
def test_a_negative_coefficient_moves_away_from_a_hacked_policy(make):
    hacked = make("divergence=none", *LEARNING)
    train(hacked, 30)
    again = make("divergence=none", "seed=1", *LEARNING)
    away = make("divergence=kl", "coeff=-1", "seed=1", *LEARNING, bases=[hacked.policy])
    for work in (again, away):
        train(work, 30)
    apart = [evaluation.exact(w.run.env, w.policy, hacked.policy)["exact/divergence/tv"] for w in (again, away)]
    assert apart[0] < 0.5 < apart[1]


def test_two_base_policies_and_their_weights(make):
    env = make("divergence=none").run.env
    bases = [uniform(env, seed=s) for s in (1, 2)]
    only_first = make("divergence=kl", "coeff=1", "task.base_weights=[1,0]", *QUICK, bases=bases)
    both = make("divergence=kl", "coeff=1", *QUICK, bases=bases)
    assert len(both.scores) == len(both.base_samplers) == 2
    train(only_first, 2)
    train(both, 2)
    assert not equal(only_first.policy, both.policy)


def test_split_is_the_chain_rule(make):
    """A discriminator of states alone, and the action KL in the loss."""
    work = make("divergence=kl", "coeff=0.5", "task.split=true", *QUICK)
    assert work.features.over == "state"
    metrics = train(work, 2)[-1]
    assert metrics["penalty/action"] > 0 and "divergence/kl" in metrics


def test_the_coefficient_adapts_to_its_target(make):
    low = make("divergence=kl", "divergence.over=action", "coeff=1", "task.divergence_target=1e-9", *QUICK)
    train(low, 3)
    assert low.coeff == pytest.approx(1.5**3)
    high = make("divergence=sqrt_chi2", "coeff=1", "task.divergence_target=1e9", *QUICK)
    train(high, 3)
    assert high.coeff == pytest.approx(0.5**3)


def test_a_negative_weight_pushes_actions_away(make):
    """In closed form, so without noise: the mean action KL from the base falls with a positive weight, rises with a negative one."""
    found = []
    for weight in (1, -1):
        work = make("divergence=kl", "divergence.over=action", "coeff=1", f"task.base_weights=[{weight}]", *QUICK)
        found.append(train(work, 8)[-1]["action_divergence/kl"])
    assert found[0] < found[1] / 2


def test_base_policies_that_follow_have_the_policys_network(make):
    env = make("divergence=none").run.env
    with pytest.raises(ConfigError, match="network"):
        make("divergence=kl", "task.base_update_every=1", bases=[uniform(env, hidden=16)])


def test_schedules():
    assert scheduled(None, 3.0, 10) == 3.0
    assert [scheduled([[0, 1.0], [100, 0.0]], 3.0, t) for t in (0, 25, 100, 500)] == [1.0, 0.75, 0.0, 0.0]


def test_the_penalty_is_charged_and_clipped(make):
    work = make("divergence=kl", "coeff=5", *QUICK)
    current = work.sampler.sample(work.steps_per_lane)
    features, base = work.features(current), work._base_features()
    work._fit_discriminators(features, base)
    rewards, _ = work._charge(current, features, base)
    scale = 5 * work.run.env.reward_mean
    expected = current.rewards.flatten() - (scale * work.scores[0](features)).clamp(-1000, 1000)
    assert np.allclose(rewards.flatten(), expected, atol=1e-5)
    work.task.reward_clip = 1e-3
    clipped, _ = work._charge(current, features, base)
    assert float((clipped - current.rewards).abs().max()) <= 1e-3 + 1e-7


def test_the_state_is_a_copy(make):
    work = make("divergence=kl", "coeff=1", *QUICK)
    state = state_of(work)
    train(work, 1)
    work.set_state(state)
    assert work.steps == 0


def test_what_does_not_go_together(make):
    with pytest.raises(ConfigError, match="lanes"):
        make("divergence=kl", "coeff=1", "task.lanes=2", bases=[uniform(make("divergence=none").run.env)] * 2)
    with pytest.raises(RhtoolError, match="not finite"):
        train(make("divergence=none", "task.lr=1e30"), 5)


@pytest.mark.parametrize("options", [(), ("task.base_pool=500",)], ids=["anew", "pool"])
def test_sampling_both_policies_at_the_same_time_changes_nothing(make, options):
    works = [make("divergence=max_min", "coeff=0.1", *QUICK, *options) for _ in range(2)]
    works[1].side_by_side = True
    rows = [train(work, 3)[-1] for work in works]
    assert equal(*(work.policy for work in works))
    first, second = ({k: v for k, v in row.items() if not k.startswith("time/")} for row in rows)
    assert first == second
    # A pool is sampled once.
    assert first["steps/total"] - first["steps"] == (512 if options else first["steps"])


def test_coeff_auto_is_what_the_evaluation_at_the_end_finds():
    """On the paper's board, with its base policy, which now and then steps onto the bucket; exactly, and from samples."""

    def start(*overrides):
        small = ("task.batch=640", "task.lanes=32", "task.hidden=[8]", "task.epochs=1", "task.episodes=400")
        run = compose("task=orpo", "env=tomato", "divergence=sqrt_chi2", "coeff=auto", *small, *overrides)
        return Orpo(run, [Policy.load(run.env.base_policy_path())])

    work = start("env.reward_std=0.01", "task.exact=false")  # a unit five times smaller than elsewhere
    charged = work.iteration()["penalty/coeff"]
    seed = evaluation.stream(work.run.seed, 1)
    found = evaluation.returns(*evaluation.rollout(work.run.env, work.bases[0], 400, seed))
    r, sigma = found["correlation"], found["sigma/proxy"]
    assert 0 < r < 1 and charged == pytest.approx(sigma * (1 - r * r) ** 0.5 / 0.01)
    base = work.bases[0]
    known = evaluation.exact(work.run.env, base, base)
    expected = theoretical_coeff(known["exact/sigma/proxy"], known["exact/correlation"]) / 0.05
    assert start().iteration()["penalty/coeff"] == pytest.approx(expected)
    assert expected == pytest.approx(charged / 5, rel=0.2)
    given = start("task.correlation=0.6", "task.reward_weight=2").iteration()["penalty/coeff"]
    assert given == pytest.approx(2 * 0.8 * known["exact/sigma/proxy"] / 0.05)
    with pytest.raises(RhtoolError, match="did the proxy differ"):  # it would be 0
        start("task.episodes=10", "task.exact=false").iteration()


@pytest.mark.parametrize(
    "overrides",
    [
        ["divergence=kl", "coeff=auto"],
        ["divergence=none", "coeff=auto"],
        ["divergence=sqrt_chi2", "divergence.over=action", "coeff=auto"],
        ["divergence=sqrt_chi2", "coeff=0.1", "task.correlation=0.5"],
        ["divergence=sqrt_chi2", "coeff=auto", "task.correlation=1.5"],
        ["divergence=sqrt_chi2", "coeff=auto", "env.reward_fun=true"],
        ["divergence=sqrt_chi2", "coeff=auto", "task.coeff_schedule=[[0,0.1]]"],
        ["divergence=max_min", "coeff=0.1", "env.reward_fun=true"],
        ["divergence=linear_max_min", "coeff=0.1", "env.reward_fun=true"],
    ],
)
def test_where_there_is_no_theory_there_is_no_theory(overrides):
    run = compose("task=orpo", "env=tomato", *overrides)
    with pytest.raises(RhtoolError):
        run.check()
