"""Combinations of judges' scores, against the papers' formulas in plain Python."""

from __future__ import annotations

import math
import statistics

import pytest

from rhtool.errors import ConfigError, RhtoolError

torch = pytest.importorskip("torch")
from rhtool.rewards.combine import COMBINATIONS, OF_ENSEMBLES, UWO, combination  # noqa: E402

COSTE = torch.tensor([1.0, 2.0, 4.0, 0.0, 3.0])
MORLAIF = torch.tensor([1, -0.5, 0.25, 2, -1, 0.75]) * torch.tensor([1, 0.5, 1, 0.25, -0.2, 1])
"""scores of six principles, and their weights"""
PRODUCT = {"transform": "none", "root": False}


@pytest.mark.parametrize("name, options, value", [
    ("mean", {}, 2.0), ("wco", {}, 0.0), ("uwo", {}, 1.8), ("uwo", {"ddof": 1}, 1.75), ("uwo", {"weight": 0.5}, 1.0),
    ("uwo", {"weight": 0, "ddof": 1}, 2.0),
])  # fmt: skip
def test_coste_et_als_numbers(name, options, value):
    assert combination(name, **options)(COSTE).item() == pytest.approx(value)


@pytest.mark.parametrize("name, options, value", [
    ("linear", {}, 2.45), ("max_min", {}, -0.25), ("soft_max_min", {}, 0.2455586), ("lower_third", {}, -0.025),
    ("uncertainty_weighted", {"weight": 0.5}, 0.3269097), ("max_median", {}, 0.25),
    ("max_median", {"median": "mid"}, 0.375), ("bernoulli_nash", PRODUCT, -0.0046875),
])  # fmt: skip
def test_morlaifs_numbers(name, options, value):
    assert combination(name, **options)(MORLAIF).item() == pytest.approx(value, abs=1e-7)


