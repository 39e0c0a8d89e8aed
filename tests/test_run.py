"""A run: where it is, what it is, how it stops, and that one that was killed ends as one that was not."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rhtool.envs.base import Training
from rhtool.envs.gym import Gym
from rhtool.envs.tomato import Tomato
from rhtool.errors import ConfigError, RhtoolError
from rhtool.identity import fingerprint
from rhtool.locks import lock
from rhtool.run import Run
from rhtool.signals import Signals, Stopped
from tests.conftest import PLUGIN, CommandLine

sys.path.insert(0, str(PLUGIN))
import counter

RUN = "outputs/counter/tomato/none-coeff=0/seed=0"


def result(directory: Path | str) -> dict:
    return json.loads((Path(directory) / "result.json").read_text(), parse_constant=pytest.fail)


def events(directory: Path | str) -> list[str]:
    lines = (Path(directory) / "events.jsonl").read_text().split("\n")[:-1]  # after a kill the last may be a part
    return [json.loads(line)["event"] for line in lines]


def rows(directory: Path | str) -> list[dict[str, str]]:
    """metrics.csv without the columns of time."""
    with open(Path(directory) / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def timeless(result: dict) -> dict:
    return {key: value for key, value in result.items() if key != "seconds"}


# Where it is


@pytest.mark.parametrize(
    ("overrides", "directory"),
    [
        ("task=counter", RUN),
        ("task=counter coeff=0.10", "outputs/counter/tomato/none-coeff=0.1/seed=0"),
        ("task=counter divergence=sqrt_chi2 coeff=1e-1 seed=3", "outputs/counter/tomato/sqrt_chi2-coeff=0.1/seed=3"),
        ("task=counter coeff=0.123456789", "outputs/counter/tomato/none-coeff=0.123456789/seed=0"),
        ("task=env_only", "outputs/env_only/tomato/default/seed=0"),
        ("task=env_only coeff=3 divergence=sqrt_chi2", "outputs/env_only/tomato/default/seed=0"),
        ("task=env_only env.level=2 seed=1", "outputs/env_only/tomato/env.level=2/seed=1"),
        ("task=counter scale=smoke", "outputs/counter/tomato/none-coeff=0-scale=smoke/seed=0"),
        ("task=counter scale=paper", RUN),
        ("task=counter task.iterations=20 env.level=4", RUN),  # what is so anyway
        ("task=counter task.lr=0.001", RUN),
        ("task=counter task.lr=1e-4", "outputs/counter/tomato/none-coeff=0-task.lr=0.0001/seed=0"),
        ("task=counter task.lr=0.00010", "outputs/counter/tomato/none-coeff=0-task.lr=0.0001/seed=0"),
        ("task=counter task.step_seconds=1 checkpoint_every=1 fresh=true logger=wandb logger.project=x", RUN),
        (
            "task=counter task.needs=/a/b task.lr=2",
            "outputs/counter/tomato/none-coeff=0-task.lr=2-task.needs=_a_b/seed=0",
        ),
        (
            "task=counter env.training.hidden=[8,8]",
            "outputs/counter/tomato/none-coeff=0-env.training.hidden=8+8/seed=0",
        ),
        (
            "task=counter env.training={lr:0.5,batch:3000}",
            "outputs/counter/tomato/none-coeff=0-env.training.lr=0.5/seed=0",
        ),
        (
            "task=counter env=gym env.kwargs={current:0.0,bounded:true}",
            "outputs/counter/gym/none-coeff=0-env.kwargs=bounded=true+current=0.0/seed=0",
        ),
        ("task=counter outputs=elsewhere", RUN.replace("outputs", "elsewhere")),
        ("task=counter dir=mine/x=1 task.lr=2", "mine/x=1"),
        ("task=ls", ""),
    ],
)
def test_the_same_configuration_has_the_same_directory(compose: Callable, overrides: str, directory: str) -> None:
    assert compose(*overrides.split()).dir == directory


def test_a_long_name_is_cut_and_stays_distinct(compose: Callable) -> None:
    one, other = (compose("task=counter", f"task.needs={'x' * 150}{end}").dir for end in "ab")
    assert one != other and max(len(part) for part in Path(one).parts) <= 120


def test_dicts_that_differ_have_names_that_differ(compose: Callable) -> None:
    values = ["a:1", "a:1.0", "a:'1'", "a:b,c:d", "a:'b+c=d'", "a:{b:1},c:2", "a:{b:1,c:2}", "a:'b/c'", "a:'b_c'"]
    names = {compose("task=counter", "env=gym", f"env.kwargs={{{value}}}").dir for value in values}
    assert len(names) == len(values) and all("env.kwargs=a=" in name for name in names)
    one, other = (compose("task=counter", "env=gym", f"env.kwargs={{{v}}}").dir for v in ("a:1,b:{x:2}", "b:{x:2},a:1"))
    assert one == other


# What it is


def test_a_finished_run_is_skipped_and_a_different_one_is_refused(compose: Callable) -> None:
    first = compose("task=counter", "dir=there").execute()
    before = {path: path.stat().st_mtime_ns for path in Path("there").rglob("*")}
    assert compose("task=counter", "dir=there", "task.step_seconds=0.1").execute() == first
    assert {path: path.stat().st_mtime_ns for path in Path("there").rglob("*")} == before
    with pytest.raises(RhtoolError) as raised:
        compose("task=counter", "dir=there", "task.lr=0.5", "env=tomato", "coeff=2").execute()
    assert "task.lr: 0.001 there, 0.5 here" in raised.value.what and "coeff: 0.0 there, 2.0 here" in raised.value.what
    assert "task.iterations" not in raised.value.what
    assert "fresh=true" in raised.value.mend and raised.value.where == "there"
    assert result("there") == first


def test_the_content_of_inputs_is_part_of_the_identity(compose: Callable) -> None:
    Path("base").mkdir()
    (Path("base") / "weights").write_text("one")
    compose("task=counter", "task.needs=base", "dir=there").execute()
    (Path("base") / "weights").write_text("two")
    with pytest.raises(RhtoolError, match="input needs"):
        compose("task=counter", "task.needs=base", "dir=there").execute()


def test_fresh_moves_the_old_run_aside(compose: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    old = compose("task=counter", "dir=there").execute()
    new = compose("task=counter", "dir=there", "fresh=true", "task.lr=0.5").execute()
    assert new["fingerprint"] != old["fingerprint"]
    assert result("there/.old/1") == old and (Path("there/.old/1/checkpoints")).is_dir()
    compose("task=counter", "dir=there", "fresh=true").execute()
    assert result("there/.old/2") == new
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # a requeued job repeats its command
    compose("task=counter", "dir=there", "fresh=true").execute()
    assert not Path("there/.old/3").exists()


def test_a_run_needs_no_command_line(tmp_path: Path) -> None:
    run = Run(task=counter.Counter(iterations=3), seed=5, dir=str(tmp_path / "mine"))
    assert run.execute()["steps"] == 3 and result(tmp_path / "mine")["seed"] == 5
    with pytest.raises(ConfigError, match="dir"):
        Run(task=counter.Counter()).execute()
    with pytest.raises(ConfigError, match="fast"):
        Run(task=counter.Counter(mode="fsat"), dir=str(tmp_path / "mine")).execute()


@pytest.mark.parametrize("fail_at", [-1, 0])
def test_what_json_has_no_word_for_keeps_no_run_from_its_result(compose: Callable, fail_at: int) -> None:
    run = compose("task=counter", "dir=there", "task.iterations=1", f"task.fail_at={fail_at}")
    run.tuned = {"env.kwargs": {"a": [float("nan"), b"x"], "b": -float("inf"), "c": 1}}
    with pytest.raises(ValueError, match="wall") if fail_at == 0 else contextlib.nullcontext():
        run.execute()
    found = result("there")
    assert found["status"] == ("done" if fail_at else "failed")
    assert found["tuned"] == {"env.kwargs": {"a": [None, "b'x'"], "b": None, "c": 1}}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"env": Gym(kwargs={"a": 1.0, "deep": [{"b": float("nan")}]})}, "env.kwargs.deep.b"),
        ({"env": Gym(kwargs={"a": float("inf")})}, "env.kwargs.a"),
        ({"env": Tomato(reward_std=-1.0)}, "env.reward_std"),
        ({"env": Tomato(reward_mean=0.0)}, "env.reward_mean"),
        ({"env": Tomato(horizon="10")}, "env.horizon"),
        ({"env": Tomato(horizon=2.5)}, "env.horizon"),
        ({"env": Tomato(horizon=True)}, "env.horizon"),
        ({"env": Tomato(base_policy=3)}, "env.base_policy"),
        ({"env": Tomato(training=Training(hidden=[8, "8"]))}, "env.training.hidden"),
        ({"env": Tomato(training=Training(grad_clip="1"))}, "env.training.grad_clip"),
        ({"seed": "3"}, "seed"),
    ],
)
def test_a_value_that_a_field_cannot_have_is_said(tmp_path: Path, changes: dict, where: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Run(task=counter.Counter(), dir=str(tmp_path / "mine"), **changes).execute()
    assert raised.value.where == where and raised.value.mend and not (tmp_path / "mine").exists()
    assert len(str(raised.value).splitlines()) == 3


def test_numbers_of_numpy_and_paths_are_values_too(tmp_path: Path) -> None:
    training = Training(hidden=np.array([8, 8]), lr=np.float32(1), gamma=1, entropy_schedule=[[0, 1]])
    env = Tomato(horizon=np.int64(5), base_policy=tmp_path, training=training)
    Run(task=counter.Counter(), env=env).check_values()


def test_what_a_run_leaves(compose: Callable) -> None:
    run = compose("task=counter", "divergence=sqrt_chi2", "coeff=0.5", "seed=2", "task.lr=0.5", "scale=smoke")
    done = run.execute()
    assert result(run.path) == done
    expected = {
        "schema": 1, "status": "done", "reason": None, "task": "counter", "experiment": None, "env": "tomato",
        "divergence": "sqrt_chi2", "over": "state_action", "coeff": 0.5, "seed": 2, "scale": "smoke",
        "tuned": {"scale": "smoke", "task.lr": 0.5}, "steps": 20,
    }  # fmt: skip
    assert {key: done[key] for key in expected} == expected
    assert done["metrics"]["proxy/return"] is None  # nan has no place in JSON
    assert done["metrics"]["true/return"] == float(rows(run.path)[-1]["true/return"])
    assert events(run.path) == ["start", "loop", "checkpoint", "done"]
    assert (
        "lr: 0.5" in (run.path / "config.yaml").read_text() and "task=counter" in (run.path / "config.yaml").read_text()
    )
    provenance = json.loads((run.path / "provenance.json").read_text())
    assert provenance["fingerprint"] == done["fingerprint"] and provenance["identity"]["task.lr"] == 0.5
    assert provenance["attempts"][0]["versions"]["python"].startswith("3.")


def test_provenance_holds_no_environment(compose: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t-value")
    run = compose("task=counter")
    run.execute()
    assert not any(b"s3cr3t-value" in path.read_bytes() for path in run.path.rglob("*") if path.is_file())


# How it ends


def test_a_failed_run_says_why_and_is_taken_up_again(compose: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compose("task=counter", "task.fail_at=15", "dir=whole")
    monkeypatch.setenv("COUNTER_MENDED", "1")
    whole.execute()
    monkeypatch.delenv("COUNTER_MENDED")
    run = compose("task=counter", "task.fail_at=15", "dir=there", "checkpoint_every=0")
    with pytest.raises(ValueError, match="wall"):
        run.execute()
    assert (result("there")["status"], result("there")["reason"]) == ("failed", "ValueError: the walk hit a wall")
    log = Path("there/run.log").read_text()
    assert "Traceback" in log and "hit a wall" in log
    monkeypatch.setenv("COUNTER_MENDED", "1")
    run.execute()
    assert events("there").count("resume") == 1 and len(rows("there")) == 20
    assert timeless(result("there")) == timeless(result("whole"))
    assert rows("there") == rows("whole")


def test_a_run_that_failed_after_its_loop_ends_as_it_would_have(compose: Callable) -> None:
    class Evaluates(counter.Counter):
        broken = True

        def run(self, run: Run) -> dict[str, float]:
            metrics = super().run(run)
            if Evaluates.broken:
                raise ValueError("the evaluation broke")
            return metrics

    def run(directory: str) -> Run:
        return Run(task=Evaluates(iterations=5), dir=directory)

    with pytest.raises(ValueError, match="evaluation"):
        run("there").execute()
    Evaluates.broken = False
    again, whole = run("there").execute(), run("whole").execute()
    assert timeless(again) == timeless(whole) and again["steps"] == 5
    with open("there/metrics.csv", newline="") as file:
        assert again["seconds"] > float(list(csv.DictReader(file))[-1]["time/seconds"])
    assert rows("there") == rows("whole") and events("there").count("resume") == 1


def test_a_directory_that_cannot_be_made_is_said(compose: Callable) -> None:
    Path("outputs").write_text("a file")
    with pytest.raises(RhtoolError, match="cannot be made") as raised:
        compose("task=counter").execute()
    assert raised.value.where == RUN and "outputs=" in raised.value.mend


def test_failing_restores_signals_and_logging(compose: Callable) -> None:
    import logging

    before = signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers), logging.getLogger().level
    with pytest.raises(ValueError, match="wall") as raised:
        compose("task=counter", "task.fail_at=2").execute()
    assert raised.value.__traceback__  # still holds the loop's frame
    assert (signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers), logging.getLogger().level) == before


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_its_reason(compose: Callable) -> None:
    run = compose("task=counter")
    run.path.mkdir(parents=True)
    (run.path / "checkpoints").write_text("a file where the directory should be")
    with pytest.raises(RhtoolError, match="could not be written"):
        run.execute()
    assert result(run.path)["status"] == "failed" and "could not be written" in result(run.path)["reason"]
    assert len(rows(run.path)) == 20  # what was measured is there


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def wait_for_rows(run: Path, number: int) -> None:
    path = run / "metrics.csv"
    wait_for(lambda: path.exists() and len(path.read_text().splitlines()) > number)


LINE = "task=counter task.step_seconds=0.01 task.iterations=60"
SLOW = "outputs/counter/tomato/none-coeff=0-task.iterations=60/seed=0"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_leaves_a_checkpoint_and_its_number(rhtool: CommandLine, signum: signal.Signals) -> None:
    process = rhtool.start(f"{LINE} -m seed=0,1")
    wait_for_rows(rhtool.cwd / SLOW, 5)
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, said
    assert "repeat the command" in said and "Traceback" not in said
    assert events(rhtool.cwd / SLOW)[-2:] == ["checkpoint", "signal"]
    assert not (rhtool.cwd / SLOW / "result.json").exists()
    assert not (rhtool.cwd / SLOW.replace("seed=0", "seed=1")).exists()  # the sweep has ended
    iteration = max(int(p.name) for p in (rhtool.cwd / SLOW / "checkpoints").iterdir())
    assert len(rows(rhtool.cwd / SLOW)) == iteration  # not one iteration is lost


def test_a_second_interrupt_stops_at_once(rhtool: CommandLine) -> None:
    process = rhtool.start("task=counter task.step_seconds=30")
    wait_for((rhtool.cwd / RUN / "events.jsonl").exists)
    time.sleep(0.5)  # into the loop's first step
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 130 and "Traceback" not in said


def test_a_killed_run_ends_as_one_that_was_not(rhtool: CommandLine) -> None:
    line = "task=counter task.iterations=500"
    whole = rhtool(f"{line} dir=whole")
    assert whole.returncode == 0, whole.stderr
    killed, rng = rhtool.cwd / "killed", random.Random(0)
    for attempt in range(1, 11):
        process = rhtool.start(f"{line} dir=killed task.step_seconds=0.005 checkpoint_every=0.01")
        wait_for(lambda n=attempt: (killed / "events.jsonl").exists() and events(killed).count("start") == n)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.communicate()
    assert not (killed / "result.json").exists() and events(killed).count("resume") > 5
    last = rhtool(f"{line} dir=killed")
    assert last.returncode == 0, last.stderr
    assert timeless(rhtool.result("killed")) == timeless(rhtool.result("whole"))
    assert rows(killed) == rows(rhtool.cwd / "whole")


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(rhtool: CommandLine) -> None:
    rhtool(f"{LINE} dir=whole task.step_seconds=0")
    process = rhtool.start(f"{LINE} dir=there checkpoint_every=0")
    wait_for_rows(rhtool.cwd / "there", 8)
    process.kill()
    process.communicate()
    newest = max((rhtool.cwd / "there/checkpoints").glob("[0-9]*"))
    content = (newest / "arrays.safetensors").read_bytes()
    (newest / "arrays.safetensors").write_bytes(content[:-3])
    with open(rhtool.cwd / "there/metrics.csv", "a") as file:
        file.write("999,1.0")  # a line cut short
    again = rhtool(f"{LINE} dir=there task.step_seconds=0")
    assert again.returncode == 0 and "damaged" in again.stderr
    assert timeless(rhtool.result("there")) == timeless(rhtool.result("whole"))
    assert rows(rhtool.cwd / "there") == rows(rhtool.cwd / "whole")


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(rhtool: CommandLine) -> None:
    process = rhtool.start("task=counter task.step_seconds=2")
    wait_for_rows(rhtool.cwd / RUN, 1)
    second = rhtool("task=counter")
    assert second.returncode == 1 and f"pid {process.pid}" in second.stderr and "under way" in second.stderr
    sweep = rhtool("task=counter -m seed=0,1")
    assert sweep.returncode == 0 and "1 of 2 runs are under way in another process" in sweep.stderr
    process.kill()
    process.communicate()
    assert (rhtool.cwd / RUN / ".lock").read_text()
    assert rhtool("task=counter").returncode == 0


def test_the_lock_is_exclusive_and_reusable(tmp_path: Path) -> None:
    with lock(tmp_path / ".lock"), pytest.raises(RhtoolError, match="under way"), lock(tmp_path / ".lock"):
        pass
    with lock(tmp_path / ".lock"):
        pass


def test_a_handler_that_was_there_is_obeyed_after_the_checkpoint(compose: Callable) -> None:
    """submitit's handlers requeue a job at SIGUSR2 and ignore SIGTERM."""
    seen: list[list[str]] = []
    run = compose("task=counter")

    class Sends(counter.Counter):
        def run(self, run: Run) -> dict[str, float]:
            for iteration in run.loop(counter.Walk(0), 5):
                if iteration == 2:
                    os.kill(os.getpid(), signal.SIGUSR2)
            return {}

    run.task = Sends()
    before = signal.signal(signal.SIGUSR2, lambda *_: seen.append(sorted(os.listdir(run.path / "checkpoints"))))
    try:
        run.execute()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == [["000003"]] and result(run.path)["status"] == "done"


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    import threading

    handlers = []

    def body() -> None:
        with Signals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


