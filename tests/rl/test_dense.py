"""`Layers` is `nn.Sequential`, only faster."""

import pytest
import torch
from torch import nn

from rhtool.rl import dense
from rhtool.rl.dense import AVAILABLE, Layers
from rhtool.rl.modules import tower


def layers(activation, inputs=7, hidden=33, outputs=3):
    torch.manual_seed(0)
    return Layers(
        nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, hidden), activation(), nn.Linear(hidden, outputs)
    )


@pytest.mark.parametrize("activation", [nn.Tanh, nn.LeakyReLU])
@pytest.mark.parametrize("rows", [1, 2, 129])
@pytest.mark.parametrize("small", [0, dense.SMALL], ids=["large", "small"])
def test_values_and_gradients_are_those_of_sequential(activation, rows, small, monkeypatch):
    monkeypatch.setattr(dense, "SMALL", small)
    fast = layers(activation)
    x, weight = torch.randn(rows, 7), torch.randn(rows, 3)
    plain = nn.Sequential(*fast)
    assert torch.allclose(fast(x), plain(x), atol=1e-6)
    found, wanted = (torch.autograd.grad((net(x) * weight).sum(), list(fast.parameters())) for net in (fast, plain))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_fast_way_is_taken_here_and_left_where_it_cannot_be(monkeypatch):
    if not AVAILABLE:
        pytest.skip("torch without oneDNN")
    net, x = layers(nn.Tanh), torch.randn(5, 7)
    assert type(net(x).grad_fn).__name__ == "AddmmBackward0"  # too small to be worth it
    monkeypatch.setattr(dense, "SMALL", 5 * 33 * 33)
    assert type(net(x).grad_fn).__name__ == "_DenseBackward"
    # A gradient penalty differentiates the gradient with respect to the input once more.
    x.requires_grad_()
    [slope] = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert net[0].weight.grad.abs().sum() > 0


def test_names_are_those_of_sequential():
    assert list(tower(4, [8, 8]).state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
