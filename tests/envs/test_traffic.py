"""The merge: the original's episodes, its network, controller, rewards, observation and quirks."""

from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rhtool.config import compose
from rhtool.envs import sumo
from rhtool.envs.traffic import Traffic
from rhtool.envs.traffic.env import METRICS
from rhtool.envs.traffic.inflow import Flow, Inflow
from rhtool.envs.traffic.merge import LENGTH, NETWORK, ROUTES, idm, idm_of
from rhtool.envs.traffic.program import TrafficProgram
from rhtool.errors import ConfigError

pytestmark = [
    pytest.mark.sumo,
    pytest.mark.skipif(not sumo.has_libsumo(), reason="SUMO is not installed: pip install 'rhtool[traffic]'"),
]


DATA = Path(__file__).parents[1] / "data" / "traffic"
GOLDEN = json.loads((DATA / "traffic_episode_stats.json").read_text())
"""episodes of the original on SUMO 1.28: true and proxy return, true_std (of a step), obs_gt20 (steps whose observation
has an element above 20), max_rl (controlled at once), vehicles_end"""
POLICIES = ("idm", "zero", "random", "max", "min")


@pytest.fixture
def program():
    """Makes programs and closes them: a process has room for one at a time."""
    made = []

    def make(**changes) -> TrafficProgram:
        for old in made:
            old.close()
        made[:] = [TrafficProgram(Traffic(**changes))]
        return made[0]

    yield make
    for old in made:
        old.close()


def actions_of(policy: str, seed: int) -> np.ndarray:
    """(300, 10): the golden file's policies."""
    if policy == "random":
        return np.random.RandomState(seed).uniform(-1.5, 1.5, (300, 10)).astype(np.float32)
    return np.full((300, 10), {"zero": 0, "max": 1.5, "min": -1.5}[policy], np.float32)


def drive_by_idm(p: TrafficProgram) -> tuple[float, float]:
    """Rewards of a second in which the IDM acts at every step of SUMO. The original counts the agent's accelerations,
    which were zero, not the IDM's. Written down again here from the definition."""
    for _ in range(5):
        p._merge.step([0.0 if v.gone else min(max(idm_of(v), -1.5), 1.5) for v in p._merge.slots], 1)
    api = p._merge.api.vehicle
    speeds = np.array([api.getSpeed(id) for id in api.getIDList()])
    headways = 0.0
    for vehicle in p._merge.slots:
        leader = None if vehicle.gone else api.getLeader(vehicle.id, 2000.0)
        if leader and api.getSpeed(vehicle.id) > 0:
            headways += min(max((leader[1] + 2.5) / api.getSpeed(vehicle.id), 0) - 1, 0)
    return speeds.mean() + 0.1 * headways, -(1 / (speeds + 0.001)).mean() + 0.1 * headways


def episode(p: TrafficProgram, policy: str, seed: int) -> dict[str, float]:
    p.reset(seed)
    proxy, true, large, most = [], [], 0, 0
    for action in [None] * 300 if policy == "idm" else actions_of(policy, seed):
        if action is None:
            rewards = drive_by_idm(p)
            observation = p._observe()
        else:
            observation, *rewards, terminated, _, _ = p.step(action)
            assert not terminated
        proxy.append(rewards[0])
        true.append(rewards[1])
        large += bool(np.abs(observation).max() > 20)
        most = max(most, len(p._merge.slots))
    end = len(p._merge.vehicles)
    own = {"true": sum(true), "proxy": sum(proxy), "true_std": np.std(true)}
    return own | {"obs_gt20": large, "max_rl": most, "vehicles_end": end}


@pytest.fixture(scope="module")
def episodes():
    """Ours, for each of the golden ones."""
    p = TrafficProgram(Traffic())
    try:
        return [episode(p, golden["policy"], golden["seed"]) for golden in GOLDEN]
    finally:
        p.close()


def test_the_original_s_episodes_are_repeated_to_the_digit(episodes):
    """SUMO's seed is drawn as the original draws it, so on the same SUMO every golden episode is repeated exactly. (The
    accelerations of the random policy are averaged in float32 there: 1e-7.)"""
    import libsumo

    if libsumo.__version__ != "1.28.0":
        pytest.skip(f"the golden episodes are SUMO 1.28.0's, this is {libsumo.__version__}")
    for golden, own in zip(GOLDEN, episodes, strict=True):
        for key in ("true", "proxy", "true_std"):
            assert own[key] == pytest.approx(golden[key], rel=1e-8), (golden["policy"], golden["seed"], key)
        # Where the original's first observation had stale slots, it is not among these.
        for key in ("obs_gt20", "max_rl", "vehicles_end"):
            assert own[key] == golden[key], (golden["policy"], golden["seed"], key)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("key", ["true", "proxy"])