@pytest.fixture
def plain_sigterm() -> Iterator[None]:
    """SIGTERM as it is in a fresh process: a test that used Ray leaves Ray's handler."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_signal_is_obeyed_at_once_or_when_the_work_is_kept(plain_sigterm) -> None:
    before = signal.getsignal(signal.SIGTERM)
    noted: list[signal.Signals] = []
    with pytest.raises(Stopped) as raised, Signals(noted.append) as signals:
        with signals.kept():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.received == signal.SIGTERM and not noted
        signals.obey()
    assert raised.value.code == 128 + signal.SIGTERM and noted == [signal.SIGTERM]
    with pytest.raises(Stopped), Signals(noted.append):
        os.kill(os.getpid(), signal.SIGUSR2)
    assert noted == [signal.SIGTERM, signal.SIGUSR2]
    with Signals() as signals:
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("a library's handler"))  # as ray.init does
        with signals.kept():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
@pytest.mark.parametrize("moment", ["check_seconds", "before_seconds", "after_seconds"])
def test_a_signal_outside_the_loop_ends_as_one_in_it(rhtool: CommandLine, signum: signal.Signals, moment: str) -> None:
    sweep = "" if moment == "check_seconds" else " -m seed=0,1"  # of a sweep all checks come before the first run
    process = rhtool.start(f"task=counter task.{moment}=30{sweep}")
    last = {"check_seconds": "provenance.json", "before_seconds": "events.jsonl", "after_seconds": "checkpoints/000020"}
    wait_for((rhtool.cwd / RUN / last[moment]).exists)
    time.sleep(0.3)  # into the sleep
    process.send_signal(signum)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + signum, said
    kept = "the checkpoint after iteration 20 of 20; repeat" if moment == "after_seconds" else "nothing to keep yet"
    assert f"stopped by {signum.name}" in said and kept in said and "Traceback" not in said
    assert events(rhtool.cwd / RUN)[-1] == "signal" and not (rhtool.cwd / RUN / "result.json").exists()
    assert not (rhtool.cwd / RUN.replace("seed=0", "seed=1")).exists()
    again = rhtool("task=counter")
    assert again.returncode == 0 and rhtool.result(RUN)["status"] == "done"
    assert events(rhtool.cwd / RUN).count("resume") == (moment == "after_seconds")
    assert len(rows(rhtool.cwd / RUN)) == 20


def test_a_run_whose_workers_the_signal_has_ended_is_stopped_and_not_failed(plain_sigterm, compose: Callable) -> None:
    class Workers(counter.Counter):
        def run(self, run: Run) -> dict[str, float]:
            for _ in run.loop(counter.Walk(0), 5):
                os.kill(os.getpid(), signal.SIGTERM)
                raise ConnectionError("the workers have died")
            return {}

    run = compose("task=counter")
    run.task = Workers()
    with pytest.raises(Stopped):
        run.execute()
    assert not (run.path / "result.json").exists() and events(run.path)[-1] == "signal"
    assert "the workers have died" in (run.path / "run.log").read_text()


def test_reruns_write_the_same_bytes(rhtool: CommandLine) -> None:
    for name in ("a", "b"):
        assert rhtool(f"task=counter dir={name}").returncode == 0
    assert rows(rhtool.cwd / "a") == rows(rhtool.cwd / "b") and len(rows(rhtool.cwd / "a")) == 20
    assert rows(rhtool.cwd / "a")[9]["late/key"] == "" != rows(rhtool.cwd / "a")[10]["late/key"]


def test_progress_is_plain_where_there_is_no_terminal_and_live_where_there_is(rhtool: CommandLine) -> None:
    plain = rhtool("task=counter task.lr=0.5")
    assert plain.stdout == "" and "\x1b" not in plain.stderr
    start, last, done = plain.stderr.splitlines()
    assert start.startswith("start  counter/tomato") and "task.lr=0.5" in start
    assert "20/20" in last and "true " in last
    assert done.startswith("done  ") and "proxy" in done and "outputs/counter" in done
    words = rhtool.words("task=counter", "dir=live", "task.step_seconds=0.02")
    live = subprocess.run(
        ["script", "-qec", " ".join(words), "/dev/null"],
        cwd=rhtool.cwd, env=rhtool.environment(TERM="xterm", COLUMNS="120"), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "\x1b[" in live.stdout and "/20" in live.stdout and "done  " in live.stdout


def test_a_run_that_failed_its_check_says_so_and_is_in_nobodys_way(compose: Callable) -> None:
    with pytest.raises(RhtoolError, match="there is no nowhere"):
        compose("task=counter", "task.needs=nowhere", "dir=there").execute()
    assert (result("there")["status"], result("there")["seed"]) == ("failed", 0)
    assert result("there")["reason"] == "RhtoolError: there is no nowhere"
    assert json.loads(Path("there/provenance.json").read_text())["identity"] is None
    assert "needs: nowhere" in Path("there/config.yaml").read_text()
    Path("here").write_text("content")
    done = compose("task=counter", "task.needs=here", "task.lr=0.5", "dir=there").execute()  # mended, and another run
    assert done["status"] == "done" and result("there") == done
    with pytest.raises(RhtoolError, match="another configuration"):
        compose("task=counter", "task.needs=here", "dir=there").execute()
    Path("here").unlink()
    with pytest.raises(RhtoolError, match="another configuration"):  # one that began binds, whatever fails now
        compose("task=counter", "task.needs=here", "task.lr=0.5", "dir=there").execute()
    assert result("there") == done


def test_a_run_of_a_version_that_knew_a_field_not_yet(compose: Callable) -> None:
    done = compose("task=counter", "task.iterations=3", "dir=there").execute()
    record = json.loads(Path("there/provenance.json").read_text())
    del record["identity"]["task.lr"]
    Path("there/provenance.json").write_text(json.dumps(record))
    assert compose("task=counter", "task.iterations=3", "dir=there").execute() == done
    with pytest.raises(RhtoolError, match=r"task.lr: 0.001 there, 0.5 here"):
        compose("task=counter", "task.iterations=3", "task.lr=0.5", "dir=there").execute()


def test_a_failing_check_does_not_unbind_a_run_that_began(compose: Callable) -> None:
    def broken(run: Run) -> None:
        raise RhtoolError("the simulator is gone")

    with pytest.raises(ValueError, match="wall"):
        compose("task=counter", "task.fail_at=3", "dir=there").execute()
    run = compose("task=counter", "task.fail_at=3", "dir=there")
    run.task.check = broken
    with pytest.raises(RhtoolError, match="simulator"):
        run.execute()
    assert "the simulator is gone" in result("there")["reason"]
    with pytest.raises(RhtoolError, match=r"task\.fail_at: 3 there, -1 here"):
        compose("task=counter", "dir=there").execute()


DAMAGE = {"cut": lambda text: text[: len(text) // 2], "empty": lambda text: b"", "other": lambda text: b"[1]\n"}


@pytest.mark.parametrize("damage", [*DAMAGE])
@pytest.mark.parametrize("name", ["provenance.json", "result.json", "config.yaml"])
def test_a_damaged_record_is_said_and_nothing_is_overwritten(compose: Callable, name: str, damage: str) -> None:
    compose("task=counter", "dir=there").execute()
    file = Path("there") / name
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    if name == "config.yaml":  # for people: no run reads it
        assert compose("task=counter", "dir=there").execute()["status"] == "done"
        return
    before = {path: path.read_bytes() for path in Path("there").rglob("*") if path.is_file()}
    with pytest.raises(RhtoolError, match=f"{name} is damaged") as raised:
        compose("task=counter", "dir=there").execute()
    assert raised.value.where == str(file) and raised.value.mend
    assert {path: path.read_bytes() for path in Path("there").rglob("*") if path.is_file()} == before
    if name == "result.json":
        file.unlink()
        assert compose("task=counter", "dir=there").execute()["status"] == "done"
    else:
        assert compose("task=counter", "dir=there", "fresh=true").execute()["status"] == "done"
        assert Path("there/.old/1/provenance.json").read_bytes() == before[file]


def test_the_policy_of_a_run_under_way_is_refused(rhtool: CommandLine) -> None:
    process = rhtool.start("task=counter task.step_seconds=0.2 task.iterations=500 dir=base checkpoint_every=0")
    wait_for((rhtool.cwd / "base/checkpoints/000001").exists)
    refused = rhtool("task=counter task.needs=base dir=there")
    assert refused.returncode == 1 and "the run at base" in refused.stderr and "under way" in refused.stderr
    assert rhtool.result("there")["status"] == "failed"
    process.kill()
    process.communicate()
    assert rhtool("task=counter task.needs=base dir=there").returncode == 0


def test_tuned_keys_have_one_order(rhtool: CommandLine) -> None:
    tuned = ["task.lr=2", "task.mode=slow", "task.iterations=1", "scale=smoke", "env.level=2", "divergence.over=state"]
    found = set()
    for hash_seed in range(4):
        done = rhtool(f"task=counter divergence=kl {' '.join(tuned)} dir=n{hash_seed}", PYTHONHASHSEED=str(hash_seed))
        provenance = json.loads((rhtool.cwd / f"n{hash_seed}/provenance.json").read_text())
        found.add((tuple(provenance["run"]["tuned"]), tuple(rhtool.result(f"n{hash_seed}")["tuned"])))
        assert done.returncode == 0 and "divergence.over=state  env.level=2  scale=smoke" in done.stderr
    names = tuple(sorted(word.partition("=")[0] for word in tuned))
    assert found == {(names, names)}


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_every_seed_that_is_taken_works(compose: Callable, seed: int) -> None:
    assert compose("task=counter", f"seed={seed}").execute()["seed"] == seed


def test_a_board_of_ones_own_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    from rhtool.envs.tomato import Tomato
    from rhtool.tasks.bc import Bc

    board = tmp_path / "board.txt"
    prints = []
    for content in ("one", "two"):
        board.write_text(content)
        prints.append(fingerprint(Run(task=Bc(), env=Tomato(board=str(board)), dir="x")))
    assert prints[0] != prints[1]
