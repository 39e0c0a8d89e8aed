"""The patient, the pump, the sensor and the controller, compiled, over arrays of lanes.

The patient is the UVA/Padova model of 2008 as simglucose has it (Dalla Man, Rizza, Cobelli, "Meal simulation model of the
glucose-insulin system", IEEE TBME 54(10), 2007; Kovatchev et al., "In silico preclinical trials", J. Diabetes Sci. Technol.
3(1), 2009). Thirteen states:

    x0, x1, x2     glucose in the stomach, solid and liquid, and in the gut, mg
    x3, x4, x12    glucose in plasma, tissue and under the skin, mg/kg
    x5, x9         insulin in plasma and liver, pmol/kg
    x10, x11       insulin under the skin, two compartments, pmol/kg
    x6, x7, x8     insulin's action on uptake, and its delayed signal to the liver, pmol/L

Inputs, constant for a minute: D mg/min of food eaten, U pmol/kg/min of insulin. Where [x >= 0] stands, a state that is
negative stays where it is.

    q    = x0 + x1;  Dbar = stomach's content when the last meal began + that meal's size so far
    kgut = kmin + (kmax - kmin) / 2 (tanh(5 (q - b Dbar) / (2 (1 - b) Dbar)) - tanh(5 (q - d Dbar) / (2 d Dbar)) + 2),
           kmax while Dbar = 0
    x0'  = D - kmax x0;   x1' = kmax x0 - kgut x1;   x2' = kgut x1 - kabs x2
    x3'  = max(kp1 - kp2 x3 - kp3 x8, 0) + f kabs x2 / BW - Fsnc - ke1 max(x3 - ke2, 0) - k1 x3 + k2 x4    [x3 >= 0]
    x4'  = k1 x3 - k2 x4 - (Vm0 + Vmx x6) x4 / (Km0 + x4)                                                   [x4 >= 0]
    x5'  = m1 x9 + ka1 x10 + ka2 x11 - (m2 + m4) x5  [x5 >= 0];   I = x5 / Vi
    x6'  = p2u (I - Ib - x6);   x7' = ki (I - x7);   x8' = ki (x7 - x8)
    x9'  = m2 x5 - (m1 + m30) x9  [x9 >= 0]
    x10' = U - (ka1 + kd) x10  [x10 >= 0];   x11' = kd x10 - ka2 x11  [x11 >= 0]
    x12' = ksc (x3 - x12)  [x12 >= 0];   BG = x12 / Vg mg/dL

The classical Runge-Kutta method with steps of one minute is within 4e-5 mg/dL of the exact solution.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from rhtool.envs.glucose.patients import PARAMETERS
from rhtool.envs.glucose.rewards import magni, reward
from rhtool.envs.rng import integers, normal

CONSTANTS = (
    "kmax",
    "kmin",
    "b",
    "d",
    "a_full",
    "a_low",
    "kabs",
    "rate_of_appearance",
    "kp1",
    "kp2",
    "kp3",
    "Fsnc",
    "ke1",
    "ke2",
    "k1",
    "k2",
    "Vm0",
    "Vmx",
    "Km0",
    "m1",
    "m2",
    "m24",
    "m130",
    "ka1",
    "ka2",
    "kd",
    "ka1kd",
    "ksc",
    "p2u",
    "Ib",
    "ki",
    "per_Vi",
    "per_Vg",
    "BW",
)
"""columns of `constants()`"""

MEAL_MINUTES = 5
"""a meal is announced over this many minutes"""

EATING_RATE = 5.0
"""grams of carbohydrate that a patient eats in a minute"""

PUMP_STEP, PUMP_MAX = 0.05, 30.0
"""the pump's resolution (pmol/min) and limit (U/min)"""


def constants(parameters: np.ndarray) -> np.ndarray:
    """float64 (K, C): what the kernel needs of `patients.parameters()`."""
    p = dict(zip(PARAMETERS, parameters.T, strict=True))
    p |= {
        "a_full": 5.0 / (1.0 - p["b"]),
        "a_low": 5.0 / p["d"],
        "rate_of_appearance": p["f"] * p["kabs"] / p["BW"],
        "m24": p["m2"] + p["m4"],
        "m130": p["m1"] + p["m30"],
        "ka1kd": p["ka1"] + p["kd"],
        "per_Vi": 1.0 / p["Vi"],
        "per_Vg": 1.0 / p["Vg"],
    }
    return np.ascontiguousarray(np.stack([p[name] for name in CONSTANTS], axis=1))


@njit(cache=True, nogil=True)
def _emptying(c, q, dbar):
    """kgut of a stomach that holds `q` mg; with tanh z = 1 - 2 / (1 + e^2z)."""
    if dbar <= 0.0:
        return c[0]
    full = c[4] * (q / dbar - c[2])
    low = c[5] * (q / dbar - c[3])
    if full > 40.0 and low > 40.0:
        return c[0]
    return c[1] + (c[0] - c[1]) * (1.0 - 1.0 / (1.0 + math.exp(full)) + 1.0 / (1.0 + math.exp(low)))