def test_returns_land_in_the_golden_range(episodes, policy, key):
    """On any SUMO: our mean is between the golden minimum and maximum, widened by their distance and 1 % on each side."""
    golden = [g[key] for g in GOLDEN if g["policy"] == policy]
    own = np.mean([e[key] for g, e in zip(GOLDEN, episodes, strict=True) if g["policy"] == policy])
    slack = max(golden) - min(golden) + 0.01 * abs(np.mean(golden))
    assert min(golden) - slack <= own <= max(golden) + slack


def test_blocking_the_ramp_is_the_hack(episodes):
    """The policy with the best proxy has a true return far below the controller's."""
    returns = {
        p: np.mean([[e["proxy"], e["true"]] for g, e in zip(GOLDEN, episodes, strict=True) if g["policy"] == p], 0)
        for p in POLICIES
    }
    assert max(returns, key=lambda p: returns[p][0]) == "min"
    assert returns["min"][0] > 1.8 * returns["idm"][0] and returns["min"][1] < 20 * returns["idm"][1]


def lanes_of(file: Path) -> dict[str, tuple[float, float]]:
    lanes = ElementTree.parse(file).getroot().iter("lane")
    return {lane.get("id"): (float(lane.get("length")), float(lane.get("speed"))) for lane in lanes}


def test_the_network_is_the_original_s(tmp_path):
    lanes = lanes_of(NETWORK)
    assert lanes == {
        "inflow_highway_0": (50, 30),
        "left_0": (100, 30),
        "center_0": (75, 30),
        "inflow_merge_0": (50, 30),
        "bottom_0": (50, 30),
        ":left_0_0": (0.1, 30),
        ":bottom_0_0": (0.1, 30),
        ":center_0_0": (22.95, 15.67),
        ":center_1_0": (24.53, 30),
    }
    assert sum(length for length, _ in lanes.values()) == pytest.approx(LENGTH)
    made = tmp_path / "made.net.xml"
    command = [str(sumo.home() / "bin" / "netconvert"), "--no-internal-links", "false", "--no-turnarounds", "true"]
    for option, name in (("--node-files", "merge.nod.xml"), ("--edge-files", "merge.edg.xml")):
        command += [option, str(NETWORK.parent / name)]
    subprocess.run([*command, "--output-file", str(made)], check=True, capture_output=True)
    assert lanes_of(made) == lanes


FLOWS = [
    Flow("a", "human", "highway", 7500, 10),
    Flow("b", "human", "ramp", 337.5, 7.5),
    Flow("c", "rl", "ramp", 112.5, 7.5),
]


@pytest.mark.parametrize(
    "rates", [(7500, 337.5, 112.5), (900, 9000, 20000), (1800, 600, 600)], ids=["default", "crowded", "due together"]
)
@pytest.mark.parametrize("seed", [0, 54321])
def test_who_waits_outside_of_sumo_enters_as_from_sumo_s_own_flows(tmp_path, rates, seed):
    """SUMO drives, once with flows of its own and once with ours: who enters when, each one's speed factor, and how many wait."""
    flows = [replace(flow, per_hour=rate) for flow, rate in zip(FLOWS, rates, strict=True)]
    own = [
        f'<flow id="{flow.name}" type="{flow.type}" route="{flow.route}" vehsPerHour="{flow.per_hour}" departLane="free" '
        f'departSpeed="{flow.speed}" begin="1" end="86400"/>'
        for flow in flows
    ]
    seen = []
    for inside in (own, []):
        routes = tmp_path / "routes.rou.xml"
        routes.write_text(ROUTES.replace("</routes>", "".join(inside) + "</routes>"))
        simulation = sumo.Simulation(
            ["-n", str(NETWORK), "-r", str(routes), "--step-length", "0.2", "--no-warnings", "true"]
        )
        try:
            api, inflow, rows = simulation.load(seed), Inflow([] if inside else flows, seed), []
            for step in range(600):
                inflow.offer(200 * step, api.vehicle)
                api.simulationStep()
                names = inflow.entered(api.simulation.getDepartedIDList())
                waiting = int(api.simulation.getParameter("", "stats.vehicles.waiting")) if inside else inflow.waiting
                rows.append(([(name, api.vehicle.getSpeedFactor(name)) for name in names], waiting))
        finally:
            simulation.close()
        seen.append(rows)
    assert seen[0] == seen[1]
    assert seen[0][-1][1] > 5 and len({name for names, _ in seen[0] for name, _ in names}) > 20