def test_leaving_a_principle_out_is_weighing_it_with_zero_in_a_sum():
    """MORLAIF's zero_syco, of the fifth principle."""
    left = torch.arange(6) != 4
    assert combination("linear")(MORLAIF * left).item() == pytest.approx(2.25)
    assert combination("linear")(MORLAIF[left]).item() == pytest.approx(2.25)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def definition(name: str, s: list[float]) -> float:
    mean, ordered, weights = sum(s) / len(s), sorted(s), [math.exp(-x) for x in s]
    return {
        "mean": mean,
        "wco": min(s),
        "uwo": mean - 0.1 * statistics.pvariance(s),
        "linear": sum(s),
        "max_min": min(s),
        "soft_max_min": sum(w * x for w, x in zip(weights, s, strict=True)) / sum(weights),
        "uncertainty_weighted": mean - 0.1 * statistics.pvariance(s),
        "lower_third": statistics.fmean(ordered[: len(s) // 3 or 1]),
        "max_median": statistics.median_low(s),
        "bernoulli_nash": math.prod(map(sigmoid, s)) ** (1 / len(s)),
    }[name]


@pytest.mark.parametrize("judges", [1, 2, 5, 12])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_each_text_by_itself(name, judges):
    """A batch gives what its texts give one by one, whatever the leading axes and the order of the judges."""
    draw = torch.Generator().manual_seed(judges)
    scores = torch.randn(4, 3, judges, generator=draw, dtype=torch.float64).requires_grad_()
    combine = combination(name)
    value = combine(scores)
    assert value.shape == (4, 3) and torch.allclose(value, combine(scores[..., torch.randperm(judges, generator=draw)]))
    for text, one in zip(scores.detach().view(12, judges).tolist(), value.flatten().tolist(), strict=True):
        assert one == pytest.approx(definition(name, text))
    assert torch.autograd.gradcheck(combine, scores)


TRANSLATED = sorted(COMBINATIONS.keys() - {"linear", "bernoulli_nash"})


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_constant_added_to_all_scores_is_added_to_the_reward(name):
    scores = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(combination(name)(scores + 1.5), combination(name)(scores) + 1.5)


@pytest.mark.parametrize("name", TRANSLATED)
def test_of_judges_who_agree_there_is_nothing_to_combine(name):
    scores = torch.tensor([[3.0], [-2.0]])
    assert torch.allclose(combination(name)(scores), scores[:, 0])
    assert torch.allclose(combination(name)(scores.expand(2, 4)), scores[:, 0])


@pytest.mark.parametrize("name", sorted(COMBINATIONS.keys() - {"uwo", "uncertainty_weighted", "soft_max_min"}))
def test_no_judge_who_is_better_pleased_lowers_the_reward(name):
    """Which the variance does, and the soft minimum where one score is far above the others."""
    scores = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for k in range(6):
        assert (combination(name)(scores + 0.7 * torch.eye(6)[k]) >= combination(name)(scores)).all()


def test_the_temperature_goes_from_the_lowest_score_to_the_mean():
    scores = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards = torch.stack([combination("soft_max_min", temperature=t)(scores) for t in (1e-300, 1e-2, 0.5, 2, 1e9)])
    assert torch.equal(rewards[0], scores.amin(-1)) and torch.allclose(rewards[-1], scores.mean(-1))
    assert (rewards.diff(dim=0) >= 0).all()
    for wrong in (0, -1.0):
        with pytest.raises(ConfigError, match="temperature"):
            combination("soft_max_min", temperature=wrong)


UTILITIES = {"sigmoid": sigmoid, "softplus": lambda x: math.log1p(math.exp(x)), "exp": math.exp, "none": lambda x: x}


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("transform", UTILITIES)
def test_welfare_is_the_product_of_utilities(transform, root):
    scores = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = scores.abs() if transform == "none" else scores
    value = combination("bernoulli_nash", transform=transform, root=root)(scores).tolist()
    products = [math.prod(map(UTILITIES[transform], text)) for text in scores.tolist()]
    assert value == pytest.approx([p ** (1 / 4) for p in products] if root else products)


@pytest.mark.parametrize("transform", ["sigmoid", "softplus", "exp"])
def test_welfare_neither_over_nor_underflows(transform):
    """In float32, where the utilities themselves do; and the slope leads out."""
    low = torch.full((1, 12), -80.0, requires_grad=True)
    value = combination("bernoulli_nash", transform=transform)(low)
    assert value.item() == pytest.approx(math.exp(-80), rel=1e-5)
    (slope,) = torch.autograd.grad(value, low)
    assert slope.flatten().tolist() == pytest.approx([math.exp(-80) / 12] * 12, rel=1e-5)
    high = combination("bernoulli_nash", transform=transform)(torch.full((12,), 60.0)).item()
    assert high == pytest.approx({"sigmoid": 1, "softplus": 60, "exp": math.exp(60)}[transform], rel=1e-5)


def test_welfare_of_negative_scores_is_refused_where_it_has_no_meaning():
    with pytest.raises(RhtoolError, match="no root"):
        combination("bernoulli_nash", transform="none")(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))


def test_weight_zero_is_zero():
    scores = torch.tensor([[1e30, -1e30, 3e30]])  # whose variance is infinite in float32
    assert torch.equal(UWO(weight=0.0)(scores), scores.mean(-1))
    assert torch.equal(UWO(weight=0, ddof=1)(scores[:, :1]), scores[:, 0])


def test_one_class_for_one_formula():
    assert COMBINATIONS["max_min"] is COMBINATIONS["wco"] and COMBINATIONS["uncertainty_weighted"] is UWO
    assert COMBINATIONS.keys() >= set(OF_ENSEMBLES)


def test_combinations_that_there_are_not():
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        combination("maen")
    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        combination("uwo", wight=0.5)
    with pytest.raises(ConfigError, match="no option"):
        combination("wco", weight=0.5)
    with pytest.raises(ConfigError, match="weight"):
        combination("uwo", weight="much")
    with pytest.raises(ConfigError, match="transform"):
        combination("bernoulli_nash", transform="logit")
    with pytest.raises(ConfigError, match="ddof"):
        combination("uwo", ddof=2)
    with pytest.raises(ConfigError, match="one score"):
        UWO(ddof=1)(torch.ones(3, 1))
