"""Attributions against closed forms, all orders of Shapley's definition, and captum."""

import itertools
import math

import numpy as np
import pytest
import torch

from rhtool.interpret import attribute as a
from rhtool.interpret.nets import CnnReward, MlpReward

torch.manual_seed(0)
W = torch.randn(6)
X, X0 = torch.randn(5, 6), torch.randn(5, 6)


def linear(x):
    return x @ W + 1


def smooth(x):
    return torch.tanh(x @ W) + x[:, 0] * x[:, 1] * x[:, 2]


def cnn():
    torch.manual_seed(1)
    net = CnnReward((12, 12, 3), {"n": 3}, ["obs", "action", "next_obs"], hidden=(6, 8))
    action = torch.eye(3)[torch.tensor([0, 2, 1, 1])]
    return net.eval().requires_grad_(False), torch.rand(4, 6, 12, 12), action


ALL = {
    "gradient_input": a.gradient_input,
    "integrated_gradients": a.integrated_gradients,
    "occlusion": lambda f, x, x0: a.occlusion(f, x, x0, a.blocks((6,))),
    "shapley": lambda f, x, x0: a.shapley(f, x, x0, a.blocks((6,)), 2),
}


@pytest.mark.parametrize("name", ALL)
def test_of_a_linear_reward_every_method_gives_its_terms(name):
    torch.testing.assert_close(ALL[name](linear, X, X0), (X - X0) * W, rtol=1e-5, atol=1e-5)


def test_saliency_is_the_gradients_size():
    torch.testing.assert_close(a.saliency(linear, X), W.abs().expand(5, 6))


def test_integrated_gradients_are_complete_and_no_multiple_of_the_gradient():
    net, x, action = cnn()
    f = lambda x: net.of_visible(x, action)  # noqa: E731
    x0 = torch.zeros_like(x)
    found = a.integrated_gradients(f, x, x0, 64)
    # ReLUs have kinks: the midpoint rule's error falls as 1 / m, and the terms that it adds cancel for the most part.
    error = (found.flatten(1).sum(1) - (f(x) - f(x0))).abs()
    assert (error / found.flatten(1).abs().sum(1)).max() < 1e-3 and error.max() < 1e-4
    assert a.completeness(found, f(x) - f(x0)).max() < 5e-3
    assert a.completeness(a.integrated_gradients(f, x, x0, 512), f(x) - f(x0)).max() < 1e-3
    # What the seed computed is H_m times gradient x input: collinear with it. Integrated gradients are not.
    other = a.gradient_input(f, x, x0)
    assert torch.nn.functional.cosine_similarity(found.flatten(1), other.flatten(1)).max() < 0.9999


