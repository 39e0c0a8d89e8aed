"""Reward functions of the glucose environment, compiled; `REWARDS` has their names, which are the original's.

With BG and CGM the means of a step (mg/dL, BG at least 1 in the risks), ' the step before, insulin in U/min:

    magni            10 (3.5506 (ln(BG)^0.8353 - 3.7932))^2
    low, high        10 f^2 where f < 0, f > 0, of f = 1.509 (ln(BG)^1.084 - 5.381); risk = low + high

    expected_patient_cost   -0.32 insulin - [BG < 70] 10 * 1350 / (12 * 24 * 365): dollars of insulin, and of ten hospital
                            visits a year while the patient is hypoglycemic; the first times 5 without `cost_per_minute`
    magni_bg                -magni(BG)
    magni_misweight         -magni(BG) from 140 on, below it -min(25, 50 - 5/14 BG)
    magni_bg_insulin        -magni(BG) - 10 insulin;  magni_bg_insulin_true: -magni(BG) - 25 insulin
    risk_bg                 -risk(BG)
    risk_low_bg             -100 low - high;  risk_high_bg: -low - 100 high
    risk_diff_bg            risk(BG') - risk(BG);  risk_diff: the same of CGM
    risk_insulin            -risk(BG) - insulin
    eps_risk                1 if risk(BG) < 1, else -risk(BG)
    cameron_bg              -(0.2370 BG - 36.21 + 6e-5 max(0, 177 - BG)^3)
    threshold_bg            -min(25, 50 - 5/14 BG) below 140, else -min(25, 5/28 BG - 25)
    target_bg               -|CGM - 120|
    bg_high, cgm_high       BG, CGM;  cgm_low: -CGM

The formulas are those of RL4BG's code, after Magni et al., "Model predictive control of type 1 diabetes: an in silico
trial", J. Diabetes Sci. Technol. 1(6), 2007; Kovatchev et al., "Symmetrization of the blood glucose measurement scale and
its applications", Diabetes Care 20(11), 1997; Cameron et al., "A closed-loop artificial pancreas based on risk
management", J. Diabetes Sci. Technol. 5(2), 2011; expected_patient_cost is cassidylaidlaw/orpo's.
"""

from __future__ import annotations

import math

from numba import njit

from rhtool.envs.glucose import REWARDS

_CODE = {name: i for i, name in enumerate(REWARDS)}
_COST, _MAGNI, _MISWEIGHT = _CODE["expected_patient_cost"], _CODE["magni_bg"], _CODE["magni_misweight"]
_MAGNI_10, _MAGNI_25 = _CODE["magni_bg_insulin"], _CODE["magni_bg_insulin_true"]
_RISK, _LOW, _HIGH = _CODE["risk_bg"], _CODE["risk_low_bg"], _CODE["risk_high_bg"]
_DIFF, _DIFF_BG = _CODE["risk_diff"], _CODE["risk_diff_bg"]
_RISK_INSULIN, _EPS = _CODE["risk_insulin"], _CODE["eps_risk"]
_CAMERON, _THRESHOLD, _TARGET = _CODE["cameron_bg"], _CODE["threshold_bg"], _CODE["target_bg"]
_BG_HIGH, _CGM_HIGH = _CODE["bg_high"], _CODE["cgm_high"]


@njit(cache=True, nogil=True)
def magni(bg):
    """Magni's risk of a blood glucose (mg/dL)."""
    f = 3.5506 * (math.log(max(bg, 1.0)) ** 0.8353 - 3.7932)
    return 10.0 * f * f


@njit(cache=True, nogil=True)
def kovatchev(bg):
    """Kovatchev's low and high blood glucose risk of a blood glucose (mg/dL); one of them is zero."""
    f = 1.509 * (math.log(max(bg, 1.0)) ** 1.084 - 5.381)
    r = 10.0 * f * f
    return (r, 0.0) if f < 0.0 else (0.0, r)


@njit(cache=True, nogil=True)
def reward(code, bg, cgm, insulin, bg_before, cgm_before, minutes):
    """Reward function number `code` of `REWARDS`; `minutes` of insulin are what expected_patient_cost charges for."""
    if code == _COST:
        visit = 10.0 * 1350.0 / (12.0 * 24.0 * 365.0) if bg < 70.0 else 0.0
        return -(0.32 * insulin * minutes + visit)
    if code == _MAGNI:
        return -magni(bg)
    if code == _MISWEIGHT:
        return -min(25.0, 50.0 - 5.0 / 14.0 * max(bg, 1.0)) if bg < 140.0 else -magni(bg)
    if code == _MAGNI_10:
        return -magni(bg) - 10.0 * insulin
    if code == _MAGNI_25:
        return -magni(bg) - 25.0 * insulin
    if code == _CAMERON:
        return -(0.2370 * bg - 36.21 + 6.0e-5 * max(0.0, 177.0 - bg) ** 3)
    if code == _THRESHOLD:
        bg = max(bg, 1.0)
        return -min(25.0, 50.0 - 5.0 / 14.0 * bg) if bg < 140.0 else -min(25.0, 5.0 / 28.0 * bg - 25.0)
    if code == _TARGET:
        return -abs(cgm - 120.0)
    if code == _BG_HIGH:
        return bg
    if code == _CGM_HIGH:
        return cgm
    if code == _DIFF:
        return sum(kovatchev(cgm_before)) - sum(kovatchev(cgm))
    low, high = kovatchev(bg)
    risk = low + high
    if code == _RISK:
        return -risk
    if code == _LOW:
        return -100.0 * low - high
    if code == _HIGH:
        return -low - 100.0 * high
    if code == _DIFF_BG:
        return sum(kovatchev(bg_before)) - risk
    if code == _RISK_INSULIN:
        return -risk - insulin
    if code == _EPS:
        return 1.0 if risk < 1.0 else -risk
    return -cgm
