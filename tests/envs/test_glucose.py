"""The glucose environment against what the original produced, and against plain Python readings of its description."""

from __future__ import annotations

import json
import runpy

import numpy as np
import pytest

from rhtool.envs.glucose import REWARDS, Glucose, kernel, patients, rewards, scenario
from tests.conftest import ROOT
from tests.envs.glucose_reference import DATA, Reference, feed, lsoda, meals, noise, table

ADULT = patients.names().index("adult#001")


def advance(env, rate: float) -> dict[str, float]:
    """One step of a single lane at a rate in U/min, which may be more than the largest action gives."""
    proxy, true, _ = env._step(np.array([[rate / env._scale[0]]]), env._everyone)
    env._elapsed += 1
    return {"proxy": proxy[0], "true": true[0], **{key: value[0] for key, value in env._metrics().items()}}


def test_fixed_inputs_give_the_exact_solution_and_nearly_the_original_s():
    inputs, exact = table("fixed_inputs_adult001.csv"), table("fixed_inputs_adult001_tight_ode.csv")
    env = Glucose().make_vec(1, seed=0)
    env.reset()
    feed(env, [(5 * k, 5 * cho) for k, cho in enumerate(inputs["CHO_g_per_min"]) if cho])
    bg, states, seen = [], [], []
    for rate in inputs["insulin_cmd_U_per_min"]:
        step = advance(env, rate)
        bg.append(step["bg"])
        states.append(env.state[0].copy())
        seen.append([step[key] for key in ("insulin", "cho", "cgm", "magni_risk", "true", "proxy")])
    assert np.abs(np.array(bg) - exact["BG"]).max() < 1e-4
    for i in range(13):
        # Stomach and gut: 0.02 mg in the first minutes of a meal, of thousands.
        np.testing.assert_allclose(np.array(states)[:, i], exact[f"x{i}"], rtol=1e-6, atol=0.03 if i < 3 else 1e-4)
    assert np.abs(np.array(bg) - inputs["BG"]).max() < 2.0
    insulin, cho, cgm, risk, true, proxy = np.array(seen).T
    np.testing.assert_allclose(insulin, inputs["insulin_pumped_U_per_min"], atol=1e-15)
    np.testing.assert_allclose(cho, inputs["CHO_g_per_min"], atol=1e-12)
    assert np.abs(cgm - inputs["CGM"]).max() < 2.0
    np.testing.assert_array_equal(true, -risk)
    away = np.abs(inputs["BG"] - 70) > 2.0  # hypoglycemia is a step in the proxy
    np.testing.assert_allclose(proxy[away], inputs["proxy_reward_expected_patient_cost"][away], atol=1e-12)


def test_three_days_at_a_constant_action():
    golden = table("env_const_action_003.csv")
    env = Glucose(reward_fun="true", meal_seed=0).make_vec(1, seed=0)
    env.reset()
    rows = []
    for _ in range(864):
        _, reward, terminated, truncated, info = env.step(np.array([[0.03]]))
        rows.append([reward[0], *(info[key][0] for key in info)])
    reward, proxy, true, bg, cgm, insulin, cho, risk, *_ = np.array(rows).T
    assert not terminated[0] and not truncated[0]
    # The original's integrator is up to 2.6 mg/dL from the exact solution here: see the next test.
    assert np.abs(bg - golden["BG"]).max() < 2.6 and np.abs(bg - golden["BG"]).mean() < 0.5
    assert np.abs(cgm - golden["CGM"]).max() < 2.6
    np.testing.assert_allclose(insulin, golden["insulin_U_per_min"], atol=1e-15)
    np.testing.assert_allclose(cho, golden["CHO_g_per_min"], atol=1e-12)
    np.testing.assert_allclose(proxy, golden["proxy_reward"], atol=1e-12)
    np.testing.assert_allclose(risk, golden["magni_risk"], atol=0.6)
    np.testing.assert_allclose(true, golden["true_reward"], atol=0.6)
    np.testing.assert_allclose(reward, golden["env_reward"], atol=0.6e-3)
    np.testing.assert_array_equal(reward, true * 1e-3)


