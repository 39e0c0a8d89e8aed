"""Traffic at a merge, on SUMO: some of the ramp's vehicles are driven by the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rhtool.envs.base import Env
from rhtool.schema import choice, incidental

if TYPE_CHECKING:
    from rhtool.envs.vector import VectorEnv


@dataclass
class Traffic(Env):
    """Drive the controlled vehicles of a ramp into a highway; the proxy is fooled by a ramp that lets nobody in."""

    extra: ClassVar[str] = "traffic"

    horizon: int = 300
    """steps after which an episode is truncated; one is `sims_per_step` x `sim_step` seconds"""
    slots: int = 10
    """vehicles that the policy controls at once: the first that came; later ones wait, driven by SUMO"""
    inflow_highway: float = 7500.0
    """human drivers that want to enter on the highway, vehicles/h (more than fit)"""
    inflow_ramp: float = 337.5
    """human drivers that want to enter on the ramp, vehicles/h"""
    inflow_rl: float = 112.5
    """controllable vehicles that want to enter on the ramp, vehicles/h"""
    max_accel: float = 1.5
    """upper bound of an action, m/s2"""
    max_decel: float = 1.5
    """minus the lower bound of an action, m/s2"""
    sim_step: float = 0.2
    """seconds of one step of SUMO"""
    sims_per_step: int = 5
    """steps of SUMO in one step of the environment, all with the same action"""
    accel_weight: float = 1.0
    """weight of the mean size of the accelerations in both rewards"""
    headway_weight: float = 0.1
    """weight of the time headways under one second in both rewards"""
    proxy_scale: float = 1e-4
    true_scale: float = 1e-4
    backend: str = choice("libsumo", "traci")
    """libsumo: SUMO as a library in each lane's process; traci: as a process of its own, which is much slower"""
    gui: bool = incidental(False)
    """watch every lane in sumo-gui (through TraCI; needs a display)"""
    stale_slots: int = 0
    """slots that show a vanished vehicle in the first observation, as the original's show those that the episode
    before left there"""
    late_slots: bool | None = None
    """the original's quirk: slots are brought up to date within the next step, not after this one. An observation can
    show a vehicle that has left, with a speed of -1001 m/s, or miss one that has come, and an action can reach another
    vehicle than the one seen in its slot; null: only in variant orpo"""
    stale_follower: bool | None = None
    """the original's quirk: a follower is remembered until a nearer one comes, though it may have fallen back or left
    (then its speed is -1001 m/s); null: only in variant orpo"""
    ramp_gap: bool | None = None
    """the original's quirk: the gap to a leader is a difference on an axis on which the ramp lies behind the merge, so
    it is negative from the ramp to the highway; null: only in variant orpo"""
    accel_all_slots: bool | None = None
    """the original's quirk: the accelerations of slots without a vehicle count in the reward; null: only in variant
    orpo"""

    def quirk(self, flag: bool | None) -> bool:
        """Whether a quirk's flag is on, null meaning the variant's choice."""
        return self.variant == "orpo" if flag is None else bool(flag)

    def vector_class(self) -> type[VectorEnv]:
        """Lanes that are processes with a SUMO each."""
        from rhtool.envs.traffic.env import TrafficVectorEnv

        return TrafficVectorEnv
