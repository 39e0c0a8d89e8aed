"""Label noise: a share of the training labels of preferences says nothing."""

from __future__ import annotations

import random

from rhtool.data.base import Row
from rhtool.errors import ConfigError


def coin_labels(rows: list[Row], share: float, seed: int) -> list[Row]:
    """Preferences of which exactly `round(share * len(rows))` labels are replaced by a fair coin: half of those turn round
    in the mean, so 0.5 makes about a quarter of the labels wrong, as Coste et al. 2023 (arXiv 2310.02743) do.

    Depends on the number of rows, `share` and `seed` alone. Rows are copied where they change; a `margin` stays as it is.
    Raises `ConfigError` for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"{share} is no share of the labels", "data.label_noise", "give a number from 0 to 1")
    rng, rows = random.Random(f"label noise {seed}"), list(rows)
    for i in rng.sample(range(len(rows)), round(share * len(rows))):
        if rng.random() < 0.5:
            rows[i] = {**rows[i], "chosen": rows[i]["rejected"], "rejected": rows[i]["chosen"]}
    return rows
