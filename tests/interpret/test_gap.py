"""The gap between two rewards: planted differences are found, and said."""

import json

import numpy as np
import pytest

from rhtool.config import compose
from rhtool.interpret import gaps

pytest.importorskip("sklearn")
pytest.importorskip("torch")

from rhtool.interpret.gaps_report import findings, sentence

RNG = np.random.default_rng(0)
N = 3000
EPISODE = np.arange(N) // 50


def planted(proxy_pays, true_pays, features=12):
    """Standard normal features and a rare binary one, the last, and two rewards that are sums of some of them."""
    values = RNG.normal(size=(N, features))
    values[:, -1] = RNG.random(N) < 0.05
    names = [f"`f{i}`" for i in range(features)]
    rewards = [sum((w * values[:, i] for i, w in pays.items()), np.zeros(N)) for pays in (proxy_pays, true_pays)]
    return gaps.Features(names, values), gaps.align(*rewards)


def test_rewards_that_agree_in_most_steps_are_put_on_their_line():
    true = RNG.normal(size=N)
    bonus = np.where(RNG.random(N) < 0.1, 5.0, 0.0)
    found = gaps.align(0.25 * true - 3.0 + bonus, true)
    assert found.fitted and found.slope == pytest.approx(0.25) and found.agree == pytest.approx((bonus == 0).mean())
    np.testing.assert_allclose(found.gap > 0.1, bonus > 0)


def test_rewards_that_never_agree_are_standardised():
    found = gaps.align(RNG.normal(size=N), RNG.normal(size=N) * 9 + 4)
    assert not found.fitted and abs(found.gap.mean()) < 1e-9 and found.true.std() == pytest.approx(1)


@pytest.mark.parametrize(
    ("proxy", "true", "feature", "words"),
    [
        ({0: 1.0, 11: 8.0}, {0: 1.0}, "`f11`", ["`proxy` pays for `f11`", "`true` does not"]),
        ({0: 1.0}, {0: 1.0, 4: 2.0}, "`f4`", ["`true` pays for more `f4`", "`proxy` does not"]),
        ({0: 1.0, 3: 1.0}, {0: 1.0, 3: -1.0}, "`f3`", ["for more `f3`", "for it"]),
        ({0: 1.0, 2: -3.0}, {0: 1.0}, "`f2`", ["`proxy` charges for more `f2`", "`true` does not"]),
    ],
)
def test_what_only_one_reward_pays_for_comes_first_and_is_said(proxy, true, feature, words):
    features, aligned = planted(proxy, true)
    found = gaps.explain(aligned, features, EPISODE, 8, 3, seed=0)
    assert found.effects[0].name == feature and found.r2_linear > 0.95
    said = sentence(("proxy", "true"), found.effects[0])
    assert all(word in said for word in words), said


def test_no_gap_is_said_to_be_none_and_noise_is_said_to_be_unexplained():
    features, aligned = planted({0: 1.0}, {0: 3.0})
    found = gaps.explain(aligned, features, EPISODE, 8, 3, seed=0)
    assert found.effects == [] and "do not part" in findings(("a", "b"), aligned, found)[0]
    noise = gaps.align(RNG.normal(size=N), RNG.normal(size=N))
    found = gaps.explain(noise, features, EPISODE, 8, 3, seed=0)
    assert found.r2_linear < 0.05 and any("is weak" in line for line in findings(("a", "b"), noise, found))


def run(directory, *words):
    made = compose("task=interpret", "method=gap", f"dir={directory}", *words)
    return made.execute()["metrics"]


def test_tomato_s_bucket_is_found_without_being_told(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    metrics = run("tomato", "env=tomato", "task.episodes=60")
    page = (tmp_path / "tomato" / "report.html").read_text()
    assert "<code>proxy</code> pays for <code>on_bucket</code>" in page
    assert metrics["gap/r2_linear"] > 0.95 and metrics["gap/agree"] > 0.9
    assert (tmp_path / "tomato" / "figures" / "cells.png").is_file()


def test_a_shaped_maze_is_said_to_be_shaped(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    run("maze", "env=maze", "task.episodes=150")
    assert "But the gap is shaping" in (tmp_path / "maze" / "report.html").read_text()


@pytest.mark.parametrize("name", ["glucose", "pandemic", "gym", "mountain_car"])
def test_it_works_on_every_environment(name, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    metrics = run(name, f"env={name}", "task.episodes=2", "env.horizon=30", "task.evaluation_lanes=2")
    assert json.loads((tmp_path / name / "result.json").read_text())["status"] == "done"
    assert metrics["gap/std"] >= 0 and (tmp_path / name / "tables" / "steps.csv").is_file()