def test_the_controller_answers_the_original_s_readings_as_the_original_does():
    golden, start = table("env_const_action_003.csv"), json.loads((DATA / "initial_state.json").read_text())
    # The controller's noise came from numpy's global generator, seeded with 0 and used for nothing else.
    noise_of_controller = np.random.RandomState(0).normal(0, 0.003, 864)
    gains, memory, rng, before = patients.gains()[ADULT], np.zeros(2), np.ones(4, np.uint64), 0.0
    for k, cgm in enumerate([start["obs_cgm"][-1], *golden["CGM"][:-1]]):
        quiet = kernel.control(gains, start["action_scale"], 0.1, True, True, 0.0, k == 0, True, cgm, memory, rng)
        total, error = memory
        u = gains[1] * error + gains[2] * total + gains[3] * (error - before)
        before = error
        assert quiet == np.clip(u / start["action_scale"], 0.0, 0.1)
        noisy = np.clip((u + noise_of_controller[k]) / start["action_scale"], 0.0, 0.1)
        assert noisy == pytest.approx(golden["pid_action_normalised"][k], abs=1e-12)


def test_the_original_s_integrator_accounts_for_the_whole_difference():
    golden = table("env_const_action_003.csv")
    start = json.loads((DATA / "initial_state.json").read_text())
    days = json.loads((DATA / "env_const_action_003_meals.json").read_text())
    eaten = [(1440 * int(d) + t, g) for d, m in days.items() for t, g in zip(m["time"], m["amount"], strict=True)]
    loose = Reference("adult#001", start["state"], eaten, integrate=lsoda, held=265.370112 / 1.9152)
    traced = np.array([loose.step(0.027375) for _ in range(864)])
    for column, key in enumerate(("BG", "CGM", "insulin_U_per_min", "CHO_g_per_min")):
        np.testing.assert_allclose(traced[:, column], golden[key], rtol=0, atol=1e-6)


def test_an_episode_starts_where_the_original_s_does():
    golden = json.loads((DATA / "initial_state.json").read_text())
    env = Glucose().make_vec(2, seed=5)
    observations, _ = env.reset()
    for observation in observations:
        np.testing.assert_array_equal(observation, np.array([golden["obs_cgm"], golden["obs_insulin"]], np.float32))
    for lane in range(2):
        np.testing.assert_array_equal(env.state[lane], golden["state"])
        assert env.last[lane, 0] == golden["bg_hist_last"]
        assert env._scale[lane] == pytest.approx(golden["action_scale"], rel=1e-14)
    assert patients.basal_rates()[ADULT] == pytest.approx(golden["ideal_basal"], rel=1e-14)
    assert (patients.column("BW")[ADULT], patients.column("u2ss")[ADULT]) == (golden["BW"], golden["u2ss"])
    assert not env.stomach.any()


def test_the_reward_table():
    for row in json.loads((DATA / "reward_table.json").read_text()):
        bg = float(row["bg"])
        for name, insulin, expected in (
            ("magni_bg", 0.0, row["magni"]),
            ("expected_patient_cost", 0.0, row["cost_ins0"]),
            ("expected_patient_cost", 0.05, row["cost_ins005"]),
        ):
            found = rewards.reward(REWARDS.index(name), bg, bg, insulin, bg, bg, 1.0)
            assert found == pytest.approx(expected, abs=1e-9), (name, bg)


def test_the_meals_of_a_seed_are_the_original_s():
    golden = json.loads((DATA / "env_const_action_003_meals.json").read_text())
    minutes, grams = scenario.meals(np.array([1], np.uint32), patients.meal_means()[[ADULT]], 3)
    taken = minutes[0] >= 0
    expected = [(1440 * int(d) + t, g) for d, m in golden.items() for t, g in zip(m["time"], m["amount"], strict=True)]
    assert list(zip(minutes[0][taken], grams[0][taken], strict=True)) == expected
    assert (grams[0][~taken] == 0).all()
    np.testing.assert_allclose(patients.meal_means()[ADULT], [69.4, 82.0, 97.7, 9.46], atol=0.05)


@pytest.mark.parametrize("name", ["adult#002", "adolescent#003", "child#007"])
def test_meals_are_those_of_numpy_and_scipy(name):
    means, seeds = patients.meal_means()[patients.names().index(name)], [0, 7, 2**31 - 1, 2**32 - 1]
    minutes, grams = scenario.meals(np.array(seeds, np.uint32), np.tile(means, (4, 1)), 21)
    for k, seed in enumerate(seeds):
        taken = minutes[k] >= 0
        assert list(zip(minutes[k][taken], grams[k][taken], strict=True)) == meals(seed, means, 21)


def test_the_sensor_noise_of_a_seed_is_the_original_s():
    golden = json.loads((DATA / "cgm_noise_dexcom_seed1.json").read_text())
    np.testing.assert_allclose(scenario.sensor_noise(np.array([1]), len(golden))[0], golden, atol=1e-10)
    ours = scenario.sensor_noise(np.array([3, 12345]), 333)
    for row, seed in zip(ours, (3, 12345), strict=True):
        np.testing.assert_allclose(row, noise(seed, 333), atol=1e-10)


