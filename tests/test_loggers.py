"""Trackers keep what was logged, offline, and go on with the same record when a run is resumed."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhtool.errors import MissingExtra
from rhtool.loggers import Csv


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
