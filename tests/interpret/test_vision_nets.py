"""Reward networks: what they compute against plain numpy, their files, and what is no such file."""

import json
import warnings

import numpy as np
import pytest
import torch

from rhtool.config import compose
from rhtool.envs.learned import RewardModel
from rhtool.errors import ConfigError
from rhtool.interpret import layers, nets
from rhtool.interpret.rewards import Learned, load
from tests.interpret.vision import images, transitions

RNG = np.random.default_rng(0)
VECTORS = transitions(
    RNG.normal(size=(9, 5)).astype(np.float32), RNG.integers(3, size=9), RNG.normal(size=(9, 5)).astype(np.float32),
    terminated=RNG.random(9) < 0.5,
)  # fmt: skip
IMAGES = transitions(images(9), RNG.integers(3, size=9), images(9, seed=1), terminated=RNG.random(9) < 0.5)
EVERY = list(nets.PARTS)
MADE = {
    "mlp": lambda **rest: nets.MlpReward((5,), {"n": 3}, **rest),
    "cnn": lambda **rest: nets.CnnReward((16, 16, 3), {"n": 3}, hidden=(4, 6), **rest),
}
DATA = {"mlp": VECTORS, "cnn": IMAGES}


@pytest.mark.parametrize("kind", nets.KINDS)
@pytest.mark.parametrize("sees", [["obs", "action"], EVERY, ["next_obs"]], ids="+".join)
def test_a_network_comes_back_from_its_files_and_computes_the_same(kind, sees, tmp_path):
    net = MADE[kind](sees=sees, multiply=3.0, add=-1.0, about={"seed": 1})
    net.save(tmp_path)
    found = load(str(tmp_path), compose("env=tomato").env)
    np.testing.assert_array_equal(found(DATA[kind]), net.predict(DATA[kind]))
    assert found.network.about == {"seed": 1} and found(DATA[kind]).dtype == np.float64


@pytest.mark.parametrize("kind", nets.KINDS)
@pytest.mark.parametrize("part", EVERY)
def test_a_network_looks_at_what_it_sees_and_at_nothing_else(kind, part):
    data = DATA[kind]
    changed = data[:]
    value = getattr(data, {"action": "actions"}.get(part, part))
    other = ~value if part == "terminated" else (value + 1) % 3 if part == "action" else value[::-1].copy()
    setattr(changed, {"action": "actions"}.get(part, part), other)
    for sees in (EVERY, [x for x in EVERY if x != part]):
        net = MADE[kind](sees=sees)
        same = np.isclose(net.predict(data), net.predict(changed), atol=1e-7)
        assert same.all() if part not in sees else not same.all()


def test_the_action_selects_a_head_and_is_no_input_of_a_cnn():
    net = MADE["cnn"](sees=["obs", "action", "terminated"])
    obs = net.observed(IMAGES.obs)
    heads = net.heads(obs).detach().numpy()
    assert heads.shape == (9, 6)  # three actions where the episode goes on, then three where it ends
    expected = heads[np.arange(9), IMAGES.actions + 3 * IMAGES.terminated]
    np.testing.assert_allclose(net.predict(IMAGES), expected, rtol=1e-6)


def test_the_convolutions_are_those_that_numpy_computes():
    net = nets.CnnReward((4, 5, 1), {"n": 1}, ["obs"], hidden=(1,), multiply=2.0)
    x = RNG.uniform(size=(1, 4, 5, 1)).astype(np.float32)
    w, b = (p.detach().numpy() for p in (net.cnn.conv0.weight, net.cnn.conv0.bias))
    padded = np.pad(x[0, :, :, 0], 1)
    out = [[(padded[i : i + 3, j : j + 3] * w[0, 0]).sum() + b[0] for j in range(5)] for i in range(4)]
    final = net.cnn.dense_final
    expected = 2 * (np.maximum(out, 0).mean() * final.weight.item() + final.bias.item())
    assert net.predict(transitions(x))[0] == pytest.approx(expected, rel=1e-5)


def test_integers_are_divided_by_255_and_channels_may_come_first():
    net = MADE["cnn"](sees=["obs"], coordinates=True, stride=2, dilation=2, pool=2, dense=(5,))
    first = nets.CnnReward(
        (3, 16, 16), {"n": 3}, ["obs"], (4, 6), False, coordinates=True, stride=2, dilation=2, pool=2, dense=(5,)
    )
    first.load_state_dict(net.state_dict())
    expected = net.predict(IMAGES)
    np.testing.assert_allclose(net.predict(transitions((IMAGES.obs / 255).astype(np.float32))), expected, rtol=1e-5)
    np.testing.assert_allclose(first.predict(transitions(IMAGES.obs.transpose(0, 3, 1, 2))), expected, rtol=1e-5)


