"""Environments that are programs: the same in whatever process; failures that say what happened; nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from program_env import Programs
from programs import Drift

from rhtool.envs.base import Training
from rhtool.envs.worker import decode, encode
from rhtool.errors import ConfigError, RhtoolError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
both = pytest.mark.parametrize("processes", [False, True], ids=["here", "processes"])


def make(lanes: int, target: str = "Drift", processes: bool = True, seed: int = 0, horizon: int = 10, **options):
    config = Programs(target=f"programs:{target}", options=options, processes=processes, horizon=horizon)
    return config.make_vec(lanes, seed, autoreset_mode="SameStep")


def some_actions(steps: int, lanes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (steps, lanes, 3)).astype(np.float32)


def hard(lanes: int, lane: int) -> np.ndarray:
    actions = np.zeros((lanes, 3), np.float32)
    actions[lane, 0] = 1
    return actions


def same(a, b) -> None:
    for x, y in zip(a, b, strict=True):
        for p, q in zip(x[:4], y[:4], strict=True):
            np.testing.assert_array_equal(p, q)
        assert x[4].keys() == y[4].keys()
        for key in x[4]:
            np.testing.assert_array_equal(x[4][key], y[4][key])


def children() -> set[int]:
    """Processes whose parent, or parent's parent, is this one."""
    mine = {int(p.name): p for p in Path("/proc").glob("[0-9]*")}
    parents = {}
    for pid, path in mine.items():
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[pid] = int(stat[1]) if stat[0] != "Z" else 0
    direct = {pid for pid, parent in parents.items() if parent == os.getpid()}
    return direct | {pid for pid, parent in parents.items() if parent in direct}


def gone(pids: list[int], seconds: float = 30) -> bool:
    """Whether the processes end within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(running(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = children()
    yield
    assert gone(list(children() - before)), "processes are left behind"


# The same in whatever process


@pytest.mark.parametrize("lanes", [1, 9])
def test_processes_are_the_same_as_this_one_and_as_the_program_itself(lanes):
    actions = some_actions(23, lanes)
    histories = []
    for processes in (False, True):
        env = make(lanes, processes=processes, end=2.5)
        first, _ = env.reset()
        seeds = env.get_state()["episode_seed"]
        histories.append([env.step(a) for a in actions])
        env.close()
    same(*histories)
    program = Drift(end=2.5)
    np.testing.assert_array_equal(program.reset(int(seeds[0])).astype(np.float32), first[0])
    for (observations, reward, terminated, truncated, info), action in zip(histories[0], actions[:, 0], strict=True):
        x, proxy, true, over, _, metrics = program.step(action)
        assert (reward[0], terminated[0]) == (proxy, over)
        assert (info["proxy_reward"][0], info["true_reward"][0], info["far"][0]) == (proxy, true, metrics["far"])
        if over or truncated[0]:
            break
        np.testing.assert_array_equal(observations[0], x.astype(np.float32))


@both
def test_the_controller_s_action_is_that_of_the_program(processes):
    env = make(3, processes=processes)
    other = make(3, processes=processes, seed=5)
    env.reset()
    for actions in some_actions(12, 3):
        observations, *_ = env.step(actions)
        np.testing.assert_allclose(env.base_action(observations), np.clip(-observations, -1, 1), rtol=1e-6)
    other.set_state(env.get_state())
    np.testing.assert_array_equal(other.base_action(observations), env.base_action(observations))
    without = make(2, "Aimless", processes)
    assert without.base_action(without.reset()[0]) is None
    for e in (env, other, without):
        e.close()


@both
def test_frames_come_from_the_present_state(processes):
    config = Programs(processes=processes, horizon=10)
    for mode in ("ansi", "rgb_array"):
        env = config.make_vec(2, 3, render_mode=mode, autoreset_mode="SameStep")
        observations, _ = env.reset()
        for _ in range(2):
            for x, frame in zip(observations, env.render(), strict=True):
                program = Drift()
                program.x = x.astype(float)
                assert mode == "ansi" or np.array_equal(frame, program.render(mode))
                assert mode != "ansi" or np.allclose(np.array(frame.strip("[]").split(), float), x, atol=1e-6)
            observations, *_ = env.step(some_actions(1, 2)[0])
        state, frames = env.get_state(), env.render()
        other = config.make_vec(2, 4, render_mode=mode, autoreset_mode="SameStep")
        other.set_state(state)  # rendering alone makes the programs follow
        assert all(np.array_equal(a, b) for a, b in zip(frames, other.render(), strict=True))
        env.close()
        other.close()


@both
def test_a_snapshot_is_replayed_only_where_and_when_it_is_needed(processes, tmp_path):
    env = make(2, processes=processes)
    env.reset()
    actions = some_actions(20, 2)
    for a in actions[:7]:
        env.step(a)
    state, expected = env.get_state(), [env.step(a) for a in actions[7:]]
    other = make(2, "Witness", processes, file=str(tmp_path / "calls"))
    for _ in range(3):
        other.set_state(state)
    assert not (tmp_path / "calls").exists()
    same(expected[:1], [other.step(actions[7])])
    calls = (tmp_path / "calls").read_text().split()
    assert [calls.count(word) for word in ("made", "reset", "step")] == [2, 2, 2 * 8]
    same(expected[1:], [other.step(a) for a in actions[8:]])
    other.set_state(state)
    other.reset()  # new episodes: nothing to replay
    calls = (tmp_path / "calls").read_text().split()
    assert calls.count("step") == 2 * 20
    env.close()
    other.close()
    assert (tmp_path / "calls").read_text().split().count("closed") == 2


def test_an_environment_of_which_only_the_spaces_are_wanted_starts_nothing():
    before = children()
    assert make(64).observation_space.shape == (64, 3)
    assert children() == before


@both
def test_the_program_s_own_cut_is_a_truncation(processes):
    env = make(2, processes=processes, cut=4)
    env.reset()
    ends = [env.step(a)[2:4] for a in some_actions(9, 2)]
    assert not any(terminated.any() for terminated, _ in ends)
    np.testing.assert_array_equal([truncated.all() for _, truncated in ends], [t % 4 == 3 for t in range(9)])
    env.close()


def test_options_arrive_as_they_were():
    options = {
        "a": [1, 2.5, None, True],
        "d": {"class": "x", "é": float("inf")},
        "t": Training(lr=0.1),
        "e": Programs(),
    }
    assert decode(encode(options)) == options
    with pytest.raises(TypeError, match="cannot be sent"):
        encode({"x": np.zeros(3)})
    with pytest.raises(TypeError, match="strings"):
        encode({1: 2})


# Lanes that go ahead

PUSH = "programs:Push"


def both_ways(steps: int, lanes: int, target: str = "Drift", processes: bool = True, hard=(), **options):
    """An environment whose lanes have gone ahead, a twin whose have not, and the actions; `hard` steps are lane 1's."""
    env, twin = (make(lanes, target, processes, **options) for _ in range(2))
    env.reset()
    twin.reset()
    same([env.step(some_actions(1, lanes)[0])], [twin.step(some_actions(1, lanes)[0])])
    push = {"hard": list(hard), "seed": 1}
    return env, twin, env.go_ahead(PUSH, push, steps, list(range(lanes)))


