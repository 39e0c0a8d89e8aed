"""A junction of two roads with a traffic light, as a control problem (sumo-rl's `2way-single-intersection`).

The roads have two lanes each way, 142 m long; left turners have the left lane and phases of their own. Vehicles come at
random (exponential gaps); those for whom there is no room wait outside. A step is `delta_time` seconds:

    proxy = mean over the vehicles that crossed a stop line in this step of min(speed / speed limit, 1); 0 if none did
    true  = -(time lost per second): mean over the seconds of this step of
            (sum over the vehicles on the approaches of 1 - speed / speed limit) + (vehicles waiting outside)

The proxy is what a loop in the road at each stop line can measure. It is right to prefer a junction in which vehicles
pass without stopping, but a vehicle that stands never reaches a loop.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rhtool.envs import sumo
from rhtool.envs.signal import PHASES, Signal

# Here, not where it is needed: the process that imports this module forks all lanes.
sumo.home()
sumo_rl = sumo.package("sumo_rl", "sumo-rl")
if sumo.has_libsumo():
    # What sumo-rl does by itself if LIBSUMO_AS_TRACI is set before anybody imports TraCI.
    sumo_rl.environment.env.traci, sumo_rl.environment.env.LIBSUMO = sumo.library(), True

_OPPOSITE, _LEFT = dict(zip("nsew", "snwe", strict=True)), dict(zip("nsew", "ewsn", strict=True))
_MINUTE = 60.0


class SignalProgram:
    """A `Program`. Observations float32 `(22,)`, actions 0 to 3, the phase that is to be green."""

    def __init__(self, config: Signal):
        if sumo.has_libsumo():
            sumo.claim(self)
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="rhtool-signal-")
        self.network = Path(sumo_rl.__file__).parent / "nets/2way-single-intersection/single-intersection.net.xml"
        routes = Path(self._folder.name) / "signal.rou.xml"
        routes.write_text(_routes(config))
        self._env = sumo_rl.SumoEnvironment(
            net_file=str(self.network),
            route_file=str(routes),
            single_agent=True,
            num_seconds=config.horizon * config.delta_time,
            delta_time=config.delta_time,
            yellow_time=config.yellow_time,
            min_green=config.min_green,
            reward_fn=lambda signal: 0.0,
            add_system_info=False,
            add_per_agent_info=False,
            sumo_warnings=False,
            additional_sumo_cmd="--no-step-log true --duration-log.disable true",
        )
        self._env._sumo_step = self._second
        self._canvas = None

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode with SUMO's seed `seed`."""
        self._env.close()
        observation, _ = self._env.reset(seed=seed)
        self._env.metrics.clear()
        api = self._env.sumo
        self._signal = self._env.traffic_signals["t"]
        self._lane, self._vehicle, self._sim = api.lane, api.vehicle, api.simulation
        links = api.trafficlight.getControlledLinks("t")
        self._served = [
            {link[0][0] for link, letter in zip(links, phase.state, strict=True) if letter in "Gg"}
            for phase in self._signal.green_phases
        ]
        self._limit = {lane: self._lane.getMaxSpeed(lane) for lane in self._signal.lanes}
        self._approaching: set[str] = set()
        return self._with_clock(observation)

    def step(self, action: Any) -> tuple[np.ndarray, float, float, bool, bool, dict[str, float]]:
        """One decision."""
        self._speeds: list[float] = []
        self._lost = self._outside = 0.0
        before = self._signal.green_phase
        observation, *_ = self._env.step(int(action))
        self._env.metrics.clear()
        seconds, speeds = self._config.delta_time, self._speeds
        metrics = {
            "throughput": len(speeds) * 3600.0 / seconds,
            "queue": float(self._signal.get_total_queued()),
            "outside": float(self._outside),
            "longest_wait": max(map(self._vehicle.getWaitingTime, self._approaching), default=0.0),
            "switched": float(self._signal.green_phase != before),
        }
        proxy = sum(speeds) / len(speeds) if speeds else 0.0
        return self._with_clock(observation), proxy, -self._lost / seconds, False, False, metrics

    def base_action(self) -> np.ndarray:
        """The configured controller's phase."""
        signal = self._signal
        if self._config.controller == "fixed_time":
            due = signal.time_since_last_phase_change >= self._config.greens[signal.green_phase]
            return np.int64((signal.green_phase + due) % PHASES)
        count = self._lane.getLastStepVehicleNumber
        return np.int64(np.argmax([sum(map(count, lanes)) for lanes in self._served]))

    def render(self, mode: str) -> np.ndarray:
        """A picture of the junction, uint8 (H, W, 3)."""
        from rhtool.envs.sumo_picture import Canvas

        if self._canvas is None:
            self._canvas = Canvas(self.network, (0, 0, 300, 300), 2.0, 13.9)
        vehicle, state = self._vehicle, self._env.sumo.trafficlight.getRedYellowGreenState("t")
        seen = [
            (*vehicle.getPosition(id), vehicle.getAngle(id), vehicle.getSpeed(id), False) for id in vehicle.getIDList()
        ]
        lights = [
            (self._lane.getShape(links[0][0])[-1], colour)
            for links, colour in zip(self._env.sumo.trafficlight.getControlledLinks("t"), state, strict=True)
        ]
        lines = [
            f"{self._sim.getTime():.0f} s   {self._signal.get_total_queued()} vehicles stand on the approaches, "
            f"{len(self._sim.getPendingVehicles())} wait outside",
            "red stands, green drives; dots: the light of each lane",
        ]
        return self._canvas.frame(seen, lines, lights)

    def close(self) -> None:
        """End SUMO."""
        self._env.close()
        sumo.release(self)
        self._folder.cleanup()

    def _second(self) -> None:
        """sumo-rl's step of one second, and what happened in it."""
        self._env.sumo.simulationStep()
        lane, now = self._lane, set()
        for id, limit in self._limit.items():
            here = lane.getLastStepVehicleIDs(id)
            now.update(here)
            if here:
                self._lost += len(here) * max(1.0 - lane.getLastStepMeanSpeed(id) / limit, 0.0)
        for id in sorted(self._approaching - now):
            self._speeds.append(min(self._vehicle.getSpeed(id) / next(iter(self._limit.values())), 1.0))
        self._approaching = now
        self._outside = len(self._sim.getPendingVehicles())
        self._lost += self._outside

    def _with_clock(self, observation: np.ndarray) -> np.ndarray:
        """sumo-rl's features, and the minutes since the phase began, at most one."""
        clock = min(self._signal.time_since_last_phase_change / _MINUTE, 1.0)
        return np.append(observation, clock).astype(np.float32)


def _routes(config: Signal) -> str:
    """Routes and flows as SUMO's XML."""
    routes, flows = [], []
    for origin in "nsew":
        rate = config.inflow_main if origin in "ns" else config.inflow_side
        turns = {_OPPOSITE[origin]: 1 - config.left - config.right, _LEFT[origin]: config.left}
        turns[_OPPOSITE[_LEFT[origin]]] = config.right
        for goal, share in turns.items():
            routes.append(f'<route id="{origin}{goal}" edges="{origin}_t t_{goal}"/>')
            if rate * share > 0:
                flows.append(
                    f'<flow id="{origin}{goal}" route="{origin}{goal}" begin="0" end="86400" departSpeed="max" '
                    f'departPos="base" departLane="best" period="exp({rate * share / 3600!r})"/>'
                )
    return "\n".join(["<routes>", *routes, *flows, "</routes>"])
