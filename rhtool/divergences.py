"""How far a policy has gone from its base policy, and what each step pays for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rhtool.schema import choice


@dataclass
class Divergence:
    """How far a policy has gone from its base policy."""

    over: str = choice("state_action", "state", "action")
    """of what: occupancy measures of states and actions, of states, or the action distributions in the PPO loss"""


@dataclass
class NoDivergence(Divergence):
    """No regularisation: plain PPO."""

    name: ClassVar[str] = "none"


@dataclass
class SqrtChi2(Divergence):
    """Square root of the chi-squared divergence of occupancy measures."""
