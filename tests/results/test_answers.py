"""Measures of answers: win rates with Wilson's interval, ROUGE-L."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from scipy.stats import binomtest

from rhtool.errors import RhtoolError
from rhtool.results.rouge import common, rouge_l
from rhtool.results.tax import rouge, rows
from rhtool.results.winrate import of_runs, wilson, wins


@pytest.mark.parametrize(("won", "n"), [(0, 5), (3, 10), (40, 40), (701, 805)])
def test_the_interval_is_scipys(won, n):
    found, expected = wilson(won / n, n), binomtest(won, n).proportion_ci(method="wilson")
    assert (found.value, found.n) == (won / n, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_ties_count_half():
    assert wins(np.array([2.0, -1e-9, 0.0])).tolist() == [1, 0, 0.5]
    found = of_runs([wins(np.array([1.0, 0, 0, -1]))])
    assert (found.value, found.n) == (0.5, 4) and found.low < 0.5 < found.high


def test_of_three_runs_the_interval_is_over_runs():
    found = of_runs([np.ones(5), np.zeros(5), np.full(5, 0.5)])
    assert (found.value, found.n, found.low, found.high) == (0.5, 3, 0, 1)


def longest(a, b) -> int:
    """By trying every subsequence."""
    parts = {x for n in range(len(a) + 1) for x in itertools.combinations(a, n)}
    return max(len(x) for n in range(len(b) + 1) for x in itertools.combinations(b, n) if x in parts)


def test_the_longest_common_subsequence_is_the_longest_of_all():
    draw = random.Random(0)
    for _ in range(60):
        a, b = (draw.choices("abc", k=draw.randrange(7)) for _ in range(2))
        assert common(a, b) == common(b, a) == longest(a, b)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The cat, sat!", "the cat sat", 1.0),
        ("police kill the gunman", "police killed the gunman", 0.75),  # Lin's example, beta 1
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("a b", "a b c d", 2 * 1 * 0.5 / 1.5),
        ("", "a", 0.0),
        ("?", "!", 0.0),
    ],
)
def test_rouge_l(answer, reference, expected):
    assert rouge_l(answer, reference) == pytest.approx(expected)


def test_the_first_reference_or_the_best_counts(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"prompt": "q", "references": ["yes", "no"]}\n')
    assert rouge(["no"], rows(str(file)), best=False).tolist() == [0]
    assert rouge(["no"], rows(str(file)), best=True).tolist() == [1]
    file.write_text('{"prompt": "q", "references": ["yes"]}\n{"prompt": "q", "references": "yes"}\n')
    with pytest.raises(RhtoolError, match="line 2"):
        rows(str(file))
