"""Feature visualisation: a planted reward is seen, every objective climbs its own value, nothing is left behind."""

import numpy as np
import pytest
import torch

from rhtool.errors import ConfigError
from rhtool.interpret import visualise as v
from rhtool.interpret.nets import CnnReward
from tests.interpret.vision import Planted

STARTS = {
    "fourier": lambda shape, seed: v.Fourier(shape, torch.Generator().manual_seed(seed)),
    "pixels": lambda shape, seed: v.Pixels(shape, torch.Generator().manual_seed(seed)),
}


def net(**rest):
    torch.manual_seed(0)
    return CnnReward((16, 16, 3), {"n": 4}, ["obs", "action"], hidden=(5, 6), **rest)


@pytest.mark.parametrize("start", STARTS)
def test_the_planted_reward_is_seen(start):
    planted = Planted()
    found = v.maximise(planted, v.reward(), STARTS[start]((1, 6, 32, 32), 0), [v.jitter(4)])
    image = found.images[0]
    assert image[3, :16, :16].mean() > 0.85 and image[4, 16:].mean() < 0.2
    assert v.rewards_by_action(planted, found.images)[0, 0] > 0.75
    np.testing.assert_allclose(
        v.rewards_by_action(planted, found.images)[0], found.objective[-1, 0] * 0.5 ** np.arange(3), rtol=1e-5
    )


@pytest.mark.parametrize("start", STARTS)
def test_the_same_seed_gives_the_same_bits_and_another_one_others(start):
    moves = [v.jitter(4), v.affine(0.1, 10)]
    one, same, other = (
        v.maximise(net(), v.reward(), STARTS[start]((2, 3, 16, 16), seed), moves, steps=10, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.images, same.images) and not torch.equal(one.images, other.images)


def test_nothing_is_left_on_the_network():
    model = net().train()
    model.cnn.conv0.bias.requires_grad_(False)
    v.maximise(model, v.units("conv0", [0, 1]) + v.norm("cnn.conv1"), STARTS["pixels"]((2, 3, 16, 16), 0), steps=2)
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert model.training and [p.requires_grad for p in model.parameters()] == [True, False] + [True] * 4
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ConfigError, match="there is no layer"):
        v.maximise(model, v.norm("conv9"), STARTS["pixels"]((2, 3, 16, 16), 0), steps=2)


OTHER = net().fresh(7)
OBJECTIVES = {
    "unit": v.units("cnn.dense_final", [2, 0, 3]),
    "channel": v.units("cnn.conv1", [0, 3, 5]),
    "neuron": v.neuron("cnn.conv1", 2, 8, 8),
    "direction": v.directions("cnn.conv1", torch.eye(6)[:3] + 0.1),
    "direction of units": v.directions("cnn.flatten", torch.eye(6)[:3] + 0.1),
    "cosine": v.directions("cnn.conv1", torch.eye(6)[:3] + 0.1, cosine=float("inf")),
    "dot and cosine": v.directions("cnn.act1", torch.eye(6)[:3] + 0.1, cosine=2.0),
    "reward": v.reward(),
    "difference": v.reward_difference(OTHER, torch.eye(4)[:1].expand(3, -1)),
    "norm": v.norm("cnn.conv1"),
    "near": -v.distance(torch.full((3, 3, 16, 16), 0.7)),
    "flat": -v.total_variation(),
    "smooth": -v.roughness(),
    "diverse": v.diversity("cnn.conv0"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_climbs(name):
    """Three directions in a layer of six channels, four actions: none of the numbers need agree."""
    found = v.maximise(net(), OBJECTIVES[name], STARTS["fourier"]((3, 3, 16, 16), 0), steps=40)
    gain = found.objective[-1] - found.objective[0]
    assert (gain > 0).all() if name != "diverse" else gain.sum() > 0


def test_objectives_add_scale_and_are_of_one_image():
    seen = v.Seen(
        torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4), torch.tensor([1.0, 2.0, 3.0]), {"a": torch.rand(3, 5)}
    )
    a, b = v.units("a", [0, 2, 4]), v.reward()
    expected = seen.layers["a"][[0, 1, 2], [0, 2, 4]]
    torch.testing.assert_close((2 * a - b * 0.5).value(seen), 2 * expected - 0.5 * seen.rewards)
    assert (a + b).layers == ("a",) and (-b).at(1).value(seen).tolist() == [0, -2, 0]


def test_images_are_moved_by_whole_pixels():
    x, generator = torch.arange(36.0).reshape(1, 1, 6, 6), torch.Generator().manual_seed(0)
    shifts = set()
    for _ in range(200):
        moved = v.jitter(2, "circular")(x, generator)
        match = [
            (i, j) for i in range(-2, 3) for j in range(-2, 3) if torch.equal(torch.roll(x, (i, j), (2, 3)), moved)
        ]
        assert len(match) == 1
        shifts |= set(match)
    assert len(shifts) == 25
    still = v.affine()(x, generator)
    torch.testing.assert_close(still, x)


def test_turning_a_quarter_is_what_numpy_does(monkeypatch):
    x = torch.rand(1, 2, 8, 8)
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.tensor([0.5, 1.0]))  # a factor of 1, the whole angle
    turned = v.affine(degrees=90)(x, None)
    assert any(torch.allclose(turned, torch.rot90(x, k, (2, 3)), atol=1e-5) for k in (1, 3))


def test_free_pixels_stay_in_range_and_move_back_from_the_bound():
    start = torch.tensor([0.0, 1.0, 0.5, 0.2]).reshape(1, 1, 2, 2)
    images = v.From(start)
    (images() * torch.tensor([-1.0, 1.0, 1.0, 1.0]).reshape(1, 1, 2, 2)).sum().backward()
    assert images.pixels.grad.flatten().tolist() == [-1, 1, 1, 1]
    with torch.no_grad():
        images.pixels += 3
    assert images().max() == 1


def test_the_spectrum_is_that_of_numpy():
    images = STARTS["fourier"]((1, 1, 6, 9), 0)
    z = torch.view_as_complex(images.z.detach()).numpy()[0, 0]
    f = np.hypot(np.fft.fftfreq(6)[:, None], np.fft.rfftfreq(9)[None])
    plain = np.fft.irfft2(z / np.maximum(f, 1 / 9), s=(6, 9), norm="ortho") / 4
    np.testing.assert_allclose(images().detach()[0, 0], 1 / (1 + np.exp(-plain)), atol=1e-6)