@both
@pytest.mark.parametrize("options", [{}, {"end": 1.5}, {"cut": 4}], ids=str)
def test_steps_made_ahead_are_the_steps_one_by_one(processes, options):
    env, twin, actions = both_ways(37, 5, processes=processes, **options)
    assert actions.shape == (37, 5, 3) and len(np.unique(actions[:, :, 0])) == 37 * 5
    for t, a in enumerate(actions):
        same([env.step(a)], [twin.step(a)])
        np.testing.assert_array_equal(env.base_action(env.observe()), twin.base_action(twin.observe()))
        if t in (8, 9, 36):
            for key, value in env.get_state().items():
                np.testing.assert_array_equal(value, twin.get_state()[key])
    for again in (env.go_ahead(PUSH, {}, 5, [9] * 5), some_actions(13, 5)):
        same([env.step(a) for a in again], [twin.step(a) for a in again])
    env.close()
    twin.close()


@both
def test_lanes_are_where_they_went(processes, tmp_path):
    env, twin, actions = both_ways(23, 2, "Witness", processes, file=str(tmp_path / "calls"))
    (tmp_path / "calls").write_text("")
    for a in actions:
        env.step(a)
    env.step(env.go_ahead(PUSH, {}, 1, [0, 1])[0])
    env.step(actions[0])
    calls = (tmp_path / "calls").read_text().split()
    assert calls.count("step") == 2 * (1 + 1)  # and no replay
    env.close()
    twin.close()


