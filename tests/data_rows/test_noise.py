"""Label noise: the share is exact, the coin fair, and nothing else decides which labels it falls on."""

from __future__ import annotations

import random

import pytest

from rhtool.data.noise import coin_labels, coins
from rhtool.errors import ConfigError

ROWS = [{"prompt": i, "chosen": f"{i} good", "rejected": f"{i} bad", "margin": 0.5} for i in range(1000)]


def turned(rows: list[dict]) -> set[int]:
    return {row["prompt"] for row in rows if row["chosen"].endswith("bad")}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3337, 0.5, 1.0])
def test_exactly_the_share_of_the_labels_is_replaced_by_fair_coins(share):
    before = [dict(row) for row in ROWS]
    thrown = coins(len(ROWS), share, seed=3)
    assert len(thrown) == round(share * 1000)
    assert turned(coin_labels(ROWS, share, seed=3)) == {i for i, turns in thrown.items() if turns}
    assert before == ROWS
    heads = sum(sum(coins(1000, share, seed).values()) for seed in range(100))
    assert abs(heads - 50_000 * share) <= 4 * (25_000 * share) ** 0.5  # four standard deviations


def test_the_seed_alone_decides():
    random.seed(1)
    first = coin_labels(ROWS, 0.5, seed=0)
    random.random()
    assert coin_labels(ROWS, 0.5, seed=0) == first
    assert turned(coin_labels(ROWS, 0.5, seed=1)) != turned(first)


def test_a_label_that_is_turned_round_keeps_its_columns():
    row = next(row for row in coin_labels(ROWS, 1.0, seed=0) if row["chosen"].endswith("bad"))
    assert row == {**ROWS[row["prompt"]], "chosen": row["chosen"], "rejected": row["rejected"]}
    assert row["rejected"].endswith("good")


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_of_0_to_1_is_refused(share):
    with pytest.raises(ConfigError, match="no share"):
        coin_labels([], share, seed=0)
