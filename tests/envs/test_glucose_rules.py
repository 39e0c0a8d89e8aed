"""What the glucose environment promises: limits of the model in closed form, each quirk, patients, seeds, rewards, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from scipy.linalg import expm

from rhtool.config import CONF, compose
from rhtool.envs.glucose import REWARDS, Glucose, kernel, patients, rewards
from rhtool.errors import ConfigError
from tests.envs.glucose_reference import patient, rk4
from tests.envs.test_glucose import feed

NAMES = patients.names()


def made(lanes: int = 1, seed: int = 0, meals: list | None = None, **fields):
    """An environment that was reset, with the meals given."""
    env = Glucose(**{"meal_seed": 0, **fields}).make_vec(lanes, seed=seed, autoreset_mode="Disabled")
    env.reset()
    if meals is not None:
        feed(env, meals)
    return env


def act(env, value: float, steps: int = 1):
    """Several steps at one action; the last one's results."""
    for _ in range(steps):
        out = env.step(np.full((env.num_envs, 1), value, np.float32))
    return out


def minutes(who: int, x, food: float, insulin: float, n: int, dbar: float = 0.0) -> np.ndarray:
    """(n + 1, 13): states of a patient minute by minute at constant inputs (mg/min, pmol/kg/min)."""
    c, states = kernel.constants(patients.parameters())[who], [tuple(map(float, x))]
    for _ in range(n):
        states.append(kernel.minute(c, dbar, food, insulin, states[-1]))
    return np.array(states)


# The model


def test_basal_insulin_keeps_every_patient_where_they_are():
    env = made(30, patient="all", start="basal", meals=[])
    before = env.last[:, 0].copy()
    basal = (patients.basal_rates() / env._scale)[:, None].astype(np.float32)
    for _ in range(288):
        env.step(basal)
    # The pump rounds to 0.05 pmol/min, and the table has ten digits.
    np.testing.assert_allclose(env.last[:, 0], before, rtol=5e-3)
    np.testing.assert_allclose(env.state[:, 5], patients.steady_states()[:, 5], rtol=2e-3)


@pytest.mark.parametrize("dbar", [0.0, 60.0, 60_000.0])
def test_a_meal_is_absorbed_whole_and_a_fraction_f_of_it_appears(dbar):
    for who in (0, 10, 25):
        p, x = patient(NAMES[who]), np.zeros(13)
        fed = minutes(who, x, 5000.0, 0.0, 12, dbar)  # 60 g in twelve minutes
        after = minutes(who, fed[-1], 0.0, 0.0, 6000, dbar)
        left = after[-1, :3].sum()
        gut = np.concatenate([fed[:-1, 2], after[:, 2]])
        absorbed = p["kabs"] * (gut.sum() - gut[-1] / 2)  # trapezoids; the gut begins empty
        assert absorbed + left == pytest.approx(60_000.0, rel=2e-3)
        assert left < 1.0
        # Of each mg that leaves the gut f appears in plasma: with x0 = x1 = 0 nothing else moves it.
        c = kernel.constants(patients.parameters())[who]
        assert c[kernel.CONSTANTS.index("rate_of_appearance")] * p["BW"] / p["kabs"] == pytest.approx(p["f"], rel=1e-12)


def test_insulin_is_linear_and_settles_where_its_equations_say():
    linear = [5, 9, 10, 11]
    for name in ("adult#001", "adolescent#006", "child#003"):
        who, p = NAMES.index(name), patient(name)
        u = 2.0 * p["u2ss"]
        a = np.array(
            [
                [-(p["m2"] + p["m4"]), p["m1"], p["ka1"], p["ka2"]],
                [p["m2"], -(p["m1"] + p["m30"]), 0, 0],
                [0, 0, -(p["ka1"] + p["kd"]), 0],
                [0, 0, p["kd"], -p["ka2"]],
            ]
        )
        x = patients.starts("stored")["state"][who]
        settled = np.linalg.solve(a, [0, 0, -u, 0])
        states = minutes(who, x, 0.0, u, 60)
        for t in (1, 60):
            exact = settled + expm(a * t) @ (x[linear] - settled)
            np.testing.assert_allclose(states[t][linear], exact, rtol=1e-4)
        np.testing.assert_allclose(minutes(who, x, 0.0, u, 8000)[-1][linear], settled, rtol=1e-6)


def test_more_insulin_never_raises_glucose():
    bg = [act(made(meals=[(60, 60.0)]), action, 60)[4]["bg"][0] for action in (0.0, 0.02, 0.05, 0.1)]
    assert bg == sorted(bg, reverse=True) and bg[0] > bg[-1] + 50


def test_a_minute_from_any_state_is_that_of_the_plain_reading():
    rng, c = np.random.default_rng(0), kernel.constants(patients.parameters())
    for k in range(200):
        who = k % 30
        x = patients.steady_states()[who] * rng.uniform(
            -0.2, 2.5, 13
        )  # some are negative, some beyond the renal threshold
        x[:3] = rng.uniform(0, 40_000, 3)
        food, insulin = rng.choice([0.0, 5000.0]), rng.uniform(0, 5)
        dbar = rng.choice([0.0, 1.0, 90.0, 50_000.0])
        expected = rk4(x, 0, patient(NAMES[who]), food, insulin, dbar)
        found = kernel.minute(c[who], dbar, food, insulin, tuple(map(float, x)))
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-9)


def test_a_state_that_is_negative_stays_where_it_is():
    for j in (3, 4, 5, 9, 10, 11, 12):
        x = patients.steady_states()[10].copy()
        x[j] = -0.25
        assert minutes(10, x, 0.0, 1.0, 1)[-1][j] == -0.25