@njit(cache=True, nogil=True)
def _slope(c, dbar, food, insulin, x):
    """x' (13 floats)."""
    x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12 = x
    kgut = _emptying(c, x0 + x1, dbar)
    plasma = x5 * c[31]
    d3 = (
        max(c[8] - c[9] * x3 - c[10] * x8, 0.0)
        + c[7] * x2
        - c[11]
        - c[12] * max(x3 - c[13], 0.0)
        - c[14] * x3
        + c[15] * x4
    )
    d4 = c[14] * x3 - c[15] * x4 - (c[16] + c[17] * x6) * x4 / (c[18] + x4)
    d5 = c[19] * x9 + c[23] * x10 + c[24] * x11 - c[21] * x5
    d9 = c[20] * x5 - c[22] * x9
    d10 = insulin - c[26] * x10
    d11 = c[25] * x10 - c[24] * x11
    d12 = c[27] * (x3 - x12)
    return (
        food - c[0] * x0,
        c[0] * x0 - kgut * x1,
        kgut * x1 - c[6] * x2,
        d3 if x3 >= 0.0 else 0.0,
        d4 if x4 >= 0.0 else 0.0,
        d5 if x5 >= 0.0 else 0.0,
        c[28] * (plasma - c[29] - x6),
        c[30] * (plasma - x7),
        c[30] * (x7 - x8),
        d9 if x9 >= 0.0 else 0.0,
        d10 if x10 >= 0.0 else 0.0,
        d11 if x11 >= 0.0 else 0.0,
        d12 if x12 >= 0.0 else 0.0,
    )


@njit(cache=True, nogil=True)
def _plus(x, h, k):
    """x + h k."""
    return (
        x[0] + h * k[0],
        x[1] + h * k[1],
        x[2] + h * k[2],
        x[3] + h * k[3],
        x[4] + h * k[4],
        x[5] + h * k[5],
        x[6] + h * k[6],
        x[7] + h * k[7],
        x[8] + h * k[8],
        x[9] + h * k[9],
        x[10] + h * k[10],
        x[11] + h * k[11],
        x[12] + h * k[12],
    )


@njit(cache=True, nogil=True)
def minute(c, dbar, food, insulin, x):
    """The state (13 floats) a minute later: one step of the classical Runge-Kutta method."""
    k1 = _slope(c, dbar, food, insulin, x)
    k2 = _slope(c, dbar, food, insulin, _plus(x, 0.5, k1))
    k3 = _slope(c, dbar, food, insulin, _plus(x, 0.5, k2))
    k4 = _slope(c, dbar, food, insulin, _plus(x, 1.0, k3))
    return _plus(_plus(_plus(_plus(x, 1.0 / 6.0, k1), 1.0 / 3.0, k2), 1.0 / 3.0, k3), 1.0 / 6.0, k4)


@njit(cache=True, nogil=True)
def pumped(rate):
    """What the pump delivers (U/min) when told `rate`: the nearest multiple of 0.05 pmol/min, half to even, 6000 pmol a
    unit."""
    amount = np.rint(rate * 6000.0 / PUMP_STEP) * PUMP_STEP / 6000.0
    return max(min(amount, PUMP_MAX), 0.0)


@njit(cache=True, nogil=True)
def control(gains, scale, limit, windup, kick, noise, first, obeyed, cgm, memory, rng):
    """The PID controller's next action in [0, limit], noise included; `memory` (integral, previous error) is updated.

    u = kp e + ki sum(e) + kd (e - e'), e = setpoint - CGM, in U/min. Without `windup` the sum leaves out an e that would
    push u farther beyond a bound, or that follows a step in which the controller's action was not `obeyed`.
    """
    error = gains[0] - cgm
    change = 0.0 if first and not kick else error - memory[1]
    u = gains[1] * error + gains[2] * (memory[0] + error) + gains[3] * change
    drive = gains[2] * error
    if not windup and (not obeyed or (u > limit * scale and drive > 0.0) or (u < 0.0 and drive < 0.0)):
        u -= drive
    else:
        memory[0] += error
    memory[1] = error
    u += noise * normal(rng)
    return min(max(u / scale, 0.0), limit)


@njit(cache=True, nogil=True)
def begin_control(mask, gains, scale, limit, windup, kick, noise, rng, last, memory, controller):
    """Start the controllers of the lanes of `mask`: forget, and compute the first action from the last CGM."""
    for i in range(len(mask)):
        if mask[i]:
            memory[i] = 0.0
            controller[i, 0] = control(
                gains[i], scale[i], limit, windup, kick, noise, True, True, last[i, 1], memory[i], rng[i]
            )