@both
@pytest.mark.parametrize("what", ["another action", "reset", "reset one", "set_state", "render", "go ahead", "nothing"])
@pytest.mark.parametrize("after", [0, 7, 9, 12])
def test_who_leaves_the_way_finds_everything_as_it_was(processes, what, after):
    env, twin, actions = both_ways(20, 3, processes=processes)
    state = env.get_state()
    same([env.step(a) for a in actions[:after]], [twin.step(a) for a in actions[:after]])
    for e in (env, twin):
        if what.startswith("reset"):
            e.reset(options={"reset_mask": np.array([True, what == "reset", what == "reset"])})
        elif what == "set_state":
            e.set_state(state)
        elif what == "render":
            e.render_mode = "ansi"
    if what == "render":
        assert env.render() == twin.render()
    rest = {"another action": some_actions(15, 3), "nothing": actions[after:]}.get(what, actions[after : after + 5])
    if what == "go ahead":
        rest = env.go_ahead(PUSH, {}, 15, [5, 6, 7])
    same([env.step(a) for a in rest], [twin.step(a) for a in rest])
    env.close()
    twin.close()


@both
@pytest.mark.parametrize("step", [0, 8, 9, 13])
def test_a_failure_on_the_way_is_raised_by_the_step_that_meets_it(processes, step):
    env, twin, actions = both_ways(20, 3, "Fragile", processes, hard=[step], how="raise")
    same([env.step(a) for a in actions[:step]], [twin.step(a) for a in actions[:step]])
    place = f"lane 1 of ProgramsVectorEnv, step {(step + 1) % 10} of the episode"
    for e in (env, twin):
        with pytest.raises(RhtoolError, match="ValueError: too hard") as caught:
            e.step(actions[step])
        assert place in caught.value.where and "programs.py:" in caught.value.where
    rest = some_actions(12, 3)
    same([env.step(a) for a in rest], [twin.step(a) for a in rest])
    env.close()
    twin.close()


@both
def test_a_reset_that_fails_on_the_way_is_raised_by_its_step(processes, tmp_path):
    file = tmp_path / "not now"
    env, twin = (make(3, "Reluctant", processes, file=str(file)) for _ in range(2))
    for e in (env, twin):
        e.reset()
    file.touch()
    actions = env.go_ahead(PUSH, {"hard": [4], "seed": 1}, 20, [0, 1, 2])
    same([env.step(a) for a in actions[:4]], [twin.step(a) for a in actions[:4]])
    for e in (env, twin):
        with pytest.raises(RhtoolError, match=r"reset\(\d+\) of the program failed: ValueError: not now") as caught:
            e.step(actions[4])
        assert "lane 1" in caught.value.where
    file.unlink()
    same([env.step(a) for a in actions[:12]], [twin.step(a) for a in actions[:12]])
    env.close()
    twin.close()


def test_a_process_that_dies_on_the_way_is_reported():
    env = make(3, "Fragile", how="SIGKILL")
    env.reset()
    with pytest.raises(RhtoolError, match="killed by SIGKILL, in one of the 20 steps") as caught:
        env.go_ahead(PUSH, {"hard": [5], "seed": 1}, 20, [0, 1, 2])
    assert "lane 1" in caught.value.where and env.closed


@both
def test_a_policy_that_cannot_be_made_is_named(processes):
    env = make(2, processes=processes)
    env.reset()
    actions = env.go_ahead("programs:Nobody", {}, 3, [0, 1])
    with pytest.raises(RhtoolError, match="Nobody"):
        env.step(actions[0])
    env.close()


def test_lanes_go_ahead_only_from_episodes_under_way():
    env = make(2)
    with pytest.raises(RhtoolError, match="under way"):
        env.go_ahead(PUSH, {}, 3, [0, 1])
    env = Programs().make_vec(2, 0)
    env.reset()
    with pytest.raises(RhtoolError, match="SameStep"):
        env.go_ahead(PUSH, {}, 3, [0, 1])
    env.close()


# Failures


@both
def test_an_exception_is_reported_and_undone(processes):
    env, twin = (make(3, "Fragile", processes, how="raise") for _ in range(2))
    for e in (env, twin):
        e.reset()
    actions = some_actions(14, 3)
    for a in actions[:3]:
        same([env.step(a)], [twin.step(a)])
    before = env.get_state()
    with pytest.raises(RhtoolError) as caught:
        env.step(hard(3, 1))
    text = str(caught.value)
    assert "ValueError: too hard" in text and "lane 1" in text and "step 3" in text and "programs.py:" in text
    assert str(before["episode_seed"][1]) in text
    assert "self.fail()" in "".join(caught.value.__notes__)
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, before[key])
    same([env.step(a) for a in actions[3:]], [twin.step(a) for a in actions[3:]])
    env.close()
    twin.close()


