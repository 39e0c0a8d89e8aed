"""Combinations of judges' scores, against the papers' formulas in plain Python."""

from __future__ import annotations

import statistics

import pytest

from rhtool.errors import ConfigError

torch = pytest.importorskip("torch")
from rhtool.rewards.combine import COMBINATIONS, UWO, combination  # noqa: E402

GOLDEN = torch.tensor([1.0, 2.0, 4.0, 0.0, 3.0])


@pytest.mark.parametrize("name, options, value", [
    ("mean", {}, 2.0), ("wco", {}, 0.0), ("uwo", {}, 1.8), ("uwo", {"ddof": 1}, 1.75), ("uwo", {"weight": 0.5}, 1.0),
    ("uwo", {"weight": 0, "ddof": 1}, 2.0),
])  # fmt: skip
def test_the_papers_numbers(name, options, value):
    assert combination(name, **options)(GOLDEN).item() == pytest.approx(value)


def definition(name: str, scores: list[float]) -> float:
    mean = sum(scores) / len(scores)
    return {"mean": mean, "wco": min(scores), "uwo": mean - 0.1 * statistics.pvariance(scores)}[name]


@pytest.mark.parametrize("name", COMBINATIONS)
def test_each_text_by_itself(name):
    """A batch gives what its texts give one by one, whatever the leading axes and the order of the judges."""
    scores = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    combine = combination(name)
    value = combine(scores)
    assert value.shape == (4, 3) and torch.allclose(value, combine(scores.flip(-1)))
    for text, one in zip(scores.detach().view(12, 5).tolist(), value.flatten().tolist(), strict=True):
        assert one == pytest.approx(definition(name, text))
    (slope,) = torch.autograd.grad(value.sum(), scores)
    assert torch.isfinite(slope).all() and torch.allclose(slope.sum(-1), torch.ones(4, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_of_judges_who_agree_there_is_nothing_to_combine(name):
    scores = torch.tensor([[3.0], [-2.0]])
    assert torch.equal(combination(name)(scores), scores[:, 0])
    assert torch.allclose(combination(name)(scores.expand(2, 4)), scores[:, 0])


def test_weight_zero_is_zero():
    scores = torch.tensor([[1e30, -1e30, 3e30]])  # whose variance is infinite in float32
    assert torch.equal(UWO(weight=0.0)(scores), scores.mean(-1))
    assert torch.equal(UWO(weight=0, ddof=1)(scores[:, :1]), scores[:, 0])


def test_combinations_that_there_are_not():
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        combination("maen")
    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        combination("uwo", wight=0.5)
    with pytest.raises(ConfigError, match="no option"):
        combination("wco", weight=0.5)
    with pytest.raises(ConfigError, match="weight"):
        combination("uwo", weight="much")
    with pytest.raises(ConfigError, match="ddof"):
        combination("uwo", ddof=2)
    with pytest.raises(ConfigError, match="one score"):
        UWO(ddof=1)(torch.ones(3, 1))
