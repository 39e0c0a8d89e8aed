"""One patient in plain Python, read off the description of the model: dictionaries, lists, tanh, a minute at a time; and what
the tests of the environment have in common."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp
from scipy.interpolate import interp1d
from scipy.stats import truncnorm

from rhtool.envs.glucose import Glucose, patients, scenario

DATA = Path(__file__).resolve().parents[1] / "data" / "glucose"


def table(name: str) -> dict[str, np.ndarray]:
    """Columns of a CSV of golden data."""
    with (DATA / name).open() as lines:
        rows = list(csv.DictReader(lines))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


def patient(name: str) -> dict[str, float]:
    return dict(zip(patients.PARAMETERS, patients.parameters()[patients.names().index(name)], strict=True))


def slope(x, p, food, insulin, dbar):
    """x' by the equations of the model; food in mg/min, insulin in pmol/kg/min."""
    q = x[0] + x[1]
    kgut = p["kmax"]
    if dbar > 0:
        full = math.tanh(5 / (2 * dbar * (1 - p["b"])) * (q - p["b"] * dbar))
        low = math.tanh(5 / (2 * dbar * p["d"]) * (q - p["d"] * dbar))
        kgut = p["kmin"] + (p["kmax"] - p["kmin"]) / 2 * (full - low + 2)
    i = x[5] / p["Vi"]
    production = max(p["kp1"] - p["kp2"] * x[3] - p["kp3"] * x[8], 0)
    renal = p["ke1"] * (x[3] - p["ke2"]) if x[3] > p["ke2"] else 0
    uptake = (p["Vm0"] + p["Vmx"] * x[6]) * x[4] / (p["Km0"] + x[4])
    d = [
        -p["kmax"] * x[0] + food,
        p["kmax"] * x[0] - kgut * x[1],
        kgut * x[1] - p["kabs"] * x[2],
        production + p["f"] * p["kabs"] * x[2] / p["BW"] - p["Fsnc"] - renal - p["k1"] * x[3] + p["k2"] * x[4],
        -uptake + p["k1"] * x[3] - p["k2"] * x[4],
        -(p["m2"] + p["m4"]) * x[5] + p["m1"] * x[9] + p["ka1"] * x[10] + p["ka2"] * x[11],
        -p["p2u"] * x[6] + p["p2u"] * (i - p["Ib"]),
        -p["ki"] * (x[7] - i),
        -p["ki"] * (x[8] - x[7]),
        -(p["m1"] + p["m30"]) * x[9] + p["m2"] * x[5],
        insulin - (p["ka1"] + p["kd"]) * x[10],
        p["kd"] * x[10] - p["ka2"] * x[11],
        p["ksc"] * (x[3] - x[12]),
    ]
    for j in (3, 4, 5, 9, 10, 11, 12):
        d[j] *= x[j] >= 0
    return np.array(d)


def rk4(x, _, *args):
    k1 = slope(x, *args)
    k2 = slope(x + k1 / 2, *args)
    k3 = slope(x + k2 / 2, *args)
    k4 = slope(x + k3, *args)
    return x + (k1 + 2 * k2 + 2 * k3 + k4) / 6


def lsoda(x, now, *args):
    """The original's integrator with its tolerances; its first step depends on the clock, which the stored day begins."""
    f = lambda t, y: slope(y, *args)  # noqa: E731
    return solve_ivp(f, (1440 + now, 1441 + now), x, method="LSODA", rtol=10, atol=1e-6).y[:, -1]


class Reference:
    """One patient from midnight on; `meals` are (minute of the episode, grams) in order of time, `noise` of each reading."""

    def __init__(self, name, x, meals, *, integrate=rk4, grams=True, content=0.0, held=None, noise=None):
        self.p, self.x, self.meals, self.integrate, self.grams = patient(name), np.array(x), meals, integrate, grams
        self.content, self.eaten, self.planned, self.bite, self.now = content, 0.0, 0.0, 0.0, 0
        self.held, self.noise = held, noise

    def step(self, rate: float) -> tuple[float, float, float, float]:
        """BG, CGM, insulin, announced food: means over five minutes."""
        minutes = []
        for _ in range(5):
            dose = np.clip(np.round(rate * 6000 / 0.05) * 0.05 / 6000, 0, 30)
            cho = next((g / 5 for t, g in self.meals if t <= self.now < t + 5), 0.0)
            self.planned += cho
            before, self.bite = self.bite, min(5.0, self.planned)
            self.planned -= self.bite
            if self.bite > 0 and before <= 0:
                self.content, self.eaten = self.x[0] + self.x[1], 0.0
            self.eaten += self.bite
            dbar = self.content + self.eaten * (1 if self.grams else 1000)
            self.x = self.integrate(self.x, self.now, self.p, 1000 * self.bite, 6000 * dose / self.p["BW"], dbar)
            self.now += 1
            bg = self.x[12] / self.p["Vg"]
            if self.now % 3 == 0:
                self.held = np.clip(bg + (0 if self.noise is None else self.noise[self.now // 3 - 1]), 40, 400)
            minutes.append((bg, self.held, dose, cho))
        return tuple(np.mean(minutes, axis=0))


def meals(seed: int, means, days: int) -> list[tuple[float, float]]:
    """The meals of a scenario seed, drawn with numpy and scipy one by one; `means` of breakfast, lunch, dinner, snack."""
    rng, eaten = np.random.RandomState(seed), []
    slots = [
        (0.95, 5, 9, 7, 60, 0),
        (0.3, 9, 10, 9.5, 30, 3),
        (0.95, 10, 14, 12, 60, 1),
        (0.3, 14, 16, 15, 30, 3),
        (0.95, 16, 20, 18, 60, 2),
        (0.3, 20, 23, 21.5, 30, 3),
    ]
    for day in range(-1, days):  # the day before the first one is drawn and forgotten
        for probability, first, last, mean, spread, kind in slots:
            if rng.rand() < probability:
                a, b = (first - mean) * 60 / spread, (last - mean) * 60 / spread
                time = np.round(truncnorm.rvs(a, b, loc=mean * 60, scale=spread, random_state=rng))
                grams = np.round(rng.normal(means[kind], means[kind] * 0.15))
                if day >= 0:
                    eaten.append((day * 1440 + time, grams))
    return eaten


def noise(seed: int, samples: int) -> list[float]:
    """Sensor noise of a seed, block by block."""
    rng, out = np.random.RandomState(seed), []
    e = rng.randn()
    transform = lambda e: -5.47 + 15.9574 * math.sinh((e + 0.5444) / 1.6898)  # noqa: E731
    last = transform(e)
    while len(out) < samples:
        nodes = [last]
        for _ in range(10):
            e = 0.7 * (e + rng.randn())
            nodes.append(transform(e))
        last = nodes[-1]
        out += interp1d(np.arange(11) * 15, nodes, kind="cubic")(np.arange(1, 51) * 3).tolist()
    return out[:samples]


def feed(env, meals) -> None:
    """Replace the meals of all lanes by (minute, grams)."""
    env.meal_time[:], env.meal_size[:] = scenario.NEVER, 0.0
    for k, (minute, grams) in enumerate(meals):
        env.meal_time[:, k], env.meal_size[:, k] = minute, grams


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
