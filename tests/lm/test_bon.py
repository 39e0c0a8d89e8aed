"""Best-of-n against all subsets, closed forms of ranks, and integrals of densities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad

from rhtool.errors import ConfigError, RhtoolError
from rhtool.lm.bon import NS, Answers, best_of_each_n, best_of_n, best_of_n_chi2, best_of_n_kl, rank_weights


def random_answers(sizes: list[int], ties: bool, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    proxy = [rng.integers(0, 3, n).astype(float) if ties else rng.normal(size=n) for n in sizes]
    return Answers(proxy, [rng.normal(size=n) for n in sizes])


def brute_force(proxy: np.ndarray, true: np.ndarray, n: int) -> tuple[float, float]:
    """Mean over all subsets of n of the best one's proxy and true reward, equals being equally likely."""
    found = []
    for subset in itertools.combinations(range(len(proxy)), n):
        s = np.array(subset)
        best = s[proxy[s] == proxy[s].max()]
        found.append((proxy[best].mean(), true[best].mean()))
    return tuple(np.mean(found, 0))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sizes", [[8], [7, 7, 7], [8, 3, 5, 8]])
def test_best_of_n_is_the_mean_over_all_subsets(sizes, ties):
    answers = random_answers(sizes, ties)
    for point in best_of_n(answers, range(1, 9)):
        each = np.array(
            [brute_force(p, t, int(point.strength)) for p, t in zip(answers.proxy, answers.true, strict=True)]
        )
        assert (point.proxy, point.true) == pytest.approx(tuple(each.mean(0)))
        if len(sizes) > 1:
            errors = each.std(0, ddof=1) / len(sizes) ** 0.5
            assert (point.proxy_se, point.true_se) == pytest.approx(tuple(errors))
        else:
            assert math.isnan(point.proxy_se) and math.isnan(point.true_se)


def test_every_point_is_over_all_prompts():
    answers = random_answers([8, 3, 5], ties=False)
    assert [point.strength for point in best_of_n(answers)] == [1, 2]
    assert best_of_n(answers, [4]) == []
    assert best_of_each_n(answers) == pytest.approx([point.true for point in best_of_n(answers, [1, 2, 3])])


@pytest.mark.parametrize("size", [1, 2, 1000, 12_600])
def test_weights_are_probabilities(size):
    weights = rank_weights(size, [n for n in NS if n <= size] + [size])
    assert (weights >= 0).all() and weights.sum(1) == pytest.approx(1, abs=2e-11)
    assert weights[0] == pytest.approx(1 / size)  # of one answer, any
    assert weights[-1, -1] == pytest.approx(1)  # of all answers, the best


def moments(size: int, k: int) -> np.ndarray:
    """E[U^k] of the order statistics of `size` uniform numbers: what a true reward u^k is on average at each rank."""
    i = np.arange(1, size + 1)
    return np.prod([(i + j) / (size + 1 + j) for j in range(k)], axis=0)


@pytest.mark.parametrize("size", [20, 12_600])
def test_rewards_that_are_functions_of_the_rank(size):
    """If the true reward is u^k, best-of-n gets n / (n + k), whatever the number of answers it is estimated from."""
    for k in (1, 3):
        points = best_of_n(Answers([np.arange(size)], [moments(size, k)]))
        assert len(points) == sum(n <= size for n in NS)
        assert [p.true for p in points] == pytest.approx([p.strength / (p.strength + k) for p in points])


def test_estimates_are_unbiased_and_their_errors_honest():
    """Prompts whose answers have the true reward u - u^4: the exact curve is within the standard errors."""
    proxy = np.random.default_rng(1).random((3000, 8))
    for point in best_of_n(Answers(proxy, proxy - proxy**4), range(1, 9)):
        n = point.strength
        assert abs(point.proxy - n / (n + 1)) < 3.5 * point.proxy_se < 0.02
        assert abs(point.true - (n / (n + 1) - n / (n + 4))) < 3.5 * point.true_se < 0.02