@both
@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_lanes_whose_reset_failed_are_reset_by_the_next_step(processes, mode, tmp_path):
    file, calm = tmp_path / "not now", np.zeros((3, 3), np.float32)
    options = {"target": "programs:Reluctant", "options": {"file": str(file)}, "processes": processes, "horizon": 10}
    env, twin = (Programs(**options).make_vec(3, 0, autoreset_mode=mode) for _ in range(2))
    file.touch()
    with pytest.raises(RhtoolError, match="not now"):
        env.reset()
    with pytest.raises(RhtoolError, match="before it was reset"):
        env.step(calm)
    file.unlink()
    for e in (env, twin):
        e.reset()
    same([env.step(calm)], [twin.step(calm)])
    begun, ended = [twin.step(hard(3, 0))[0][0]], [0]
    if mode == "NextStep":  # lane 1 ends while lane 0 is to be reset
        env.step(hard(3, 0))
        begun, ended = [*twin.step(hard(3, 1))[0][:1]], [0, 1]
    file.touch()
    with pytest.raises(RhtoolError, match=r"reset\(\d+\) of the program failed: ValueError: not now"):
        env.step(hard(3, ended[-1]))
    file.unlink()
    observations, reward, terminated, truncated, info = env.step(calm)
    expected = twin.step(calm)
    if mode == "NextStep":
        begun.append(expected[0][1])
    np.testing.assert_array_equal(observations[ended], begun)
    np.testing.assert_array_equal(observations[2], expected[0][2])
    assert reward[2] == expected[1][2] != 0 and not (terminated | truncated).any()
    assert not any(values[ended].any() for values in (reward, *info.values()))
    state = env.get_state()
    assert state["elapsed"].tolist() == [0 if i in ended else {"SameStep": 3, "NextStep": 4}[mode] for i in range(3)]
    ends = [np.flatnonzero(env.step(a)[3]).tolist() for a in some_actions(10, 3)]
    assert ends[-1] == ended and ends[9 - state["elapsed"][2]] == [i for i in range(3) if i not in ended]
    env.close()
    twin.close()


@both
@pytest.mark.parametrize(
    "target, options, words",
    [
        ("Fragile", {"how": "mend"}, ["the gear is broken", "gear 3", "lane 1", "oil it"]),
        ("Fragile", {"how": "sys.exit"}, ["SystemExit: 4", "lane 1"]),
        ("Liar", {"how": "shape"}, ["shape (2,), not (3,)"]),
        ("Liar", {"how": "five"}, ["5 values, not 6"]),
        ("Liar", {"how": "nan"}, ["rewards nan"]),
        ("Liar", {"how": "metrics"}, ["['far']", "['far', 't']"]),
        ("Stillborn", {}, ["OSError: no engine"]),
        ("Nobody", {}, ["AttributeError", "Nobody"]),
        ("Drift", {"colour": "red"}, ["TypeError", "colour"]),
    ],
    ids=str,
)
def test_what_a_program_does_wrong_is_named(processes, target, options, words):
    env = make(2, target, processes, **options)
    with pytest.raises(RhtoolError) as caught:
        env.reset()
        env.step(hard(2, 1))
    assert all(word in str(caught.value) for word in words), caught.value
    env.close()


@both
def test_a_program_that_is_not_deterministic_is_found_out(processes):
    env = make(2, "Moody", processes)
    env.reset()
    env.step(some_actions(1, 2)[0])
    state = env.get_state()
    env.step(some_actions(1, 2)[0])
    env.set_state(state)
    with pytest.raises(RhtoolError, match="not deterministic") as caught:
        env.step(some_actions(1, 2)[0])
    assert "reset(seed)" in caught.value.mend
    env.close()


@pytest.mark.parametrize(
    "how, words",
    [("exit 3", "exited with code 3"), ("SIGSEGV", "killed by SIGSEGV"), ("SIGKILL", "killed by SIGKILL")],
)
def test_a_process_that_dies_is_reported_and_ends_the_environment(how, words):
    env = make(4, "Fragile", how=how)
    env.reset()
    with pytest.raises(RhtoolError, match=words) as caught:
        env.step(hard(4, 2))
    assert "lane 2" in caught.value.where
    assert env.closed
    with pytest.raises(RhtoolError, match="closed"):
        env.reset()


def test_options_that_cannot_be_sent_are_named():
    env = make(1, end=np.float64(3) + 0j)
    with pytest.raises(RhtoolError, match="complex"):
        env.reset()