def test_the_idm_is_its_formula():
    rng = np.random.default_rng(0)
    for v, lead, h in zip(rng.uniform(0, 30, 50), rng.uniform(0, 30, 50), rng.uniform(0.5, 80, 50), strict=True):
        desired = 2 + max(0, v * 1 + v * (v - lead) / (2 * np.sqrt(1 * 1.5)))
        assert idm(v, lead, h) == pytest.approx(1 * (1 - (v / 30) ** 4 - (desired / h) ** 2))
    assert idm(30.0, None, 1000.0) == pytest.approx(0)
    assert idm(0.0, None, 1000.0) == 1
    assert np.isfinite(idm(0.0, 0.0, 0.0))


def test_rewards_observation_and_controller_are_what_sumo_says(program):
    """Variant corrected, against a plain reading of SUMO at every step."""
    p = program(variant="corrected")
    p.reset(3)
    checked = 0
    for action in actions_of("random", 3)[:200]:
        acted = [v.id for v in p._merge.slots]
        observation, proxy, true, _, _, metrics = p.step(action)
        api, expected, headways, controls = p._merge.api.vehicle, np.zeros(50), 0.0, np.zeros(10)
        on_road = api.getIDList()
        speed = {id: api.getSpeed(id) for id in on_road}
        leader = {id: api.getLeader(id, 2000.0) for id in on_road}
        for i, vehicle in enumerate(p._merge.slots):
            id = vehicle.id
            gap = leader[id][1] + 2.5 if leader[id] else LENGTH
            ahead = speed[leader[id][0]] if leader[id] else 30
            behind = [(leader[f][1] + 2.5, f) for f in on_road if leader[f] and leader[f][0] == id]
            follow_gap, follow_speed = (min(behind)[0], speed[min(behind)[1]]) if behind else (LENGTH, 0)
            relative = [speed[id], ahead - speed[id], speed[id] - follow_speed]
            expected[5 * i : 5 * i + 5] = np.array([*relative[:2], gap, relative[2], follow_gap]) / [
                30,
                30,
                LENGTH,
                30,
                LENGTH,
            ]
            if leader[id] and speed[id] > 0:
                headways += min(max(gap / speed[id], 0) - 1, 0)
            controls[i] = np.clip(idm(speed[id], ahead if leader[id] else None, gap if leader[id] else 1000), -1.5, 1.5)
            checked += 1
        np.testing.assert_allclose(observation, expected, rtol=1e-6)
        np.testing.assert_allclose(p.base_action(), controls, rtol=1e-6)
        v = np.array(list(speed.values()))
        shared = 0.1 * headways - (np.abs(action[: len(acted)], dtype=np.float64).mean() if acted else 0)
        assert proxy == pytest.approx(v.mean() + shared)
        assert true == pytest.approx(-(1 / (v + 0.001)).mean() + shared)
        assert metrics["vehicles"] == len(v) and metrics["mean_speed"] == pytest.approx(v.mean())
        assert metrics["stopped"] == pytest.approx((v < 0.1).mean())
        assert metrics["commute"] == pytest.approx((1 / (v + 0.001)).mean())
        assert 0.1 * metrics["headway"] - metrics["accel"] == pytest.approx(shared)
    assert checked > 100


def test_slots_are_filled_first_come_first_served(program):
    p = program(slots=1)
    p.reset(0)
    served, waited = [], False
    for _ in range(300):
        p.step(np.zeros(1, np.float32))
        served += [v.id for v in p._merge.slots if v.id not in served]
        waited |= bool(p._merge.queue)
        entered = [v.id for v in p._merge.vehicles.values() if v.controllable]
        assert len(p._merge.slots) <= 1 and all(v.id in entered or v.gone for v in p._merge.queue)
    assert waited and len(served) > 2
    assert served == sorted(served, key=lambda id: int(id.split(".")[1]))


def run(p: TrafficProgram, seed: int, steps: int) -> list:
    out = [p.reset(seed)]
    for action in actions_of("random", seed)[:steps]:
        observation, proxy, true, *_ = p.step(action)
        out += [observation, proxy, true]
    return out


def test_an_episode_does_not_depend_on_those_before_it(program):
    fresh = run(program(), 1, 150)
    p = program()
    run(p, 0, 37)
    for a, b in zip(fresh, run(p, 1, 150), strict=True):
        np.testing.assert_array_equal(a, b)


def test_stale_slots_are_what_the_original_shows_at_the_start(program):
    assert not program().reset(0).any()
    first = program(stale_slots=2).reset(0)
    # The golden file's first_obs_absmax of every episode but the first.
    assert np.abs(first).max() == np.float32(next(g for g in GOLDEN if g["seed"] == 1)["first_obs_absmax"])
    np.testing.assert_allclose(first[:5], [-1001 / 30, 1031 / 30, 1, -1001 / 30, 1], rtol=1e-6)
    assert (first[5:10] == first[:5]).all() and not first[10:].any()