def test_an_ensemble_is_combined_first_and_ranked_with_its_own_true_scores():
    pytest.importorskip("torch")
    from rhtool.rewards.combine import COMBINATIONS, combination

    rng = np.random.default_rng(2)
    scores, true = [rng.normal(size=(n, 3)) for n in (6, 7)], [rng.normal(size=n) for n in (6, 7)]
    expected = {
        "mean": lambda s: s.mean(1), "wco": lambda s: s.min(1), "uwo": lambda s: s.mean(1) - 0.5 * s.var(1),
    }  # fmt: skip
    assert set(expected) <= set(COMBINATIONS)
    for name, combined in expected.items():
        combine = combination(name, **({"weight": 0.5} if name == "uwo" else {}))
        for point in best_of_n(Answers.of_ensemble(scores, true, combine), [1, 2, 4]):
            each = [brute_force(combined(s), t, int(point.strength)) for s, t in zip(scores, true, strict=True)]
            assert (point.proxy, point.true) == pytest.approx(tuple(np.mean(each, 0)))


def test_true_scores_stay_with_their_answers():
    """In whatever order the answers come."""
    answers = random_answers([8, 5], ties=True)
    rng = np.random.default_rng(3)
    order = [rng.permutation(len(p)) for p in answers.proxy]
    shuffled = Answers(*([x[o] for x, o in zip(xs, order, strict=True)] for xs in (answers.proxy, answers.true)))
    for a, b in zip(best_of_n(answers, [1, 3, 5]), best_of_n(shuffled, [1, 3, 5]), strict=True):
        assert (a.proxy, a.true, a.true_se) == pytest.approx((b.proxy, b.true, b.true_se))


def test_expected_rewards_are_in_the_order_of_the_prompts():
    answers = random_answers([8, 3, 5, 8], ties=True)
    proxy, true = answers.expected(lambda size: rank_weights(size, [1, 3]))
    each = [[brute_force(p, t, n) for n in (1, 3)] for p, t in zip(answers.proxy, answers.true, strict=True)]
    assert np.stack([proxy, true], -1) == pytest.approx(np.array(each))


# --- divergences ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 64, 2.5])
def test_divergences_are_the_densitys(n):
    def density(u):
        return n * u ** (n - 1)

    assert best_of_n_kl(n) == pytest.approx(quad(lambda u: density(u) * math.log(density(u)), 1e-300, 1)[0], abs=1e-7)
    assert best_of_n_chi2(n) == pytest.approx(quad(lambda u: density(u) ** 2, 0, 1)[0] - 1, abs=1e-7)


@pytest.mark.parametrize("counts", [[1] * 6, [1, 4, 1], [3, 2, 5], [1] * 300])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_divergences_bound_those_of_distributions_with_ties(counts, n):
    """Of n draws with replacement out of a pool whose scores have these counts."""
    share = np.array(counts) / sum(counts)
    above = np.append(0, share.cumsum())
    above[-1] = 1
    kept = np.diff(above**n)
    kl, chi2 = (kept * np.log(kept / share)).sum(), (kept**2 / share).sum() - 1
    assert 0 < kl < best_of_n_kl(n) and 0 < chi2 < best_of_n_chi2(n)
    if len(counts) == 300:  # nearly continuous
        assert kl == pytest.approx(best_of_n_kl(n), rel=0.01) and chi2 == pytest.approx(best_of_n_chi2(n), rel=0.03)


def test_without_replacement_the_divergence_may_be_larger():
    kept = rank_weights(6, [6])[0]
    kl = (kept[kept > 0] * np.log(6 * kept[kept > 0])).sum()
    assert kl == pytest.approx(math.log(6)) and kl > best_of_n_kl(6)


# --- input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy, true, said", [
    ([[1.0]], [[1.0], [2.0]], "1 prompts"), ([], [], "0 prompts"), ([[1.0], [1.0, 2.0]], [[1.0], [1.0]], "prompt 1"),
    ([[1.0], []], [[1.0], []], "prompt 1"), ([[1.0, math.nan]], [[1.0, 2.0]], "not finite"),
    ([[1.0, 2.0]], [[1.0, math.inf]], "prompt 0"), ([[[1.0]]], [[[1.0]]], "shapes"),
])  # fmt: skip
def test_scores_that_cannot_be_used(proxy, true, said):
    with pytest.raises(RhtoolError, match=said):
        Answers(proxy, true)


def test_numbers_of_answers_that_there_are_not():
    with pytest.raises(ConfigError, match="1 <= n <= 3"):
        best_of_n(Answers([[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]]), [0])
    with pytest.raises(ConfigError, match="best of 4"):
        rank_weights(3, [4])
