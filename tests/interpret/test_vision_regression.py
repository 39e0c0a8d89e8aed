"""Reward regression: a planted reward is recovered, what is kept is exact, a stopped run is the same run, visualisations lose."""

import json

import numpy as np
import pytest
import torch

from rhtool.checkpoints import Checkpoints
from rhtool.config import compose
from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret import visualise
from rhtool.interpret.nets import CnnReward, MlpReward
from rhtool.interpret.regression import RewardRegression, network_for, statistics, without_zeros
from rhtool.rl.policy import interface_of
from tests.interpret.vision import Planted, images, transitions

CNN = (
    "task.network=cnn",
    "task.cnn.channels=[12]",
    "task.cnn.stride=2",
    "task.cnn.pool=2",
    "task.sees=[action,next_obs]",
)


def learning(*overrides, n=1200, size=16, actions=2, seed=0):
    """Regression on random images with the planted reward."""
    run = compose(
        "task=rm_train", "env=dots", "task.labels=rewards", "task.passes=12", "task.lr=0.01", *CNN, *overrides
    )
    rng = np.random.default_rng(seed)
    data = transitions(images(n, size, seed), rng.integers(actions, size=n), images(n, size, seed + 1))
    c = run.task.cnn
    torch.manual_seed(seed)
    net = CnnReward((size, size, 3), {"n": actions}, run.task.sees, list(c.channels), stride=c.stride, pool=c.pool)
    return RewardRegression(run, net, data, Planted(size, actions).predict(data)), data


def test_a_planted_reward_of_regions_colours_is_recovered():
    work, _ = learning(n=2500)
    metrics = [work.iteration() for _ in range(12)]
    net, found = work.finish({})
    assert found["rm/validation_r2"] > 0.9 and found["rm/correlation"] > 0.95
    # The best constant's error is the variance, and what is held out is whole episodes.
    held = work.rewards[work.validation]
    assert metrics[0]["rm/constant_mse"] == pytest.approx(held.var())
    assert not set(work.data.episode[work.validation]) & set(work.data.episode[work.training])
    fresh = transitions(images(300, 16, 8), None, images(300, 16, 9))
    assert np.corrcoef(net.predict(fresh), Planted(16, 2).predict(fresh))[0, 1] > 0.95


def test_an_mlp_recovers_a_linear_reward_of_all_parts():
    run = compose(
        "task=rm_train", "env=tomato", "task.labels=rewards", "task.hidden=[]", "task.lr=0.05", "task.passes=40"
    )
    rng = np.random.default_rng(0)
    data = transitions(rng.normal(size=(800, 4)), rng.integers(3, size=800), rng.normal(size=(800, 4)))
    data.terminated = rng.random(800) < 0.5
    rewards = (
        data.obs @ [1, 2, 0, 0]
        + data.next_obs @ [0, 0, 3, -1]
        + np.array([0, 5, -5])[data.actions]
        + 2 * data.terminated
    )
    net = MlpReward((4,), {"n": 3}, ("obs", "action", "next_obs", "terminated"), hidden=())
    work = RewardRegression(run, net, data, rewards)
    for _ in range(40):
        work.iteration()
    assert work.finish({})[1]["rm/validation_r2"] > 0.9999


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_exactly_the_asked_share_of_zeros_is_kept(share):
    rewards = np.where(np.arange(1003) % 3, 0.0, np.arange(1003) + 1.0)
    kept = without_zeros(rewards, share, np.random.default_rng(0))
    zeros = (rewards == 0).sum()
    assert (rewards[kept] == 0).sum() == round(share * zeros) and (rewards[kept] != 0).sum() == 1003 - zeros
    assert (np.diff(kept) > 0).all()


def test_statistics_of_the_data_are_numpys():
    _, data = learning(n=200)
    rewards = np.where(np.arange(200) % 2, 0.0, np.arange(200))
    found = json.loads(json.dumps(statistics(data, rewards)))
    assert found["reward"]["constant_mse"] == pytest.approx(((rewards - rewards.mean()) ** 2).mean())
    assert found["nonzero"]["count"] == 99 and found["nonzero"]["median"] == np.median(rewards[rewards != 0])
    assert found["actions"] == {"0": (data.actions == 0).sum(), "1": (data.actions == 1).sum()}
    np.testing.assert_allclose(found["obs"]["mean"], data.obs.mean((0, 1, 2)))
    assert sum(found["reward_histogram"]["counts"]) == found["transitions"] == 200


