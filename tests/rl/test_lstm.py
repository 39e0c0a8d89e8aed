"""The LSTM's own kernels against torch's LSTM in double precision, and the functions of its cells against numpy's."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rhtool.rl import lstm, lstm_kernels
from rhtool.rl.lstm import LastOutput
from rhtool.rl.vectors import ROWS, SUPPORTED, WIDTH

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="a processor without fused multiply-add: torch's LSTM serves")

SHAPES = [  # features, units, layers, steps, rows
    (2, 64, 3, 48, 200),
    (2, 64, 1, 1, 1),
    (3, 8, 2, 6, 7),
    (1, 20, 2, 2, ROWS),
    (5, 48, 4, 3, 97),
    (9, 128, 2, 5, 50),
]


def torch_lstm(own: LastOutput) -> nn.LSTM:
    """torch's, in double precision, with the same weights."""
    other = nn.LSTM(own.input_size, own.hidden_size, own.num_layers, batch_first=True).double()
    other.load_state_dict(own.state_dict())
    return other


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_derivatives_are_those_of_torch(shape, threads, monkeypatch):
    features, units, layers, steps, rows = shape
    torch.manual_seed(0)
    own = LastOutput(features, units, layers)
    monkeypatch.setattr(nn.LSTM, "forward", None)  # it may not ask torch
    x, direction = torch.randn(rows, features, steps), torch.randn(rows, units)
    out = own(x)
    (out * direction).sum().backward()
    with torch.no_grad():
        assert torch.equal(own(x), out)
    monkeypatch.undo()
    other = torch_lstm(own)
    expected = other(x.double().transpose(1, 2))[0][:, -1]
    (expected * direction).sum().backward()
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=3e-7)
    for (name, found), wanted in zip(own.named_parameters(), other.parameters(), strict=True):
        scale = wanted.grad.abs().max() + 1e-6
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=0, atol=1e-5 * scale, msg=name)


def test_a_row_does_not_depend_on_the_others():
    """Nor on how many there are: a policy acts in 50 lanes as it is trained in minibatches of 1024."""
    torch.manual_seed(0)
    own, x = LastOutput(2, 24, 2), torch.randn(300, 2, 9)
    with torch.no_grad():
        assert torch.equal(own(x)[17:20], own(x[17:20]))


def test_weights_are_read_anew_at_each_pass():
    torch.manual_seed(0)
    own, x = LastOutput(2, 16, 2), torch.randn(5, 2, 4)
    optimiser = torch.optim.SGD(own.parameters(), 0.5)
    for _ in range(3):
        optimiser.zero_grad()
        own(x).square().sum().backward()
        optimiser.step()
        expected = torch_lstm(own)(x.double().transpose(1, 2))[0][:, -1]
        torch.testing.assert_close(own(x).double(), expected, rtol=0, atol=3e-7)


def test_the_two_biases_have_derivatives_of_their_own():
    own = LastOutput(2, 16, 1)
    own(torch.randn(5, 2, 4)).sum().backward()
    own.bias_ih_l0.grad.mul_(0)
    assert own.bias_hh_l0.grad.abs().max() > 0


def test_a_graph_is_used_once_and_notices_changed_weights():
    """As with torch's own layers: a silent wrong derivative would be worse."""
    own, x = LastOutput(2, 16, 1), torch.randn(5, 2, 4)
    out = own(x).sum()
    out.backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()
    out = own(x).sum()
    with torch.no_grad():
        own.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize("why", ["double", "input's derivatives", "no FMA"])
def test_torch_serves_where_the_kernels_do_not(why, monkeypatch):
    torch.manual_seed(0)
    own, x = LastOutput(2, 16, 2), torch.randn(5, 2, 4)
    expected = torch_lstm(own)(x.double().transpose(1, 2))[0][:, -1]
    monkeypatch.setattr(lstm_kernels, "forward", None)  # it may not use them
    if why == "double":
        own, x = copy.deepcopy(own).double(), x.double()
    elif why == "no FMA":
        monkeypatch.setattr(lstm, "SUPPORTED", False)
    else:
        x.requires_grad_()
    out = own(x)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=3e-7)
    if x.requires_grad:
        out.sum().backward()
        assert x.grad.abs().max() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_uses_cudnn(monkeypatch):
    own, x = LastOutput(2, 16, 2), torch.randn(5, 2, 4)
    expected = own(x)
    monkeypatch.setattr(lstm_kernels, "forward", None)
    torch.testing.assert_close(own.cuda()(x.cuda()).cpu(), expected, rtol=0, atol=1e-3)


def test_sigmoid_and_tanh_are_right_to_three_units_in_the_last_place():
    size = 64 * WIDTH
    near, far = np.geomspace(1e-30, 1, size), np.linspace(-80, 80, 512 * size)
    x = np.concatenate([near, -near, far]).astype(np.float32)
    exact = x.astype(np.float64)
    for found, wanted in zip(lstm_kernels.activations(x), (1 / (1 + np.exp(-exact)), np.tanh(exact)), strict=True):
        assert (np.abs(found - wanted) <= 3 * np.spacing(np.abs(wanted).astype(np.float32))).all()


def test_what_is_no_number_stays_none():
    x = np.array([np.nan, np.inf, -np.inf] + [0.0] * (WIDTH - 3), np.float32)
    sigmoid, tanh = lstm_kernels.activations(x)[:, :3]
    np.testing.assert_allclose(sigmoid, [np.nan, 1, 0], atol=1e-37)
    np.testing.assert_allclose(tanh, [np.nan, 1, -1])
    own = LastOutput(2, 8, 2)
    batch = torch.zeros(3, 2, 4)
    batch[1, 0, 2] = torch.nan
    assert own(batch).isnan().all(1).tolist() == [False, True, False]
