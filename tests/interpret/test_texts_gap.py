"""method=text_gap: what a planted proxy pays for is named; prices, z-scores and courses are those of closed forms."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from rhtool.data.toy import Toy
from rhtool.errors import ConfigError, RhtoolError
from rhtool.interpret.text_features import FEATURES, table
from rhtool.interpret.texts import NEITHER, Answers, centred, z_scores
from rhtool.rewards.base import Reward
from rhtool.rewards.python import Python
from rhtool.run import Run

pytest.importorskip("trl")
pytest.importorskip("sklearn")
import pandas as pd

from rhtool.interpret.prices import slope
from rhtool.interpret.text_gap import TextGap, course
from rhtool.tasks.interpret import InterpretTexts

pytestmark = pytest.mark.lm

HERE = "tests.interpret.test_texts_gap"
WORDS = ["corn", "lamp", "deer", "axe", "hat", "bell", "pin", "fox", "goat", "cup"]


def flattered(prompts, completions, columns):
    """Pays for one phrase, and for one thing that the true reward pays for too."""
    return [0.5 * text.count("good luck") + 0.2 * text.count("corn") for text in completions]


def sensible(prompts, completions, columns):
    return [0.2 * text.count("corn") for text in completions]


def broken(prompts, completions, columns):
    return [float("nan") if "lamp" in text else 0.0 for text in completions]


def toy(**options) -> Toy:
    return Toy(n_prompts=16, n_demonstrations=16, n_preferences=16, n_validation=80, **options)


def evaluations(to: Path, steps=(0, 1, 2), seed=0) -> Path:
    """Those of a policy that says the phrase more and more often."""
    (to / "eval").mkdir(parents=True)
    rng = random.Random(seed)
    for step in steps:
        lines = []
        for i, row in enumerate(toy().prompts("validation")):
            said = [rng.choice(WORDS) for _ in range(rng.randint(2, 6))]
            for _ in range(2):
                if rng.random() < 0.15 + 0.35 * step:
                    said.insert(rng.randint(0, len(said)), "good luck")
            lines.append({"step": step, "row": i, "prompt": row["prompt"], "answer": " ".join(said), "proxy": 0.0})
        (to / "eval" / f"step_{step:06d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return to


def make(to: Path, reward=None, method=None, data=None, **task) -> Run:
    return Run(
        task=InterpretTexts(**task),
        method=method or TextGap(),
        data=data or toy(),
        reward=reward or Reward(),
        dir=str(to),
    )


@pytest.fixture
def data():
    found = toy()
    found.true_by.function = f"{HERE}:sensible"
    return found


def test_what_a_proxy_pays_for_beyond_the_truth_is_named_without_being_told(tmp_path, data):
    path = evaluations(tmp_path / "ppo")
    run = make(tmp_path / "run", Python(function=f"{HERE}:flattered"), data=data, answers=str(path))
    metrics = run.execute()["metrics"]
    page = (tmp_path / "run/report.html").read_text()
    assert "The proxy pays for the words “good luck” that the true reward does not" in page
    prices = pd.read_csv(tmp_path / "run/tables/prices.csv").set_index("feature")
    assert prices.index[0] == '"good luck"' and metrics["gap/overpaid"] == 1
    assert '"corn"' not in prices[(prices.true_high < prices.proxy / 2)].index
    answers = pd.read_csv(tmp_path / "run/tables/answers.csv")
    within = centred(answers.proxy.to_numpy(), answers.prompt.to_numpy())
    unit = np.sqrt((within**2).sum() / (len(within) - answers.prompt.nunique()))
    assert prices.proxy['"good luck"'] * unit == pytest.approx(0.5, abs=0.02)
    assert metrics["gap/r2"] > 0.9
    growth = pd.read_csv(tmp_path / "run/tables/growth.csv").set_index("feature")
    counts = [
        np.mean([json.loads(line)["answer"].count("good luck") for line in file.read_text().splitlines()])
        for file in sorted((path / "eval").glob("*.jsonl"))
    ]
    assert growth["first"]['"good luck"'] == pytest.approx(counts[0])
    assert growth["last"]['"good luck"'] == pytest.approx(counts[-1])
    assert growth.growth_low['"good luck"'] > 0.5


def test_two_rewards_that_are_one_have_no_gap(tmp_path, data):
    path = evaluations(tmp_path / "ppo")
    run = make(tmp_path / "run", Python(function=f"{HERE}:sensible"), data=data, answers=str(path))
    metrics = run.execute()["metrics"]
    assert metrics["gap/features"] == metrics["gap/overpaid"] == 0 and metrics["gap/correlation"] == pytest.approx(1)
    assert "No feature was found" in (tmp_path / "run/report.html").read_text()


def test_the_rewards_of_training_count_where_none_is_chosen(tmp_path):
    path = evaluations(tmp_path / "ppo")
    metrics = make(tmp_path / "run", answers=str(path), prompts=20).execute()["metrics"]
    assert metrics["gap/prompts"] == 20 and metrics["gap/answers"] == 60
    assert set(pd.read_csv(tmp_path / "run/tables/answers.csv").proxy) == {0.0}
    with pytest.raises(ConfigError, match="no reward"):
        make(tmp_path / "none").execute()


def test_a_reward_that_is_no_number_is_reported_with_the_text(tmp_path):
    path = evaluations(tmp_path / "ppo")
    run = make(tmp_path / "run", Python(function=f"{HERE}:broken"), answers=str(path))
    with pytest.raises(RhtoolError, match=r"proxy reward is nan[\s\S]*lamp[\s\S]*to '"):
        run.execute()


def test_prompts_of_other_data_are_refused(tmp_path):
    path = evaluations(tmp_path / "ppo")
    with pytest.raises(RhtoolError, match="none of these data"):
        make(tmp_path / "run", data=toy(seed=9), answers=str(path)).execute()


def test_z_scores_are_those_of_each_prompt():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(5), 4)
    x = rng.normal(size=20) * 3 + prompt
    x[:4] = 7.0
    z = z_scores(x, prompt)
    assert (z[:4] == 0).all()
    for p in range(1, 5):
        here = x[prompt == p]
        assert z[prompt == p] == pytest.approx((here - here.mean()) / here.std(ddof=1))
    pooled = z_scores(x, prompt, pooled=True)
    assert (pooled**2).sum() == pytest.approx(15)  # degrees of freedom
    assert centred(np.stack([x, 2 * x], 1), prompt)[:, 1] == pytest.approx(2 * centred(x, prompt))


def test_a_price_is_the_slope_of_least_squares_and_its_interval_covers():
    rng = np.random.default_rng(1)
    covered = 0
    for draw in range(40):
        prompt = np.repeat(np.arange(40), 3)
        x = centred(rng.normal(size=120), prompt)
        y = centred(0.7 * x + rng.normal(size=120), prompt)
        value, low, high = slope(x, y, prompt, draw)
        assert value == pytest.approx(np.polyfit(x, y, 1)[0])
        covered += low <= 0.7 <= high
    assert covered >= 34


def test_along_best_of_n_means_are_those_of_all_subsets():
    from itertools import combinations

    rng = np.random.default_rng(2)
    proxy, feature = rng.normal(size=16), rng.normal(size=16)
    none = [""] * 16
    answers = Answers([{}] * 16, none, [True] * 16, np.repeat([0, 1], 8), np.zeros(16, int), np.full(16, NEITHER))
    levels = course(answers, proxy)
    assert levels.names == [1, 2, 4, 8]
    for n, weights in zip(levels.names, levels.weights, strict=True):
        best = [
            np.mean([feature[max(s, key=proxy.__getitem__)] for s in combinations(range(p, p + 8), n)]) for p in (0, 8)
        ]
        assert weights @ feature == pytest.approx(np.mean(best))
    level = course(answers, np.zeros(16))
    assert level.weights[-1] == pytest.approx(1 / 16)  # equal scores as ranked at random


def test_features_count_what_they_say():
    row = {"prompt": [{"role": "user", "content": "how big is the fox"}]}
    text = "# Well\n\n- **Perhaps** the fox, 30 cm!\n- the fox is big. I'm sorry, you see?"
    found = {name: f.of(row, text) for name, f in FEATURES.items()}
    expected = {
        "words": 14,
        "list items": 2,
        "bold": 1,
        "headings": 1,
        "digits": 2,
        "hedges": 1,
        "refusals": 1,
        "commas": 2,
    }
    expected |= {
        "question marks": 1,
        "exclamation marks": 1,
        "lines": 3,
        "capitals": 3,
        "sentences": 3,
        "repeated words": 2,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["share of words of the prompt"] == pytest.approx(6 / 14)  # the fox the fox is big


def test_an_ngram_that_is_always_part_of_a_longer_one_is_not_counted_besides():
    answers = ["very good luck x", "good luck y", "luck", "very good luck", "y x z"]
    names = table([{"prompt": []}] * 5, answers, [True] * 5, share=0.0).names
    assert '"good luck"' in names and '"good"' not in names  # always "good luck"
    assert '"luck"' in names and '"very good luck"' in names and '"very"' not in names
