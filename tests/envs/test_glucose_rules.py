"""What the glucose environment promises: limits of the model in closed form, and each quirk."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import expm

from rhtool.envs.glucose import kernel, patients
from tests.envs.glucose_reference import act, made, patient, rk4

NAMES = patients.names()


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


def test_windup_goes_on_integrating_at_the_bound_and_while_another_policy_acts():
    """The sum of errors, exactly: with the quirk of all, else of those within the bounds after a step of its own."""
    gains, rng = patients.gains()[NAMES.index("adult#001")], np.ones(4, np.uint64)
    scale, limit = 0.9, 0.1
    for windup in (True, False):
        memory, total, left_out = np.zeros(2), 0.0, {True: 0, False: 0}
        for t in range(2000):
            cgm, obeyed = (390.0 if t < 1200 else 60.0), t % 5 != 0
            error = gains[0] - cgm
            u = gains[1] * error + gains[2] * (total + error) + gains[3] * (error - memory[1])
            outward = (u > limit * scale and error < 0) or (u < 0 and error > 0)
            action = kernel.control(gains, scale, limit, windup, True, 0.0, False, obeyed, cgm, memory, rng)
            counted = windup or (obeyed and not outward)
            total = total + error * counted
            left_out[obeyed] += not counted
            assert memory.tolist() == [total, error]
            assert action == pytest.approx(
                min(max((u - gains[2] * error * (not counted)) / scale, 0), limit), abs=1e-12
            )
        assert left_out == {True: 0, False: 0} if windup else left_out[True] > 50 and left_out[False] == 400


def test_without_windup_only_steps_of_the_controller_s_own_action_count():
    env = flagged("windup", False, meals=[(0, 90.0)])
    before, counted = env.memory.copy(), 0
    for t in range(40):
        own = env.base_action(env.observe())
        env.step(np.nextafter(own, np.float32(0.05)) if t % 2 else own)
        change = env.memory[0, 0] - before[0, 0]
        assert change == 0 or not t % 2
        counted += change != 0
        before = env.memory.copy()
    assert counted > 10  # the rest is at a bound
    wound = flagged("windup", True)
    for _ in range(20):
        before = wound.memory.copy()
        act(wound, 0.05)
        assert wound.memory[0, 0] == before[0, 0] + wound.memory[0, 1]
