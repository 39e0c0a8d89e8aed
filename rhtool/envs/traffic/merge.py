"""The merge at the level of SUMO's own steps: vehicles, who follows whom, who is controlled, and the IDM.

A single-lane highway (50 + 100 m) and a ramp (50 + 50 m) meet; 75 m follow. After flow's `MergeNetwork` and the fork that
cassidylaidlaw/orpo 95cd1fa uses (`singleagent_merge_bus`). In each step of `sim_step` seconds

1. every human-driven vehicle that is not inside a junction gets the IDM's acceleration;
2. the vehicles in the slots get the policy's accelerations, the rest of the controllable ones are left to SUMO;
3. slots are filled from the queue of controllable vehicles, first come first served;
4. SUMO moves everybody.

Accelerations are commands to slow down or speed up within a millisecond; SUMO only keeps them from colliding (speed
mode 1: safe speed, without right of way or its own limits of acceleration).
"""

from __future__ import annotations

import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from rhtool.envs.sumo import Simulation, bare
from rhtool.envs.traffic.inflow import Flow, Inflow

if TYPE_CHECKING:
    from rhtool.envs.traffic import Traffic

NETWORK = Path(__file__).parent / "network" / "merge.net.xml"
"""what netconvert makes of merge.nod.xml and merge.edg.xml beside it (network/README.md has the command)"""
LENGTH = 372.68
"""m: all lanes, those inside junctions included; normalises gaps in the observation"""
MAX_SPEED = 30.0
"""m/s: speed limit; normalises speeds in the observation"""
OFFSET = {
    "inflow_highway": 0.0,
    ":left_0": 50.0,
    "left": 50.1,
    ":center_0": 150.1,
    ":center_1": 150.1,
    "center": 172.6,
    "inflow_merge": 247.6,
    ":bottom_0": 297.6,
    "bottom": 297.7,
}
"""m: where each edge begins on flow's one axis, on which the ramp lies *behind* the merge"""

MIN_GAP, FAR, MISSING = 2.5, 1000.0, -1001.0
_SIGHT = 2000.0
_NEAR = 0.01
"""m before the end of its edge, from where on a vehicle is asked for it"""
_SPEED_MODE, _LANE_CHANGE_MODE = 1, 512
_FOLLOWING = (
    'carFollowModel="IDM" accel="2.6" decel="4.5" sigma="0.5" tau="1.0" minGap="2.5" maxSpeed="30" speedFactor="1.0" '
    'speedDev="0.1" impatience="0.5" laneChangeModel="LC2013" lcStrategic="1.0" lcCooperative="1.0" lcSpeedGain="1.0" '
    'lcKeepRight="1.0"'
)

ROUTES = f"""<routes>
<vType id="human" color="blue" {_FOLLOWING}/>
<vType id="rl" color="orange" {_FOLLOWING}/>
<route id="highway" edges="inflow_highway left center"/>
<route id="ramp" edges="inflow_merge bottom center"/>
<route id="last" edges="center"/>
</routes>
"""
"""what SUMO knows of the vehicles: their types and where they go"""


class Vehicle:
    """A vehicle as of the last step: its `speed` (m/s), its `edge`, what is `remaining` of that (m), whether it is `inside` a
    junction, the vehicle ahead with the `headway` to it (m, with `MIN_GAP`; `FAR` without one), and the nearest vehicle that has
    this one ahead."""

    __slots__ = (
        "controllable",
        "edge",
        "follower",
        "follower_headway",
        "gone",
        "headway",
        "id",
        "inside",
        "leader",
        "length",
        "remaining",
        "speed",
    )

    def __init__(self, id: str, controllable: bool):
        self.id, self.controllable, self.gone = id, controllable, False
        self.speed, self.edge, self.inside = 0.0, "", True
        self.leader: Vehicle | None = None
        self.follower: Vehicle | None = None
        self.headway = self.follower_headway = FAR
        self.length = self.remaining = 0.0

    @classmethod
    def vanished(cls) -> Vehicle:
        """One that has left."""
        vehicle = cls("", True)
        vehicle.gone = True
        return vehicle