@njit(cache=True, nogil=True)
def draw_seeds(mask, rng, out):
    """A seed from 0 to 2^31 - 1 from the stream of each lane of `mask` into `out` (int64)."""
    for i in range(len(mask)):
        if mask[i]:
            out[i] = integers(rng[i], 2**31)


@njit(cache=True, nogil=True)
def step(
    rates,
    mask,
    patient,
    gains,
    scale,
    settings,
    flags,
    codes,
    rng,
    elapsed,
    state,
    stomach,
    held,
    window,
    meal_time,
    meal_size,
    next_meal,
    noise,
    last,
    memory,
    controller,
    proxy,
    true,
    terminated,
):
    """Step the lanes of `mask` by five minutes. What each array is, `env.py` says where it is made; `proxy, true,
    terminated` are written, `patient` to `codes` and `elapsed` only read, the rest changed in place."""
    bg_min, bg_max, cgm_min, cgm_max, limit, controller_noise = settings
    gram_meals, cost_per_minute, windup, kick = flags
    history = window.shape[2]
    for i in range(len(mask)):
        if not mask[i]:
            proxy[i] = true[i] = 0.0
            terminated[i] = False
            continue
        c = patient[i]
        x = (
            state[i, 0],
            state[i, 1],
            state[i, 2],
            state[i, 3],
            state[i, 4],
            state[i, 5],
            state[i, 6],
            state[i, 7],
            state[i, 8],
            state[i, 9],
            state[i, 10],
            state[i, 11],
            state[i, 12],
        )
        content, eaten, planned, bite = stomach[i]
        dose = pumped(rates[i])
        insulin = 6000.0 * dose / c[33]
        mean_bg = mean_cgm = mean_insulin = mean_cho = 0.0
        meal, reading = next_meal[i], held[i]
        for m in range(5):
            now = 5 * elapsed[i] + m
            while meal < meal_time.shape[1] and meal_time[i, meal] + MEAL_MINUTES <= now:
                meal += 1
            cho = 0.0
            if meal < meal_time.shape[1] and meal_time[i, meal] <= now:
                cho = meal_size[i, meal] / MEAL_MINUTES
            planned += cho
            before, bite = bite, min(EATING_RATE, planned)
            planned = max(0.0, planned - bite)
            if bite > 0.0:
                if before <= 0.0:
                    content, eaten = x[0] + x[1], 0.0
                eaten += bite
            dbar = content + (eaten if gram_meals else 1000.0 * eaten)
            x = minute(c, dbar, 1000.0 * bite, insulin, x)
            bg = x[12] * c[32]
            if (now + 1) % 3 == 0:
                reading = bg
                if noise.shape[1] > 0:
                    reading += noise[i, (now + 1) // 3 - 1]
                reading = min(max(reading, cgm_min), cgm_max)
            mean_bg += bg / 5.0
            mean_cgm += reading / 5.0
            mean_insulin += dose / 5.0
            mean_cho += cho / 5.0
        for j in range(13):
            state[i, j] = x[j]
        stomach[i, 0], stomach[i, 1], stomach[i, 2], stomach[i, 3] = content, eaten, planned, bite
        next_meal[i], held[i] = meal, reading
        oldest = elapsed[i] % history
        window[i, 0, oldest], window[i, 1, oldest] = mean_cgm, mean_insulin
        minutes = 1.0 if cost_per_minute else 5.0
        proxy[i] = reward(codes[0], mean_bg, mean_cgm, mean_insulin, last[i, 0], last[i, 1], minutes)
        true[i] = reward(codes[1], mean_bg, mean_cgm, mean_insulin, last[i, 0], last[i, 1], minutes)
        terminated[i] = mean_bg < bg_min or mean_bg > bg_max
        last[i, 0], last[i, 1], last[i, 2], last[i, 3] = mean_bg, mean_cgm, mean_insulin, mean_cho
        last[i, 4] = magni(mean_bg)
        obeyed = rates[i] == controller[i, 0] * scale[i]
        controller[i, 0] = control(
            gains[i], scale[i], limit, windup, kick, controller_noise, False, obeyed, mean_cgm, memory[i], rng[i]
        )


@njit(cache=True, nogil=True)
def observe(out, mask, elapsed, window):
    """Write the histories of the lanes of `mask`, oldest sample first, into those rows of `out` (float32 (B, 2, T))."""
    history = window.shape[2]
    for i in range(len(mask)):
        if mask[i]:
            oldest = elapsed[i] % history
            for row in range(2):
                for j in range(oldest, history):
                    out[i, row, j - oldest] = window[i, row, j]
                for j in range(oldest):
                    out[i, row, history - oldest + j] = window[i, row, j]
