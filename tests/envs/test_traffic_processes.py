"""SUMO's processes: many at once, none left behind, either way of talking to it, and none installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rhtool.envs import sumo
from rhtool.envs.traffic import Traffic
from rhtool.errors import RhtoolError

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.sumo,
    pytest.mark.skipif(not sumo.has_libsumo(), reason="SUMO is not installed: pip install 'rhtool[traffic]'"),
]

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = """
import sys, time
import numpy as np
from rhtool.envs.traffic import Traffic
env = Traffic(backend=sys.argv[1]).make_vec(2, seed=0)
env.reset()
env.step(np.zeros((2, 10), np.float32))
print("ready", flush=True)
if sys.argv[2] == "raise":
    raise SystemError("a bug of the user's")
while True:
    env.step(np.zeros((2, 10), np.float32))
"""


def python(*arguments: str, **options) -> subprocess.Popen:
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environ, text=True, **options)


def descendants(pid: int) -> set[int]:
    """Process ids below `pid`, itself included."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backend", ["libsumo", "traci"])
@pytest.mark.parametrize("end", ["raise", signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(backend, end):
    process = python(
        "-c",
        SLEEPER,
        backend,
        str(end),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # as from a terminal: a shell starts background processes with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    below: set[int] = set()
    try:
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None
        below = descendants(process.pid)
        if end == signal.SIGINT:
            os.killpg(process.pid, end)  # a terminal sends Ctrl-C to the whole group
        elif end != "raise":
            process.send_signal(end)
        process.wait(timeout=60)
        deadline = time.monotonic() + 15
        while (left := [pid for pid in below if alive(pid)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left
        if end != "raise":  # there it may have ended before it was looked at
            assert len(below) >= (4 if backend == "libsumo" else 6)
    finally:
        for pid in {process.pid, *below}:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.stdout.close()


def test_ten_environments_in_one_program():
    envs = [Traffic().make(seed=s % 5) for s in range(10)]
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.5, 1.5, (40, 10)).astype(np.float32)
    histories = [[env.reset(seed=i % 5)[0]] for i, env in enumerate(envs)]
    for action in actions:  # in turns, so that one would notice another's steps
        for env, history in zip(envs, histories, strict=True):
            observation, reward, *_, info = env.step(action)
            history += [observation, reward, *info.values()]
    for env in envs:
        env.close()
    flat = [np.concatenate([np.ravel(x) for x in history]) for history in histories]
    for i in range(5):
        np.testing.assert_array_equal(flat[i], flat[i + 5])
    assert len({row.tobytes() for row in flat}) == 5


def test_libsumo_and_traci_are_the_same_simulation():
    histories = []
    for backend in ("libsumo", "traci"):
        env = Traffic(backend=backend).make_vec(2, seed=4, autoreset_mode="SameStep", horizon=25)
        history = [env.reset()[0]]
        for action in np.random.default_rng(1).uniform(-1.5, 1.5, (40, 2, 10)).astype(np.float32):
            observations, reward, *_, info = env.step(action)
            history += [observations, reward, info["true_reward"], info["vehicles"]]
        env.close()
        histories.append(history)
    for a, b in zip(*histories, strict=True):
        np.testing.assert_array_equal(a, b)


FALL_BACK = """
import sys
import numpy as np
if sys.argv[1] == "without":
    sys.modules["libsumo"] = None
from rhtool.envs.traffic import Traffic
from rhtool.envs.traffic.program import TrafficProgram
program = TrafficProgram(Traffic())
program.reset(5)
print(program._merge._simulation.backend, sum(program.step(np.zeros(10))[1] for _ in range(20)))
program.close()
for backend in ("traci", "libsumo", "libsumo"):
    print(backend, "asked for", file=sys.stderr)
    Traffic(backend=backend).make_vec(1).close()
"""


def test_traci_serves_where_there_is_no_libsumo():
    answers = []
    for case in ("with", "without"):
        process = python("-c", FALL_BACK, case, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=60)
        answers.append(out.split())
        asked, _, then = err.partition("libsumo asked for")
        # once, and only where it was not asked for
        assert "slower" not in asked and then.count("slower; pip install 'rhtool[traffic]'") == (case == "without")
    assert [backend for backend, _ in answers] == ["libsumo", "traci"]
    assert answers[0][1] == answers[1][1]


def test_a_second_simulation_in_the_same_process_is_refused():
    from rhtool.envs.traffic.program import TrafficProgram

    one, two = TrafficProgram(Traffic()), TrafficProgram(Traffic())
    try:
        one.reset(0)
        with pytest.raises(RhtoolError, match="own process"):
            two.reset(0)
        one.close()
        two.reset(0)
    finally:
        one.close()
        two.close()


def test_what_sumo_refuses_is_an_error_that_shows_the_line():
    simulation = sumo.Simulation(["-n", "there-is-no.net.xml", "--no-warnings", "true"])
    with pytest.raises(RhtoolError, match=r"sumo -n there-is-no\.net\.xml --no-warnings true --seed 1"):
        simulation.load(1)
    simulation.close()


def test_sumo_gui_without_a_display_is_named(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    env = Traffic(gui=True).make_vec(1, seed=0)
    with pytest.raises(RhtoolError, match=r"DISPLAY[^$]*env\.gui"):
        env.reset()
    env.close()


MISSING = """
import sys
for name in {missing}:
    sys.modules[name] = None
from rhtool.envs.{env} import {cls}
from rhtool.errors import MissingExtra
try:
    {cls}({fields}).make_vec(1, seed=0)
except MissingExtra as error:
    print(error)
"""


@pytest.mark.parametrize(
    "env, missing, fields",
    [
        ("traffic", ["sumo"], ""),
        ("traffic", ["traci"], ""),
        ("traffic", ["traci", "libsumo"], ""),
        ("traffic", ["traci"], "backend='traci'"),
        ("traffic", ["sumo", "libsumo", "traci", "sumo_rl"], ""),
        ("signal", ["sumo"], ""),
        ("signal", ["traci"], ""),
        ("signal", ["sumo_rl"], ""),
        ("signal", ["sumo", "libsumo", "traci", "sumo_rl"], ""),
    ],
)
def test_a_missing_package_is_named_with_its_extra_before_anything_starts(env, missing, fields):
    script = MISSING.format(env=env, cls=env.title(), missing=missing, fields=fields)
    out, _ = python("-c", script, stdout=subprocess.PIPE).communicate(timeout=60)
    assert "is not installed" in out and "pip install 'rhtool[traffic]'" in out
