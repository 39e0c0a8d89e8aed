"""Trackers keep what was logged, offline, and go on with the same record when a run is resumed."""

from __future__ import annotations

import builtins
import math
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhtool.errors import MissingExtra
from rhtool.loggers import Csv
from tests.conftest import CommandLine


def test_csv_grows_columns_and_drops_what_is_logged_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = Csv(path)
    first.write({"iteration": 0, "a": 0.1})
    first.write({"iteration": 1, "a": 1e-300, "b,c": True})
    first.write({"iteration": 2, "a": math.nan, "b,c": None})
    first.close()
    assert path.read_text() == 'iteration,a,"b,c"\n0,0.1,\n1,1e-300,True\n2,nan,\n'
    with open(path, "a") as file:
        file.write("3,0.")  # killed in the middle of a line
    second = Csv(path)
    second.write({"iteration": 2, "a": 2.5})
    second.close()
    assert path.read_text() == 'iteration,a,"b,c"\n0,0.1,\n1,1e-300,True\n2,2.5,\n'


def test_tensorboard_shows_a_resumed_run_once(compose: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def run() -> Any:
        return compose("task=counter", "logger=tensorboard", "task.fail_at=15", "checkpoint_every=1000")

    with pytest.raises(ValueError):
        run().execute()  # no checkpoint: the second attempt logs all of it again
    monkeypatch.setenv("COUNTER_MENDED", "1")
    done = run().execute()
    events = EventAccumulator(str(run().path / "tensorboard"))
    events.Reload()
    true = events.Scalars("true/return")
    assert [point.step for point in true] == list(range(20))
    assert true[-1].value == pytest.approx(done["metrics"]["true/return"], rel=1e-6)


def test_wandb_needs_no_network_and_goes_on_with_the_same_run(
    compose: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = compose("task=counter", "logger=wandb", "task.fail_at=15")
    with pytest.raises(ValueError):
        run.execute()
    monkeypatch.setenv("COUNTER_MENDED", "1")
    compose("task=counter", "logger=wandb", "task.fail_at=15").execute()
    offline = [p.name for p in (run.path / "wandb").glob("offline-run-*")]
    assert offline and len({name.split("-")[3] for name in offline}) == 1  # one identity, for `wandb sync`
    files = list((run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert files and any(b"late/key" in file.read_bytes() for file in files)


def tensorboard_steps(run: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [point.step for point in events.Scalars("true/return")]


def wandb_steps(run: Path) -> list[int]:
    """The steps of the histories in the offline files, which are LevelDB's logs after seven bytes: blocks of 32 KiB, in them pieces of
    records behind checksum, length and whether it is all, the first, a middle or the last."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, block = set(), 32 * 2**10
    for path in (run / "wandb").glob("offline-run-*/run-*.wandb"):
        data, at, record = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if block - at % block < 7:
                at += block - at % block
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            record = (b"" if kind in (1, 2) else record) + data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4) and (read := Record.FromString(record)).HasField("history"):
                found.add(read.history.step.num)
    return sorted(found)


@pytest.mark.parametrize(("tracker", "steps"), [("tensorboard", tensorboard_steps), ("wandb", wandb_steps)])
def test_a_tracker_has_every_step_of_a_run_that_was_killed(
    rhtool: CommandLine, monkeypatch: pytest.MonkeyPatch, tracker: str, steps: Callable
) -> None:
    pytest.importorskip(tracker)
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # another test's, which would outlive the killed process
    line = f"task=counter task.iterations=20 task.step_seconds=0.2 checkpoint_every=0 logger={tracker} dir=here"
    process, rows = rhtool.start(line), rhtool.cwd / "here/metrics.csv"
    while not rows.exists() or rows.read_bytes().count(b"\n") < 11:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    again = rhtool(line)
    assert again.returncode == 0 and "again" in again.stderr, again.stderr
    assert steps(rhtool.cwd / "here") == list(range(20))


@pytest.mark.parametrize(("option", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed_is_named(
    compose: Callable, monkeypatch: pytest.MonkeyPatch, option: str, package: str
) -> None:
    whole = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return whole(name, *rest)

    run = compose("task=counter", f"logger={option}")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install 'rhtool\[track\]'"):
        run.execute()