def test_a_quadratic_reward_is_integrated_exactly_and_the_error_falls_with_the_steps():
    f = lambda x: (x**2).sum(1)  # noqa: E731
    torch.testing.assert_close(a.integrated_gradients(f, X, X0, 1), X**2 - X0**2, rtol=1e-4, atol=1e-5)
    errors = [
        a.completeness(a.integrated_gradients(smooth, X, X0, m), smooth(X) - smooth(X0)).max() for m in (4, 16, 64)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def test_shapley_values_of_every_order_are_the_definitions():
    x, x0 = X[:2, :4], X0[:2, :4]
    f = lambda x: x[:, 0] * x[:, 1] + torch.sin(x[:, 2]) * x[:, 3] * x[:, 0]  # noqa: E731
    exact = torch.zeros(2, 4)
    for i in range(4):
        for size in range(4):
            for others in itertools.combinations([j for j in range(4) if j != i], size):
                keep = torch.zeros(2, 4, dtype=torch.bool)
                keep[:, list(others)] = True
                without, with_i = torch.where(keep, x, x0), torch.where(keep | (torch.arange(4) == i), x, x0)
                weight = math.factorial(size) * math.factorial(3 - size) / math.factorial(4)
                exact[:, i] += weight * (f(with_i) - f(without))
    found = a.shapley(f, x, x0, a.blocks((4,)), 400, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0.05)
    few = a.shapley(f, x, x0, a.blocks((4,)), 2)
    torch.testing.assert_close(few.sum(1), f(x) - f(x0))  # complete whatever the number


def test_expected_gradients_average_over_the_baselines():
    baselines = torch.randn(50, 6)
    found = a.expected_gradients(linear, X, baselines, 2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, (X - baselines.mean(0)) * W, atol=0.2, rtol=0.1)


def test_groups_of_images_are_squares_of_all_channels():
    groups = a.blocks((3, 6, 8), 3)
    assert groups.shape == (6, 8) and groups.max() == 5 and (groups[:3, :3] == 0).all() and (groups[3:, 6:] == 5).all()
    net, x, action = cnn()
    f = lambda x: net.of_visible(x, action)  # noqa: E731
    found = a.shapley(f, x, torch.zeros_like(x), a.blocks((6, 12, 12), 4), 2)
    torch.testing.assert_close(found.flatten(1).sum(1), f(x) - f(torch.zeros_like(x)), rtol=1e-4, atol=1e-5)


def test_faithfulness_prefers_the_true_order():
    f, groups = linear, a.blocks((6,))
    true = (X - X0) * W
    rng = torch.Generator().manual_seed(0)
    best, worst = (a.faithfulness(f, s * true, X, X0, groups) for s in (1, -1))
    random = a.faithfulness(f, torch.rand(5, 6, generator=rng), X, X0, groups)
    assert best["deletion"] < random["deletion"] < worst["deletion"]
    assert best["insertion"] > random["insertion"] > worst["insertion"]
    assert best["comprehensiveness"] > worst["comprehensiveness"] and best["sufficiency"] < worst["sufficiency"]
    alone = a.faithfulness(lambda x: x[:, 0], torch.eye(6)[:1].expand(5, 6) * (X - X0), X, X0, groups)
    assert alone["comprehensiveness"] == pytest.approx(1) and alone["sufficiency"] == pytest.approx(0, abs=1e-6)
    assert alone["deletion"] == pytest.approx(0, abs=1e-6) and alone["insertion"] == pytest.approx(1)


def test_blurring_keeps_what_is_even_and_the_mean():
    even = torch.full((1, 2, 9, 9), 0.3)
    torch.testing.assert_close(a.blurred(even, 2.0), even)
    point = torch.zeros(1, 1, 21, 21)
    point[0, 0, 10, 10] = 1
    spread = a.blurred(point, 1.5)[0, 0]
    assert spread.sum() == pytest.approx(1, abs=1e-4)
    y = torch.arange(21.0) - 10
    assert (spread.sum(1) @ y**2).item() == pytest.approx(1.5**2, rel=0.02)


def test_they_agree_with_captum():
    captum = pytest.importorskip("captum.attr")
    net, x, action = cnn()
    f = lambda x: net.of_visible(x, action)  # noqa: E731
    x0 = torch.rand_like(x)
    peer = captum.IntegratedGradients(lambda x, action: net.of_visible(x, action))
    theirs = peer.attribute(x, x0, additional_forward_args=(action,), n_steps=32, method="riemann_middle")
    torch.testing.assert_close(a.integrated_gradients(f, x, x0, 32), theirs.float(), rtol=0, atol=1e-5)
    theirs = captum.Saliency(lambda x, action: net.of_visible(x, action)).attribute(
        x, additional_forward_args=(action,)
    )
    torch.testing.assert_close(a.saliency(f, x), theirs, rtol=0, atol=1e-5)
    groups = a.blocks((6, 12, 12), 4)
    theirs = captum.FeatureAblation(lambda x, action: net.of_visible(x, action)).attribute(
        x, x0, additional_forward_args=(action,), feature_mask=groups.expand(1, 6, 12, 12)
    )
    ours = a.occlusion(f, x, x0, groups) * (6 * 16)  # captum gives every pixel the whole of its group
    torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=1e-5)


def test_captums_shapley_values_tend_to_ours():
    captum = pytest.importorskip("captum.attr")
    net = MlpReward((4,), {"n": 2}).eval().requires_grad_(False)
    x, x0 = torch.randn(3, 6), torch.randn(3, 6)
    ours = a.shapley(net.of_visible, x, x0, a.blocks((6,)), 600, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    theirs = captum.ShapleyValueSampling(net.of_visible).attribute(x, x0, n_samples=600)
    np.testing.assert_allclose(ours, theirs, atol=0.03)
