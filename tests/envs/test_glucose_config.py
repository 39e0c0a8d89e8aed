"""Rewards, patients, seeds, numbers and pictures of the glucose environment."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from rhtool.config import CONF, compose
from rhtool.envs.glucose import REWARDS, Glucose, patients, rewards
from rhtool.errors import ConfigError
from tests.envs.glucose_reference import act, made

NAMES = patients.names()


def test_every_reward_function_is_its_formula():
    def magni(bg):
        return 10 * (3.5506 * (math.log(max(1, bg)) ** 0.8353 - 3.7932)) ** 2

    def risk(bg):
        f = 1.509 * (math.log(max(1, bg)) ** 1.084 - 5.381)
        return (10 * f**2 * (f < 0), 10 * f**2 * (f > 0))

    def expected(name, bg, cgm, ins, bg0, cgm0):
        low, high = risk(bg)
        return {
            "expected_patient_cost": -0.32 * ins - (13500 / 105120 if bg < 70 else 0),
            "magni_bg": -magni(bg),
            "magni_misweight": -min(25, -5 / 14 * max(1, bg) + 50) if bg < 140 else -magni(bg),
            "magni_bg_insulin": -magni(bg) - 10 * ins,
            "magni_bg_insulin_true": -magni(bg) - 25 * ins,
            "risk_bg": -low - high,
            "risk_low_bg": -100 * low - high,
            "risk_high_bg": -low - 100 * high,
            "risk_diff": sum(risk(cgm0)) - sum(risk(cgm)),
            "risk_diff_bg": sum(risk(bg0)) - low - high,
            "risk_insulin": -low - high - ins,
            "eps_risk": 1 if low + high < 1 else -low - high,
            "cameron_bg": -(0.2370 * bg - 36.21 + (6e-5 * (177 - bg) ** 3 if bg < 177 else 0)),
            "threshold_bg": -min(25, -5 / 14 * max(1, bg) + 50 if bg < 140 else 5 / 28 * bg - 25),
            "target_bg": -abs(cgm - 120),
            "bg_high": bg,
            "cgm_high": cgm,
            "cgm_low": -cgm,
        }[name]

    for code, name in enumerate(REWARDS):
        for bg in (0.5, 9.0, 45.0, 69.9, 70.0, 112.0, 139.0, 176.0, 240.0, 390.0, 1500.0):
            args = (bg, bg + 3.0, 0.05, bg * 1.1, bg * 0.8)
            assert rewards.reward(code, *args, 1.0) == pytest.approx(expected(name, *args), rel=1e-12, abs=1e-12), name


@pytest.mark.parametrize("name", REWARDS)
def test_any_reward_function_can_be_the_proxy_or_the_true_reward(name):
    env = made(2, proxy_reward=name, true_reward=name, patient="adult#001+child#002")
    before = env.last.copy()
    for _ in range(3):
        _, reward, *_, info = act(env, 0.04)
        np.testing.assert_array_equal(info["proxy_reward"], info["true_reward"])
        np.testing.assert_array_equal(reward, info["proxy_reward"])
        code = REWARDS.index(name)
        for i in range(2):
            args = (info["bg"][i], info["cgm"][i], info["insulin"][i], before[i, 0], before[i, 1], 1.0)
            assert info["true_reward"][i] == pytest.approx(rewards.reward(code, *args), rel=1e-12)
        before = env.last.copy()


@pytest.mark.parametrize(("reward_fun", "scale"), [("proxy", 1.0), ("true", 1e-3)])
def test_an_early_end_costs_a_hundred_and_info_does_not_show_it(reward_fun, scale):
    env = made(2, reward_fun=reward_fun, bg_max=200.0, meals=[(0, 150.0)], horizon=500)
    terminated, steps = np.zeros(2, bool), 0
    while not terminated.any():
        steps += 1
        _, reward, terminated, truncated, info = act(env, 0.0)
        raw = info[f"{reward_fun}_reward"]
        assert (terminated == (info["bg"] > 200)).all() and not truncated.any()
        np.testing.assert_allclose(reward, scale * raw - 100.0 * terminated, rtol=1e-12)
    assert steps < 60 and terminated.all() and (info["true_reward"] == -info["magni_risk"]).all()
    # At the horizon itself nothing is taken.
    env = made(1, reward_fun=reward_fun, bg_max=200.0, meals=[(0, 150.0)], horizon=steps)
    _, reward, terminated, truncated, info = act(env, 0.0, steps)
    assert terminated[0] and truncated[0]
    assert reward[0] == pytest.approx(scale * info[f"{reward_fun}_reward"][0], rel=1e-12)


def test_low_glucose_ends_an_episode():
    env = made(bg_min=60.0, meals=[])
    for _ in range(288):
        _, _, terminated, _, info = act(env, 0.1)
        assert terminated[0] == (info["bg"][0] < 60)
        if terminated[0]:
            return
    pytest.fail("0.1 is 4.3 times the basal rate")


def test_metrics_sort_glucose_into_three():
    env = made(meals=[(400, 120.0)])
    seen = set()
    for action in [0.1] * 60 + [0.0] * 100:
        info = act(env, action)[4]
        bg = info["bg"][0]
        expected = (bg < 70, bg > 180, 70 <= bg <= 180)
        assert tuple(info[key][0] for key in ("hypoglycemic", "hyperglycemic", "euglycemic")) == expected
        seen.add(expected)
    assert len(seen) == 3


# Patients, seeds, numbers


def test_patients_are_chosen_by_name_group_and_sum():
    assert [NAMES[i] for i in patients.select("adult#003")] == ["adult#003"]
    assert [NAMES[i] for i in patients.select("child010 + adult#001")] == ["child#010", "adult#001"]
    assert [NAMES[i] for i in patients.select("adolescent")] == [f"adolescent#{i:03}" for i in range(1, 11)]
    assert patients.select("all").tolist() == list(range(30))
    assert len(NAMES) == 30 and patients.parameters().shape == (30, len(patients.PARAMETERS))
    assert np.isfinite(patients.parameters()).all() and (patients.gains()[:, 1:] < 0).all()


def test_a_command_line_can_name_any_patient():
    assert compose("env=glucose", "env.patient='child#002'").env.patient == "child#002"
    assert compose("env=glucose", "env.patient=child002+adult").env.patient == "child002+adult"


def test_lanes_take_patients_in_turn_and_do_not_notice_each_other():
    mixed = Glucose(patient="adult#001+child#003").make_vec(5, seed=4)
    alone = Glucose(patient="child#003").make_vec(5, seed=4)
    mixed.reset()
    alone.reset()
    for action in np.random.default_rng(0).uniform(0, 0.05, (300, 5, 1)).astype(np.float32):
        a, b = mixed.step(action), alone.step(action)
        np.testing.assert_array_equal(a[0][1::2], b[0][1::2])
        assert (a[0][::2] != b[0][::2]).any()


@pytest.mark.parametrize(
    ("text", "mend"), [("adult#011", "did you mean 'adult0"), ("teenager#1", "choose|did you mean")]
)
def test_an_unknown_patient_is_refused_with_the_nearest(text, mend):
    with pytest.raises(ConfigError, match=mend) as error:
        Glucose(patient=text).make_vec(1)
    assert text in str(error.value) and "env.patient" in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"bg_min": 200.0, "bg_max": 100.0},
        {"bg_min": float("nan")},
        {"bg_max": float("inf")},
        {"cgm_min": 400.0},
        {"noise_scale": -1.0},
        {"controller_noise": float("nan")},
        {"basal_scaling": 0.0},
        {"true_scale": -1e-3},
        {"termination_penalty": -5.0},
        {"meal_seed": -1},
        {"sensor_seed": 2**31},
        {"start": "hungry"},
        {"true_reward": "magni"},
        {"patient": ""},
        {"horizon": 10**9},
    ],
)
def test_numbers_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match="mend") as error:
        Glucose(**fields)._changed({}).make_vec(1)
    assert next(iter(fields)) in str(error.value)


def test_fixed_seeds_go_up_by_one_an_episode_and_begin_anew_with_a_seed():
    env = made(3, meal_seed=5, sensor_seed=9, noise_scale=1.0, horizon=288)
    eaten, noise = env.meal_size.copy(), env.noise.copy()
    assert (env.seeds == [6, 10]).all() and (eaten == eaten[0]).all() and (noise == noise[0]).all()
    env.reset(options={"reset_mask": np.array([False, True, False])})
    assert env.seeds.tolist() == [[6, 10], [7, 11], [6, 10]]
    later = made(1, meal_seed=6, sensor_seed=10, noise_scale=1.0, horizon=288)
    np.testing.assert_array_equal(env.meal_size[1], later.meal_size[0])
    np.testing.assert_array_equal(env.noise[1], later.noise[0])
    env.reset(seed=1)
    np.testing.assert_array_equal(env.meal_size, eaten)


def test_without_fixed_seeds_lanes_and_episodes_differ():
    env = made(6, meal_seed=None, noise_scale=1.0, horizon=288)
    first = env.seeds.copy()
    env.reset()
    assert len(np.unique([first, env.seeds])) == 24
    assert len({tuple(row) for row in env.meal_time.tolist()}) == 6


def test_the_controller_s_noise_has_its_size_and_asking_changes_nothing():
    quiet, noisy = (made(2000, start="basal", controller_noise=s, derivative_kick=False) for s in (0.0, 0.003))
    a = noisy.base_action(noisy.observe())
    state = noisy.get_state()
    np.testing.assert_array_equal(noisy.base_action(noisy.observe()), a)
    for key, value in noisy.get_state().items():
        np.testing.assert_array_equal(value, state[key])
    assert a.dtype == np.float32 and a.min() >= 0 and a.max() <= np.float32(0.1)
    u = quiet.memory[0, 1] * (quiet._gains[0, 1] + quiet._gains[0, 2])
    share = np.mean(a == 0)
    # P(u + N(0, 0.003) <= 0)
    expected = 0.5 * (1 + math.erf(-u / 0.003 / math.sqrt(2)))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 2000))
    centred = a[:, 0] * noisy._scale - u
    assert np.median(np.abs(centred[centred > 0])) == pytest.approx(0.6745 * 0.003, rel=0.1)


def test_the_defaults_are_the_shipped_numbers():
    numbers = yaml.safe_load((CONF / "env" / "glucose.yaml").read_text())
    shipped = compose("env=glucose").env
    for name in numbers:
        if name not in ("defaults", "training", "cloning", "reward_std", "reward_mean"):
            assert getattr(shipped, name) == getattr(Glucose(), name), name


def test_a_picture_shows_the_days_also_of_a_restored_state():
    env = Glucose().make_vec(2, seed=0, render_mode="rgb_array")
    env.reset()
    empty = env.render()[0]
    act(env, 0.03, 900)
    first, second = env.render()
    assert first.shape == (450, 800, 3) and first.dtype == np.uint8
    assert (first != empty).any() and (first != second).any()
    other = Glucose().make_vec(2, seed=1, render_mode="rgb_array")
    other.set_state(env.get_state())
    np.testing.assert_array_equal(other._trace[0, 1:3, (900 - 48 + np.arange(48)) % 864].T, env.observe()[0])
    act(other, 0.03)
    assert other.render()[0].shape == first.shape


def test_the_page_has_every_metric_and_its_unit():
    page = (Path(__file__).parents[2] / "docs" / "envs" / "glucose.md").read_text()
    table = page.partition("## Metrics")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| [\w/]+ \| \w", table, re.MULTILINE) == list(made()._metrics())
