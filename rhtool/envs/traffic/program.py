"""The merge as a control problem: observation, rewards, controller (after cassidylaidlaw/orpo 95cd1fa, flow's `MergePOEnv`).

One step is `sims_per_step` steps of SUMO with one action. With v_i the speeds (m/s) of all vehicles in the network,
a_j the accelerations asked for, h the distance to the vehicle ahead (m, bumper to bumper):

    J     = -mean_j |a_j|                                                    all slots, occupied or not
    H     = sum over the slots with a leader and v > 0 of min(h / v - 1, 0)  time headways under one second
    proxy = mean_i v_i                 + accel_weight J + headway_weight H
    true  = -mean_i 1 / (v_i + 0.001)  + accel_weight J + headway_weight H

and both are zero in a step that ends with a crash (which terminates the episode). A vehicle that stands costs the true
reward 1000 / n, while the proxy loses nothing but its share of the mean; and only vehicles *in* the network count.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from rhtool.envs.traffic import Traffic
from rhtool.envs.traffic.merge import LENGTH, MAX_SPEED, MISSING, NETWORK, Merge, Vehicle, idm_of

SUMO_SEEDS = 100_000


class TrafficProgram:
    """A `Program`. Observations float32 `(5 slots,)`, actions float32 `(slots,)`, m/s2."""

    def __init__(self, config: Traffic):
        self._config = config
        self._ramp_gap = config.quirk(config.ramp_gap)
        self._all_slots = config.quirk(config.accel_all_slots)
        self._merge = Merge(config)
        self._time = 0.0
        self._canvas = None

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode with SUMO's seed drawn from Python's generator seeded by `seed`, as the original draws it."""
        self._merge.reset(random.Random(seed).randint(0, SUMO_SEEDS))
        self._time = 0.0
        observation = self._observe()
        # What the original shows there are the slots of the last episode, which an episode of its own cannot know.
        for i in range(min(self._config.stale_slots, self._config.slots)):
            observation[5 * i : 5 * i + 5] = self._seen(Vehicle.vanished())
        return observation

    def step(self, action: Any) -> tuple[np.ndarray, float, float, bool, bool, dict[str, float]]:
        """One step; `action` are m/s2."""
        merge, config = self._merge, self._config
        accelerations = [float(a) for a in action]
        counted = accelerations if self._all_slots else accelerations[: len(merge.slots)]
        before = merge.arrived
        crashed = merge.step(accelerations, config.sims_per_step)
        seconds = config.sims_per_step * config.sim_step
        self._time += seconds
        speeds = [v.speed for v in merge.vehicles.values()]
        n = max(len(speeds), 1)
        mean_speed = sum(speeds) / n
        accel = sum(map(abs, counted)) / max(len(counted), 1)
        proxy = true = commute = headway = 0.0
        if not crashed and min(speeds, default=0.0) >= -100.0:
            headway = self._headways()
            shared = config.headway_weight * headway - config.accel_weight * accel
            commute = sum([1.0 / (v + 0.001) for v in speeds]) / n if speeds else 10_000.0
            proxy, true = mean_speed + shared, shared - commute
        metrics = {
            "mean_speed": mean_speed,
            "vehicles": float(len(speeds)),
            "rl_vehicles": float(sum(not v.gone for v in merge.slots)),
            "outflow": (merge.arrived - before) * 3600.0 / seconds,
            "backlog": float(merge.backlog()),
            "stopped": sum(v < 0.1 for v in speeds) / n,
            "crash": float(crashed),
            "commute": commute,
            "accel": accel,
            "headway": headway,
        }
        return self._observe(), proxy, true, crashed, False, metrics

    def base_action(self) -> np.ndarray:
        """The IDM's acceleration for each slot's vehicle as it stands, clipped to the bounds; zero without one."""
        actions = np.zeros(self._config.slots, np.float32)
        for i, vehicle in enumerate(self._merge.slots):
            if not vehicle.gone:
                actions[i] = min(max(idm_of(vehicle), -self._config.max_decel), self._config.max_accel)
        return actions

    def render(self, mode: str) -> np.ndarray:
        """A picture of the merge, uint8 (H, W, 3); the controlled vehicles are framed."""
        from rhtool.envs.sumo_picture import Canvas

        if self._canvas is None:
            self._canvas = Canvas(NETWORK, (0, -4, 225, 76), 4.0, 20.0)
        merge = self._merge
        slots, speeds = set(merge.slots), [v.speed for v in merge.vehicles.values()]
        mean = sum(speeds) / max(len(speeds), 1)
        lines = [
            f"{self._time:.0f} s   {mean:.1f} m/s in the mean   {len(speeds)} vehicles, {merge.arrived} gone through, "
            f"{merge.backlog()} waiting outside",
            "red stands, green drives; blue frame: driven by the policy",
        ]
        return self._canvas.frame([(*merge.place(v), v.speed, v in slots) for v in merge.vehicles.values()], lines)

    def close(self) -> None:
        """End SUMO."""
        self._merge.close()

    def _headways(self) -> float:
        """H."""
        total = 0.0
        for vehicle in self._merge.slots:
            if not vehicle.gone and vehicle.leader is not None and vehicle.speed > 0:
                total += min(max(vehicle.headway / vehicle.speed, 0.0) - 1.0, 0.0)
        return total

    def _observe(self) -> np.ndarray:
        seen: list[float] = []
        for vehicle in self._merge.slots:
            seen += self._seen(vehicle)
        out = np.zeros(5 * self._config.slots, np.float32)
        out[: len(seen)] = seen
        return out

    def _seen(self, vehicle: Vehicle) -> list[float]:
        """A slot's five numbers: speed, how much faster the leader is, gap to it, how much faster it is than the
        follower, the follower's headway; speeds by 30 m/s, lengths by 372.68 m."""
        leader = follower = None
        speed = MISSING
        if not vehicle.gone:
            speed, leader, follower = vehicle.speed, vehicle.leader, vehicle.follower
        lead_speed, gap, follow_speed, follow_gap = MAX_SPEED, LENGTH, 0.0, LENGTH
        if leader is not None:
            lead_speed = leader.speed
            gap = vehicle.headway
            if self._ramp_gap:
                gap = self._merge.x(leader) - self._merge.x(vehicle) - vehicle.length
        if follower is not None:
            follow_speed, follow_gap = (MISSING, MISSING) if follower.gone else (follower.speed, follower.headway)
        return [
            speed / MAX_SPEED,
            (lead_speed - speed) / MAX_SPEED,
            gap / LENGTH,
            (speed - follow_speed) / MAX_SPEED,
            follow_gap / LENGTH,
        ]