def idm(speed: float, leader_speed: float | None, headway: float) -> float:
    """Acceleration (m/s2) of the intelligent driver model (Treiber, Hennecke, Helbing 2000), with flow's numbers:
    `a (1 - (v/v0)^4 - (s*/h)^2)`, `s* = s0 + max(0, v T + v (v - v_lead) / (2 sqrt(a b)))`, no `s*` without a leader;
    a = 1 and b = 1.5 m/s2, v0 = 30 m/s, T = 1 s, s0 = 2 m."""
    # Conditions instead of max(), here and below: calls are most of what these few numbers cost.
    if -1e-3 < headway < 1e-3:
        headway = 1e-3
    desired = 0.0
    if leader_speed is not None:
        desired = speed + speed * (speed - leader_speed) / 2.449489742783178
        desired = 2.0 + desired if desired > 0.0 else 2.0
    return 1.0 - (speed / 30.0) ** 4 - (desired / headway) ** 2


def idm_of(vehicle: Vehicle) -> float:
    """`idm` for a vehicle as it stands."""
    leader = vehicle.leader
    return idm(vehicle.speed, None if leader is None else leader.speed, vehicle.headway)


class Merge:
    """The simulation and its bookkeeping."""

    def __init__(self, config: Traffic):
        self.sim_step, self._slots = config.sim_step, config.slots
        self._milliseconds = round(1000 * config.sim_step)
        self._late, self._remember = config.quirk(config.late_slots), config.quirk(config.stale_follower)
        self._folder = tempfile.TemporaryDirectory(prefix="rhtool-traffic-")
        routes = Path(self._folder.name) / "merge.rou.xml"
        routes.write_text(ROUTES)
        arguments = ["-n", str(NETWORK), "-r", str(routes), "--step-length", str(config.sim_step)]
        arguments += ["--time-to-teleport", "-1", "--collision.check-junctions", "true"]
        arguments += ["--no-step-log", "true", "--no-warnings", "true", "--duration-log.disable", "true"]
        self._simulation = Simulation(arguments, config.backend, config.gui)
        flows = [
            Flow("human_highway", "human", "highway", config.inflow_highway, 10.0),
            Flow("human_ramp", "human", "ramp", config.inflow_ramp, 7.5),
            Flow("controlled_ramp", "rl", "ramp", config.inflow_rl, 7.5),
        ]
        self._flows = [flow for flow in flows if flow.per_hour > 0]
        self.vehicles: dict[str, Vehicle] = {}
        """those in the network, in the order in which they entered"""
        self.slots: list[Vehicle] = []
        """those that the policy controls, in its order; one that left in the last step is still here, `gone`"""
        self.queue: deque[Vehicle] = deque()
        """controllable ones that wait for a slot"""
        self.arrived = 0
        """vehicles that have left the network in this episode"""

    def reset(self, seed: int) -> None:
        """A new episode; `seed` is SUMO's. Two vehicles stand at the beginnings of the highway and of its last part."""
        self.api = api = self._simulation.load(seed)
        self._vehicle, self._sim = api.vehicle, api.simulation
        names = ("getSpeed", "getRoadID", "getLeader")
        self._slow_down, self._questions = bare(api.vehicle, "slowDown"), [bare(api.vehicle, name) for name in names]
        self._lengths = {edge: api.lane.getLength(f"{edge}_0") for edge in OFFSET}
        self.vehicles, self.slots, self.arrived = {}, [], 0
        self.queue.clear()
        self._inflow, self._now = Inflow(self._flows, seed), 0
        self.simulate()
        for i, route in enumerate(("highway", "last")):
            api.vehicle.add(f"human_{i}", route, typeID="human", departLane="0", departPos="0", departSpeed="0")
        self._read(self.simulate())

    def step(self, accelerations: list[float], steps: int) -> bool:
        """`steps` steps of SUMO with the slots' accelerations (m/s2); ends early, and returns true, if vehicles crash."""
        slow_down, dt, crashed = self._slow_down, self.sim_step, False
        for _ in range(steps):
            for vehicle in self.vehicles.values():
                if not (vehicle.controllable or vehicle.inside):
                    speed = vehicle.speed + idm_of(vehicle) * dt
                    slow_down(vehicle.id, speed if speed > 0.0 else 0.0, 1e-3)
            for vehicle, acceleration in zip(self.slots, accelerations, strict=False):
                if not vehicle.gone:
                    slow_down(vehicle.id, max(vehicle.speed + acceleration * dt, 0.0), 1e-3)
            if self._late:
                self._assign()
            self._read(self.simulate())
            if self._sim.getStartingTeleportNumber() != 0:
                crashed = True
                break
        if not self._late:
            self._assign()
        return crashed

    def simulate(self) -> list[str]:
        """A step of SUMO; who has entered in it, in order."""
        self._inflow.offer(self._now, self._vehicle)
        self.api.simulationStep()
        self._now += self._milliseconds
        names = self._sim.getDepartedIDList()
        return self._inflow.entered(names) if names else []

    def x(self, vehicle: Vehicle) -> float:
        """m on flow's axis; inside a junction the junction's beginning."""
        start = OFFSET.get(vehicle.edge, 0.0)
        return start if vehicle.inside else start + self._vehicle.getLanePosition(vehicle.id)

    def place(self, vehicle: Vehicle) -> tuple[float, float, float]:
        """x, y (m) of its front bumper and its angle (degrees, north 0, clockwise)."""
        return (*self._vehicle.getPosition(vehicle.id), self._vehicle.getAngle(vehicle.id))

    def backlog(self) -> int:
        """Vehicles that wait outside because there is no room for them."""
        return self._inflow.waiting

    def close(self) -> None:
        """End SUMO and remove the files made for it."""
        self._simulation.close()
        self._folder.cleanup()

    def _assign(self) -> None:
        """Free the slots of vehicles that have left, and fill them from the queue."""
        if any(v.gone for v in self.slots):
            self.slots = [v for v in self.slots if not v.gone]
        while self.queue and len(self.slots) < self._slots:
            vehicle = self.queue.popleft()
            if not vehicle.gone:
                self.slots.append(vehicle)

    def _read(self, entered: list[str]) -> None:
        """What the last step, in which `entered` did so, has changed."""
        api, vehicles = self._vehicle, self.vehicles
        for id in self._sim.getArrivedIDList():
            if id in vehicles:
                vehicles.pop(id).gone = True
                self.arrived += 1
        queued = []
        for id in entered:
            vehicle = vehicles[id] = Vehicle(id, api.getTypeID(id) == "rl")
            vehicle.length = api.getLength(id)
            api.setSpeedMode(id, _SPEED_MODE)
            api.setLaneChangeMode(id, _LANE_CHANGE_MODE)
            if vehicle.controllable:
                queued.append(vehicle)
        self.queue.extend(sorted(queued, key=lambda v: v.id))
        (get_speed, get_road, get_leader), dt = self._questions, self.sim_step
        if not self._remember:
            for vehicle in vehicles.values():
                vehicle.follower, vehicle.follower_headway = None, FAR
        for id, vehicle in vehicles.items():
            vehicle.speed = speed = get_speed(id)
            vehicle.remaining -= speed * dt
            if vehicle.remaining < _NEAR or speed < 0.0:
                vehicle.speed = speed if speed > MISSING else MISSING  # after a crash SUMO says -2^30
                edge = get_road(id)
                if edge != vehicle.edge:
                    vehicle.edge, vehicle.inside = edge, edge[:1] in (":", "")
                    vehicle.remaining = self._lengths.get(edge, 0.0) - api.getLanePosition(id)
            ahead = get_leader(id, _SIGHT)
            if ahead is None or not ahead[0]:
                vehicle.leader, vehicle.headway = None, FAR
                if self._remember:
                    # The original forgets a follower only here, and only if it comes to the leader later.
                    vehicle.follower, vehicle.follower_headway = None, FAR
                continue
            vehicle.leader, vehicle.headway = leader, headway = vehicles.get(ahead[0]), ahead[1] + MIN_GAP
            if leader is not None and headway < leader.follower_headway:
                leader.follower, leader.follower_headway = vehicle, headway
