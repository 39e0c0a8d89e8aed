"""The thirty patients: parameters, controllers, where they start, what they eat. Sources: `data/NOTICE.md`."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np

from rhtool.errors import ConfigError, nearest

DATA = Path(__file__).parent / "data"

PARAMETERS = (
    "BW",
    "Ib",
    "kabs",
    "kmax",
    "kmin",
    "b",
    "d",
    "Vg",
    "Vi",
    "Vmx",
    "Km0",
    "k2",
    "k1",
    "p2u",
    "m1",
    "m2",
    "m4",
    "m30",
    "ki",
    "kp1",
    "kp2",
    "kp3",
    "f",
    "ke1",
    "ke2",
    "Fsnc",
    "Vm0",
    "kd",
    "ksc",
    "ka1",
    "ka2",
    "u2ss",
)
"""columns of `parameters()`"""

GAINS = ("setpoint", "kp", "ki", "kd")
"""columns of `gains()`"""

GROUPS = ("adolescent", "adult", "child")

HISTORY = 48
"""samples of an observation: four hours"""

# Weight up to which a patient of the group is of this age and height (kg, years, cm).
_STATURE = {
    "child": [
        (25.6, 7, 121.9),
        (28.6, 8, 128.0),
        (32.0, 9, 133.3),
        (35.6, 10, 138.4),
        (39.9, 11, 143.5),
        (np.inf, 12, 149.1),
    ],
    "adolescent": [
        (50.8, 13, 156.2),
        (56.0, 14, 163.8),
        (60.8, 15, 170.1),
        (64.4, 16, 173.4),
        (66.9, 17, 175.2),
        (68.9, 18, 175.7),
        (70.3, 19, 176.5),
        (np.inf, 20, 177.0),
    ],
    "adult": [(np.inf, 45, 177.0)],
}


@cache
def names() -> tuple[str, ...]:
    """The patients' names, in the order of every array here."""
    return tuple(row["name"] for row in _table("patients.csv"))


@cache
def parameters() -> np.ndarray:
    """float64 (30, P): `PARAMETERS` of each patient; units in `data/NOTICE.md`."""
    return np.array([[float(row[name]) for name in PARAMETERS] for row in _table("patients.csv")])


@cache
def steady_states() -> np.ndarray:
    """float64 (30, 13): each patient's state under basal insulin, fasting."""
    return np.array([[float(row[f"x0_{i}"]) for i in range(1, 14)] for row in _table("patients.csv")])


@cache
def gains() -> np.ndarray:
    """float64 (30, 4): `GAINS` of each patient's PID controller."""
    order = {row["name"]: row for row in _table("pid.csv")}
    return np.array([[float(order[name][key]) for key in GAINS] for name in names()])


def column(name: str) -> np.ndarray:
    """float64 (30,): one of `PARAMETERS`."""
    return parameters()[:, PARAMETERS.index(name)]


def basal_rates() -> np.ndarray:
    """float64 (30,): insulin that keeps each patient in the steady state, U/min."""
    return column("BW") * column("u2ss") / 6000.0


def starts(kind: str) -> dict[str, np.ndarray]:
    """Where each patient's episode starts: state (30, 13), cgm and insulin (30, 48), bg (30,).

    `kind` is "stored", the end of a day under the controller, or "basal", the steady state.
    """
    if kind == "stored":
        stored = _stored()
        return {key: np.array([stored[name][key] for name in names()]) for key in ("state", "cgm", "insulin", "bg")}
    states = steady_states()
    bg = states[:, 12] / column("Vg")
    history = np.ones(HISTORY)
    return {
        "state": states.copy(),
        "cgm": bg[:, None] * history,
        "insulin": basal_rates()[:, None] * history,
        "bg": bg,
    }


def meal_means() -> np.ndarray:
    """float64 (30, 4): mean grams of carbohydrate of breakfast, lunch, dinner and a snack.

    45 % of the energy that the Harris-Benedict equation (men, activity factor 1.2) gives for weight, height and age, at
    4 kcal a gram, in proportions 1.1 : 1.3 : 1.55 : 0.15, three snacks a day.
    """
    grams = []
    for name, weight in zip(names(), column("BW"), strict=True):
        age, height = next((a, h) for limit, a, h in _STATURE[name.split("#")[0]] if weight <= limit)
        metabolic_rate = 66.5 + 13.75 * weight + 5.003 * height - 6.755 * age
        grams.append(1.2 * metabolic_rate * 0.45 / 4)
    shares = np.array([1.1, 1.3, 1.55, 0.15])
    return np.array(grams)[:, None] * (shares / (1.1 + 1.3 + 1.55 + 3 * 0.15))


def select(text: str) -> np.ndarray:
    """int64: indices of the patients that `text` names: names, groups and `all`, joined by +; # may be left out.

    Raises `ConfigError` for an unknown name.
    """
    known = {name.replace("#", ""): [i] for i, name in enumerate(names())}
    for group in GROUPS:
        known[group] = [i for i, name in enumerate(names()) if name.startswith(group)]
    known["all"] = list(range(len(names())))
    chosen: list[int] = []
    for word in text.split("+"):
        key = word.strip().replace("#", "")
        if key not in known:
            mend = nearest(key, known)
            if mend.startswith("choose"):
                mend = "choose adult001 to adult010, adolescent001 to 010, child001 to 010, a group, or all"
            raise ConfigError(f"there is no patient '{word.strip()}'", "env.patient", mend)
        chosen += known[key]
    return np.array(chosen)


def _table(file: str) -> list[dict[str, str]]:
    with (DATA / file).open(newline="") as lines:
        return list(csv.DictReader(lines))


@cache
def _stored() -> dict[str, dict[str, list[float]]]:
    return json.loads((DATA / "starts.json").read_text())
