"""Files of imitation: read without running them; whatever else a pickle wants is refused."""

import io
import os
import pickle
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from rhtool.envs.maze import Maze
from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret import legacy
from rhtool.interpret.rewards import load
from rhtool.interpret.transitions import Transitions

torch = pytest.importorskip("torch")


class Runs:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def zipped(path, payload: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/byteorder", "little")
    return path


HOSTILE = {
    "os.system": lambda mark: Runs(os.system, f"touch {mark}"),
    "eval": lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"),
    "subprocess": lambda mark: Runs(subprocess.call, ["touch", str(mark)]),
    "torch.hub": lambda mark: Runs(torch.hub.load, "somebody/something", "model"),
    "torch.load": lambda mark: Runs(torch.load, io.BytesIO(pickle.dumps(Runs(os.system, f"touch {mark}")))),
    "getattr": lambda mark: Runs(getattr, Runs, "__reduce__"),
    "import": lambda mark: Runs(__import__, "os"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_nothing_of_it_is_run(name, protocol, tmp_path):
    mark = tmp_path / "was here"
    payload = pickle.dumps({"model": HOSTILE[name](mark)}, protocol)
    file = zipped(tmp_path / "reward.pt", payload)
    with pytest.raises(RhtoolError) as error:
        load(str(file), Maze())
    assert "no reward network needs" in str(error.value) and str(file) in str(error.value) and not mark.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.nn.modules.linear", "torch.hub.load"),
        ("torch.nn.modules", "../os.system"),
        ("imitation_evil", "x"),
        ("imitation", "x.__init__.__globals__"),
        ("builtins", "exec"),
        ("numpy", "load"),
        ("torch._utils", "_import_dotted_name"),
        ("gym.spaces\nposix", "system"),
    ],
)
def test_names_near_those_on_the_list_are_not_on_it(module, name):
    with pytest.raises(RhtoolError):
        legacy.Reader(io.BytesIO(), {}, "here").find_class(module, name)


def test_what_is_on_the_list_does_nothing():
    made = legacy.Reader(io.BytesIO(), {}, "here").find_class("torch.nn.modules.linear", "Linear")
    assert made.__mro__[1] is legacy.Record and made(10**9, 10**9).args == (10**9, 10**9)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02c", bytes(100)])
def test_a_damaged_file_is_an_error_that_says_so(content, tmp_path):
    (tmp_path / "raw.pt").write_bytes(content)
    zipped(tmp_path / "zip.pt", content)
    for name in ("raw.pt", "zip.pt"):
        with pytest.raises(ConfigError, match=name):
            load(str(tmp_path / name), Maze())


def test_a_tensor_that_is_larger_than_its_storage_is_refused():
    storage = np.arange(6, dtype="<f4")
    np.testing.assert_array_equal(legacy._tensor(storage, 0, (2, 3), (3, 1)), storage.reshape(2, 3))
    np.testing.assert_array_equal(legacy._tensor(storage, 1, (2, 2), (1, 2)), [[1, 3], [2, 4]])
    for bad in ((0, (7,), (1,)), (3, (2, 3), (3, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (2, 10**12))):
        with pytest.raises(ValueError, match="does not fit"):
            legacy._tensor(storage, *bad)


# Networks with the attributes and layers of imitation's, made here.


@pytest.fixture
def imitation(monkeypatch):
    """Modules of imitation's names, with classes that have its attributes."""
    from torch import nn

    nets, networks = types.ModuleType("imitation.rewards.reward_nets"), types.ModuleType("imitation.util.networks")
    for module in (
        types.ModuleType("imitation"),
        types.ModuleType("imitation.rewards"),
        types.ModuleType("imitation.util"),
        nets,
        networks,
    ):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def define(module, name):
        cls = type(name, (nn.Module,), {"__module__": module.__name__})
        setattr(module, name, cls)
        return cls

    for name in (
        "BasicRewardNet",
        "CnnRewardNet",
        "BasicShapedRewardNet",
        "NormalizedRewardNet",
        "BasicPotentialMLP",
        "RewardEnsemble",
    ):
        define(nets, name)
    for name in ("SqueezeLayer", "RunningNorm"):
        define(networks, name)
    return types.SimpleNamespace(nets=nets, networks=networks)


def running_norm(imitation, size):
    norm = imitation.networks.RunningNorm()
    norm.eps = 1e-5
    norm.register_buffer("running_mean", torch.randn(size))
    norm.register_buffer("running_var", torch.rand(size) + 0.5)
    norm.register_buffer("count", torch.tensor(7, dtype=torch.int))
    return norm


def mlp(imitation, size, normalise=False):
    from torch import nn

    layers = {"flatten": nn.Flatten()}
    if normalise:
        layers["normalize_input"] = running_norm(imitation, size)
    layers |= {"dense0": nn.Linear(size, 8), "act0": nn.ReLU(), "dense1": nn.Linear(8, 4), "act1": nn.ReLU()}
    layers |= {"dense_final": nn.Linear(4, 1), "squeeze": imitation.networks.SqueezeLayer()}
    made = nn.Sequential()
    for name, layer in layers.items():
        made.add_module(name, layer)
    return made


def forward(net, x):
    for name, layer in net.named_children():
        if name.endswith("normalize_input"):
            x = (x - layer.running_mean) / torch.sqrt(layer.running_var + layer.eps)
        elif not name.endswith("squeeze"):
            x = layer(x)
    return x[:, 0]


def basic(imitation, spaces, **uses):
    net = imitation.nets.BasicRewardNet()
    net.observation_space, net.action_space, net.normalize_images = *spaces, True
    flags = {"use_state": True, "use_action": True, "use_next_state": False, "use_done": False} | uses
    for name, value in flags.items():
        setattr(net, name, value)
    widths = (3, 2, 3, 1)
    net.mlp = mlp(imitation, sum(w for w, used in zip(widths, flags.values(), strict=True) if used), normalise=True)
    return net


@pytest.fixture
def spaces():
    from gymnasium.spaces import Box, Discrete

    box = Box(-np.inf, np.inf, (3,), np.float32)
    box.seed(0)
    return box, Discrete(np.int64(2))


@pytest.fixture
def data():
    rng, n = np.random.default_rng(0), 50
    zero = np.zeros(n, np.int64)
    obs, then = rng.normal(size=(2, n, 3)).astype(np.float32)
    return Transitions(obs, rng.integers(2, size=n), then, rng.random(n) < 0.3, zero, zero)


def inputs(data):
    action = torch.eye(2)[torch.as_tensor(data.actions)]
    return (
        torch.as_tensor(data.obs),
        action,
        torch.as_tensor(data.next_obs),
        torch.as_tensor(data.terminated).float()[:, None],
    )


def test_a_plain_network_is_read_as_it_is(imitation, spaces, data, tmp_path):
    pytest.importorskip("rhtool.interpret.nets")
    for uses in ({}, {"use_next_state": True, "use_done": True}, {"use_action": False, "use_next_state": True}):
        net = basic(imitation, spaces, **uses)
        torch.save(net, tmp_path / "reward.pt")
        flags = (net.use_state, net.use_action, net.use_next_state, net.use_done)
        seen = [x for x, used in zip(inputs(data), flags, strict=True) if used]
        expected = forward(net.mlp, torch.cat(seen, 1)).detach().numpy()
        np.testing.assert_allclose(load(str(tmp_path / "reward.pt"), Maze())(data), expected, atol=1e-5)


def test_a_shaped_and_normalised_network_is_read_with_both(imitation, spaces, data, tmp_path):
    pytest.importorskip("rhtool.interpret.nets")
    shaped = imitation.nets.BasicShapedRewardNet()
    shaped._base, shaped.potential, shaped.discount_factor = (
        basic(imitation, spaces),
        imitation.nets.BasicPotentialMLP(),
        0.97,
    )
    shaped.potential._potential_net = mlp(imitation, 3)
    net = imitation.nets.NormalizedRewardNet()
    net._base, net.normalize_output_layer = shaped, running_norm(imitation, 1)
    torch.save(net, tmp_path / "reward.pt")
    obs, action, then, done = inputs(data)
    phi = shaped.potential._potential_net
    inner = (
        forward(shaped._base.mlp, torch.cat([obs, action], 1))
        + 0.97 * (1 - done[:, 0]) * forward(phi, then)
        - forward(phi, obs)
    )
    norm = net.normalize_output_layer
    expected = ((inner - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
    found = load(str(tmp_path / "reward.pt"), Maze())
    np.testing.assert_allclose(found(data), expected, atol=1e-5)


def test_a_network_of_images_is_read_as_it_is(imitation, tmp_path):
    pytest.importorskip("rhtool.interpret.nets")
    from gymnasium.spaces import Box, Discrete
    from torch import nn

    net = imitation.nets.CnnRewardNet()
    net.observation_space, net.action_space = Box(0, 255, (9, 9, 3), np.uint8), Discrete(4)
    net.normalize_images = net.hwc_format = net.use_state = net.use_action = net.use_next_state = True
    net.use_done = False
    net.cnn = nn.Sequential()
    for name, layer in {
        "conv0": nn.Conv2d(6, 5, 3, padding="same"), "act0": nn.ReLU(), "conv1": nn.Conv2d(5, 7, 3, padding="same"),
        "act1": nn.ReLU(), "avg_pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "dense_final": nn.Linear(7, 4),
    }.items():  # fmt: skip
        net.cnn.add_module(name, layer)
    torch.save(net, tmp_path / "reward.pt")
    rng, zero = np.random.default_rng(0), np.zeros(20, np.int64)
    images = rng.integers(256, size=(2, 20, 9, 9, 3)).astype(np.uint8)
    data = Transitions(images[0], rng.integers(4, size=20), images[1], zero.astype(bool), zero, zero)
    x = torch.cat([torch.as_tensor(i).permute(0, 3, 1, 2) / 255 for i in images], 1)
    expected = (net.cnn(x) * torch.eye(4)[torch.as_tensor(data.actions)]).sum(1).detach().numpy()
    np.testing.assert_allclose(load(str(tmp_path / "reward.pt"), Maze())(data), expected, atol=1e-6)


def test_another_network_is_named(imitation, tmp_path):
    torch.save(imitation.nets.RewardEnsemble(), tmp_path / "reward.pt")
    with pytest.raises(ConfigError, match="RewardEnsemble"):
        load(str(tmp_path / "reward.pt"), Maze())