@pytest.mark.parametrize(("quirk", "features"), [("ramp_gap", {2}), ("stale_follower", {3, 4})])
def test_a_quirk_of_the_observation_changes_its_features_alone(program, quirk, features):
    """speed, leader's speed, gap, follower's speed, follower's headway: the same actions with and without the quirk."""
    with_quirk, without = {}, {}
    for seen, changes in ((with_quirk, {quirk: True}), (without, {})):
        p = program(variant="corrected", **changes)
        for seed in range(3):
            p.reset(seed)
            seen[seed] = np.array([p.step(a)[0].reshape(10, 5) for a in actions_of("random", seed)])
    with_quirk, without = np.concatenate(list(with_quirk.values())), np.concatenate(list(without.values()))
    assert set(np.nonzero((with_quirk != without).any((0, 1)))[0]) == features
    assert (without >= -1).all() and (without[..., [2, 4]] >= 0).all()
    if quirk == "ramp_gap":
        # A leader just past the merge (172.6 m) lies up to 130 m behind one at the end of the ramp.
        assert with_quirk[..., 2].min() < -0.1


def test_late_slots_show_vehicles_that_have_left(program):
    for late in (True, False):
        p, vanished = program(variant="corrected", late_slots=late), 0
        for seed in (0, 1):
            p.reset(seed)
            for _ in range(300):
                slots = p.step(p.base_action())[0].reshape(10, 5)
                vanished += (slots[:, 0] < -30).sum()
        assert (vanished > 0) == late


def test_accelerations_of_empty_slots_count_only_in_the_original(program):
    rewards = {}
    for flag in (True, False):
        p = program(accel_all_slots=flag)
        p.reset(0)
        rewards[flag] = [p.step(np.full(10, -1.5, np.float32))[1] for _ in range(3)]
    # Nobody is controlled in the first seconds.
    np.testing.assert_allclose(np.array(rewards[False]) - rewards[True], 1.5)


def test_a_crash_ends_the_episode_without_a_reward(program):
    p = program()
    p.reset(0)
    for _ in range(60):
        p.step(np.zeros(10, np.float32))
    api = p._merge.api.vehicle
    id = next(v.id for v in p._merge.vehicles.values() if v.leader is not None and v.edge == "left")
    api.setSpeedMode(id, 0)
    api.setSpeed(id, 30)
    api.setAcceleration(id, 100, 5)
    for vehicle in p._merge.vehicles.values():
        if vehicle.id == id:
            vehicle.controllable = True  # nobody else is to drive it
    for _ in range(5):
        _, proxy, true, terminated, _, metrics = p.step(np.zeros(10, np.float32))
        if terminated:
            break
    assert terminated and metrics["crash"] == 1 and proxy == true == 0
    assert np.isfinite(p.reset(1)).all()


def test_what_is_drawn_are_the_vehicles(program):
    p = program()
    p.reset(0)
    empty = p.render("rgb_array")
    for _ in range(60):
        p.step(np.full(10, -1.5, np.float32))
    frame = p.render("rgb_array")
    red = (frame[60:, :, 0] > 180) & (frame[60:, :, 1] < 70)
    blue = (frame[60:, :, 2] > 200) & (frame[60:, :, 0] < 60)
    assert (
        (empty.shape == frame.shape) and blue.any() and not ((empty[60:, :, 2] > 200) & (empty[60:, :, 0] < 60)).any()
    )
    # The one that stands in the ramp: below the highway, right of its entrance.
    rows, columns = np.nonzero(red & (np.arange(60, frame.shape[0]) > 120)[:, None])
    assert len(rows) > 20 and columns.min() > 300


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": 0},
        {"sims_per_step": 0},
        {"max_accel": 0.0},
        {"inflow_rl": -1.0},
        {"inflow_highway": 1e9},
        {"inflow_ramp": float("inf")},
        {"sim_step": 0.0},
        {"stale_slots": -1},
    ],
)
def test_numbers_out_of_range_are_named(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Traffic(**changes).make_vec(1)


def test_the_training_reward_is_scaled_and_info_is_not():
    env = compose("env=traffic").env.make_vec(2, seed=0)
    env.reset()
    for _ in range(5):
        _, reward, _, _, info = env.step(np.zeros((2, 10), np.float32))
    np.testing.assert_allclose(reward, 1e-4 * info["proxy_reward"])
    assert (info["proxy_reward"] > 1).all()
    env.close()


def test_the_page_has_every_metric_and_its_unit():
    page = (Path(__file__).parents[2] / "docs" / "envs" / "traffic.md").read_text()
    table = page.partition("## Metrics")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| [\w/]+ \| \w", table, re.MULTILINE) == list(METRICS)
