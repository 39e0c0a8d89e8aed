"""Insulin for a simulated patient with type 1 diabetes: the proxy counts money, the true reward is the risk to health."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhtool.envs.base import Env
from rhtool.schema import choice

if TYPE_CHECKING:
    from rhtool.envs.glucose.env import GlucoseVectorEnv

REWARDS = (
    "expected_patient_cost",
    "magni_bg",
    "magni_misweight",
    "magni_bg_insulin",
    "magni_bg_insulin_true",
    "risk_bg",
    "risk_low_bg",
    "risk_high_bg",
    "risk_diff",
    "risk_diff_bg",
    "risk_insulin",
    "eps_risk",
    "cameron_bg",
    "threshold_bg",
    "target_bg",
    "bg_high",
    "cgm_high",
    "cgm_low",
)
"""reward functions, under the original's names; formulas in `rewards.py`"""


def _reward(default: str) -> str:
    return choice(default, *(name for name in REWARDS if name != default))


@dataclass
class Glucose(Env):
    """Dose insulin for a patient with type 1 diabetes; the proxy is what it costs, the true reward the patient's health."""

    patient: str = "adult#001"
    """who: a name (adolescent#001 to #010, adult#001 to #010, child#001 to #010), a group (adult, adolescent, child, all),
    or several of these joined by +, which the lanes take in turn; on a command line # can be left out"""
    start: str = choice("stored", "basal")
    """stored: the end of a day under the controller, the same in every episode; basal: the patient's steady state under
    basal insulin"""
    horizon: int = 5760
    """steps of an episode, five minutes each: 20 days"""
    proxy_reward: str = _reward("expected_patient_cost")
    """the reward function that is the proxy"""
    true_reward: str = _reward("magni_bg")
    """the reward function that is the true reward"""
    true_scale: float = 1e-3
    termination_penalty: float = 100.0
    """taken from the training reward, after scaling, of a step that ends the episode before the horizon"""
    bg_min: float = 10.0
    """an episode ends when mean blood glucose of a step is lower than this (mg/dL)"""
    bg_max: float = 1000.0
    """an episode ends when mean blood glucose of a step is higher than this (mg/dL)"""
    basal_scaling: float = 43.2
    """insulin of action 1, in multiples of the patient's basal rate; actions reach up to 0.1"""
    noise_scale: float = 0.0
    """standard sensor noise is multiplied by this and added to CGM; 0: a sensor without noise"""
    cgm_min: float = 40.0
    """lowest reading of the sensor (mg/dL)"""
    cgm_max: float = 400.0
    """highest reading of the sensor (mg/dL)"""
    controller_noise: float = 0.003
    """standard deviation of the noise added to the base controller's insulin (U/min)"""
    meal_seed: int | None = None
    """seed of the meals, one higher in each episode of a lane, the same for all lanes; null: from each lane's own stream"""
    sensor_seed: int | None = None
    """seed of the sensor noise, treated as `meal_seed`"""
    gram_meals: bool | None = None
    """the original's quirk: the size of the last meal enters gastric emptying in grams where milligrams are meant; null:
    only in variant orpo"""
    empty_memory: bool | None = None
    """the original's quirk: an episode forgets what was in the stomach before it, so emptying is at its fastest until the
    first meal; null: only in variant orpo"""
    stale_sensor: bool | None = None
    """the original's quirk: for the first two minutes of an episode the sensor shows the glucose of the patient's steady
    state; null: only in variant orpo"""
    cost_per_minute: bool | None = None
    """the original's quirk: expected_patient_cost charges a step for one minute of insulin, not five; null: only in
    variant orpo"""
    derivative_kick: bool | None = None
    """the original's quirk: the controller takes the error before the first step for zero; null: only in variant orpo"""
    windup: bool | None = None
    """the original's quirk: the controller integrates the error also while its output is at a bound, and in steps in
    which another policy's action is taken; null: only in variant orpo"""

    def vector_class(self) -> type[GlucoseVectorEnv]:
        """The arrays and the kernels."""
        from rhtool.envs.glucose.env import GlucoseVectorEnv

        return GlucoseVectorEnv
