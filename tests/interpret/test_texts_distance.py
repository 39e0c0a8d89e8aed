"""method=text_distance: what no policy can tell has no distance; coefficients are scipy's; along training it is that of two answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr

from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret.agreement import apart, distances
from rhtool.rewards.base import Reward
from rhtool.rewards.python import Python
from rhtool.run import Run
from tests.interpret.test_texts_gap import evaluations, toy

pytest.importorskip("trl")
import pandas as pd

from rhtool.interpret.text_distance import TextDistance
from rhtool.tasks.interpret import InterpretTexts

pytestmark = pytest.mark.lm

HERE = "tests.interpret.test_texts_distance"
RNG = np.random.default_rng(0)
PROMPT = np.repeat(np.arange(30), 4)
X = RNG.normal(size=120)


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_offsets_of_prompts_and_a_scale_are_no_distance(scale):
    offset = RNG.normal(size=30)[PROMPT] * 50
    same = apart(X, scale * X + offset, PROMPT)
    assert same.distance.value == pytest.approx(0, abs=1e-6) and same.distance.high < 1e-6
    assert same.agreement.value == same.kendall.value == 1
    contrary = apart(X, -scale * X + offset, PROMPT)
    assert (
        contrary.distance.value == pytest.approx(1) and contrary.kendall.value == -1 and contrary.agreement.value == 0
    )


def test_coefficients_are_those_of_scipy():
    y = np.round(X + RNG.normal(size=120), 1)
    x = np.round(X, 1)
    one = np.zeros(120, int)
    assert apart(x, y, one).kendall.value == pytest.approx(kendalltau(x, y).statistic)
    assert apart(x, y, one).distance.value == pytest.approx(np.sqrt((1 - pearsonr(x, y).statistic) / 2))
    centre = [z - np.array([z[p == PROMPT].mean() for p in PROMPT]) for z in (x, y)]
    assert apart(x, y, PROMPT).distance.value == pytest.approx(np.sqrt((1 - pearsonr(*centre).statistic) / 2))
    pairs = [(i, j) for i in range(120) for j in range(i) if PROMPT[i] == PROMPT[j]]
    alike = [(np.sign((x[i] - x[j]) * (y[i] - y[j])) + 1) / 2 for i, j in pairs]
    assert apart(x, y, PROMPT).agreement.value == pytest.approx(np.mean(alike))


def test_unrelated_rewards_are_at_the_distance_of_a_right_angle_and_triangles_close():
    scores = {k: RNG.normal(size=40_000) for k in "abc"}
    scores["d"] = scores["a"] + scores["b"]
    found = distances(scores, np.repeat(np.arange(10_000), 4))
    assert found[0, 1] == pytest.approx(np.sqrt(0.5), abs=0.01) and (np.diag(found) == 0).all()
    for i in range(4):
        for j in range(4):
            assert (found[i, j] <= found[i] + found[j] + 1e-9).all()


def test_a_reward_that_is_the_same_for_all_answers_has_no_distance_to_any():
    found = apart(X, RNG.normal(size=30)[PROMPT], PROMPT)
    assert np.isnan(found.distance.value) and np.isnan(found.kendall.value) and found.agreement.value == 0.5


def test_intervals_over_prompts_cover():
    rho, covered = 0.5, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=160)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=160)
        d = apart(x, y, np.repeat(np.arange(40), 4), seed=seed).distance
        covered += d.low <= np.sqrt((1 - rho) / 2) <= d.high
    assert covered >= 51


def short(prompts, completions, columns):
    return [-float(len(text)) for text in completions]


def long(prompts, completions, columns):
    return [3.0 * len(text) + len(prompt[-1]["content"]) for prompt, text in zip(prompts, completions, strict=True)]


def make(to: Path, reward=None, data=None, answers="", **method) -> Run:
    return Run(
        task=InterpretTexts(answers=str(answers)), method=TextDistance(**method), data=data or toy(),
        reward=reward or Reward(), dir=str(to),
    )  # fmt: skip


def test_rewards_of_any_kind_are_compared_and_along_training(tmp_path):
    path = evaluations(tmp_path / "ppo")
    data = toy()
    data.true_by.function = f"{HERE}:short"
    others = [f"{HERE}:long", "tests.interpret.test_texts_gap:flattered"]
    metrics = make(tmp_path / "run", Python(function=f"{HERE}:long"), data, path, others=others).execute()["metrics"]
    table = pd.read_csv(tmp_path / "run/tables/apart.csv").set_index(["reward", "other"])
    assert table.distance["proxy", "true"] == pytest.approx(1) == metrics["apart/distance"]
    assert table.distance["proxy", f"{HERE}:long"] == pytest.approx(0, abs=1e-6)
    along = pd.read_csv(tmp_path / "run/tables/along.csv")
    assert along.step.tolist() == [1, 2] and along.distance.tolist() == pytest.approx([1, 1])
    assert metrics["apart/last_distance"] == pytest.approx(1)
    page = (tmp_path / "run/report.html").read_text()
    assert "farthest (1.00)" in page and "nearest (0.00)" in page


def test_of_the_datas_pairs_the_alignment_is_that_of_their_labels(tmp_path):
    metrics = make(tmp_path / "run", Python(function=f"{HERE}:long")).execute()["metrics"]
    rows = toy().preferences("validation")
    longer = [np.sign(len(row["chosen"]) - len(row["rejected"])) for row in rows]
    strict = np.abs(longer).sum()
    assert metrics["apart/alignment"] == pytest.approx(sum(longer) / np.sqrt(strict * len(rows)))


def test_what_cannot_be_compared_is_said(tmp_path):
    path = evaluations(tmp_path / "ppo", steps=(0,))
    with pytest.raises(RhtoolError, match="no prompt has two answers"):
        make(tmp_path / "a", answers=path).execute()
    with pytest.raises(ConfigError, match=r"method\.others"):
        make(tmp_path / "b", Python(function=f"{HERE}:long"), others=["nothing:there"]).execute()
    with pytest.raises(RhtoolError, match="no reward model at outputs/nothing/there"):
        make(tmp_path / "c", Python(function=f"{HERE}:long"), others=["outputs/nothing/there"]).execute()