def test_a_model_of_rm_train_as_a_network_and_back():
    weights = [
        (RNG.normal(size=(b, a)).astype(np.float32), RNG.normal(size=b).astype(np.float32)) for a, b in ((5, 4), (4, 1))
    ]
    numbers = [RNG.normal(size=5).astype(np.float32) for _ in range(2)]
    model = RewardModel((5,), {"n": 3}, np.array([0, 4]), *numbers, weights, multiply=2.5, add=-1.0)
    net = nets.MlpReward.of(model)
    np.testing.assert_allclose(net.predict(VECTORS), model(VECTORS.obs, VECTORS.actions), rtol=1e-4, atol=1e-5)
    again = net.to_model()
    np.testing.assert_array_equal(again(VECTORS.obs, VECTORS.actions), model(VECTORS.obs, VECTORS.actions))
    assert net.feature_names() == ["obs[0]", "obs[4]", "action 0", "action 1", "action 2"]
    assert nets.network_of("it", Learned(model)).feature_names() == net.feature_names()
    with pytest.raises(ValueError, match="no r"):
        MADE["mlp"](sees=EVERY).to_model()


@pytest.mark.parametrize("kind", nets.KINDS)
def test_a_fresh_network_has_the_architecture_and_other_weights(kind):
    net = MADE[kind]()
    state = torch.get_rng_state()
    one, same, other = net.fresh(1), net.fresh(1), net.fresh(2)
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(one.predict(DATA[kind]), same.predict(DATA[kind]))
    assert (one.predict(DATA[kind]) != other.predict(DATA[kind])).all()


@pytest.mark.parametrize("damage", ["kind", "nan", "shape", "extra", "cut"])
def test_a_file_that_is_none_is_refused_by_name(damage, tmp_path):
    net = MADE["mlp"]()
    if damage == "nan":
        net.mlp.dense0.bias.data[0] = float("nan")
    net.save(tmp_path)
    spec = json.loads((tmp_path / "reward_model.json").read_text())
    spec |= {"kind": {"kind": "rnn"}, "shape": {"hidden": [7]}, "extra": {"nope": 1}}.get(damage, {})
    (tmp_path / "reward_model.json").write_text(json.dumps(spec))
    if damage == "cut":
        (tmp_path / "reward_model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(str(tmp_path), compose("env=tomato").env)
    assert str(tmp_path) in str(caught.value)


def test_an_environment_says_that_it_evaluates_no_such_network(tmp_path):
    MADE["cnn"]().save(tmp_path)
    with pytest.raises(ConfigError, match="kind 'cnn'"):
        compose("env=dots", "env.reward_fun=learned", f"env.reward_model={tmp_path}").env.check()


@pytest.mark.parametrize("name", ["cnn.conv1", "conv1", "cnn_conv1", "rew_net_cnn_conv1"])
def test_a_layer_is_found_by_the_end_of_its_path(name):
    assert layers.resolve(MADE["cnn"](), name) == "cnn.conv1"


def test_the_end_of_a_path_is_not_the_end_of_another_name():
    net = nets.CnnReward((16, 16, 3), {"n": 3}, dense=(4,))
    assert [layers.resolve(net, name) for name in ("act0", "dense_act0")] == ["cnn.act0", "cnn.dense_act0"]


def test_a_layer_that_does_not_exist_lists_those_that_do():
    with pytest.raises(ConfigError) as caught:
        layers.resolve(MADE["cnn"](), "conv7")
    assert all(name in str(caught.value) for name in layers.names(MADE["cnn"]()))


def test_activations_are_the_layers_outputs_and_leave_no_hook():
    net = MADE["cnn"](sees=["obs"])
    found = layers.activations(net, ["cnn.conv0", "cnn.dense_final"], IMAGES)
    x = net.observed(IMAGES.obs)
    np.testing.assert_allclose(found["cnn.conv0"], net.cnn.conv0(x).detach(), atol=1e-6)
    np.testing.assert_allclose(found["cnn.dense_final"], net.heads(x).detach(), atol=1e-6)
    assert not any(module._forward_hooks for module in net.modules())


def test_what_a_cnn_cannot_look_at_is_refused():
    for arguments in (((5,), {"n": 2}), ((8, 8, 3), {"shape": [2]}), ((8, 8, 3), {"n": 2}, ["action"])):
        with pytest.raises(ConfigError, match="images"):
            nets.CnnReward(*arguments)
    with pytest.raises(ConfigError, match="reward"):
        nets.MlpReward((5,), {"n": 2}, ["reward"])


def test_the_environments_own_reward_is_no_network():
    with pytest.raises(ConfigError, match="labels=rewards"):
        nets.network_of("true", load("true", compose("env=tomato").env))


def test_torchvision_is_absent_and_sequence_classifiers_import():
    """A torchvision of another build than torch breaks transformers: no dependency may bring it."""
    import importlib.util

    pytest.importorskip("transformers")
    if torch.version.cuda is None:
        assert importlib.util.find_spec("torchvision") is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import GPT2ForSequenceClassification
    assert callable(GPT2ForSequenceClassification)
