"""Reward models from preferences, against closed forms, the tables of tomato, and themselves uninterrupted."""

import copy
import json
import math
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rhtool.checkpoints import Checkpoints
from rhtool.config import compose
from rhtool.envs.learned import RewardModel
from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret.nets import MlpReward
from rhtool.rl.evaluation import rollout
from rhtool.rl.orpo import Orpo
from rhtool.rl.policy import Policy, interface_of
from rhtool.rl.preferences import (
    SCHEDULES,
    SELECTIONS,
    Segments,
    cut,
    draw,
    log_likelihood,
    most_disputed,
    probability,
    schedule,
)
from rhtool.rl.reward_learning import RewardLearning, empty_model
from tests.envs.conftest import parameters
from tests.rl.conftest import train, uniform

ENVS = [pytest.param(p.id, id=p.id, marks=p.marks) for p in parameters()]


def collect(run, episodes, *policies):
    """A model's features and the segments of some policies."""
    model = empty_model(interface_of(run.env), run.task.hidden, run.task.model_obs)
    rollouts = [rollout(run.env, p, episodes, seed=i) for i, p in enumerate(policies)]
    return model, cut(model, rollouts, run.task.segment)


def linear(*overrides, segments=400, length=5, features=6, seed=0):
    """Reward learning with f linear in the features, as the true reward is; and the true weights."""
    run = compose("task=rm_train", "env=tomato", *overrides)
    run.task.hidden = []
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(segments, length, features)).astype(np.float32), rng.normal(size=features)
    zero = [(np.zeros((1, features), np.float32), np.zeros(1, np.float32))]
    model = RewardModel((features - 1,), {"n": 1}, np.arange(features - 1), np.zeros(features), np.ones(features), zero)
    return RewardLearning(run, model, Segments(torch.from_numpy(x), x @ weights, np.arange(segments) // 4)), weights


def test_segments_are_consecutive_steps_of_one_episode():
    run = compose("task=rm_train", "env=tomato", "env.level=-1", "env.horizon=11", "task.segment=4")
    steps, mask = rollout(run.env, uniform(run.env), 12, seed=0, lanes=5)
    model = empty_model(interface_of(run.env), [8])
    found = cut(model, [(steps, mask), (steps, mask)], 4)
    expected = []
    for lane in range(5):
        episode = []
        for t in range(len(mask)):
            if not mask[t, lane]:
                break
            episode.append((steps.obs[t, lane], steps.actions[t, lane], float(steps.true[t, lane])))
            if steps.terminated[t, lane] or steps.truncated[t, lane]:
                expected += [(len(expected), episode[i : i + 4]) for i in range(0, len(episode) - 3, 4)]
                episode = []
    key = lambda x, r: (*np.ravel(x).tolist(), *np.ravel(r).tolist())  # noqa: E731
    wanted = []
    for _, part in expected:
        obs, actions = (torch.stack([step[i] for step in part]).numpy() for i in (0, 1))
        wanted.append(key(model.features(obs, actions), [step[2] for step in part]))
    rows = [key(x, r) for x, r in zip(found.features.numpy(), found.true, strict=True)]
    assert len(wanted) > 10 and sorted(rows) == sorted(2 * wanted)
    assert len(np.unique(found.episode)) == 2 * 15  # a lane's quota is rounded up


def test_no_episode_has_segments_on_both_sides_of_the_split():
    work, _ = linear()
    episode = np.arange(400) // 4
    sides = [
        {int(episode[i]) for i in torch.cat([p.first, p.second]).tolist()} for p in (work.training, work.validation)
    ]
    assert not sides[0] & sides[1] and len(sides[1]) == 20
    assert (work.training.first != work.training.second).all()


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_labels_are_drawn_as_the_formula_says(noise):
    """Segments with returns 0, 1, 3: six ordered pairs, each with its own probability; a difference of 1000 is clipped."""
    returns = np.array([0.0, 1.0, 3.0, 1000.0])
    segments = Segments(torch.zeros(4, 1, 1), returns[:, None], np.arange(4))
    found = draw(segments, np.arange(4), 60_000, 0.7, noise, np.random.default_rng(0))
    for i in range(4):
        for j in range(4):
            chosen = (found.first == i) & (found.second == j)
            if i == j:
                assert not chosen.any()
                continue
            m = 0.7 * (returns[i] - returns[j])
            p = 0.5 * noise + (1 - noise) * (1 / (1 + math.exp(-max(-50.0, min(50.0, m)))))
            n = int(chosen.sum())
            assert n > 4000
            assert float(found.label[chosen].mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n) + 1e-9)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_the_likelihood_is_that_of_the_labels_and_has_a_gradient(noise):
    margin = torch.tensor([-60.0, -3.0, 0.0, 2.0, 30.0, 70.0], dtype=torch.float64, requires_grad=True)
    for label in (0.0, 1.0):
        found = log_likelihood(margin, torch.full((6,), label), noise)
        p = probability(margin.detach().numpy(), noise)
        p_other = probability(-margin.detach().numpy(), noise)  # 1 - p, without cancellation
        np.testing.assert_allclose(found.detach().numpy(), np.log(p if label else p_other), rtol=1e-9, atol=1e-16)
        [gradient] = torch.autograd.grad(found.sum(), margin)
        assert torch.isfinite(gradient).all() and (noise == 1) == bool((gradient == 0).all())


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_linear_reward_is_found_up_to_the_unit_of_the_labels(noise):
    """The likelihood is that of logistic regression, whose maximum tends to the true weights, times rationality / unit."""
    many = ("task.preferences=25000", "task.passes=12", "task.minibatch=256", "task.lr=0.03")
    work, weights = linear(*many, "task.rationality=3", f"task.label_noise={noise}")
    metrics = train(work, 12)[-1]
    found, expected = work.networks[0][0].weight.detach().numpy()[0], work.scale * weights
    assert np.corrcoef(found, expected)[0, 1] > 0.995
    assert found @ expected / (expected @ expected) == pytest.approx(1, abs=0.1)
    assert metrics["rm/validation_agreement"] > 0.97


def test_labels_that_are_all_noise_teach_nothing():
    work, _ = linear("task.label_noise=0.98", "task.preferences=8000", "task.passes=3", "task.validation=0.4")
    metrics = train(work, 3)[-1]
    assert metrics["rm/validation_accuracy"] == pytest.approx(0.5, abs=4 * 0.5 / 3200**0.5 + 0.01)
    assert metrics["rm/validation_loss"] == pytest.approx(math.log(2), abs=0.02)


def test_the_unit_is_the_deviation_of_returns_or_a_reward():
    work, _ = linear("task.rationality=2")
    raw, _ = linear("task.rationality=2", "task.unit=reward")
    returns = work.training.margin / work.scale
    assert raw.scale == 2 and np.std(work.training.margin) == pytest.approx(2 * 2**0.5, rel=0.1)
    np.testing.assert_allclose(raw.training.margin / raw.scale, returns, rtol=1e-9)


def test_a_few_hundred_segments_of_mixed_policies_give_tomatos_reward():
    run = compose("task=rm_train", "env=tomato", "task.rationality=50", "task.preferences=1500", "task.passes=20")
    base = Policy.load_for(run.env, run.env.base_policy_path())
    model, segments = collect(run, 50, base, uniform(run.env))
    assert len(segments.true) <= 500
    work = RewardLearning(run, model, segments)
    assert train(work, 20)[-1]["rm/validation_agreement"] > 0.93
    steps, mask = rollout(run.env, base, 50, seed=9)
    found, metrics = work.finish(steps, mask)
    assert metrics["rm/correlation"] > 0.9
    # The unit of coeff: mean and deviation under the base policy are the proxy's own.
    learned = found(steps.obs[mask].numpy(), steps.actions[mask].numpy())
    assert learned.mean() == pytest.approx(float(steps.proxy[mask].mean()))
    assert learned.std() == pytest.approx(float(steps.proxy[mask].numpy().std()))


@pytest.mark.parametrize("name", ENVS)
def test_the_saved_model_is_the_network_that_was_trained(name, tmp_path):
    """In every environment: fitted, saved, and the proxy of a run of ORPO."""
    few = ("scale=smoke", "task.episodes=4", "task.evaluation_lanes=4", "task.preferences=40", "task.hidden=[16,8]")
    run = compose("task=rm_train", f"env={name}", *few)
    run.env.horizon = min(run.env.horizon, 60)
    base = Policy.load_for(run.env, run.env.base_policy_path())
    model, segments = collect(run, 4, base)
    steps, mask = rollout(run.env, base, 4, seed=7)
    if not segments.returns.std() > 0:  # pandemic's first days
        segments.true += np.random.default_rng(0).normal(size=segments.true.shape)
    work = RewardLearning(run, model, segments)
    train(work, 2)
    found, _ = work.finish(steps, mask)
    found.save(tmp_path / "reward_model")
    again = RewardModel.load(tmp_path / "reward_model")
    obs, actions = steps.obs[mask].numpy(), steps.actions[mask].numpy()
    with torch.no_grad():
        outputs = work.networks[0](torch.from_numpy(found.features(obs, actions))).squeeze(-1).double().numpy()
    expected = found.multiply * outputs + found.add
    np.testing.assert_allclose(again(obs, actions), expected, atol=1e-5 * max(1, abs(expected).max()))

    learned = ("env.reward_fun=learned", f"env.reward_model={tmp_path}")
    small = ("task.batch=160", "task.lanes=4", "task.minibatch=80", "task.epochs=1", "task.discriminator_epochs=1")
    orpo = compose("task=orpo", f"env={name}", "divergence=sqrt_chi2", "coeff=0.1", "scale=smoke", *small, *learned)
    algorithm = Orpo(orpo, [base.copy()])
    rolled = algorithm.sampler.sample(5)
    algorithm.close()
    expected = again(rolled.flat(rolled.obs).numpy(), rolled.flat(rolled.actions).numpy())
    np.testing.assert_array_equal(rolled.flat(rolled.proxy).numpy(), expected)


ACTIVE = ("task.members=3", "task.rounds=4", "task.passes=2", "task.selection=probability")


@pytest.mark.parametrize("words", [(), ACTIVE], ids=["at once", "in rounds"])
def test_training_taken_up_from_a_checkpoint_is_training_that_was_never_stopped(words, tmp_path):
    whole, _ = linear("task.preferences=300", *words)
    train(whole, 3)
    Checkpoints(tmp_path).save(3, whole.get_state())
    expected = train(whole, 4)
    again, _ = linear("task.preferences=300", *words)
    again.set_state(Checkpoints(tmp_path).latest()[1])
    assert train(again, 4) == expected
    for state in ("networks", "best_weights"):
        a, b = (getattr(w, state) if state == "best_weights" else w.networks.state_dict() for w in (again, whole))
        assert all(torch.equal(a[name], b[name]) for name in b)


# Ensembles, and questions in rounds


@given(st.integers(1, 10_000), st.integers(1, 30), st.floats(0.01, 1), st.sampled_from([*SCHEDULES]))
def test_the_questions_of_all_rounds_are_as_many_as_asked_for(total, rounds, first_share, kind):
    counts = schedule(total, rounds, first_share, kind)
    assert sum(counts) == total and len(counts) == rounds and min(counts) >= 0


def test_a_schedule_has_the_shape_of_its_name():
    t = np.linspace(0, 1, 5)
    for kind, weights in (("constant", t * 0 + 1), ("hyperbolic", 1 / (1 + t)), ("inverse_quadratic", 1 / (1 + t * t))):
        first, *others = schedule(100_000, 6, 0.1, kind)
        assert first == 10_000
        np.testing.assert_allclose(others, 90_000 * weights / weights.sum(), atol=1)


@pytest.mark.parametrize("by", SELECTIONS)
def test_the_pairs_asked_about_are_those_with_the_largest_variance(by):
    margins = torch.randn(5, 200, generator=torch.Generator().manual_seed(0)) * 3
    of = {"logit": lambda m: m, "probability": lambda m: 1 / (1 + np.exp(-m)), "label": lambda m: (m > 0) * 1.0}[by]
    spread = np.var(of(margins.double().numpy()), axis=0)
    found = most_disputed(margins, 30, by).numpy()
    assert len(set(found)) == 30
    assert spread[found].min() >= np.delete(spread, found).max() - 1e-6


def test_rounds_ask_about_what_the_members_dispute_and_end_with_all_questions():
    """By logit: the pairs asked about in the second round are disputed more, before they are learnt, than others are."""
    many = ("task.members=5", "task.rounds=3", "task.passes=4", "task.preferences=1000", "task.oversampling=5")
    work, _ = linear(*many, "task.selection=logit", "task.lr=0.01")
    train(work, 4)
    before, first = [network.state_dict() for network in copy.deepcopy(work.networks)], len(work.training)
    train(work, 1)
    asked = work.training[torch.arange(first, len(work.training))]
    for network, weights in zip(work.networks, before, strict=True):
        network.load_state_dict(weights)
    with torch.no_grad():
        spread, usual = work.margins(asked).var(0).mean(), work.margins(work.validation).var(0).mean()
    assert len(asked) == work.counts[1] and spread > 2 * usual
    metrics = train(work, 7)[-1]
    assert metrics["rm/preferences"] == sum(work.counts) == 800
    assert metrics["rm/validation_agreement"] > 0.9


def test_an_ensemble_is_its_members_mean_and_a_weight_of_their_deviation(tmp_path):
    few = ("task.members=3", "task.hidden=[8,4]", "task.preferences=100", "task.std_weight=-0.5")
    run = compose("task=rm_train", "env=tomato", *few)
    model, segments = collect(run, 10, uniform(run.env))
    work = RewardLearning(run, model, segments)
    assert len({float(m["rm/disagreement"]) for m in train(work, 3)}) == 3
    steps, mask = rollout(run.env, uniform(run.env), 5, seed=3)
    found, _ = work.finish(steps, mask)
    found.save(tmp_path)
    again = RewardModel.load(tmp_path)
    obs, actions = steps.obs[mask].numpy(), steps.actions[mask].numpy()
    with torch.no_grad():
        x = torch.from_numpy(found.features(obs, actions))
        each = np.stack([network(x).squeeze(-1).double().numpy() for network in work.networks])
    each -= each.mean(axis=1, keepdims=True)  # a member's own constant means nothing
    expected = found.multiply * (each.mean(0) - 0.5 * each.std(0, ddof=1)) + found.add
    np.testing.assert_allclose(again(obs, actions), expected, atol=1e-5)
    with pytest.raises(ValueError, match="standard deviation"):
        MlpReward.of(again)
    mean = replace(again, std_weight=0.0)
    side = MlpReward.of(mean)(obs=torch.from_numpy(obs).float(), action=torch.eye(model.action["n"])[actions])
    np.testing.assert_allclose(side.detach().numpy(), mean(obs, actions), atol=1e-5)


def test_a_potential_changes_a_segments_return_by_its_ends_alone():
    """Ng, Harada, Russell 1999: with gamma 1 by Phi(last) - Phi(first), with another by the sum; 0 is the potential of an end."""
    run = compose("task=rm_train", "env=maze", "task.segment=4", "env.horizon=11")
    policy = uniform(run.env)
    potential = Policy.fresh(interface_of(run.env), run.env.training, seed=3)
    steps, mask = rollout(run.env, policy, 12, seed=0, lanes=5)
    model = empty_model(interface_of(run.env), [8])
    plain = cut(model, [(steps, mask)], 4)
    value = potential.values(steps.flat(steps.obs)).view(steps.rewards.shape)
    ends = steps.truncated.nonzero().tolist()
    at_end = dict(zip(map(tuple, ends), potential.values(steps.final_obs).tolist(), strict=True))
    for gamma in (1.0, 0.9):
        change = (cut(model, [(steps, mask)], 4, potential, gamma).returns - plain.returns).tolist()
        expected = []
        for lane in range(5):
            since = 0
            for t in range(len(mask)):
                since += 1
                done = bool(steps.terminated[t, lane] or steps.truncated[t, lane])
                if mask[t, lane] and since % 4 == 0:
                    values = [float(v) for v in value[t - 3 : t + 1, lane]]
                    after = at_end.get((t, lane), 0.0) if done else float(value[t + 1, lane])
                    later = [*values[1:], after]
                    expected.append(sum(gamma * b - a for a, b in zip(values, later, strict=True)))
                    if gamma == 1:
                        assert expected[-1] == pytest.approx(after - values[0], abs=1e-5)
                since = 0 if done else since
        assert len(expected) > 20
        np.testing.assert_allclose(sorted(change), sorted(expected), atol=1e-5)


def test_the_weights_that_are_kept_are_those_of_the_least_validation_loss():
    """Forty preferences are soon learnt by heart."""
    run = compose("task=rm_train", "env=tomato", "task.preferences=80", "task.lr=0.01", "task.validation=0.5")
    model, segments = collect(run, 20, uniform(run.env))
    work = RewardLearning(run, model, segments)
    losses = [m["rm/validation_loss"] for m in train(work, 30)]
    steps, mask = rollout(run.env, uniform(run.env), 4, seed=9)
    assert losses[-1] > min(losses) + 0.1
    assert work.finish(steps, mask)[1]["rm/validation_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_nothing_to_compare_is_said():
    run = compose("task=rm_train", "env=tomato")
    with pytest.raises(RhtoolError, match="no episode has 2000 steps"):
        cut(empty_model(interface_of(run.env), [8]), [rollout(run.env, uniform(run.env), 2, seed=0)], 2000)
    model, segments = collect(run, 2, uniform(run.env))
    segments.true[:] = 1.0
    with pytest.raises(RhtoolError, match="nothing to compare"):
        RewardLearning(run, model, segments)
    for word, message in (
        ("label_noise=1.5", "not a share"),
        ("segment=0", "too small"),
        ("rationality=0", "too small"),
        ("members=0", "too small"),
        ("first_share=0", "not a share"),
        ("selection=logit", "nobody to disagree"),
        ("std_weight=-1", "no standard deviation"),
    ):
        with pytest.raises(ConfigError, match=message):
            compose("task=rm_train", "env=tomato", f"task.{word}").check()
    with pytest.raises(RhtoolError, match="no policy at nowhere"):
        compose("task=rm_train", "env=tomato", "task.policies=[nowhere]").check()


def test_a_killed_run_ends_with_the_model_of_one_that_was_not_and_orpo_trains_on_it(rhtool, in_process):
    toy = "env=tomato env.level=-1 env.dry_distance=0 env.noop=true env.base_policy=base scale=smoke"
    line = f"task=rm_train {toy} task.policies=[random,base] task.passes=60 task.preferences=400 checkpoint_every=0"
    env = compose(*toy.split()).env
    uniform(env).save(rhtool.cwd / "base")
    process = rhtool.start(f"{line} dir=stopped")
    checkpoints, patience = rhtool.cwd / "stopped/checkpoints", time.monotonic() + 100
    while not any(p.name.isdigit() for p in checkpoints.glob("*")):
        assert process.poll() is None and time.monotonic() < patience
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (rhtool.cwd / "stopped/result.json").exists()
    for name in ("stopped", "whole"):
        code, _, said = in_process(f"{line} dir={name}")
        assert code == 0, said
    assert "resume" in (rhtool.cwd / "stopped/events.jsonl").read_text()
    files = [rhtool.cwd / name / "reward_model/reward_model.safetensors" for name in ("stopped", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    learned = f"{toy} env.reward_fun=learned env.reward_model=whole"
    code, _, said = in_process(f"task=orpo {learned} divergence=sqrt_chi2 coeff=0.1 dir=orpo")
    assert code == 0, said
    metrics = rhtool.result("orpo")["metrics"]
    kept = json.loads((rhtool.cwd / "whole/reward_model/reward_model.json").read_text())
    assert kept["about"]["policies"] == ["random", "base"]
    # r of the rewards under the base policy, estimated by the one and exact in the other
    assert metrics["exact/correlation"] == pytest.approx(rhtool.result("whole")["metrics"]["rm/correlation"], abs=0.1)