def test_a_large_meal_is_announced_in_five_minutes_and_eaten_at_five_grams_a_minute():
    env = made(meals=[(5, 82.0)])
    announced, eating = [], []
    for _ in range(6):
        announced.append(act(env, 0.02)[4]["cho"][0] * 5)
        eating.append(env.stomach[0, 1])
    np.testing.assert_allclose(announced, [0, 82, 0, 0, 0, 0])
    np.testing.assert_allclose(eating, [0, 25, 50, 75, 82, 82])
    assert env.stomach[0, 2] == pytest.approx(0.0, abs=1e-12)


def test_of_meals_that_overlap_the_first_is_served():
    env = made(meals=[(5, 50.0), (8, 10.0), (20, 5.0)])
    served = [act(env, 0.02)[4]["cho"][0] * 5 for _ in range(5)]
    # Minutes 5 to 9 are the first meal's; of the second's, 8 to 12, three are left.
    np.testing.assert_allclose(served, [0, 50, 6, 0, 5])


# The quirks


def flagged(name: str, value: bool, **fields):
    return made(**{name: value, **fields})


@pytest.mark.parametrize(
    "name", ["gram_meals", "empty_memory", "stale_sensor", "cost_per_minute", "derivative_kick", "windup"]
)
def test_a_flag_left_open_follows_the_variant_and_changes_something(name):
    start = "basal" if name == "derivative_kick" else "stored"  # the stored day ends near the set point

    def history(value, variant="orpo"):
        env = made(variant=variant, start=start, **{name: value})
        steps = [[0.0, 0.0, 0.0, env.base_action(env.observe())[0, 0]]]
        for _ in range(290):
            observations, reward, *_, info = act(env, 0.03)
            steps.append([observations[0, 0, -1], reward[0], info["bg"][0], env.base_action(observations)[0, 0]])
        return np.array(steps)

    on, off = history(True), history(False)
    np.testing.assert_array_equal(history(None), on)
    assert (on != off).any()
    corrected = history(None, "corrected")
    np.testing.assert_array_equal(history(False, "corrected"), corrected)
    assert (history(True, "corrected") != corrected).any()


def test_gram_meals_matter_from_the_first_meal_on_and_empty_the_stomach_faster():
    grams, milligrams = (flagged("gram_meals", value, meals=[(60, 70.0)]) for value in (True, False))
    for k in range(100):
        a, b = act(grams, 0.03)[4]["bg"][0], act(milligrams, 0.03)[4]["bg"][0]
        assert (a == b) == (k < 12)
        if k == 30:
            assert grams.state[0, 1] < milligrams.state[0, 1] - 1000
    assert milligrams.stomach[0, 1] == grams.stomach[0, 1] == 70.0


def test_empty_memory_empties_a_stomach_at_its_fastest():
    p = patient("adult#001")
    forgets, remembers = (flagged("empty_memory", value, meals=[]) for value in (True, False))
    stored = forgets.state[0, :2].sum()
    assert not forgets.stomach.any() and remembers.stomach[0, 0] == stored
    x1 = forgets.state[0, 1]
    act(forgets, 0.02)
    act(remembers, 0.02)
    assert forgets.state[0, 1] == pytest.approx(x1 * math.exp(-5 * p["kmax"]), rel=1e-2)
    assert remembers.state[0, 1] > forgets.state[0, 1]


def test_a_stale_sensor_shows_the_steady_state_for_two_minutes():
    steady = 265.370112 / 1.9152
    first = {}
    for value in (True, False):
        env = flagged("stale_sensor", value, meals=[])
        present = env.state[0, 12] / 1.9152
        held = steady if value else present
        info = act(env, 0.03)[4]
        first[value] = info["cgm"][0]
        fresh = env.held[0]
        assert info["cgm"][0] == pytest.approx((2 * held + 3 * fresh) / 5, rel=1e-12)
    assert first[True] == pytest.approx(118.46, abs=0.02)
    assert first[False] == pytest.approx(105.7, abs=0.5)


def test_cost_per_minute_charges_a_fifth():
    for value, factor in ((True, 1), (False, 5)):
        info = act(flagged("cost_per_minute", value), 0.05)[4]
        assert info["proxy_reward"][0] == pytest.approx(-0.32 * factor * info["insulin"][0], rel=1e-12)


def test_a_derivative_kick_is_the_first_error_taken_for_a_change():
    kp, ki, kd = patients.gains()[NAMES.index("adult#001")][1:]
    for start, value in (("basal", True), ("basal", False)):
        env = flagged("derivative_kick", value, start=start, controller_noise=0.0)
        error = 120.0 - env.last[0, 1]
        assert error < -15
        u = kp * error + ki * error + kd * error * value
        assert env.base_action(env.observe())[0, 0] == pytest.approx(min(max(u / env._scale[0], 0), 0.1), rel=1e-6)


def test_windup_goes_on_integrating_at_the_bound():
    wound, held = (flagged("windup", value, controller_noise=0.0, meals=[(0, 200.0)]) for value in (True, False))
    for env in (wound, held):
        act(env, 0.0, 576)
        assert env.last[0, 0] > 250 and env.controller[0, 0] > 0.099
    assert wound.memory[0, 0] < held.memory[0, 0] < 0
    before = [env.memory[0, 0] for env in (wound, held)]
    act(wound, 0.0)
    act(held, 0.0)
    assert wound.memory[0, 0] < before[0] and held.memory[0, 0] == before[1]


# Rewards


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
    ("text", "mend"), [("adult#011", "did you mean 'adult#0"), ("teenager#1", "choose|did you mean")]
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
        if name not in ("defaults", "training", "reward_std", "reward_mean"):
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
