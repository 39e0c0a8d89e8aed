"""The pandemic environment against 24 episodes of the original simulator."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest
from scipy import stats

from rhtool.config import compose
from tests.conftest import ROOT

LANES = 40
KEYS = ("CRITICAL", "DEAD", "INFECTED", "NONE", "RECOVERED")


def golden() -> dict[str, list[dict]]:
    """`{policy: episodes}`; the policy S<k> raises the stage every day until it is k, then keeps it."""
    episodes = defaultdict(list)
    for line in (ROOT / "tests" / "data" / "pandemic" / "episodes.jsonl").read_text().splitlines():
        found = json.loads(line)
        flat = {key: value for key, value in found.items() if not isinstance(value, dict)}
        for key in ("final", "final_test", "final_alpha", "final_delta", "by_location"):
            flat |= {f"{key}.{name}": value for name, value in found[key].items()}
        flat["infections"] = sum(found["by_location"].values())
        flat["political"] = found["true_components_sum"]["PoliticalReward"]
        flat["lower"] = found["true_components_sum"]["LowerStageReward"]
        flat["smooth"] = found["true_components_sum"]["SmoothStageChangesReward"]
        episodes[found["policy"]].append(flat)
    return episodes


def ours(policy: str) -> dict[str, np.ndarray]:
    """The same numbers of `LANES` episodes, each with a population of its own."""
    env = compose("env=pandemic").env.make_vec(LANES, seed=2024, autoreset_mode="Disabled")
    env.reset()
    days = defaultdict(list)
    for day in range(193):
        _, _, terminated, _, info = env.step(np.full(LANES, 2 if day < int(policy[1:]) else 1))
        for key, value in info.items():
            days[key].append(value)
        assert (terminated == (day == 192)).all()
    sums = {key: np.sum(value, 0) for key, value in days.items()}
    found = {"true": sums["true_reward"], "proxy": sums["proxy_reward"], "delta_start": env.delta_start}
    found |= {key: sums[f"{name}_reward"] for key, name in (("political", "political"), ("lower", "lower_stage"))}
    found["smooth"] = sums["smooth_reward"]
    for key in ("critical", "infected"):
        found |= {f"mean_{key}": np.mean(days[key], 0), f"max_{key}": np.max(days[key], 0)}
    for x, key in enumerate(KEYS):
        found |= {f"final.{key}": env.counts[:, 0, x], f"final_test.{key}": env.books[:, 0, x]}
        found |= {f"final_alpha.{key}": env.counts[:, 1, x], f"final_delta.{key}": env.counts[:, 2, x]}
    found["infections"] = env.infections.sum(1)
    return found | {f"by_location.{key}": env.infections[:, t] for t, key in enumerate(env.town.places)}


REQUIRED = ("true", "proxy", "final.INFECTED", "final.CRITICAL", "final.DEAD")


@pytest.mark.parametrize("policy", ["S0", "S2", "S4"])
def test_episodes_are_the_original_s_in_the_mean(policy):
    """Five numbers of each of three policies lie in the 95 % interval of the difference of two means, 15 comparisons.
    The 35 others (infections by type of place, each strain's end, what tests say, peaks) pass a permutation test at
    0.1 %, 105 comparisons.

    The variance is pooled, since both samples have one law if the environments are the same; Welch's interval is no
    interval where ten golden values are equal. The others need a test without normality: at stage 2 one episode in four
    has an infection at all. The seed is fixed: a run of this test is not a new draw.
    """
    theirs, found = golden()[policy], ours(policy)
    assert len(theirs) >= 4 and set(found) <= set(theirs[0]) and set(REQUIRED) <= set(found) and len(found) == 40
    rng, wrong = np.random.default_rng(0), {}
    for key, sample in found.items():
        reference = np.array([episode[key] for episode in theirs], float)
        n, m, gap = len(reference), len(sample), abs(reference.mean() - sample.mean())
        if key in REQUIRED:
            pooled = ((n - 1) * reference.var(ddof=1) + (m - 1) * sample.var(ddof=1)) / (n + m - 2)
            if gap > stats.t.ppf(0.975, n + m - 2) * np.sqrt(pooled * (1 / n + 1 / m)) + 1e-9:
                wrong[key] = reference.mean(), sample.mean()
        else:
            both = np.concatenate([reference, sample])
            shuffled = rng.permuted(np.tile(both, (20_000, 1)), axis=1)
            gaps = abs(shuffled[:, :n].mean(1) - shuffled[:, n:].mean(1))
            if (gaps >= gap - 1e-9).mean() < 0.001:
                wrong[key] = reference.mean(), sample.mean()
    assert not wrong
