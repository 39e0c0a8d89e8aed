"""Label noise: a share of the training labels of preferences says nothing."""

from __future__ import annotations

import random

from rhtool.data.base import Row
from rhtool.errors import ConfigError


def coins(number: int, share: float, seed: int) -> dict[int, bool]:
    """`{row: whether its label turns round}` for exactly `round(share * number)` of the rows, each by a fair coin.

    Depends on the three arguments alone. Raises `ConfigError` for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"{share} is no share of the labels", "data.label_noise", "give a number from 0 to 1")
    rng = random.Random(f"label noise {seed}")
    return {i: rng.random() < 0.5 for i in rng.sample(range(number), round(share * number))}


def coin_labels(rows: list[Row], share: float, seed: int) -> list[Row]:
    """The preferences with a share of their labels replaced by `coins`: 0.5 makes about a quarter of them wrong, which Coste et
    al. 2023 (arXiv 2310.02743) call 25 % label noise.

    Rows that change are copies; a `margin` stays as it is.
    """
    rows = list(rows)
    for i, turns in coins(len(rows), share, seed).items():
        if turns:
            rows[i] = {**rows[i], "chosen": rows[i]["rejected"], "rejected": rows[i]["chosen"]}
    return rows