@pytest.mark.parametrize(
    "adversarial", [(), ("task.adversarial.start=1", "task.adversarial.steps=4")], ids=["plain", "adversarial"]
)
def test_a_run_taken_up_from_its_checkpoint_is_the_run_that_was_never_stopped(adversarial, tmp_path):
    whole, _ = learning(*adversarial, n=200)
    for _ in range(2):
        whole.iteration()
    Checkpoints(tmp_path).save(2, whole.get_state())
    again, _ = learning(*adversarial, n=200)
    again.set_state(Checkpoints(tmp_path).latest()[1])
    assert str(again.iteration()) == str(whole.iteration())
    assert all(torch.equal(a, b) for a, b in zip(again.net.parameters(), whole.net.parameters(), strict=True))


def test_adversarial_training_takes_the_reward_from_fresh_visualisations():
    rewards = {}
    for name, start in (("plain", 0), ("adversarial", 4)):
        work, _ = learning(
            f"task.adversarial.start={start}",
            "task.adversarial.share=0.02",
            "task.adversarial.steps=40",
            "task.passes=10",
        )
        metrics = [work.iteration() for _ in range(10)]
        net, found = work.finish({})
        start = visualise.Fourier((2, *net.image), torch.Generator().manual_seed(99))
        seen = visualise.maximise(net, visualise.units("dense_final", [0, 1]), start, [visualise.jitter(2)], steps=60)
        rewards[name] = np.diag(visualise.rewards_by_action(net, seen.images)).mean()
    assert rewards["adversarial"] < 0.7 * rewards["plain"] and found["rm/validation_r2"] > 0.5
    assert "rm/visualised_reward" in metrics[3] and "rm/visualised_reward" not in metrics[2]
    assert 0 < work.clip < float("inf") and len(work.nonsense) == work.task.adversarial.keep


def test_without_variance_nothing_is_learned():
    _, data = learning(n=50)
    run = compose("task=rm_train", "env=dots", "task.labels=rewards", *CNN)
    with pytest.raises(RhtoolError, match="teach nothing"):
        RewardRegression(run, Planted(16, 2), data, np.ones(50))


@pytest.mark.parametrize("of", ["true", "proxy"])
def test_the_command_line_learns_a_reward_that_an_environment_can_be_given(of, tmp_path, monkeypatch):
    """Tomato's rewards are linear in what is seen, but for the action's effect."""
    monkeypatch.chdir(tmp_path)
    words = (
        "task=rm_train",
        "env=tomato",
        "env.level=-1",
        "task.labels=rewards",
        "task.policies=[random]",
        "scale=smoke",
    )
    run = compose(*words, f"task.of={of}", "task.episodes=60", "task.passes=40", "dir=rm")
    assert run.execute()["metrics"]["rm/validation_r2"] > 0.8
    assert json.loads((tmp_path / "rm" / "dataset.json").read_text())["training"]["transitions"] > 1000
    env = compose("env=tomato", "env.level=-1", "env.reward_fun=learned", "env.reward_model=rm").env.make_vec(2, seed=0)
    env.reset()
    assert np.isfinite(env.step(np.zeros(2, int))[-1]["proxy_reward"]).all()


def test_networks_are_made_for_the_environments_spaces():
    run = compose("task=rm_train", "env=dots", "task.labels=rewards", "task.network=cnn", "task.cnn.coordinates=true")
    net = network_for(interface_of(run.env), run.task, 0)
    assert net.image == (3, 32, 32) and net.actions == 4 and net.channels_last
    words = ("task=rm_train", "env=glucose", "task.labels=rewards", "task.model_obs=all")
    run = compose(*words, "task.sees=[obs,action,next_obs,terminated]")
    env = interface_of(run.env)
    net = network_for(env, run.task, 0)
    size = len(env.offset)
    np.testing.assert_array_equal(net.offset[:size], env.offset)
    np.testing.assert_array_equal(net.scale[size + 1 : 2 * size + 1], env.scale)
    assert net.offset[-1] == 0 and net.scale[-1] == 1


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (("env=dots", "task.network=cnn"), "task.network=cnn"),
        (("env=tomato", "task.labels=rewards", "task.network=cnn"), "images"),
        (("env=dots", "task.labels=rewards", "task.adversarial.start=1"), "task.adversarial"),
        (("env=dots", "task.labels=rewards", "task.sees=[obs,reward]"), "reward"),
        (("env=dots", "task.labels=rewards", "task.zero_share=2.0"), "task.zero_share"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_does_not_go_together_is_refused_before_anything_is_done(overrides, where):
    with pytest.raises(ConfigError, match=where):
        run = compose("task=rm_train", *overrides)
        run.task.check(run)