@pytest.mark.parametrize(
    ("name", "noisy", "variant", "start"),
    [
        ("adult#001", False, "orpo", "stored"),
        ("child#004", True, "orpo", "stored"),
        ("adolescent#007", True, "corrected", "stored"),
        ("adult#009", False, "corrected", "basal"),
    ],
)
def test_a_day_is_that_of_the_plain_reading(name, noisy, variant, start):
    config = Glucose(patient=name, noise_scale=0.5 * noisy, variant=variant, start=start, meal_seed=3, sensor_seed=8)
    env = config.make_vec(1, seed=0, horizon=288)
    env.reset()
    who = patients.names().index(name)
    x = patients.starts(start)["state"][who]
    readings = 0.5 * np.array(noise(10, 482)) if noisy else np.zeros(482)
    orpo = variant == "orpo"
    shown = patients.steady_states()[who, 12] if orpo else x[12]
    reference = Reference(
        name,
        x,
        meals(4, patients.meal_means()[who], 1),
        grams=orpo,
        content=0.0 if orpo else x[0] + x[1],
        held=shown / patients.column("Vg")[who] + readings[1],
        noise=readings[2:],
    )
    actions = np.random.default_rng(0).uniform(0, 0.05, (288, 1, 1)).astype(np.float32)
    for action in actions:
        bg, cgm, insulin, cho = reference.step(float(action[0, 0]) * env._scale[0])
        observations, _, terminated, _, info = env.step(action)
        assert info["bg"][0] == pytest.approx(bg, abs=1e-8)
        assert info["cgm"][0] == pytest.approx(cgm, abs=1e-8)
        assert info["insulin"][0] == pytest.approx(insulin, abs=1e-15)
        assert info["cho"][0] == pytest.approx(cho, abs=1e-12)
        np.testing.assert_allclose(observations[0, :, -1], [cgm, insulin], rtol=1e-6)
        assert not terminated[0]
    np.testing.assert_allclose(env.state[0], reference.x, rtol=1e-9, atol=1e-8)


def test_twenty_days_of_the_controller_are_like_the_original_s():
    golden = json.loads((DATA / "pid_20day_episodes.json").read_text())
    env = Glucose().make_vec(24, seed=0)
    observations, _ = env.reset()
    sums = dict.fromkeys(("true", "proxy", "mean_bg", "hypo", "hyper", "insulin_total", "act_mean", "act_zero"), 0.0)
    for _ in range(5760):
        action = env.base_action(observations)
        observations, _, terminated, truncated, info = env.step(action)
        assert not terminated.any()
        sums["act_mean"] += action[:, 0].astype(float) / 5760
        sums["act_zero"] += (action[:, 0] == 0) / 5760
        sums["true"] += info["true_reward"]
        sums["proxy"] += info["proxy_reward"]
        sums["mean_bg"] += info["bg"] / 5760
        sums["hypo"] += info["hypoglycemic"] / 5760
        sums["hyper"] += info["hyperglycemic"] / 5760
        sums["insulin_total"] += info["insulin"]
    assert truncated.all()
    for key, ours in sums.items():
        theirs = np.array([episode[key] for episode in golden])
        error = np.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs))
        slack = 0.01 if key == "act_zero" else 0.0
        assert abs(ours.mean() - theirs.mean()) < 3.2 * error + slack, (key, ours.mean(), theirs.mean())


def test_the_stored_days_are_what_the_script_makes():
    made = runpy.run_path(str(ROOT / "scripts" / "glucose_starts.py"))["starts"]()
    stored = patients.starts("stored")
    assert len(made) == 29 and "adult#001" not in made
    for i, name in enumerate(patients.names()):
        if name in made:
            for key in ("state", "cgm", "insulin", "bg"):
                np.testing.assert_allclose(made[name][key], stored[key][i], rtol=1e-4, atol=1e-5)


def test_the_pump_rounds_as_numpy_does():
    rates = np.concatenate(
        [np.arange(2000) * 0.025 / 6000, np.random.default_rng(0).uniform(0, 0.5, 2000), [31.0, 1e9]]
    )
    expected = np.clip(np.round(rates * 6000 / 0.05) * 0.05 / 6000, 0, 30)
    np.testing.assert_array_equal([kernel.pumped(rate) for rate in rates], expected)
