"""Weights of principles against planted ones, agreement against counting."""

from __future__ import annotations

import numpy as np
import pytest

from rhtool.errors import RhtoolError
from rhtool.feedback.weights import ablation, agreement, cross_validated, regression, right

PLANTED = np.array([1.0, 0.6, 0.3, -0.4, 0.0])


def planted(n: int, seed: int = 0, unit: tuple[float, ...] = (1, 1, 1, 1, 1)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(PLANTED))) * unit
    return x, (rng.random(n) < 1 / (1 + np.exp(-x @ PLANTED))).astype(float)


def test_weights_are_recovered_within_their_standard_errors():
    z = []
    for seed in range(40):
        x, label = planted(400, seed)
        found = regression(x, label)
        z.append((found.weights - PLANTED) / found.errors)
    z = np.array(z)
    assert np.abs(z.mean(0)).max() < 0.6 and 0.8 < z.std() < 1.2  # unbiased up to its error, and the errors are right


def test_weights_are_of_raw_differences_whatever_their_units():
    x, label = planted(2000)
    unit = np.array([1.0, 100.0, 0.01, 5.0, 1.0])
    np.testing.assert_allclose(regression(x * unit, label).weights * unit, regression(x, label).weights, rtol=1e-5)


def test_a_pair_and_its_mirror_image_say_the_same():
    x, label = planted(300)
    turned = np.where(np.arange(300) % 2 == 0, 1.0, -1.0)
    mirrored = regression(x * turned[:, None], np.where(turned > 0, label, 1 - label))
    np.testing.assert_allclose(mirrored.weights, regression(x, label).weights, rtol=1e-6)


def test_the_weights_are_the_maximum_of_the_likelihood():
    x, label = planted(500)
    found = regression(x, label, ridge=0.0).weights

    def likelihood(w):
        return -np.logaddexp(0, -np.where(label > 0.5, 1, -1) * (x @ w)).sum()

    rng = np.random.default_rng(1)
    assert all(likelihood(found) > likelihood(found + 1e-2 * rng.normal(size=5)) for _ in range(50))


def test_separable_pairs_have_finite_weights():
    x = np.linspace(-1, 1, 50)[:, None]
    found = regression(x, (x[:, 0] > 0).astype(float))
    assert np.isfinite(found.weights).all() and found.accuracy == 1.0


def test_too_few_pairs_say_so():
    with pytest.raises(RhtoolError, match="3 pairs say nothing of 5 weights"):
        regression(np.ones((3, 5)), np.ones(3))


def test_what_matters_is_missed_and_what_does_not_is_not():
    x, label = planted(4000)
    rows = {row["principle"]: row for row in ablation(x, label, list("abcde"))}
    everything = rows["all"]["accuracy"]
    assert everything - rows["a"]["without"] > 0.05 and abs(everything - rows["e"]["without"]) < 0.01
    assert rows["a"]["alone"] > 0.6 and abs(rows["e"]["alone"] - 0.5) < 0.03
    assert rows["d"]["weight"] < 0


def test_accuracy_is_of_pairs_not_seen():
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(60, 20)), (rng.random(60) < 0.5).astype(float)
    assert regression(x, label).accuracy > 0.7 and abs(cross_validated(x, label) - 0.5) < 0.2


def test_ties_count_half():
    assert right(np.array([1.0, -1.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])) == 0.5


def test_agreement_is_counted_where_both_said_something():
    odds = np.array([[1, 2, -1], [1, -2, -1], [-1, -2, 0], [-3, -1, np.nan]], float)
    found = agreement(odds)
    np.testing.assert_allclose(
        found["agreement"], [[1, 3 / 4, 0.5 / 3], [3 / 4, 1, 1.5 / 3], [0.5 / 3, 1.5 / 3, 2.5 / 3]]
    )
    # Cohen's kappa of the first two by hand: marginals 1/2, 1/2 and 1/4, 3/4, hence 1/2 by chance.
    assert found["kappa"][0, 1] == pytest.approx((3 / 4 - 1 / 2) / (1 / 2))
    assert found["phi"][0, 1] == pytest.approx(np.corrcoef([1, 1, -1, -1], [1, -1, -1, -1])[0, 1])