@pytest.mark.parametrize(
    "horizon, what", [(0, "0 steps are no episode"), ("10", "'10' is of another type"), (2.5, "2.5 is of another type")]
)
def test_a_horizon_that_is_none_is_named(horizon, what):
    with pytest.raises(ConfigError, match=what) as caught:
        make(1, horizon=horizon)
    assert caught.value.where.endswith(".horizon") and caught.value.mend


# Nothing is left behind


def test_closing_ends_every_process_and_may_be_repeated():
    before = children()
    env = make(5)
    env.reset()
    assert len(children() - before) == 6  # the nursery, and five workers
    env.close()
    env.close()
    assert children() == before
    with pytest.raises(RhtoolError, match="closed"):
        env.reset()


def test_a_forgotten_environment_ends_its_processes():
    before = children()
    env = make(2)
    env.reset()
    del env
    assert gone(list(children() - before))


def test_ten_environments_in_one_program():
    envs = [make(2, seed=s) for s in range(10)]
    first = [env.reset()[0] for env in envs]
    for a in some_actions(3, 2):
        for env in envs:
            env.step(a)
    again = make(2, seed=7)
    np.testing.assert_array_equal(again.reset()[0], first[7])
    for env in (*envs, again):
        env.close()


def test_a_fork_of_this_process_leaves_the_environment_alone():
    env = make(2)
    env.reset()
    if (pid := os.fork()) == 0:
        env.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    env.step(some_actions(1, 2)[0])
    env.close()


SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {here!r})
import numpy as np
from program_env import Programs
def environment(target="Drift", **options):
    env = Programs(target="programs:" + target, options=options, horizon=10**4).make_vec(3, 0, autoreset_mode="SameStep")
    env.reset()
    print(*env._programs.pids, env._programs._nursery.pid, flush=True)
    return env
calm = np.zeros((3, 3), np.float32)
hard = calm + np.float32([[1, 0, 0]])
"""
STEP_FOREVER = "env = environment()\nwhile True: env.step(calm)"
AHEAD_FOREVER = "env = environment()\nenv.go_ahead('programs:Push', {}, 10**5, [0, 1, 2])"
HANG = "env = environment('Fragile', how='hang')\nenv.step(hard)"


def start(body: str) -> tuple[subprocess.Popen, list[int]]:
    """A Python program, a process group of its own, and the processes of its environment."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(here=str(HERE)) + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        # as from a terminal: a shell starts background processes with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 4, process.stderr.read()
    return process, pids


@pytest.mark.parametrize(
    "body, code",
    [
        ("env = environment()\nenv.step(calm)", 0),
        ("env = environment()\nraise SystemExit(5)", 5),
        ("env = environment()\n1 / 0", 1),
        ("env = environment()\nos._exit(7)", 7),
        ("import threading\nt = threading.Thread(target=lambda: globals().update(env=environment()))\nt.start(); t.join()\n"
         "time.sleep(0.2); env.step(calm)", 0),
    ],
    ids=["end", "exit", "exception", "_exit", "made in a thread that ended"],
)  # fmt: skip
def test_the_end_of_the_program_is_the_end_of_its_processes(body, code):
    process, pids = start(body)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert gone(pids)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
@pytest.mark.parametrize("body", [STEP_FOREVER, AHEAD_FOREVER, HANG], ids=["stepping", "ahead", "hanging"])
@pytest.mark.parametrize("to", [os.kill, os.killpg], ids=["program", "group"])
def test_a_signal_that_ends_the_program_ends_its_processes(signum, body, to):
    process, pids = start(body)
    time.sleep(0.3)
    to(process.pid, signum)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signum or (signum == signal.SIGINT and process.returncode in (1, 130))
    assert errors.count("Traceback") == (signum == signal.SIGINT)  # the program's own, and none of a worker
    assert gone(pids)


def test_signals_to_the_group_that_the_program_survives_do_not_disturb_its_processes():
    body = """
seen = []
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2): signal.signal(s, lambda s, f: seen.append(s))
env = environment()
end = time.monotonic() + 30
while len(set(seen)) < 3 and time.monotonic() < end: env.step(calm)
for _ in range(100): env.step(calm)
env.close()
print(sorted(set(seen)) == sorted([signal.SIGINT, signal.SIGTERM, signal.SIGUSR2]))
"""
    process, pids = start(body)
    for signum in (signal.SIGINT, signal.SIGUSR2, signal.SIGTERM):
        os.killpg(process.pid, signum)
        time.sleep(0.05)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (0, "True"), errors
    assert gone(pids)
