"""Probes on planted attributes, against scikit-learn, and their controls."""

import numpy as np
import pytest
import torch

from rhtool.interpret.layers import activations
from rhtool.interpret.nets import CnnReward, MlpReward
from rhtool.interpret.probe_report import aligned
from rhtool.interpret.probing import probe, ridge
from tests.interpret.vision import images, transitions

RNG = np.random.default_rng(0)


def split(n, episodes=40):
    groups = np.arange(n) * episodes // n
    return groups, groups % 4 == 0


@pytest.mark.parametrize("kind", ["ridge", "linear", "mlp"])
@pytest.mark.parametrize("shape", [(12,), (4, 3, 3)], ids=str)
def test_a_planted_linear_attribute_is_read_and_a_permuted_one_is_not(kind, shape):
    features = RNG.normal(size=(1200, *shape))
    flat = features.reshape(1200, -1)
    targets = np.stack([flat @ RNG.normal(size=flat.shape[1]), 100 + 5 * flat[:, 0]], 1)
    groups, held_out = split(1200)
    found = probe(features, targets, groups, held_out, kind)
    assert (
        (found.r2 > (0.95 if kind == "mlp" else 0.99)).all()
        and (found.low <= found.r2).all()
        and (found.r2 <= found.high).all()
    )
    control = probe(features, targets[RNG.permutation(1200)], groups, held_out, kind)
    assert (control.r2 < 0.1).all()


def test_what_is_planted_in_a_network_is_read_there_and_not_in_an_untrained_one():
    """One channel of each layer is made to carry the image's red, which the others drown in an untrained network."""
    net = CnnReward((16, 16, 3), {"n": 2}, ["obs"], hidden=(2, 2))
    planted = net.fresh(1)
    with torch.no_grad():
        for layer in (planted.cnn.conv0, planted.cnn.conv1):
            layer.weight[0].zero_()
            layer.weight[0, 0, 1, 1], layer.bias[0] = 1.0, 0.0
    data = transitions(images(600))
    data.obs = np.uint8(data.obs * RNG.uniform(0.2, 1, size=(600, 1, 1, 3)))
    red = data.obs[..., 0].mean((1, 2))[:, None] / 255
    secret = RNG.normal(size=(600, 1))  # of which the images say nothing
    own, untrained = (
        probe(activations(n, ["act1"], data)["act1"].mean((2, 3)), np.concatenate([red, secret], 1), *split(600)).r2
        for n in (planted, net.fresh(2))
    )
    assert own[0] > 0.99 and untrained[0] < 0.9 and max(own[1], untrained[1]) < 0.1


@pytest.mark.parametrize("size", [(80, 7), (30, 50)], ids=["tall", "wide"])
def test_ridge_is_scikit_learns(size):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y, new = RNG.normal(size=size), RNG.normal(size=(size[0], 2)), RNG.normal(size=(9, size[1]))
    x, y = x - x.mean(0), y - y.mean(0)
    for penalty, found in zip((0.01, 1.0), ridge(x, y, new, [0.01, 1.0]), strict=True):
        peer = linear_model.Ridge(penalty * len(x), fit_intercept=False).fit(x, y)
        np.testing.assert_allclose(found, peer.predict(new), atol=1e-8)


def test_the_interval_covers_and_narrows_with_the_episodes():
    widths = []
    for n in (200, 3200):
        x = RNG.normal(size=(n, 3))
        y = (x[:, :1] + RNG.normal(size=(n, 1))) / np.sqrt(2)  # R2 is 1/2
        found = probe(x, y, *split(n, n // 5))
        widths.append(found.high[0] - found.low[0])
        assert found.low[0] - 0.05 < 0.5 < found.high[0] + 0.05
    assert widths[1] < 0.5 * widths[0]


def test_metrics_are_those_of_the_state_that_the_network_sees():
    episode, step = np.repeat([0, 1, 2], [3, 1, 2]), np.array([0, 1, 2, 0, 0, 1])
    state = np.arange(6.0)[:, None]
    data = transitions(state, None, state + 1, episode=episode, step=step)
    data.metrics, data.rewards = {"place": data.next_obs[:, 0].copy()}, {"true": state[:, 0] * 10}
    kept, known = aligned(data, ("obs", "action"))
    np.testing.assert_array_equal(known["place"], kept.obs[:, 0])
    np.testing.assert_array_equal(known["true"], kept.obs[:, 0] * 10)
    assert kept.step.tolist() == [1, 2, 1]
    kept, known = aligned(data, ("next_obs",))
    assert len(kept) == 6
    np.testing.assert_array_equal(known["place"], kept.next_obs[:, 0])


def test_layers_of_an_mlp_can_be_probed():
    net = MlpReward((5,), {"n": 2})
    obs = RNG.normal(size=(400, 5)).astype(np.float32)
    acts = activations(net, ["mlp.act0"], transitions(obs))["mlp.act0"]
    assert probe(acts, obs[:, :1], *split(400)).r2[0] > 0.9
